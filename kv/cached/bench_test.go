package cached_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv/cached"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// BenchmarkGet gets 100 bytes from memory and with nats.go's KV, in turns, and
// reports how many times faster memory is. Both use one server, in process, which is
// the fastest way to one, and over loopback.
func BenchmarkGet(b *testing.B) {
	srv := startServer(b)
	b.Run("inprocess", func(b *testing.B) { benchGet(b, srv.connect(b, nats.InProcessServer(srv.srv))) })
	b.Run("loopback", func(b *testing.B) { benchGet(b, srv.connect(b)) })
}

func benchGet(b *testing.B, nc *nats.Conn) {
	client, err := natskv.New(nc, natskv.Options{})
	must(b, err)
	b.Cleanup(client.Close)
	must(b, client.CreateBucket(b.Context(), natskv.Config{Bucket: name, Memory: true}))
	below, err := client.Bucket(name)
	must(b, err)
	js, err := jetstream.New(nc)
	must(b, err)
	theirs, err := js.KeyValue(b.Context(), name)
	must(b, err)
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = fmt.Sprint("key.", i)
		_, err := below.Put(b.Context(), keys[i], make([]byte, 100))
		must(b, err)
	}
	for _, bound := range []time.Duration{0, time.Minute} {
		ours := open(b, below, cached.Options{MaxStale: bound})
		stop := run(b, ours)
		<-ours.Ready()
		for _, goroutines := range []int{1, runtime.GOMAXPROCS(0), 64} {
			b.Run(fmt.Sprintf("stale=%s/goroutines=%d", bound, goroutines), func(b *testing.B) {
				race(b, goroutines, func(ctx context.Context, i int) error {
					_, err := ours.Get(ctx, keys[i%len(keys)])
					return err
				}, func(ctx context.Context, i int) error {
					_, err := theirs.Get(ctx, keys[i%len(keys)])
					return err
				})
			})
		}
		if misses := ours.Stats().Misses; misses > 0 {
			b.Errorf("%d gets went to the bucket", misses)
		}
		stop()
	}
}

// race has goroutines make calls in turns, 200 of ours for each of theirs.
func race(b *testing.B, goroutines int, ours, theirs func(ctx context.Context, i int) error) {
	timed := func(n int, f func(ctx context.Context, i int) error) time.Duration {
		var wg sync.WaitGroup
		began := time.Now()
		for range goroutines {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				for i := range n / goroutines {
					if err := f(ctx, i); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		return time.Since(began)
	}
	const calls, more = 640, 200
	var a, z time.Duration
	for b.Loop() {
		a += timed(calls*more, ours)
		z += timed(calls, theirs)
	}
	b.ReportMetric(float64(z)*more/float64(a), "times-faster")
	b.ReportMetric(float64(a)/float64(b.N*calls*more), "ns/ours")
	b.ReportMetric(float64(z)/float64(b.N*calls), "ns/nats.go")
	b.ReportMetric(0, "ns/op")
}

// TestGetAllocates holds Get to no allocation.
func TestGetAllocates(t *testing.T) {
	below, err := memory(t).Bucket(name)
	must(t, err)
	put(t, below, "a", "1")
	c := open(t, below, cached.Options{MaxStale: time.Minute})
	run(t, c)
	<-c.Ready()
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() { _, _ = c.Get(ctx, "a") }); n > 0 {
		t.Errorf("%v allocations for each Get", n)
	}
}

// BenchmarkKey reports what a key of 10 bytes costs in memory, without its value.
func BenchmarkKey(b *testing.B) {
	const keys = 100_000
	below, err := memory(b).Bucket(name)
	must(b, err)
	for i := range keys {
		_, err := below.Put(b.Context(), fmt.Sprintf("key.%06d", i), nil)
		must(b, err)
	}
	heap := func() uint64 {
		var st runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&st)
		return st.HeapAlloc
	}
	before := heap()
	for b.Loop() {
		c := open(b, below, cached.Options{})
		stop := run(b, c)
		<-c.Ready()
		b.ReportMetric((float64(heap())-float64(before))/keys, "bytes/key")
		stop()
	}
}
