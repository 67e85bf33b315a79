package natskv_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// The benchmarks do the same thing with this package and with nats.go in turns,
// and report the ratio of the medians: above 1 this package is slower. The
// connection is in process, which makes the server fast and the ratios hard.

// race runs both in turns and reports how long they took.
func race(b *testing.B, ours, theirs func()) {
	b.Helper()
	var a, z []time.Duration
	timed := func(f func()) time.Duration {
		began := time.Now()
		f()
		return time.Since(began)
	}
	for b.Loop() {
		a = append(a, timed(ours))
		z = append(z, timed(theirs))
	}
	slices.Sort(a)
	slices.Sort(z)
	b.ReportMetric(float64(a[len(a)/2])/float64(z[len(z)/2]), "ratio")
	b.ReportMetric(float64(a[len(a)/2])/1e3, "us/ours")
	b.ReportMetric(float64(z[len(z)/2])/1e3, "us/nats.go")
	b.ReportMetric(float64(a[len(a)*99/100])/float64(z[len(z)*99/100]), "p99-ratio")
}

// benchBucket returns one bucket, as ours and as nats.go's.
func benchBucket(b *testing.B, keys int) (*nats.Conn, kv.Bucket, jetstream.KeyValue, jetstream.JetStream) {
	srv := startBroker(b)
	nc := srv.connect(nats.InProcessServer(srv.srv))
	c := newClient(b, nc, natskv.Options{})
	ours := newBucket(b, c, natskv.Config{Bucket: "BENCH", Memory: true})
	js := jetStream(b, nc)
	theirs, err := js.KeyValue(b.Context(), "BENCH")
	check(b, err)
	for i := range keys {
		_, err := ours.Put(b.Context(), fmt.Sprint("key.", i), make([]byte, 100))
		check(b, err)
	}
	return nc, ours, theirs, js
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func BenchmarkPut(b *testing.B) {
	_, ours, theirs, _ := benchBucket(b, 0)
	value := make([]byte, 100)
	race(b, func() {
		_, err := ours.Put(b.Context(), "a", value)
		check(b, err)
	}, func() {
		_, err := theirs.Put(b.Context(), "a", value)
		check(b, err)
	})
}

func BenchmarkGet(b *testing.B) {
	_, ours, theirs, _ := benchBucket(b, 10)
	race(b, func() {
		_, err := ours.Get(b.Context(), "key.1")
		check(b, err)
	}, func() {
		_, err := theirs.Get(b.Context(), "key.1")
		check(b, err)
	})
}

// BenchmarkDelivery is from a put to its event, against the ordered consumers of
// nats.go: the pull one of package jetstream, and the push one under its KV watch.
func BenchmarkDelivery(b *testing.B) {
	_, ours, theirs, js := benchBucket(b, 500)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	heard, synced := make(chan struct{}), make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event, err := range ours.Watch(ctx, kv.WatchOptions{Filters: []string{"ours"}}) {
			switch {
			case err != nil:
				return
			case event.Kind == kv.Synced:
				close(synced)
			default:
				heard <- struct{}{}
			}
		}
	}()
	<-synced
	value := make([]byte, 100)
	put := func(key string, heard <-chan struct{}) func() {
		return func() {
			_, err := theirs.Put(ctx, key, value)
			check(b, err)
			<-heard
		}
	}
	b.Run("pull", func(b *testing.B) {
		consumer, err := js.OrderedConsumer(ctx, "KV_BENCH", jetstream.OrderedConsumerConfig{
			FilterSubjects: []string{"$KV.BENCH.pull"}, DeliverPolicy: jetstream.DeliverNewPolicy})
		check(b, err)
		raw := make(chan struct{})
		consuming, err := consumer.Consume(func(jetstream.Msg) { raw <- struct{}{} })
		check(b, err)
		defer consuming.Stop()
		race(b, put("ours", heard), put("pull", raw))
	})
	b.Run("push", func(b *testing.B) {
		watcher, err := theirs.Watch(ctx, "push", jetstream.UpdatesOnly())
		check(b, err)
		raw := make(chan struct{})
		go func() {
			for range watcher.Updates() {
				raw <- struct{}{}
			}
		}()
		race(b, put("ours", heard), put("push", raw))
		check(b, watcher.Stop())
	})
	cancel()
	<-done
}

// BenchmarkWatchStart is from the call of Watch to Synced on one key, against the
// same of nats.go's KV.
func BenchmarkWatchStart(b *testing.B) {
	nc, ours, theirs, _ := benchBucket(b, 500)
	until := func(bucket kv.Bucket) {
		for event, err := range bucket.Watch(b.Context(), kv.WatchOptions{Filters: []string{"key.7"}}) {
			check(b, err)
			if event.Kind == kv.Synced {
				return
			}
		}
	}
	natsgo := func() {
		w, err := theirs.Watch(b.Context(), "key.7")
		check(b, err)
		for e := range w.Updates() {
			if e == nil {
				break
			}
		}
		check(b, w.Stop())
	}
	b.Run("warm", func(b *testing.B) { race(b, func() { until(ours) }, natsgo) })
	b.Run("cold", func(b *testing.B) {
		race(b, func() {
			cold, err := natskv.New(nc, natskv.Options{})
			check(b, err)
			bucket, err := cold.Bucket("BENCH")
			check(b, err)
			until(bucket)
			cold.Close()
		}, natsgo)
	})
}
