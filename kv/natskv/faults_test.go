package natskv_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/kvtest"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// slack is what a promised time may take longer here, where tests run beside each
// other under the race detector.
const slack = 2 * time.Second

// wantWithin runs f, which waits for something, and fails the test if that took
// longer than promised.
func wantWithin(t *testing.T, what string, promised time.Duration, f func()) {
	t.Helper()
	began := time.Now()
	f()
	took := time.Since(began).Round(time.Millisecond)
	t.Logf("%s after %s", what, took)
	if took > promised+slack {
		t.Errorf("%s after %s, promised are %s", what, took, promised)
	}
}

func put(t testing.TB, b kv.Bucket, key, value string) {
	t.Helper()
	_, err := b.Put(t.Context(), key, []byte(value))
	check(t, err)
}

// TestServerRestarts has probes so rare that only the connection can tell.
func TestServerRestarts(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	b := newBucket(t, newClient(t, nc, natskv.Options{Probe: time.Minute}), natskv.Config{Bucket: "TEST"})
	r := kvtest.Record(t, b, kv.WatchOptions{})
	r.WaitKind(kv.Synced, 0)
	put(t, b, "a", "0")
	r.WaitState(map[string]string{"a": "0"})
	for i := range 3 {
		told := r.Len()
		srv.stop()
		srv.start()
		other := newClient(t, srv.connect(), quick)
		ob, err := other.Bucket("TEST")
		check(t, err)
		value := fmt.Sprint(i + 1)
		put(t, ob, "a", value)
		wantWithin(t, "a put after a restart is told", 200*time.Millisecond, func() {
			r.WaitState(map[string]string{"a": value})
		})
		if log := r.Log(told); strings.Contains(log, "lost") {
			t.Errorf("a restart was told as a loss:\n%s", log)
		}
	}
}

// TestStoreSetBack has a server lose what it wrote last, as it may when the power fails. The
// bucket is the same and no key goes back, but its revisions will be given again.
func TestStoreSetBack(t *testing.T) {
	srv := startBroker(t)
	put(t, newBucket(t, newClient(t, srv.connect(), quick), natskv.Config{Bucket: "TEST"}), "a", "1")
	srv.stop()
	before := t.TempDir()
	check(t, os.CopyFS(before, os.DirFS(srv.opts.StoreDir)))
	srv.start()
	b, err := newClient(t, srv.connect(), quick).Bucket("TEST")
	check(t, err)
	put(t, b, "b", "2")
	r := kvtest.Record(t, b, kv.WatchOptions{})
	r.WaitState(map[string]string{"a": "1", "b": "2"})
	epoch := r.Events()[r.WaitKind(kv.Synced, 0)-1].Epoch
	told := r.Len()
	srv.stop()
	check(t, os.RemoveAll(srv.opts.StoreDir))
	check(t, os.CopyFS(srv.opts.StoreDir, os.DirFS(before)))
	srv.start()
	n := r.WaitKind(kv.Synced, told)
	log := r.Log(told)
	if !strings.Contains(log, "reset\nmissing b\nsynced") || r.Events()[n-1].Epoch != epoch {
		t.Errorf("told:\n%s", log)
	}
}

// TestCreatedAgainMeanwhile has a bucket created again after a watch has asked which one
// it is, and before it begins to follow it.
func TestCreatedAgainMeanwhile(t *testing.T) {
	srv := startBroker(t)
	admin := newClient(t, srv.connect(), quick)
	old := newBucket(t, admin, natskv.Config{Bucket: "TEST"})
	put(t, old, "a", "1")
	link := startLink(t, srv.srv.Addr().String())
	link.before("$JS.API.CONSUMER.CREATE.KV_TEST", func() {
		check(t, admin.DeleteBucket(t.Context(), "TEST"))
		put(t, newBucket(t, admin, natskv.Config{Bucket: "TEST"}), "a", "2")
	})
	nc, err := nats.Connect("nats://"+link.addr(), natskv.ConnOptions()...)
	check(t, err)
	t.Cleanup(nc.Close)
	b, err := newClient(t, nc, quick).Bucket("TEST")
	check(t, err)
	r := kvtest.Record(t, b, kv.WatchOptions{})
	n := r.WaitKind(kv.Synced, r.WaitKind(kv.Reset, 0))
	st, err := b.Status(t.Context())
	check(t, err)
	if got := r.Events()[n-1].Epoch; got != st.Epoch {
		t.Errorf("the watch is about %s, and the bucket is %s", got, st.Epoch)
	}
	r.WaitState(map[string]string{"a": "2"})
}

