package natskv_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/kvtest"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// broker is a nats-server on a loopback port that can stop and start again on
// the same port and store.
type broker struct {
	t    testing.TB
	opts server.Options
	srv  *server.Server
}

func startBroker(t testing.TB) *broker {
	t.Helper()
	b := &broker{t: t, opts: server.Options{
		Host:      "127.0.0.1",
		Port:      server.RANDOM_PORT,
		JetStream: true,
		StoreDir:  t.TempDir(),
		NoLog:     true,
		NoSigs:    true,
	}}
	b.start()
	t.Cleanup(b.stop)
	return b
}

func (b *broker) start() {
	b.t.Helper()
	opts := b.opts // the server changes what it is given
	srv, err := server.NewServer(&opts)
	if err != nil {
		b.t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		b.t.Fatal("the server does not start")
	}
	b.srv = srv
	b.opts.Port = opts.Port
}

func (b *broker) stop() {
	b.srv.Shutdown()
	b.srv.WaitForShutdown()
}

// storeDir is where the server keeps its streams.
func (b *broker) storeDir() string { return filepath.Join(b.opts.StoreDir, "jetstream") }

func (b *broker) connect(opts ...nats.Option) *nats.Conn {
	b.t.Helper()
	nc, err := nats.Connect(b.srv.ClientURL(), append(natskv.ConnOptions(), opts...)...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(nc.Close)
	return nc
}

// quick are options that make tests short.
var quick = natskv.Options{Timeout: 5 * time.Second, Probe: 200 * time.Millisecond}

func newClient(t testing.TB, nc *nats.Conn, opts natskv.Options) *natskv.Client {
	t.Helper()
	c, err := natskv.New(nc, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func newBucket(t testing.TB, c *natskv.Client, cfg natskv.Config) kv.Bucket {
	t.Helper()
	if err := c.CreateBucket(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	b, err := c.Bucket(cfg.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func jetStream(t testing.TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestContract(t *testing.T) {
	kvtest.Run(t, kvtest.Harness{Open: open})
}

func open(t *testing.T, cfg kvtest.Config) kvtest.Subject {
	srv := startBroker(t)
	nc := srv.connect()
	c := newClient(t, nc, quick)
	admin := jetStream(t, srv.connect())
	config := natskv.Config{Bucket: "TEST", History: cfg.History, MaxValueSize: cfg.MaxValueSize, MaxBytes: cfg.MaxBytes}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	purge := func(opts ...jetstream.StreamPurgeOpt) {
		t.Helper()
		stream, err := admin.Stream(t.Context(), "KV_TEST")
		must(err)
		must(stream.Purge(t.Context(), opts...))
	}
	copyStore := func(from, to string) {
		t.Helper()
		must(os.RemoveAll(to))
		must(os.CopyFS(to, os.DirFS(from)))
	}
	return kvtest.Subject{
		Bucket:   newBucket(t, c, config),
		Recreate: func() { must(c.CreateBucket(t.Context(), config)) },
		Remove:   func() { must(c.DeleteBucket(t.Context(), "TEST")) },
		PurgeAll: func() { purge() },
		Vanish:   func(key string) { purge(jetstream.WithPurgeSubject("$KV.TEST." + key)) },
		Backup: func() func() {
			saved := filepath.Join(t.TempDir(), "saved")
			srv.stop()
			copyStore(srv.storeDir(), saved)
			srv.start()
			return func() {
				srv.stop()
				copyStore(saved, srv.storeDir())
				srv.start()
			}
		},
		Down: srv.stop,
		Up:   srv.start,
	}
}

// within returns a context for something that must not take long.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
