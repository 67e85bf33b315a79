package natskv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/kvtest"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// wantErr wants an error that is want, says what was tried, and came soon; and
// that nothing of package jetstream is in it.
func wantErr(t *testing.T, what string, want error, call func() error) {
	t.Helper()
	began := time.Now()
	err := call()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
	if took := time.Since(began); took > slack {
		t.Errorf("%s: it took %s", what, took)
	}
	var js jetstream.JetStreamError
	if errors.As(err, &js) {
		t.Errorf("%s: an error of jetstream is in %v", what, err)
	}
}

// startBrokerWithUsers has a user admin, who may do all, and one more.
func startBrokerWithUsers(t *testing.T, name string, p server.Permissions) *broker {
	t.Helper()
	b := startBroker(t)
	b.stop()
	b.opts.Users = []*server.User{
		{Username: "admin", Password: "admin"},
		{Username: name, Password: name, Permissions: &p},
	}
	b.start()
	return b
}

func TestPermissions(t *testing.T) {
	srv := startBrokerWithUsers(t, "reader", server.Permissions{
		Publish: &server.SubjectPermission{Allow: []string{
			"$JS.API.STREAM.INFO.KV_TEST", "$JS.API.STREAM.MSG.GET.KV_TEST", "$JS.API.DIRECT.GET.KV_TEST.>",
			"$JS.API.CONSUMER.CREATE.KV_TEST.>", "$JS.API.CONSUMER.DELETE.KV_TEST.>", "$JS.FC.KV_TEST.>",
		}},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
	})
	admin := newClient(t, srv.connect(nats.UserInfo("admin", "admin")), quick)
	all := newBucket(t, admin, natskv.Config{Bucket: "TEST"})
	newBucket(t, admin, natskv.Config{Bucket: "SECRET"})
	put(t, all, "a", "1")

	heard := make(chan error, 100)
	nc := srv.connect(nats.UserInfo("reader", "reader"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { heard <- err }))
	_ = newClient(t, nc, quick) // several clients on one connection
	c := newClient(t, nc, quick)
	b, err := c.Bucket("TEST")
	check(t, err)

	// What the package comment says that reading needs is enough.
	_, err = b.Get(t.Context(), "a")
	check(t, err)
	_, err = b.Keys(t.Context())
	check(t, err)
	r := kvtest.Record(t, b, kv.WatchOptions{})
	r.WaitState(map[string]string{"a": "1"})
	for event, err := range b.Watch(t.Context(), kv.WatchOptions{Filters: []string{"a"}}) {
		check(t, err)
		if event.Kind == kv.Synced {
			break
		}
	}
	if len(heard) > 0 {
		t.Errorf("reading is not permitted: %v", <-heard)
	}

	ctx := t.Context()
	calls := map[string]func() error{
		"put":    func() error { _, err := b.Put(ctx, "a", nil); return err },
		"create": func() error { _, err := b.Create(ctx, "b", nil); return err },
		"delete": func() error { return b.Delete(ctx, "a", 0) },
		"new":    func() error { return c.CreateBucket(ctx, natskv.Config{Bucket: "NEW"}) },
		"remove": func() error { return c.DeleteBucket(ctx, "TEST") },
		"list":   func() error { _, err := c.Buckets(ctx); return err },
	}
	secret, err := c.Bucket("SECRET")
	check(t, err)
	calls["secret get"] = func() error { _, err := secret.Get(ctx, "a"); return err }
	calls["secret put"] = func() error { _, err := secret.Put(ctx, "a", nil); return err }
	calls["secret keys"] = func() error { _, err := secret.Keys(ctx); return err }
	for name, call := range calls {
		wantErr(t, name, kv.ErrPermission, call)
	}
	var wg sync.WaitGroup
	for i := range 10 { // each gets its own
		wg.Go(func() {
			key := fmt.Sprint("k", i)
			_, err := b.Put(ctx, key, nil)
			if !errors.Is(err, kv.ErrPermission) || !strings.Contains(err.Error(), `"$KV.TEST.`+key+`"`) {
				t.Errorf("put %s: %v", key, err)
			}
		})
	}
	wg.Wait()
	if len(heard) == 0 {
		t.Error("the connection's own error handler hears nothing any more")
	}

	lost := kvtest.Record(t, secret, kv.WatchOptions{})
	lost.WaitKind(kv.Lost, 0)
	if err := lost.Events()[0].Err; !errors.Is(err, kv.ErrPermission) {
		t.Errorf("lost because of %v", err)
	}
}

