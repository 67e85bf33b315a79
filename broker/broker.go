// Package broker keeps a store in a folder: a nats-server with JetStream that
// is part of the process and opens no port.
//
// Any number of processes of one user may connect to a store. The first one
// takes the folder's lock and serves it, to itself in memory and to the others
// through a unix socket in the folder. When it ends, the kernel gives the lock
// back, also after a crash, and the next one that needs the store takes over.
// Each connection finds the store anew whenever it is lost, so a takeover is to
// its users a short disconnect and nothing else.
//
// [Serve] serves a store for as long as somebody wants it, as a program of its own and
// on a port if that is named.
//
// Everything that is acknowledged is on disk. What was not yet acknowledged when
// a server ended may or may not be, as with any server.
package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
)

// Options say where the store is. The zero value is the user's own store.
type Options struct {
	// Dir is the store's folder. It is made if there is none, and is the user's
	// alone. Empty means DefaultDir.
	Dir string

	// Log hears who serves the store, and what the server has to say. Nil means nobody.
	Log *slog.Logger
}

// DefaultDir returns the folder of the user's store: $KEYTURN_STORE, else
// keyturn in $XDG_DATA_HOME, else ~/.local/share/keyturn.
func DefaultDir() (string, error) {
	if dir := os.Getenv("KEYTURN_STORE"); dir != "" {
		return dir, nil
	}
	if data := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return filepath.Join(data, "keyturn"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no folder for the store: %w: set KEYTURN_STORE", err)
	}
	return filepath.Join(home, ".local", "share", "keyturn"), nil
}

// resolve returns the absolute path of the folder, and a log that is not nil.
func (o Options) resolve() (dir string, log *slog.Logger, err error) {
	if dir = o.Dir; dir == "" {
		if dir, err = DefaultDir(); err != nil {
			return "", nil, err
		}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", nil, err
	}
	if log = o.Log; log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return dir, log.With("store", dir), nil
}

// Store is this process's connection to a store.
type Store struct {
	conn   *nats.Conn
	dialer *dialer
	closed chan struct{} // closed after the connection's last callback
}

// Connect returns a connection to the store in a folder, and serves the store
// from this process if no other one does. Until ctx is done it waits for another
// process that has the folder's lock and does not answer; the recovery of a
// large store in this process it does not cut short. A folder that cannot be
// used is an error at once.
func Connect(ctx context.Context, opts Options) (*Store, error) {
	dir, log, err := opts.resolve()
	if err != nil {
		return nil, err
	}
	d := &dialer{dir: dir, log: log}
	for attempt := 1; ; attempt++ {
		closed := make(chan struct{})
		conn, err := nats.Connect("nats://store", append(connOptions(d),
			nats.ClosedHandler(func(*nats.Conn) { close(closed) }))...)
		if err == nil {
			return &Store{conn, d, closed}, nil
		}
		if d.err != nil && !errors.Is(d.err, errNoAnswer) {
			d.close()
			return nil, d.err
		}
		if errors.Is(err, nats.ErrAuthorization) {
			d.close()
			return nil, fmt.Errorf("open store %s: process %s serves it to users that it knows: name it with --server, and say who you are", dir, servedBy(dir))
		}
		if attempt == 20 {
			d.log.Warn("waiting for the process that serves the store", "process", servedBy(dir))
		}
		select {
		case <-ctx.Done():
			d.close()
			return nil, fmt.Errorf("%w: wait for process %s, which serves it, or end that (%w)", cmp.Or(d.err, err), servedBy(dir), ctx.Err())
		case <-time.After(redialDelay(attempt)):
		}
	}
}

// Conn returns the connection. It is one for the life of the Store, reconnects
// by itself and for ever, and belongs to the Store: do not close it.
func (s *Store) Conn() *nats.Conn { return s.conn }

// Close ends the connection and, if this process serves the store, the server;
// it returns when nothing of it is left running. Requests of this process that
// still wait are failed with nats.ErrConnectionClosed. The error says that something
// that was published has not reached the store. A handler of the connection must not
// call it.
func (s *Store) Close() error {
	var err error
	if unsent, _ := s.conn.Buffered(); unsent > 0 || s.conn.IsConnected() {
		if err = s.conn.FlushTimeout(flushTimeout); err != nil {
			err = fmt.Errorf("close store %s: %w", s.dialer.dir, err)
		}
	}
	s.conn.Close()
	<-s.closed
	s.dialer.close()
	return err
}

const flushTimeout = time.Second

// connOptions make a connection that never gives up and notices a dead server
// (one that was killed closes its socket: that is noticed at once) in 20 to 30 s.
func connOptions(d *dialer) []nats.Option {
	var lastErr string // of the handlers, which nats.go calls one after the other
	return []nats.Option{
		nats.Name("keyturn"),
		nats.SetCustomDialer(d),
		nats.SkipHostLookup(),
		nats.IgnoreDiscoveredServers(),
		nats.MaxReconnects(-1),
		nats.CustomReconnectDelay(redialDelay),
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			d.log.Debug("disconnected from the store", "error", err)
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			if err.Error() != lastErr && !errors.Is(err, errNoAnswer) {
				d.log.Error("no way to the store", "error", err)
			}
			lastErr = err.Error()
		}),
		nats.ReconnectHandler(func(*nats.Conn) { d.log.Debug("connected to the store again") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			level := slog.LevelWarn
			if _, lost := errors.AsType[net.Error](err); lost {
				level = slog.LevelDebug // a takeover
			}
			d.log.Log(context.Background(), level, "store connection", "error", err)
		}),
	}
}

// redialDelay grows slowly: a takeover takes some 20 ms, the recovery of a large
// store takes seconds, and a store whose disk is broken is not hammered.
func redialDelay(attempts int) time.Duration {
	delay := min(time.Duration(attempts)*10*time.Millisecond, 500*time.Millisecond)
	return delay + rand.N(10*time.Millisecond)
}