// TestSetBackAndBroken has a server lose what it wrote last, and breaks the session that
// finds that out before it has told so: the next one must know it all the same.
func TestSetBackAndBroken(t *testing.T) {
	srv := startBroker(t)
	js := jetStream(t, srv.connect())
	newBucket(t, newClient(t, srv.connect(), quick), natskv.Config{Bucket: "TEST"})
	putMany(t, js, 1000, make([]byte, 8<<10))
	srv.stop()
	older := t.TempDir()
	check(t, os.CopyFS(older, os.DirFS(srv.opts.StoreDir)))
	srv.start()
	admin, err := newClient(t, srv.connect(), quick).Bucket("TEST")
	check(t, err)
	put(t, admin, "a", "1")

	link := startLink(t, srv.srv.Addr().String())
	nc, err := nats.Connect("nats://"+link.addr(), natskv.ConnOptions()...)
	check(t, err)
	t.Cleanup(nc.Close)
	b, err := newClient(t, nc, quick).Bucket("TEST")
	check(t, err)
	r := kvtest.Record(t, b, kv.WatchOptions{})
	n := r.WaitKind(kv.Synced, 0)
	link.slow(4 << 20) // so that there is time to break it
	srv.stop()
	check(t, os.RemoveAll(srv.opts.StoreDir))
	check(t, os.CopyFS(srv.opts.StoreDir, os.DirFS(older)))
	srv.start()
	js = jetStream(t, srv.connect())
	eventually(t, "what tells it is broken", func() (broken bool) {
		for _, name := range consumers(t, js, "KV_TEST") {
			broken = js.DeleteConsumer(t.Context(), "KV_TEST", name) == nil || broken
		}
		return broken
	})
	r.WaitKind(kv.Synced, n)
	if log := r.Log(n); !strings.Contains(log, "reset\nmissing a\nsynced") {
		t.Errorf("told:\n%s", log)
	}
}

func TestConsumerDeletedAtServer(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	b := newBucket(t, newClient(t, nc, quick), natskv.Config{Bucket: "TEST"})
	whole := kvtest.Record(t, b, kv.WatchOptions{})
	put(t, b, "a", "1")
	whole.WaitState(map[string]string{"a": "1"})

	other := newClient(t, nc, quick)
	ob, err := other.Bucket("TEST")
	check(t, err)
	part := kvtest.Record(t, ob, kv.WatchOptions{Filters: []string{"a"}})
	part.WaitState(map[string]string{"a": "1"})

	js := jetStream(t, nc)
	for i := range 3 {
		for _, name := range consumers(t, js, "KV_TEST") {
			check(t, js.DeleteConsumer(t.Context(), "KV_TEST", name))
		}
		value := fmt.Sprint(i + 2)
		put(t, b, "a", value)
		put(t, b, "other", value)
		wantWithin(t, "a put without a consumer is told", 2*quick.Probe, func() {
			whole.WaitState(map[string]string{"a": value, "other": value})
			part.WaitState(map[string]string{"a": value})
		})
	}
}

// TestCreatedAgainWhileTold removes the bucket and makes it anew while the server tells
// what was in it. Of the rest nothing will come, and nobody says so.
func TestCreatedAgainWhileTold(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	admin := newClient(t, nc, quick)
	js := jetStream(t, nc)
	config := natskv.Config{Bucket: "TEST"}
	b := newBucket(t, admin, config)
	for i := range 5 {
		putMany(t, js, 2000, make([]byte, 4<<10))
		r, listed := beingTold(t, srv, js)
		check(t, admin.DeleteBucket(t.Context(), "TEST"))
		check(t, admin.CreateBucket(t.Context(), config))
		now := fmt.Sprint(i)
		put(t, b, "a", now)
		wantWithin(t, "what the new bucket holds is told", 2*quick.Probe, func() {
			r.WaitState(map[string]string{"a": now})
		})
		wantWithin(t, "its keys are listed", 2*quick.Probe, func() {
			if err := <-listed; !errors.Is(err, kv.ErrBucketNotFound) { // it was not, for a moment
				check(t, err)
			}
		})
	}
}

// beingTold begins to watch the bucket and to list its keys, over a connection of its own,
// and returns when the server has begun to tell what is in it.
func beingTold(t *testing.T, srv *broker, js jetstream.JetStream) (r *kvtest.Recorder, listed <-chan error) {
	t.Helper()
	b, err := newClient(t, srv.connect(), quick).Bucket("TEST")
	check(t, err)
	r = kvtest.Record(t, b, kv.WatchOptions{})
	keys := make(chan error, 1)
	go func() {
		_, err := b.Keys(t.Context())
		keys <- err
	}()
	eventually(t, "it is being told", func() bool { return len(consumers(t, js, "KV_TEST")) > 0 })
	return r, keys
}

