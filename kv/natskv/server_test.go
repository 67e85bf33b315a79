package natskv_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
	return kvtest.Subject{
		Bucket:   newBucket(t, c, config),
		Recreate: func() { must(c.CreateBucket(t.Context(), config)) },
		Remove:   func() { must(c.DeleteBucket(t.Context(), "TEST")) },
		PurgeAll: func() { purge() },
		Vanish:   func(key string) { purge(jetstream.WithPurgeSubject("$KV.TEST." + key)) },
		Backup: func() func() {
			saved := backUp(t, admin.Conn(), "KV_TEST")
			return func() { saved.restore(t, admin) }
		},
		Down: srv.stop,
		Up:   srv.start,
	}
}

// saved is a stream as the server backs it up.
type saved struct {
	name  string
	about struct {
		Config json.RawMessage `json:"config"`
		State  json.RawMessage `json:"state"`
	}
	chunks [][]byte
}

func backUp(t testing.TB, nc *nats.Conn, name string) saved {
	t.Helper()
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	check(t, err)
	defer func() { check(t, sub.Unsubscribe()) }()
	reply, err := nc.Request("$JS.API.STREAM.SNAPSHOT."+name, []byte(`{"no_consumers":true,"deliver_subject":"`+inbox+`"}`), 5*time.Second)
	check(t, err)
	s := saved{name: name}
	check(t, json.Unmarshal(reply.Data, &s.about))
	for {
		msg, err := sub.NextMsg(5 * time.Second)
		check(t, err)
		if msg.Reply != "" {
			check(t, msg.Respond(nil))
		}
		if len(msg.Data) == 0 {
			return s
		}
		s.chunks = append(s.chunks, msg.Data)
	}
}

// restore puts the stream in the place of the one that is there. The server fails
// now and then to restore what it has not quite deleted: then it is tried again.
func (s saved) restore(t testing.TB, js jetstream.JetStream) {
	t.Helper()
	var err error
	for range 20 {
		if err = s.tryRestore(t, js); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func (s saved) tryRestore(t testing.TB, js jetstream.JetStream) error {
	if err := js.DeleteStream(t.Context(), s.name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	about, err := json.Marshal(s.about)
	if err != nil {
		return err
	}
	var answer struct {
		Subject string `json:"deliver_subject"`
		Error   any    `json:"error"`
	}
	ask := func(subject string, data []byte) error {
		reply, err := js.Conn().Request(subject, data, 5*time.Second)
		if err == nil && len(reply.Data) > 0 {
			err = json.Unmarshal(reply.Data, &answer)
		}
		if err == nil && answer.Error != nil {
			err = fmt.Errorf("restore: %v", answer.Error)
		}
		return err
	}
	if err := ask("$JS.API.STREAM.RESTORE."+s.name, about); err != nil {
		return err
	}
	to := answer.Subject
	for _, chunk := range append(slices.Clone(s.chunks), nil) {
		if err := ask(to, chunk); err != nil {
			return err
		}
	}
	return nil
}

// within returns a context for something that must not take long.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