func TestInboxForbidden(t *testing.T) {
	srv := startBrokerWithUsers(t, "mute", server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"_INBOX.>"}}})
	newBucket(t, newClient(t, srv.connect(nats.UserInfo("admin", "admin")), quick), natskv.Config{Bucket: "TEST"})
	b, err := newClient(t, srv.connect(nats.UserInfo("mute", "mute")), quick).Bucket("TEST")
	check(t, err)
	wantErr(t, "get without an inbox", kv.ErrPermission, func() error { _, err := b.Get(t.Context(), "a"); return err })
}

// TestHandlerReplaced: without the asynchronous error the timeout tells.
func TestHandlerReplaced(t *testing.T) {
	srv := startBrokerWithUsers(t, "reader", server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$KV.>"}}})
	newBucket(t, newClient(t, srv.connect(nats.UserInfo("admin", "admin")), quick), natskv.Config{Bucket: "TEST"})
	nc := srv.connect(nats.UserInfo("reader", "reader"))
	b, err := newClient(t, nc, quick).Bucket("TEST")
	check(t, err)
	nc.SetErrorHandler(nil)
	wantErr(t, "put", kv.ErrPermission, func() error { _, err := b.Put(within(t, time.Second), "a", nil); return err })
}

func TestNoServer(t *testing.T) {
	srv := startBroker(t)
	url := srv.srv.ClientURL()
	srv.stop()
	nc, err := nats.Connect(url, append(natskv.ConnOptions(), nats.RetryOnFailedConnect(true))...)
	check(t, err)
	t.Cleanup(nc.Close)
	c := newClient(t, nc, natskv.Options{Timeout: 300 * time.Millisecond, Probe: 200 * time.Millisecond})
	b, err := c.Bucket("TEST")
	check(t, err)
	get := func() error { _, err := b.Get(context.Background(), "a"); return err }
	wantErr(t, "get without a server", kv.ErrUnavailable, get)
	r := kvtest.Record(t, b, kv.WatchOptions{})
	r.WaitKind(kv.Lost, 0)

	srv.start()
	check(t, newClient(t, srv.connect(), quick).CreateBucket(t.Context(), natskv.Config{Bucket: "TEST"}))
	r.WaitKind(kv.Synced, 0)
	put(t, b, "a", "1")
	r.WaitState(map[string]string{"a": "1"})

	n := r.Len()
	nc.Close()
	wantErr(t, "get on a closed connection", kv.ErrUnavailable, get)
	r.WaitKind(kv.Lost, n)
}

func TestNoJetStream(t *testing.T) {
	srv := startBroker(t)
	srv.stop()
	srv.opts.JetStream = false
	srv.start()
	c := newClient(t, srv.connect(), quick)
	b, err := c.Bucket("TEST")
	check(t, err)
	wantErr(t, "get", kv.ErrUnavailable, func() error { _, err := b.Get(t.Context(), "a"); return err })
	wantErr(t, "put", kv.ErrUnavailable, func() error { _, err := b.Put(t.Context(), "a", nil); return err })
	wantErr(t, "list", kv.ErrUnavailable, func() error { _, err := c.Buckets(t.Context()); return err })
	r := kvtest.Record(t, b, kv.WatchOptions{})
	r.WaitKind(kv.Lost, 0)
}

func TestManage(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	c := newClient(t, nc, quick)
	ctx := t.Context()
	cfg := natskv.Config{
		Bucket: "B", Description: "for tests", History: 7, TTL: time.Hour, MarkerTTL: time.Minute,
		MaxValueSize: 1000, MaxBytes: 1 << 20, Memory: true,
	}
	check(t, c.CreateBucket(ctx, cfg))
	check(t, c.CreateBucket(ctx, cfg)) // it is there
	check(t, c.CreateBucket(ctx, natskv.Config{Bucket: "A"}))
	changed := cfg
	changed.History, changed.Memory, changed.Description = 8, false, "another"
	err := c.CreateBucket(ctx, changed)
	if others := "with other settings: Description differs, History is 7, not 8, Memory is true, not false"; !errors.Is(err, kv.ErrBucketExists) || !strings.HasSuffix(err.Error(), others) {
		t.Errorf("create with other settings: %v, want %s", err, others)
	}
	wantErr(t, "create with a TTL for keys, which it has not", kv.ErrBucketExists, func() error {
		return c.CreateBucket(ctx, natskv.Config{Bucket: "A", KeyTTL: true})
	})
	wantErr(t, "create with a bad name", kv.ErrInvalidBucket, func() error { return c.CreateBucket(ctx, natskv.Config{Bucket: "a.b"}) })
	wantErr(t, "delete with a bad name", kv.ErrInvalidBucket, func() error { return c.DeleteBucket(ctx, "a.b") })
	if _, err := c.Bucket("a.b"); !errors.Is(err, kv.ErrInvalidBucket) {
		t.Errorf("bucket with a bad name: %v", err)
	}
	if err := c.CreateBucket(ctx, natskv.Config{Bucket: "C", History: 65}); err == nil {
		t.Error("a history of 65 is not refused")
	}

	names, err := c.Buckets(ctx)
	check(t, err)
	if !slices.Equal(names, []string{"A", "B"}) {
		t.Errorf("buckets are %v", names)
	}
	b, err := c.Bucket("B")
	check(t, err)
	st, err := b.Status(ctx)
	check(t, err)
	if st.History != 7 || st.TTL != time.Hour || st.MaxValueSize != 1000 || st.MaxBytes != 1<<20 || st.Replicas != 1 {
		t.Errorf("status is %+v", st)
	}

	check(t, c.DeleteBucket(ctx, "B"))
	wantErr(t, "delete what is not there", kv.ErrBucketNotFound, func() error { return c.DeleteBucket(ctx, "B") })
	wantErr(t, "status of what is not there", kv.ErrBucketNotFound, func() error { _, err := b.Status(ctx); return err })
}

// TestTogetherWithNatsGo: what is made and put here nats.go finds, and the other way round.
func TestTogetherWithNatsGo(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	js := jetStream(t, nc)
	c := newClient(t, nc, quick)
	ctx := t.Context()
	// It would refuse another configuration than its own.
	ours := newBucket(t, c, natskv.Config{Bucket: "TEST", History: 3, NoTxn: true})
	theirs, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "TEST", History: 3})
	check(t, err)
	check(t, c.CreateBucket(ctx, natskv.Config{Bucket: "TEST", History: 3}))

	put(t, ours, "a", "1")
	e, err := theirs.Get(ctx, "a")
	check(t, err)
	if string(e.Value()) != "1" || e.Revision() != 1 {
		t.Errorf("nats.go gets %q @%d", e.Value(), e.Revision())
	}
	check(t, ours.Delete(ctx, "a", 1))
	if _, err := theirs.Get(ctx, "a"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("nats.go gets what was deleted: %v", err)
	}
	_, err = theirs.Create(ctx, "a", []byte("2"))
	check(t, err)
	check(t, theirs.Purge(ctx, "a"))
	got, err := ours.Get(ctx, "a")
	if !errors.Is(err, kv.ErrKeyDeleted) || got.Operation != kv.OpPurge {
		t.Errorf("what nats.go purged: %+v, %v", got, err)
	}
	_, err = ours.Create(ctx, "a", []byte("3"))
	check(t, err)
	check(t, ours.Purge(ctx, "a", 0))
	h, err := theirs.History(ctx, "a")
	check(t, err)
	if len(h) != 1 || h[0].Operation() != jetstream.KeyValuePurge {
		t.Errorf("nats.go's history of what was purged has %d entries", len(h))
	}
}