// TestCreatedAgainWhileBackedUp makes the bucket anew while it is read for a backup, which
// begins again then.
func TestCreatedAgainWhileBackedUp(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	admin := newClient(t, nc, quick)
	js := jetStream(t, nc)
	config := natskv.Config{Bucket: "TEST"}
	b := newBucket(t, admin, config)
	putMany(t, js, 2000, make([]byte, 4<<10))
	var once sync.Once
	made, err := newClient(t, srv.connect(), quick).Backup(t.Context(), "TEST", t.TempDir(), natskv.BackupOptions{
		Progress: func(uint64, uint64) {
			once.Do(func() {
				check(t, admin.DeleteBucket(t.Context(), "TEST"))
				check(t, admin.CreateBucket(t.Context(), config))
				put(t, b, "a", "1")
			})
		},
	})
	check(t, err)
	if made.Entries != 1 || made.LastRevision != 1 {
		t.Errorf("the backup is %+v", made)
	}
}

// TestPurgedWhileTold purges the bucket while the server tells what is in it, so that
// the end of that never comes.
func TestPurgedWhileTold(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	js := jetStream(t, nc)
	b := newBucket(t, newClient(t, nc, quick), natskv.Config{Bucket: "TEST"})
	put(t, b, "a", "1")
	for range 5 {
		putMany(t, js, 2000, make([]byte, 4<<10))
		r, listed := beingTold(t, srv, js)
		stream, err := js.Stream(t.Context(), "KV_TEST")
		check(t, err)
		check(t, stream.Purge(t.Context(), jetstream.WithPurgeSubject("$KV.TEST.*"), jetstream.WithPurgeKeep(0)))
		wantWithin(t, "an empty bucket is told", 2*quick.Probe, func() {
			r.WaitKind(kv.Synced, 0)
			r.WaitState(map[string]string{})
		})
		wantWithin(t, "its keys are listed", 2*quick.Probe, func() { check(t, <-listed) })
		_ = r.Stop()
	}
}

// TestSlowLink has a link behind whose messages the answer to a probe takes longer than
// a probe may: the bucket is told and backed up as slowly as it comes.
func TestSlowLink(t *testing.T) {
	srv := startBroker(t)
	js := jetStream(t, srv.connect())
	newBucket(t, newClient(t, srv.connect(), quick), natskv.Config{Bucket: "TEST"})
	value := make([]byte, 32<<10)
	const keys = 128
	for key := range keys {
		_, err := js.Publish(t.Context(), fmt.Sprint("$KV.TEST.k", key), value)
		check(t, err)
	}
	link := startLink(t, srv.srv.Addr().String())
	nc, err := nats.Connect("nats://"+link.addr(), natskv.ConnOptions()...)
	check(t, err)
	t.Cleanup(nc.Close)
	watching := newClient(t, nc, quick)
	b, err := watching.Bucket("TEST")
	check(t, err)
	link.slow(2 << 20)
	r := kvtest.Record(t, b, kv.WatchOptions{})
	wantWithin(t, "what is in the bucket is told", 4*time.Second, func() { r.WaitKind(kv.Synced, 0) })
	if n := r.Len(); n != keys+1 {
		t.Errorf("told:\n%s", r.Log(0))
	}
	_ = r.Stop()
	watching.Close()
	c := newClient(t, nc, natskv.Options{Timeout: 2 * quick.Probe, Probe: quick.Probe})
	wantWithin(t, "it is backed up", 4*time.Second, func() {
		_, err := c.Backup(t.Context(), "TEST", t.TempDir(), natskv.BackupOptions{})
		check(t, err)
	})
}

// putMany puts a value under as many keys, k0 and so on, faster than one after the other.
func putMany(t *testing.T, js jetstream.JetStream, keys int, value []byte) {
	t.Helper()
	for key := range keys {
		_, err := js.PublishAsync(fmt.Sprint("$KV.TEST.k", key), value)
		check(t, err)
	}
	<-js.PublishAsyncComplete()
}

// consumers returns the names of a stream's consumers.
func consumers(t testing.TB, js jetstream.JetStream, stream string) (names []string) {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	check(t, err)
	list := s.ConsumerNames(t.Context())
	for name := range list.Name() {
		names = append(names, name)
	}
	check(t, list.Err())
	return names
}

