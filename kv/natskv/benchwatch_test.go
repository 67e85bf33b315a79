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

// BenchmarkRecovery restarts a server under one watch of each kind and puts a value as
// soon as the server answers again: from there to its event, in the same rounds. Both have a
// connection with ConnOptions, so that the difference is the watch. The aim is 100
// times faster than nats.go's, and less than 0.2 s.
func BenchmarkRecovery(b *testing.B) {
	const rounds = 3 // nats.go needs up to 20 seconds for each
	srv := startBroker(b)
	ours := newBucket(b, newClient(b, srv.connect(), natskv.Options{}), natskv.Config{Bucket: "BENCH"})
	theirs, err := jetStream(b, srv.connect()).KeyValue(b.Context(), "BENCH")
	check(b, err)
	values := map[string]<-chan string{"ours": valuesOf(b, ours), "nats.go": natsgoValuesOf(b, theirs)}

	took := map[string][]time.Duration{}
	round := func(value string) {
		srv.stop()
		<-time.After(time.Second) // a process that is started anew is away for about as long
		srv.start()
		again := jetStream(b, srv.connect())
		bucket, err := again.KeyValue(b.Context(), "BENCH")
		check(b, err)
		began := time.Now()
		_, err = bucket.PutString(b.Context(), "a", value)
		check(b, err)
		for _, who := range []string{"ours", "nats.go"} { // in the order in which they come
			await(b, who, values[who], value)
			took[who] = append(took[who], time.Since(began))
		}
	}
	for b.Loop() {
		for i := range rounds {
			round(fmt.Sprint(b.N, i))
		}
	}
	for _, d := range took {
		slices.Sort(d)
	}
	median := func(who string) float64 { return took[who][len(took[who])/2].Seconds() }
	b.ReportMetric(median("nats.go")/median("ours"), "times-faster")
	b.ReportMetric(median("ours"), "s/ours")
	b.ReportMetric(slices.Max(took["ours"]).Seconds(), "s/ours-slowest")
	b.ReportMetric(median("nats.go"), "s/nats.go")
	b.ReportMetric(0, "ns/op")
}

// await waits for a value.
func await(b *testing.B, who string, values <-chan string, want string) {
	b.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case got := <-values:
			if got == want {
				return
			}
		case <-deadline:
			b.Fatalf("%s: %q does not come", who, want)
		}
	}
}

// valuesOf tells what is put into a bucket from now on.
func valuesOf(b *testing.B, bucket kv.Bucket) <-chan string {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	values, synced, done := make(chan string, 10), make(chan struct{}, 1), make(chan struct{})
	b.Cleanup(func() {
		cancel()
		<-done
	})
	go func() {
		defer close(done)
		for event, err := range bucket.Watch(ctx, kv.WatchOptions{}) {
			switch {
			case err != nil:
				return
			case event.Kind == kv.Synced:
				select {
				case synced <- struct{}{}:
				default: // it is so again
				}
			case event.Kind == kv.Put:
				values <- string(event.Entry.Value)
			}
		}
	}()
	<-synced
	return values
}

// natsgoValuesOf is valuesOf with nats.go's KV.
func natsgoValuesOf(b *testing.B, bucket jetstream.KeyValue) <-chan string {
	b.Helper()
	w, err := bucket.WatchAll(b.Context(), jetstream.UpdatesOnly())
	check(b, err)
	values, done := make(chan string, 10), make(chan struct{})
	b.Cleanup(func() {
		_ = w.Stop() // while it recovers it has no subscription to end, and says so
		<-done
	})
	go func() {
		defer close(done)
		for e := range w.Updates() {
			if e != nil {
				values <- string(e.Value())
			}
		}
	}()
	return values
}

// BenchmarkFirstWatch is the first watch of 100 000 keys in a process, from the call of Watch
// to Synced, or to the nil of nats.go. The aim is a ratio of at most 1.
func BenchmarkFirstWatch(b *testing.B) {
	const keys = 100_000
	srv := startBroker(b)
	admin := jetStream(b, srv.connect())
	_, err := admin.CreateKeyValue(b.Context(), jetstream.KeyValueConfig{Bucket: "BENCH"})
	check(b, err)
	value := make([]byte, 100)
	for i := range keys {
		_, err := admin.PublishAsync(fmt.Sprint("$KV.BENCH.key.", i), value)
		check(b, err)
		if i%1000 == 999 {
			<-admin.PublishAsyncComplete()
		}
	}
	told := func(n int) {
		if n != keys {
			b.Fatalf("%d of %d keys were told", n, keys)
		}
	}
	for _, way := range []struct {
		name string
		opts []nats.Option
	}{{"inprocess", []nats.Option{nats.InProcessServer(srv.srv)}}, {"loopback", nil}} {
		b.Run(way.name, func(b *testing.B) {
			nc := srv.connect(way.opts...)
			theirs, err := jetStream(b, nc).KeyValue(b.Context(), "BENCH")
			check(b, err)
			race(b, func() {
				c, err := natskv.New(nc, natskv.Options{})
				check(b, err)
				defer c.Close()
				ours, err := c.Bucket("BENCH")
				check(b, err)
				n := 0
				for event, err := range ours.Watch(b.Context(), kv.WatchOptions{}) {
					if err != nil || event.Kind == kv.Synced {
						break
					}
					n++
				}
				told(n)
			}, func() {
				w, err := theirs.WatchAll(b.Context())
				check(b, err)
				n := 0
				for e := range w.Updates() {
					if e == nil {
						break
					}
					n++
				}
				check(b, w.Stop())
				told(n)
			})
		})
	}
}
