package natskv_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/kvtest"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

var (
	steps = flag.Int("torture", 30, "how many steps TestTorture takes")
	seed  = flag.Uint64("seed", 0, "the seed of TestTorture; 0 is a random one")
)

// torture is a bucket, what watches it, and what is done to them.
type torture struct {
	t      *testing.T
	rand   *rand.Rand
	srv    *broker
	js     jetstream.JetStream
	client *natskv.Client
	bucket kv.Bucket
	link   *link
	far    kv.Bucket // the bucket over the link
	saved  *saved
	value  int

	watches []*watch
}

type watch struct {
	bucket  kv.Bucket
	filters []string
	*kvtest.Recorder
}

// TestTorture does random things to a bucket, the server and the link to it. After
// each, everyone who watches must know what is in the bucket within two probes.
func TestTorture(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("go test ./kv/natskv -run TestTorture -args -torture %d -seed %d", *steps, *seed)
	x := newTorture(t, rand.New(rand.NewPCG(*seed, 0)))
	actions := []struct {
		name   string
		weight int
		do     func()
	}{
		{"put", 6, x.put},
		{"put many", 2, func() { x.puts(300) }},
		{"delete", 2, func() { check(t, x.bucket.Delete(t.Context(), x.key(), 0)) }},
		{"purge", 2, func() { check(t, x.bucket.Purge(t.Context(), x.key(), 0)) }},
		{"purge all", 1, func() { x.purgeStream() }},
		{"vanish", 2, func() { x.purgeStream(jetstream.WithPurgeSubject("$KV.TEST." + x.key())) }},
		{"vanish and put", 2, func() { x.purgeStream(jetstream.WithPurgeSubject("$KV.TEST." + x.key())); x.put() }},
		{"create again", 2, x.createAgain},
		{"back up", 2, func() { s := backUp(t, x.js.Conn(), "KV_TEST"); x.saved = &s }},
		{"restore", 2, x.restore},
		{"restore and put", 2, func() { x.restore(); x.puts(x.rand.IntN(40)) }},
		{"restart the server", 2, x.restart},
		{"delete consumers", 2, x.deleteConsumers},
		{"cut the link", 2, x.link.cut},
		{"swallow", 2, func() { x.link.swallow(); x.puts(5); x.link.cut() }},
		{"watch anew", 3, x.watchAnew},
	}
	var bag []int
	for i, a := range actions {
		for range a.weight {
			bag = append(bag, i)
		}
	}
	var worst time.Duration
	var done []string
	defer func() {
		if t.Failed() {
			t.Logf("the last of %d steps: %s", len(done), strings.Join(done[max(len(done)-5, 0):], ", "))
		}
	}()
	for step := range *steps {
		a := actions[bag[x.rand.IntN(len(bag))]]
		done = append(done, a.name)
		a.do()
		began := time.Now()
		x.settle()
		if took := time.Since(began); took > worst {
			worst = took
			t.Logf("step %d, %s: known after %s", step, a.name, took.Round(time.Millisecond))
		}
		if t.Failed() {
			return
		}
	}
	if worst > 2*quick.Probe+slack {
		t.Errorf("it took %s, promised are two probes of %s", worst, quick.Probe)
	}
}

func newTorture(t *testing.T, r *rand.Rand) *torture {
	srv := startBroker(t)
	x := &torture{t: t, rand: r, srv: srv}
	x.js = jetStream(t, srv.connect())
	x.client = newClient(t, srv.connect(), quick)
	x.bucket = newBucket(t, x.client, natskv.Config{Bucket: "TEST"})
	x.link = startLink(t, srv.srv.Addr().String())
	nc, err := nats.Connect("nats://"+x.link.addr(), natskv.ConnOptions()...)
	check(t, err)
	t.Cleanup(nc.Close)
	x.far, err = newClient(t, nc, quick).Bucket("TEST")
	check(t, err)
	for _, bucket := range []kv.Bucket{x.bucket, x.far} {
		for _, filters := range [][]string{nil, {"k.1"}} {
			x.watches = append(x.watches, &watch{bucket, filters, x.watch(bucket, filters)})
		}
	}
	// A client of its own follows nothing but parts.
	part, err := newClient(t, srv.connect(), quick).Bucket("TEST")
	check(t, err)
	for _, filters := range [][]string{{"k.1", "k.2"}, {"k.2", "j.*"}} {
		x.watches = append(x.watches, &watch{part, filters, x.watch(part, filters)})
	}
	return x
}

func (x *torture) watch(b kv.Bucket, filters []string) *kvtest.Recorder {
	return kvtest.Record(x.t, b, kv.WatchOptions{Filters: filters})
}

func (x *torture) key() string { return fmt.Sprintf("%c.%d", 'j'+x.rand.IntN(2), x.rand.IntN(6)) }

func (x *torture) put() {
	x.value++
	put(x.t, x.bucket, x.key(), fmt.Sprint(x.value))
}

func (x *torture) puts(n int) {
	for range n {
		x.put()
	}
}

// restart waits for the connection that breaks things, which nobody else does.
func (x *torture) restart() {
	before := x.js.Conn().Stats().Reconnects
	x.srv.stop()
	x.srv.start()
	eventually(x.t, "it is back", func() bool { return x.js.Conn().Stats().Reconnects > before })
}

func (x *torture) purgeStream(opts ...jetstream.StreamPurgeOpt) {
	stream, err := x.js.Stream(x.t.Context(), "KV_TEST")
	check(x.t, err)
	check(x.t, stream.Purge(x.t.Context(), opts...))
}

func (x *torture) createAgain() {
	check(x.t, x.client.DeleteBucket(x.t.Context(), "TEST"))
	check(x.t, x.client.CreateBucket(x.t.Context(), natskv.Config{Bucket: "TEST"}))
	x.puts(x.rand.IntN(20))
}

func (x *torture) restore() {
	if x.saved != nil {
		x.saved.restore(x.t, x.js)
	}
}

func (x *torture) deleteConsumers() {
	for _, name := range consumers(x.t, x.js, "KV_TEST") {
		err := x.js.DeleteConsumer(x.t.Context(), "KV_TEST", name)
		if !errors.Is(err, jetstream.ErrConsumerNotFound) { // it may have been left meanwhile
			check(x.t, err)
		}
	}
	x.put()
}

// watchAnew leaves a watch and begins it again. It must be fresh at once.
func (x *torture) watchAnew() {
	w := x.watches[x.rand.IntN(len(x.watches))]
	_ = w.Stop()
	x.put()
	w.Recorder = x.watch(w.bucket, w.filters)
	n := w.WaitKind(kv.Synced, 0)
	got := map[string]string{}
	for _, e := range w.Events()[:n] {
		if e.Kind == kv.Put {
			got[e.Entry.Key] = string(e.Entry.Value)
		}
	}
	want := x.truth(w.filters)
	for key, value := range want {
		if got[key] != value {
			x.t.Errorf("a new watch on %v was told %s=%q before it was synced, but it is %q", w.filters, key, got[key], value)
		}
	}
}

// truth is what the bucket holds.
func (x *torture) truth(filters []string) map[string]string {
	x.t.Helper()
	keys, err := x.bucket.Keys(x.t.Context(), filters...)
	check(x.t, err)
	truth := map[string]string{}
	for _, key := range keys {
		e, err := x.bucket.Get(x.t.Context(), key)
		check(x.t, err)
		truth[key] = string(e.Value)
	}
	return truth
}

// settle waits until all who watch know the truth.
func (x *torture) settle() {
	x.t.Helper()
	for _, w := range x.watches {
		w.WaitState(x.truth(w.filters))
	}
}