// TestManyWatches begins a thousand at once, each on a key of its own.
func TestManyWatches(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	b := newBucket(t, newClient(t, nc, natskv.Options{}), natskv.Config{Bucket: "TEST"})
	const n = 1000
	for i := range n {
		put(t, b, fmt.Sprint("k", i), "1")
	}
	began := time.Now()
	var rs []*kvtest.Recorder
	for i := range n {
		rs = append(rs, kvtest.Record(t, b, kv.WatchOptions{Filters: []string{fmt.Sprint("k", i)}}))
	}
	for _, r := range rs {
		r.WaitKind(kv.Synced, 0)
	}
	t.Logf("%d watches are synced after %s", n, time.Since(began).Round(time.Millisecond))
	put(t, b, "k7", "2")
	rs[7].WaitState(map[string]string{"k7": "2"})
	if names := consumers(t, jetStream(t, nc), "KV_TEST"); len(names) != 1 {
		t.Errorf("they have %d consumers", len(names))
	}
	if log := rs[8].Log(0); log != "put k8=\"1\" @9\nsynced" {
		t.Errorf("one of them was told:\n%s", log)
	}
}

// TestIdle has many watches of a bucket in which nothing happens. Together they ask the
// server less than once a second.
func TestIdle(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	b := newBucket(t, newClient(t, nc, natskv.Options{}), natskv.Config{Bucket: "TEST"})
	put(t, b, "a", "1")
	for i := range 100 {
		filters := [][]string{nil, {"a"}, {"b", "c.*"}}[i%3]
		kvtest.Record(t, b, kv.WatchOptions{Filters: filters}).WaitKind(kv.Synced, 0)
	}
	requests := make(chan *nats.Msg, 100)
	sub, err := srv.connect().ChanSubscribe("$JS.API.>", requests)
	check(t, err)
	defer func() { check(t, sub.Unsubscribe()) }()
	<-requests
	began := time.Now()
	const n = 2
	for range n {
		<-requests
	}
	if took := time.Since(began); took < n*3*time.Second/2 {
		t.Errorf("%d requests within %s", n, took)
	}
}

// eventually waits for a condition that nothing but asking can tell.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for tick := time.Tick(10 * time.Millisecond); !cond(); {
		select {
		case <-tick:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

// TestMessagesLost has the server say that it sent more than came.
func TestMessagesLost(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	b := newBucket(t, newClient(t, nc, natskv.Options{Probe: time.Minute}), natskv.Config{Bucket: "TEST"})
	put(t, b, "a", "1")
	r := kvtest.Record(t, b, kv.WatchOptions{})
	r.WaitKind(kv.Synced, 0)
	js := jetStream(t, nc)
	names := consumers(t, js, "KV_TEST")
	consumer, err := js.PushConsumer(t.Context(), "KV_TEST", names[0])
	check(t, err)
	check(t, nc.PublishMsg(&nats.Msg{
		Subject: consumer.CachedInfo().Config.DeliverSubject,
		Header:  nats.Header{"Status": {"100"}, "Nats-Last-Consumer": {"9"}},
	}))
	eventually(t, "another consumer takes the place of one with a gap", func() bool {
		now := consumers(t, js, "KV_TEST")
		return len(now) == 1 && now[0] != names[0]
	})
	put(t, b, "b", "2")
	r.WaitState(map[string]string{"a": "1", "b": "2"})
	if n := r.Len(); n != 3 {
		t.Errorf("told:\n%s", r.Log(0))
	}
}

// TestLinkSwallows has a link that takes everything and delivers nothing, and
// then breaks.
func TestLinkSwallows(t *testing.T) {
	srv := startBroker(t)
	near := srv.connect()
	admin := newBucket(t, newClient(t, near, quick), natskv.Config{Bucket: "TEST"})
	link := startLink(t, srv.srv.Addr().String())
	nc, err := nats.Connect("nats://"+link.addr(), natskv.ConnOptions()...)
	check(t, err)
	t.Cleanup(nc.Close)
	b, err := newClient(t, nc, quick).Bucket("TEST")
	check(t, err)

	put(t, admin, "a", "1")
	r := kvtest.Record(t, b, kv.WatchOptions{})
	n := r.WaitKind(kv.Synced, 0)
	link.swallow()
	put(t, admin, "a", "2")
	wantWithin(t, "a link that swallows is told", 2*quick.Probe, func() { n = r.WaitKind(kv.Lost, n) })
	if err := r.Events()[n-1].Err; !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("lost because of %v", err)
	}
	_, err = b.Get(within(t, 100*time.Millisecond), "a")
	if !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("get over a link that swallows: %v", err)
	}
	link.cut()
	wantWithin(t, "what was put meanwhile is told", 200*time.Millisecond, func() {
		r.WaitState(map[string]string{"a": "2"})
		r.WaitKind(kv.Found, n)
	})
}

