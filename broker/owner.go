package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// owner serves a folder from this process for as long as it holds the lock.
type owner struct {
	dir    string
	log    *slog.Logger
	server *server.Server
	cancel context.CancelFunc
	done   chan struct{} // closed when nothing is left running and the lock is free
}

// own starts a server on the folder whose lock the caller has taken. It calls
// unlock when it fails, and else when the owner has stopped.
func own(dir string, unlock func(), opts func() *server.Options, log *slog.Logger) (*owner, error) {
	srv, trouble, err := startServer(opts, log)
	if err != nil {
		unlock()
		return nil, err
	}
	listener, err := listenSocket(dir)
	if err != nil {
		shutdown(srv)
		unlock()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	o := &owner{dir: dir, log: log, server: srv, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		defer unlock()
		o.run(ctx, listener, trouble)
	}()
	log.Info("serving the store")
	return o, nil
}

// connect returns a connection to the server in memory.
func (o *owner) connect() (net.Conn, error) {
	conn, err := o.server.InProcessConn()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoAnswer, err) // it is stopping
	}
	return conn, nil
}

// stop ends the server and waits until it has given the lock back.
func (o *owner) stop() {
	o.cancel()
	<-o.done
}

// stopped says whether the owner ended by itself.
func (o *owner) stopped() bool {
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

// roomy is a limit of all that is stored which leaves it to the disk to be full.
const roomy = 1 << 62

// embedded returns the options of a server that listens nowhere and syncs every write.
func embedded(dir string) *server.Options {
	return &server.Options{
		ServerName: "keyturn",
		DontListen: true,
		StoreDir:   dir,
		SyncAlways: true,
	}
}

// startServer starts a server. The channel has something in it after each warning or
// error of the server. It stores at most three quarters of what the disk has for it,
// unless the options say how much.
func startServer(opts func() *server.Options, log *slog.Logger) (*server.Server, <-chan struct{}, error) {
	srv, trouble, err := tryServer(opts(), log)
	if err != nil || opts().JetStreamMaxStore != 0 || srv.JetStreamConfig().MaxStore > 1<<30 {
		return srv, trouble, err
	}
	// The disk is nearly full, so the limit is nothing to go by: it would
	// still be the limit when there is space again.
	shutdown(srv)
	with := opts()
	with.JetStreamMaxStore = roomy
	return tryServer(with, log)
}

func tryServer(opts *server.Options, log *slog.Logger) (*server.Server, <-chan struct{}, error) {
	opts.JetStream, opts.NoSigs, opts.DisableJetStreamBanner = true, true, true
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, nil, err
	}
	serverLog := &serverLog{log: log, trouble: make(chan struct{}, 1)}
	srv.SetLoggerV2(serverLog, log.Enabled(context.Background(), slog.LevelDebug), false, false)
	srv.Start()
	switch {
	case serverLog.fatal != "":
		err = fmt.Errorf("its server does not start: %s", serverLog.fatal)
	case !srv.JetStreamEnabled():
		err = errors.New("its server gave up while it started: its log says why")
	default:
		return srv, serverLog.trouble, nil
	}
	shutdown(srv)
	return nil, nil, err
}

func shutdown(srv *server.Server) {
	srv.Shutdown()
	srv.WaitForShutdown()
}

// run serves until ctx is done, or until the server cannot go on without a new
// start: then whoever connects next starts one, this process as well as another.
func (o *owner) run(ctx context.Context, listener *net.UnixListener, trouble <-chan struct{}) {
	var accepting sync.WaitGroup
	accepting.Go(func() { o.accept(ctx, listener) })
	o.watch(ctx, trouble)

	o.cancel()
	listener.Close()
	accepting.Wait()
	shutdown(o.server)
	if err := os.Remove(filepath.Join(o.dir, socketName)); err != nil {
		o.log.Warn("remove the store's socket", "error", err)
	}
	o.log.Info("no longer serving the store")
}

// accept serves whoever comes in until the listener is closed and all who came are gone.
func (o *owner) accept(ctx context.Context, listener *net.UnixListener) {
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		client, err := listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				client.Close()
			}
			return
		case err != nil:
			// Out of file descriptors, most likely.
			o.log.Warn("accept a connection to the store", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		default:
			clients.Go(func() { o.serve(ctx, client) })
		}
	}
}

// serve copies between a client and the server until one of them hangs up or ctx is done.
func (o *owner) serve(ctx context.Context, client *net.UnixConn) {
	defer client.Close()
	if err := checkPeer(client); err != nil {
		o.log.Warn("refused a connection to the store", "error", err)
		return
	}
	inside, err := o.connect()
	if err != nil {
		return // the client looks for the next server
	}
	hangUp := func() { client.Close(); inside.Close() }
	defer context.AfterFunc(ctx, hangUp)()

	var answers sync.WaitGroup
	answers.Go(func() {
		io.Copy(client, inside)
		hangUp()
	})
	io.Copy(inside, client)
	hangUp()
	answers.Wait()
}

// checkPeer refuses other users, root included: the folder keeps them out already,
// unless somebody opened it.
func checkPeer(client *net.UnixConn) error {
	uid, err := peerUID(client)
	if err != nil {
		return fmt.Errorf("who is it: %w", err)
	}
	if uid != os.Geteuid() {
		return fmt.Errorf("it comes from %s", userName(uid))
	}
	return nil
}
