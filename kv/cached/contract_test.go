package cached_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/cached"
	"github.com/keyturn-io/keyturn/kv/kvtest"
	"github.com/keyturn-io/keyturn/kv/memkv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// TestContractOverMemory and TestContractOverNATS hold a cached bucket to all that
// is asked of any bucket. What happens behind its back it hears of a moment later:
// the faults that the contract wants to see at once are over when it has heard.
func TestContractOverMemory(t *testing.T) {
	kvtest.Run(t, kvtest.Harness{Open: func(t *testing.T, cfg kvtest.Config) kvtest.Subject {
		const name = "TEST"
		s := memkv.New()
		recreate := func() { must(t, s.Create(name, memkv.Config(cfg))) }
		recreate()
		below, err := s.Bucket(name)
		must(t, err)
		return over(t, kvtest.Subject{
			Bucket:   below,
			Recreate: recreate,
			Remove:   func() { must(t, s.Remove(name)) },
			PurgeAll: func() { must(t, s.PurgeAll(name)) },
			Vanish:   func(key string) { must(t, s.Vanish(name, key)) },
			Backup: func() func() {
				backup, err := s.Backup(name)
				must(t, err)
				return func() { s.Restore(backup) }
			},
			Down: func() { s.Down(name) },
			Up:   func() { s.Up(name) },
		})
	}})
}

func TestContractOverNATS(t *testing.T) {
	kvtest.Run(t, kvtest.Harness{Open: func(t *testing.T, cfg kvtest.Config) kvtest.Subject {
		srv := startServer(t)
		client := srv.client(t)
		js, err := jetstream.New(srv.connect(t))
		must(t, err)
		config := natskv.Config{Bucket: "TEST", History: cfg.History, MaxValueSize: cfg.MaxValueSize, MaxBytes: cfg.MaxBytes}
		recreate := func() { must(t, client.CreateBucket(t.Context(), config)) }
		recreate()
		below, err := client.Bucket("TEST")
		must(t, err)
		purge := func(opts ...jetstream.StreamPurgeOpt) {
			stream, err := js.Stream(t.Context(), "KV_TEST")
			must(t, err)
			must(t, stream.Purge(t.Context(), opts...))
		}
		return over(t, kvtest.Subject{
			Bucket:   below,
			Recreate: recreate,
			Remove:   func() { must(t, client.DeleteBucket(t.Context(), "TEST")) },
			PurgeAll: func() { purge() },
			Vanish:   func(key string) { purge(jetstream.WithPurgeSubject("$KV.TEST." + key)) },
			Backup: func() func() {
				saved := t.TempDir()
				srv.replaceStore(t, srv.store(), saved)
				return func() { srv.replaceStore(t, saved, srv.store()) }
			},
			Down: srv.stop,
			Up:   srv.start,
		})
	}})
}

// over puts a cached bucket on top of a subject.
func over(t *testing.T, below kvtest.Subject) kvtest.Subject {
	c := open(t, below.Bucket, cached.Options{MaxStale: 100 * time.Millisecond})
	run(t, c)
	<-c.Ready()
	above := below
	above.Bucket = c
	above.Remove = func() {
		below.Remove()
		eventually(t, "it is told that the bucket is gone", func() bool { return errors.Is(c.Stats().Lost, kv.ErrBucketNotFound) })
	}
	above.Down = func() {
		below.Down()
		eventually(t, "memory is too old", func() bool { return !c.Stats().Ready })
	}
	return above
}

func open(t testing.TB, below kv.Bucket, opts cached.Options) *cached.Bucket {
	t.Helper()
	c, err := cached.New(below, opts)
	must(t, err)
	return c
}

// run runs a cached bucket until stop is called, with the test at the latest.
func run(t testing.TB, c *cached.Bucket) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

// eventually waits until ok, for at most 20 seconds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("after 20 s not so: %s", what)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// natsServer is a nats-server on a loopback port that can stop and start again.
type natsServer struct {
	t    testing.TB
	opts server.Options
	srv  *server.Server
}

func startServer(t testing.TB) *natsServer {
	t.Helper()
	s := &natsServer{t: t, opts: server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
	}}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *natsServer) start() {
	opts := s.opts // the server changes what it is given
	srv, err := server.NewServer(&opts)
	must(s.t, err)
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		s.t.Fatal("the server does not start")
	}
	s.srv, s.opts.Port = srv, opts.Port
}

func (s *natsServer) stop() {
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
}

func (s *natsServer) store() string { return filepath.Join(s.opts.StoreDir, "jetstream") }

// replaceStore makes one folder a copy of another while the server stands still.
func (s *natsServer) replaceStore(t testing.TB, from, to string) {
	s.stop()
	must(t, os.RemoveAll(to))
	must(t, os.CopyFS(to, os.DirFS(from)))
	s.start()
}

func (s *natsServer) connect(t testing.TB, opts ...nats.Option) *nats.Conn {
	nc, err := nats.Connect(s.srv.ClientURL(), append(natskv.ConnOptions(), opts...)...)
	must(t, err)
	t.Cleanup(nc.Close)
	return nc
}

func (s *natsServer) client(t testing.TB) *natskv.Client {
	c, err := natskv.New(s.connect(t), natskv.Options{Probe: 200 * time.Millisecond})
	must(t, err)
	t.Cleanup(c.Close)
	return c
}