// TestConnectionBreaks has the connection break while calls wait for an answer:
// what only reads is done again, what changes something is not.
func TestConnectionBreaks(t *testing.T) {
	srv := startBroker(t)
	newBucket(t, newClient(t, srv.connect(), quick), natskv.Config{Bucket: "TEST"})
	link := startLink(t, srv.srv.Addr().String())
	nc, err := nats.Connect("nats://"+link.addr(), natskv.ConnOptions()...)
	check(t, err)
	t.Cleanup(nc.Close)
	b, err := newClient(t, nc, natskv.Options{Timeout: time.Minute}).Bucket("TEST")
	check(t, err)
	put(t, b, "a", "1")
	broken := func(call func() error) error {
		link.swallow()
		select {
		case <-link.swallowed: // of an earlier call
		default:
		}
		result := make(chan error)
		go func() { result <- call() }()
		<-link.swallowed
		link.cut()
		select {
		case err := <-result:
			return err
		case <-time.After(10 * time.Second):
			t.Fatal("a call goes on although the connection broke")
			return nil
		}
	}
	check(t, broken(func() error { _, err := b.Get(t.Context(), "a"); return err }))
	check(t, broken(func() error { _, err := b.Keys(t.Context()); return err }))
	err = broken(func() error { _, err := b.Put(t.Context(), "a", []byte("2")); return err })
	if !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("put: %v", err)
	}
	e, err := b.Get(t.Context(), "a")
	check(t, err)
	if string(e.Value) != "1" {
		t.Errorf("value is %q: a put that failed was sent again", e.Value)
	}
}

func TestServerFrozen(t *testing.T) {
	child := startChild(t)
	b := newBucket(t, newClient(t, child.connect(t), quick), natskv.Config{Bucket: "TEST"})
	put(t, b, "a", "1")
	r := kvtest.Record(t, b, kv.WatchOptions{})
	n := r.WaitKind(kv.Synced, 0)
	for range 3 {
		child.freeze()
		wantWithin(t, "a frozen server is told", 2*quick.Probe, func() { n = r.WaitKind(kv.Lost, n) })
		child.thaw()
		wantWithin(t, "a thawed server is told", time.Second, func() { n = r.WaitKind(kv.Found, n) })
	}
	put(t, b, "a", "2")
	r.WaitState(map[string]string{"a": "2"})
}

// TestNothingLeaks watches a thousand times, leaves each watch at another event,
// and looks for goroutines and consumers that are left.
func TestNothingLeaks(t *testing.T) {
	child := startChild(t)
	nc := child.connect(t)
	js := jetStream(t, nc)
	_, err := js.AccountInfo(t.Context()) // a connection starts to listen for answers at its first request
	check(t, err)
	before := goleak.IgnoreCurrent()

	c, err := natskv.New(nc, natskv.Options{})
	check(t, err)
	b := newBucket(t, c, natskv.Config{Bucket: "TEST"})
	for i := range 10 {
		put(t, b, fmt.Sprint("k.", i), "x")
	}
	for i := range 1000 {
		filters := [][]string{nil, {"k.1"}, {"k.*"}, {"k.1", "k.2"}}[i%4]
		n := 0
		for event, err := range b.Watch(t.Context(), kv.WatchOptions{Filters: filters}) {
			check(t, err)
			if n++; n > i%3 || event.Kind == kv.Synced {
				break
			}
		}
	}
	if n := len(consumers(t, js, "KV_TEST")); n > 5 {
		t.Errorf("1000 watches had %d consumers", n)
	}
	r := kvtest.Record(t, b, kv.WatchOptions{})
	r.WaitKind(kv.Synced, 0)
	c.Close()
	if err := r.Stop(); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("a watch ended with %v when its client was closed", err)
	}
	for _, err := range b.Watch(t.Context(), kv.WatchOptions{}) {
		if !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("a watch of a client that was closed began with %v", err)
		}
	}
	goleak.VerifyNone(t, before)
	if names := consumers(t, js, "KV_TEST"); len(names) > 0 {
		t.Errorf("consumers are left: %v", names)
	}
}
