package keyturn

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/broker"
	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/kv/natskv"
	"github.com/keyturn-io/keyturn/machine"
	"github.com/keyturn-io/keyturn/watchers/builtin"
)

// instant is a program that prints the time of its first instruction.
const instant = `#include <stdio.h>
#include <time.h>
int main(void) {
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	printf("%lld\n", t.tv_sec * 1000000000LL + t.tv_nsec);
	return 0;
}
`

const benchManifest = `name: bench
version: 1.0.0
initial_state: WAIT
transitions:
- {name: update, from: [WAIT], destination: DEPLOY}
- {name: deployed, from: [DEPLOY], destination: WAIT}
watchers:
- {name: watch, type: kv, state_match: [WAIT], success_transition: update, properties: {bucket: BENCH, key: %s, mode: watch}}
- {name: deploy, type: exec, state_match: [DEPLOY], success_transition: deployed, properties: {command: [%q]}}
`

// rig is a store with all that is measured on it.
type rig struct {
	b       *testing.B
	program string
	conn    *nats.Conn
	client  *natskv.Client
	bucket  jetstream.KeyValue
	js      jetstream.JetStream
}

func newRig(b *testing.B) *rig {
	b.Helper()
	dir := b.TempDir()
	source, program := filepath.Join(dir, "instant.c"), filepath.Join(dir, "instant")
	if err := os.WriteFile(source, []byte(instant), 0o600); err != nil {
		b.Fatal(err)
	}
	if out, err := exec.Command("cc", "-O2", "-static", "-o", program, source).CombinedOutput(); err != nil {
		b.Skipf("SKIPPED: no C compiler to build the command with: %s %s", err, out)
	}
	store, err := broker.Connect(b.Context(), broker.Options{Dir: filepath.Join(dir, "store")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { store.Close() })
	client, err := natskv.New(store.Conn(), natskv.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(client.Close)
	js, err := jetstream.New(store.Conn())
	if err != nil {
		b.Fatal(err)
	}
	bucket, err := js.CreateKeyValue(b.Context(), jetstream.KeyValueConfig{Bucket: "BENCH"})
	if err != nil {
		b.Fatal(err)
	}

	return &rig{b, program, store.Conn(), client, bucket, js}
}

// put puts a new value and returns when that began.
func (r *rig) put(key string) time.Time {
	began := time.Now()
	if _, err := r.bucket.Put(r.b.Context(), key, fmt.Appendf(nil, "value %d", began.UnixNano())); err != nil {
		r.b.Fatal(err)
	}

	return began
}

// raw delivers changes of a key by nats.go's ordered consumer, and nothing else.
func (r *rig) raw(key string) <-chan time.Time {
	delivered := make(chan time.Time, 1)
	consumer, err := r.js.OrderedConsumer(r.b.Context(), "KV_BENCH", jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{"$KV.BENCH." + key}, DeliverPolicy: jetstream.DeliverNewPolicy,
	})
	if err != nil {
		r.b.Fatal(err)
	}
	consuming, err := consumer.Consume(func(jetstream.Msg) { delivered <- time.Now() })
	if err != nil {
		r.b.Fatal(err)
	}
	r.b.Cleanup(consuming.Stop)

	return delivered
}

// run starts the program and returns its first instant.
func (r *rig) run() time.Time {
	out, err := exec.Command(r.program).Output()
	if err != nil {
		r.b.Error(err)
	}

	return parseInstant(string(out))
}

func parseInstant(text string) time.Time {
	n, _ := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	return time.Unix(0, n)
}

// watchAndExec runs the program for each change of a key, as one writes it with nats.go.
func (r *rig) watchAndExec(key string) <-chan time.Time {
	began := make(chan time.Time, 1000)
	watcher, err := r.bucket.Watch(r.b.Context(), key, jetstream.UpdatesOnly())
	if err != nil {
		r.b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for entry := range watcher.Updates() {
			if entry != nil {
				began <- r.run()
			}
		}
	})
	r.b.Cleanup(func() { watcher.Stop(); wg.Wait() })

	return began
}

