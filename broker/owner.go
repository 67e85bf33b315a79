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

// own starts a server on the folder whose lock the caller has taken. It gives
// the lock back when it fails, and else when the owner stops.
func own(dir string, lock *os.File, log *slog.Logger) (*owner, error) {
	srv, trouble, err := startServer(dir, log)
	if err != nil {
		unlock(lock)
		return nil, err
	}
	listener, err := listenSocket(dir)
	if err != nil {
		shutdown(srv)
		unlock(lock)
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	o := &owner{dir: dir, log: log, server: srv, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		defer unlock(lock)
		o.run(ctx, listener, trouble)
	}()
	log.Info("serving the store")
	return o, nil
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

// startServer starts a server that listens nowhere and syncs every write. The
// channel has something in it after each warning or error of the server.
func startServer(dir string, log *slog.Logger) (*server.Server, <-chan struct{}, error) {
	srv, err := server.NewServer(&server.Options{
		ServerName:             "keyturn",
		DontListen:             true,
		JetStream:              true,
		StoreDir:               dir,
		SyncAlways:             true,
		NoSigs:                 true,
		DisableJetStreamBanner: true,
	})
	if err != nil {
		return nil, nil, err
	}
	serverLog := &serverLog{log: log, trouble: make(chan struct{}, 1)}
	srv.SetLoggerV2(serverLog, log.Enabled(context.Background(), slog.LevelDebug), false, false)
	srv.Start()
	if serverLog.fatal != "" || !srv.JetStreamEnabled() {
		shutdown(srv)
		return nil, nil, errors.New(serverLog.fatal)
	}
	return srv, serverLog.trouble, nil
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
	inside, err := o.server.InProcessConn()
	if err != nil {
		return // the server is stopping, and the client will look for the next one
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