func TestLimits(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	b := newBucket(t, newClient(t, nc, quick), natskv.Config{Bucket: "TEST", MaxBytes: 10_000})
	wantErr(t, "put more than a message may have", kv.ErrValueTooLarge, func() error {
		_, err := b.Put(t.Context(), "a", make([]byte, nc.MaxPayload()+1))
		return err
	})
	var err error
	for i := 0; err == nil; i++ {
		_, err = b.Put(t.Context(), fmt.Sprint("k", i), make([]byte, 100))
	}
	wantErr(t, "put into a full bucket", kv.ErrBucketFull, func() error { return err })
	wantErr(t, "delete in a full bucket", kv.ErrBucketFull, func() error { return b.Delete(t.Context(), "new", 0) })
}

// TestNoMoreConsumers has no room for a watch.
func TestNoMoreConsumers(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	_, err := jetStream(t, nc).CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "KV_TEST", Subjects: []string{"$KV.TEST.>"}, MaxMsgsPerSubject: 1, MaxConsumers: 1, AllowDirect: true})
	check(t, err)
	first, err := newClient(t, nc, quick).Bucket("TEST")
	check(t, err)
	put(t, first, "a", "1")
	r := kvtest.Record(t, first, kv.WatchOptions{})
	r.WaitState(map[string]string{"a": "1"})

	second, err := newClient(t, nc, quick).Bucket("TEST")
	check(t, err)
	late := kvtest.Record(t, second, kv.WatchOptions{})
	n := late.WaitKind(kv.Lost, 0)
	if err := late.Events()[n-1].Err; !errors.Is(err, kv.ErrUnavailable) || !strings.Contains(err.Error(), "consumers") {
		t.Errorf("lost because of %v", err)
	}
}