// running is a machine with what was seen of it.
type running struct {
	stop     func()
	updated  chan time.Time // the step from WAIT to DEPLOY
	deployed chan time.Time // and back
	began    chan time.Time // the command's first instruction
}

func (r running) Write(p []byte) (int, error) {
	r.began <- parseInstant(string(p))
	return len(p), nil
}

// machine starts a machine that runs the program for each change of a key. It returns
// when the machine watches.
func (r *rig) machine(key string) running {
	seen := running{updated: make(chan time.Time, 64), deployed: make(chan time.Time, 64), began: make(chan time.Time, 64)}
	manifest, err := machine.Parse("bench", fmt.Appendf(nil, benchManifest, key, r.program), builtin.Kinds())
	if err != nil {
		r.b.Fatal(err)
	}
	ready := make(chan struct{}, 64)
	m, err := machine.New(manifest, machine.Options{
		Dir:    r.b.TempDir(),
		Bucket: r.client.Bucket,
		Output: func(string) (io.Writer, io.Writer) { return seen, io.Discard },
		OnStep: func(s machine.Step) {
			if s.To == "DEPLOY" {
				seen.updated <- time.Now()
			} else {
				seen.deployed <- time.Now()
			}
		},
		OnWatcher: func(s machine.WatcherStatus) {
			if s.Name == "watch" && s.State != "changed" {
				ready <- struct{}{}
			}
		},
	})
	if err != nil {
		r.b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := m.Run(ctx); err != nil {
			r.b.Error(err)
		}
	})
	seen.stop = func() { cancel(); wg.Wait() }
	<-ready

	return seen
}

