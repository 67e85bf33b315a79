package keyturn

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

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
- {name: watch, type: kv, state_match: [WAIT], success_transition: update, properties: {bucket: BENCH, key: ours, mode: watch}}
- {name: deploy, type: exec, state_match: [DEPLOY], success_transition: deployed, properties: {command: [%q]}}
`

// rig is a store with all that is measured on it.
type rig struct {
	b       *testing.B
	program string
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

	return &rig{b, program, client, bucket, js}
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

// machine starts a machine that runs the program for each change of the key "ours".
// It returns when the machine watches.
func (r *rig) machine() running {
	seen := running{updated: make(chan time.Time, 1000), deployed: make(chan time.Time, 1000), began: make(chan time.Time, 1000)}
	manifest, err := machine.Parse("bench", fmt.Appendf(nil, benchManifest, r.program), builtin.Kinds())
	if err != nil {
		r.b.Fatal(err)
	}
	ready := make(chan struct{}, 1000)
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
			if _, err := r.client.Bucket("BENCH"); err != nil {
				b.Fatal(err)
			}
			if err := r.bucket.Purge(b.Context(), "ours"); err != nil {
				b.Fatal(err)
			}
			ours = r.machine()
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

	at := func(name string, q float64) float64 {
		slices.Sort(samples[name])
		return float64(samples[name][int(q*float64(len(samples[name])-1))])
	}
	for name := range samples {
		b.ReportMetric(at(name, 0.5)/1e3, name+"-p50-µs")
		b.ReportMetric(at(name, 0.99)/1e3, name+"-p99-µs")
	}
	b.ReportMetric(at("step", 0.5)/(2*at("raw", 0.5)+at("commit", 0.5)), "step/(2*raw+commit)-p50")
	b.ReportMetric(at("command", 0.5)/at("peer", 0.5), "command/peer-p50")
	b.ReportMetric(at("command", 0.99)/at("peer", 0.99), "command/peer-p99")
	b.ReportMetric(0, "ns/op")
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
		ours := r.machine()
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