// TestInvalidKeysInBucket has somebody put keys around every client.
func TestInvalidKeysInBucket(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	var log lockedBuffer
	opts := quick
	opts.Log = slog.New(slog.NewTextHandler(&log, nil))
	b := newBucket(t, newClient(t, nc, opts), natskv.Config{Bucket: "TEST"})
	for _, key := range []string{"é", "$(id)", `a"b`} {
		check(t, nc.Publish("$KV.TEST."+key, []byte("evil")))
	}
	put(t, b, "good", "1")
	check(t, nc.Publish("$KV.TEST.$(id)", []byte("evil")))
	r := kvtest.Record(t, b, kv.WatchOptions{})
	r.WaitState(map[string]string{"good": "1"})
	// The newest entry is one of them: a watch begins all the same.
	check(t, nc.Publish("$KV.TEST.$(id)", []byte("evil")))
	late := kvtest.Record(t, b, kv.WatchOptions{})
	late.WaitKind(kv.Synced, 0)
	keys, err := b.Keys(t.Context())
	check(t, err)
	if !slices.Equal(keys, []string{"good"}) {
		t.Errorf("keys are %q", keys)
	}
	put(t, b, "good", "2")
	r.WaitState(map[string]string{"good": "2"})
	eventually(t, "invalid keys are logged", func() bool { return strings.Contains(log.String(), "invalid keys") })
	_ = r.Stop()
	if got := log.String(); strings.Count(got, "invalid keys") != 1 || strings.Contains(got, "evil") {
		t.Errorf("the log is:\n%s", got)
	}
	for _, e := range r.Events() {
		if strings.Contains(string(e.Entry.Value), "evil") {
			t.Errorf("told %s", kvtest.Describe(e))
		}
	}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// TestOtherStreams reads buckets that are not made the way ours are.
func TestOtherStreams(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	js := jetStream(t, nc)
	c := newClient(t, nc, quick)
	origin := newBucket(t, c, natskv.Config{Bucket: "ORIGIN"})
	put(t, origin, "a", "1")
	t.Run("mirror", func(t *testing.T) {
		_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
			Name: "KV_MIRROR", Mirror: &jetstream.StreamSource{Name: "KV_ORIGIN"}, MaxMsgsPerSubject: 1, AllowDirect: true, MirrorDirect: true})
		check(t, err)
		b, err := c.Bucket("MIRROR")
		check(t, err)
		r := kvtest.Record(t, b, kv.WatchOptions{Filters: []string{"a"}})
		r.WaitState(map[string]string{"a": "1"})
		_, err = b.Put(t.Context(), "a", []byte("2"))
		if !errors.Is(err, kv.ErrReadOnly) || !strings.Contains(err.Error(), "ORIGIN") {
			t.Errorf("put into a mirror: %v", err)
		}
		put(t, origin, "a", "2")
		r.WaitState(map[string]string{"a": "2"})
		e, err := b.Get(t.Context(), "a")
		check(t, err)
		if e.Bucket != "MIRROR" || string(e.Value) != "2" {
			t.Errorf("got %+v", e)
		}
	})
	t.Run("no direct get", func(t *testing.T) {
		_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
			Name: "KV_OLD", Subjects: []string{"$KV.OLD.>"}, MaxMsgsPerSubject: 5, AllowRollup: true})
		check(t, err)
		b, err := c.Bucket("OLD")
		check(t, err)
		put(t, b, "a", "1")
		check(t, b.Delete(t.Context(), "a", 0))
		if _, err := b.Get(t.Context(), "a"); !errors.Is(err, kv.ErrKeyDeleted) {
			t.Errorf("get what was deleted: %v", err)
		}
		h, err := b.History(t.Context(), "a")
		check(t, err)
		if len(h) != 2 {
			t.Errorf("history has %d entries", len(h))
		}
	})
	t.Run("direct get taken away", func(t *testing.T) {
		stream, err := js.Stream(t.Context(), "KV_ORIGIN")
		check(t, err)
		config := stream.CachedInfo().Config
		config.AllowDirect = false
		_, err = js.UpdateStream(t.Context(), config)
		check(t, err)
		_, err = origin.Get(t.Context(), "a")
		check(t, err)
	})
}