// BenchmarkPutToCommand measures, one after the other and again and again, from the
// beginning of a put: nats.go's delivery, nats.go's watch that runs a command, our step
// and our command; and besides what a command and a commit cost alone.
func BenchmarkPutToCommand(b *testing.B) {
	r := newRig(b)
	delivered, peer := r.raw("raw"), r.watchAndExec("peer")
	folder := b.TempDir()
	content := make([]byte, 200)

	var ours running
	samples := map[string][]time.Duration{}
	add := func(name string, d time.Duration) { samples[name] = append(samples[name], d) }
	for i := 0; b.Loop(); i++ {
		if i%20 == 0 { // a machine that steps more than 50 times a minute is slowed down
			if ours.stop != nil {
				ours.stop()
			}
			if err := r.bucket.Purge(b.Context(), "ours"); err != nil {
				b.Fatal(err)
			}
			ours = r.machine("ours")
		}
		began := r.put("raw")
		add("raw", (<-delivered).Sub(began))

		began = time.Now()
		add("exec", r.run().Sub(began))

		began = r.put("peer")
		add("peer", (<-peer).Sub(began))

		began = time.Now()
		if err := datalayer.WriteFile(filepath.Join(folder, "data"), content); err != nil {
			b.Fatal(err)
		}
		add("commit", time.Since(began))

		began = r.put("ours")
		add("step", (<-ours.updated).Sub(began))
		add("command", (<-ours.began).Sub(began))
		<-ours.deployed
	}
	ours.stop()

	at := func(name string, q float64) float64 { return quantile(samples[name], q) }
	for name := range samples {
		b.ReportMetric(at(name, 0.5)/1e3, name+"-p50-µs")
		b.ReportMetric(at(name, 0.99)/1e3, name+"-p99-µs")
	}
	b.ReportMetric(at("step", 0.5)/(2*at("raw", 0.5)+at("commit", 0.5)), "step/(2*raw+commit)-p50")
	b.ReportMetric(at("command", 0.5)/at("peer", 0.5), "command/peer-p50")
	b.ReportMetric(at("command", 0.99)/at("peer", 0.99), "command/peer-p99")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkManyWatchers measures from a put to the step and to the command of the one
// machine that it is for, among 1, 100 and 1 000 that each watch a key of the bucket,
// and what all of them cost while nothing happens.
func BenchmarkManyWatchers(b *testing.B) {
	r := newRig(b)
	p50 := map[int]float64{}
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r.b = b
			before := heap()
			var all []running
			restart := func() {
				for _, m := range all {
					m.stop()
				}
				all = all[:0]
				for i := range n {
					key := fmt.Sprintf("many.%d.%d", n, i)
					if err := r.bucket.Purge(b.Context(), key); err != nil {
						b.Fatal(err)
					}
					all = append(all, r.machine(key))
				}
			}
			restart()
			each := float64(heap()-before) / float64(n)
			requests, consumers := r.idle()

			var steps, commands []time.Duration
			for i := 0; b.Loop(); i++ {
				if i > 0 && i%(20*n) == 0 { // a machine that steps more than 50 times a minute is slowed down
					restart()
				}
				m := all[i%n]
				began := r.put(fmt.Sprintf("many.%d.%d", n, i%n))
				steps = append(steps, (<-m.updated).Sub(began))
				commands = append(commands, (<-m.began).Sub(began))
				<-m.deployed
			}
			for _, m := range all {
				m.stop()
			}

			p50[n] = quantile(steps, 0.5)
			b.ReportMetric(p50[n]/1e3, "step-p50-µs")
			b.ReportMetric(quantile(steps, 0.99)/1e3, "step-p99-µs")
			b.ReportMetric(quantile(commands, 0.5)/1e3, "command-p50-µs")
			b.ReportMetric(quantile(commands, 0.99)/1e3, "command-p99-µs")
			b.ReportMetric(p50[n]/p50[1], "step/one-watcher-p50")
			b.ReportMetric(consumers, "consumers")
			b.ReportMetric(requests, "idle-requests/s")
			b.ReportMetric(each/1024, "KiB/machine")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// idle returns what the broker is asked in a second in which nothing happens, and
// how many consumers the bucket has.
func (r *rig) idle() (requests, consumers float64) {
	stream, err := r.js.Stream(r.b.Context(), "KV_BENCH")
	if err != nil {
		r.b.Fatal(err)
	}
	const seconds = 5
	before := r.conn.Stats().OutMsgs
	<-time.After(seconds * time.Second)
	requests = float64(r.conn.Stats().OutMsgs-before) / seconds
	info, err := stream.Info(r.b.Context())
	if err != nil {
		r.b.Fatal(err)
	}

	return requests, float64(info.State.Consumers)
}

// heap returns the bytes of the heap that are in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)

	return m.HeapAlloc
}

func quantile(samples []time.Duration, q float64) float64 {
	slices.Sort(samples)
	return float64(samples[int(q*float64(len(samples)-1))])
}

// BenchmarkBurst puts 200 values in a row: how many commands run, and how long after
// the last put the last value is applied.
func BenchmarkBurst(b *testing.B) {
	r := newRig(b)
	const puts = 200
	var actions, peers int
	var after, peerAfter, took time.Duration
	for b.Loop() {
		if err := r.bucket.Purge(b.Context(), "ours"); err != nil {
			b.Fatal(err)
		}
		ours := r.machine("ours")
		began := time.Now()
		for range puts {
			r.put("ours")
		}
		last := time.Now()
		took += last.Sub(began)
		after += quiet(ours.deployed, &actions).Sub(last)
		ours.stop()

		peer := r.watchAndExec("peer")
		for range puts {
			r.put("peer")
		}
		last = time.Now()
		peerAfter += quiet(peer, &peers).Sub(last)
	}
	n := float64(b.N)
	b.ReportMetric(float64(actions)/n, "actions")
	b.ReportMetric(float64(peers)/n, "peer-actions")
	b.ReportMetric(float64(after.Microseconds())/1e3/n, "ms-after-last-put")
	b.ReportMetric(float64(peerAfter.Microseconds())/1e3/n, "peer-ms-after-last-put")
	b.ReportMetric(float64(took.Microseconds())/1e3/n, "ms-of-puts")
	b.ReportMetric(0, "ns/op")
}

// quiet counts what comes until nothing has for a while, and returns when the last did.
func quiet(events <-chan time.Time, count *int) (last time.Time) {
	for {
		select {
		case last = <-events:
			*count++
		case <-time.After(time.Second):
			return last
		}
	}
}
