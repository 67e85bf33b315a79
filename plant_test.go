package keyturn

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv/natskv"
	"github.com/keyturn-io/keyturn/machine"
	"github.com/keyturn-io/keyturn/watchers/builtin"
)

const faultManifest = `name: faults
version: 1.0.0
initial_state: WAIT
transitions:
- {name: update, from: [WAIT], destination: DEPLOY}
- {name: deployed, from: [DEPLOY], destination: WAIT}
- {name: away, from: [WAIT], destination: WAIT}
watchers:
- {name: watch, type: kv, state_match: [WAIT], success_transition: update, fail_transition: away, properties: {bucket: CFG, mode: watch, on_missing: %s}}
- {name: deploy, type: exec, state_match: [DEPLOY], success_transition: deployed, properties: {command: [/bin/sh, -c, 'cat "$WATCHER_DATA" | tr -d "\n"; echo']}}
`

const (
	// often is a probe for a test that waits for what probes find. One that comes seldom
	// does not take a computer that is slow for a lost server. With one that is rare,
	// what is found soon was found without.
	often  = 300 * time.Millisecond
	seldom = 2 * time.Second
	rare   = 20 * time.Second

	// touch is how long it takes until a machine is up to date that is in touch again.
	touch = time.Second

	// slack is how much longer anything may take where tests run beside each other
	// under the race detector.
	slack = 2 * time.Second

	// patience is how long to wait for what no time is promised for.
	patience = 30 * time.Second
)

// plant is a machine on a real server, with what its user would see.
type plant struct {
	t       *testing.T
	servers []*server.Options
	running []*server.Server
	direct  jetstream.JetStream // not through what a fault breaks

	probe     time.Duration
	onMissing string
	dir       string
	conn      *nats.Conn // the machine's
	halt      func()     // ends the machine

	actions  chan string // the data that each command had
	states   chan string // of the kv watcher
	warnings chan string // from the log
	failures chan string // the steps of fail_transition
	partial  string
	mu       sync.Mutex
}

func newPlant(t *testing.T, servers int) *plant {
	t.Helper()
	p := &plant{
		t: t, probe: often, onMissing: "keep", dir: t.TempDir(),
		actions: make(chan string, 100_000), states: make(chan string, 100_000),
		warnings: make(chan string, 100_000), failures: make(chan string, 100_000),
	}
	var routes []*url.URL
	for i := range servers {
		opts := &server.Options{
			ServerName: fmt.Sprintf("s%d", i), Host: "127.0.0.1", Port: freePort(t),
			JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
		}
		if servers > 1 {
			opts.Cluster = server.ClusterOpts{Name: "C", Host: "127.0.0.1", Port: freePort(t)}
			routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", opts.Cluster.Port)})
		}
		p.servers = append(p.servers, opts)
		p.running = append(p.running, nil)
	}
	for i := range p.servers {
		p.servers[i].Routes = routes
		p.start(i)
	}
	if servers > 0 {
		p.connect(p.url(servers - 1))
	}

	return p
}

// connect gives the test its own way to a server.
func (p *plant) connect(url string) {
	p.t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(nc.Close)
	if p.direct, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(100_000)); err != nil {
		p.t.Fatal(err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	return l.Addr().(*net.TCPAddr).Port
}

func (p *plant) url(i int) string { return fmt.Sprintf("nats://127.0.0.1:%d", p.servers[i].Port) }

func (p *plant) start(i int) {
	p.t.Helper()
	opts := *p.servers[i] // the server changes what it is given
	srv, err := server.NewServer(&opts)
	if err != nil {
		p.t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(patience) {
		p.t.Fatal("the server does not start")
	}
	p.running[i] = srv
	p.t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
}

func (p *plant) stop(i int) {
	p.running[i].Shutdown()
	p.running[i].WaitForShutdown()
}

func (p *plant) create(replicas int) {
	p.t.Helper()
	p.until("create the bucket", func(ctx context.Context) error {
		_, err := p.direct.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "CFG", History: 5, Replicas: replicas})
		return err
	})
}

func (p *plant) stream() jetstream.Stream {
	p.t.Helper()
	stream, err := p.direct.Stream(p.t.Context(), "KV_CFG")
	if err != nil {
		p.t.Fatal(err)
	}

	return stream
}

// until tries something again and again until it works.
func (p *plant) until(what string, try func(context.Context) error) {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Second)
		err := try(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: %s", what, err)
		}
		pause(p.t.Context(), 20)
	}
}

func (p *plant) put(key, value string) {
	p.t.Helper()
	p.until("put "+value, func(ctx context.Context) error {
		bucket, err := p.direct.KeyValue(ctx, "CFG")
		if err == nil {
			_, err = bucket.Put(ctx, key, []byte(value))
		}
		return err
	})
}

// Write takes what the commands print, a line for each.
func (p *plant) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.partial += string(text)
	for {
		line, rest, found := strings.Cut(p.partial, "\n")
		if !found {
			return len(text), nil
		}
		p.actions <- line
		p.partial = rest
	}
}

// run runs the machine on a connection to a server, until it is halted or the test ends.
func (p *plant) run(url string) {
	p.t.Helper()
	// A machine that can go to another server of a cluster would not be cut off.
	nc, err := nats.Connect(url, append(natskv.ConnOptions(), nats.IgnoreDiscoveredServers())...)
	if err != nil {
		p.t.Fatal(err)
	}
	client, err := natskv.New(nc, natskv.Options{Probe: p.probe})
	if err != nil {
		p.t.Fatal(err)
	}
	manifest, err := machine.Parse("faults", fmt.Appendf(nil, faultManifest, p.onMissing), builtin.Kinds())
	if err != nil {
		p.t.Fatal(err)
	}
	m, err := machine.New(manifest, machine.Options{
		Dir: p.dir, Bucket: client.Bucket,
		Log:    slog.New(warned{p.warnings}),
		Output: func(string) (stdout, stderr io.Writer) { return p, p },
		OnStep: func(s machine.Step) {
			if s.Event == "away" {
				p.failures <- s.Detail
			}
		},
		OnWatcher: func(s machine.WatcherStatus) {
			if s.Name == "watch" {
				p.states <- s.State
			}
		},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	p.conn = nc
	p.halt = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			p.t.Error(err)
		}
		client.Close()
		nc.Close()
	})
	p.t.Cleanup(p.halt)
}

// warned is a log that keeps warnings and errors.
type warned struct{ lines chan string }

func (w warned) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (w warned) WithAttrs([]slog.Attr) slog.Handler           { return w }
func (w warned) WithGroup(string) slog.Handler                { return w }

func (w warned) Handle(_ context.Context, r slog.Record) error {
	w.lines <- r.Message
	return nil
}

// acts waits for an action whose data has a value, and returns how many came before it.
func (p *plant) acts(value string) (before int) {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case data := <-p.actions:
			if strings.Contains(data, `"`+value+`"`) {
				return before
			}
			before++
		case <-deadline:
			p.t.Fatalf("no action with %s", value)
		}
	}
}

// actsOnce wants the next action to have a value, and the machine to rest after it.
func (p *plant) actsOnce(value string) {
	p.t.Helper()
	if before := p.acts(value); before > 0 {
		p.t.Errorf("%d actions before the one with %s", before, value)
	}
	p.says("unchanged")
	p.rests("the one with " + value)
}

// says waits until the kv watcher is in a state.
func (p *plant) says(state string) {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case s := <-p.states:
			if s == state {
				return
			}
		case <-deadline:
			p.t.Fatalf("the watcher does not say %s", state)
		}
	}
}

// rests wants no action for a while, which is more than two probes if they come often.
func (p *plant) rests(after string) {
	p.t.Helper()
	select {
	case data := <-p.actions:
		p.t.Errorf("an action after %s, with %s", after, data)
	case <-time.After(time.Second):
	}
}

// saw returns what was told on a channel since the last look.
func saw(told <-chan string) []string {
	var all []string
	for {
		select {
		case one := <-told:
			all = append(all, one)
		default:
			return all
		}
	}
}

// sawNothing wants the user not to have seen anything but actions since the last look.
func (p *plant) sawNothing(of string) {
	p.t.Helper()
	for _, state := range saw(p.states) {
		if state != "changed" && state != "unchanged" {
			p.t.Errorf("%s: the watcher says %s", of, state)
		}
	}
	if all := saw(p.warnings); len(all) > 0 {
		p.t.Errorf("%s: the log has %q", of, all)
	}
	if all := saw(p.failures); len(all) > 0 {
		p.t.Errorf("%s: fail_transition fires: %q", of, all)
	}
}

// sawOneLoss wants one failure and one warning of the bucket's loss since the last look.
func (p *plant) sawOneLoss(of string) {
	p.t.Helper()
	if all := saw(p.failures); len(all) != 1 {
		p.t.Errorf("%s: fail_transition fires %d times, want once: %q", of, len(all), all)
	}
	want := []string{"the bucket cannot be had: the data stays as it is", "the bucket is back: what has changed is acted on"}
	if all := saw(p.warnings); strings.Join(all, "|") != strings.Join(want, "|") {
		p.t.Errorf("%s: the log has %q, want %q", of, all, want)
	}
}

// within wants something to take no longer than promised.
func (p *plant) within(promised time.Duration, what string, f func()) {
	p.t.Helper()
	began := time.Now()
	f()
	took := time.Since(began)
	p.t.Logf("%s after %s", what, took.Round(time.Millisecond))
	if took > promised+slack {
		p.t.Errorf("%s after %s, promised are %s", what, took, promised)
	}
}

// inTouch waits until the machine's connection carries answers again.
func (p *plant) inTouch() {
	p.t.Helper()
	js, err := jetstream.New(p.conn)
	if err != nil {
		p.t.Fatal(err)
	}
	p.until("be in touch", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, often)
		defer cancel()
		_, err := js.Stream(ctx, "KV_CFG")
		return err
	})
}

// settled begins most stories: a machine that has acted on a value and is quiet.
func settled(t *testing.T, change ...func(*plant)) *plant {
	t.Helper()
	p := newPlant(t, 1)
	for _, f := range change {
		f(p)
	}
	p.create(1)
	p.settle(p.url(0))

	return p
}

// settle puts a value, runs the machine, and waits until it is quiet.
func (p *plant) settle(url string) {
	p.t.Helper()
	p.put("a", "one")
	p.run(url)
	p.acts("one")
	p.says("unchanged")
}

// seldomly and rarely say how often a machine looks for what its connection cannot tell.
func seldomly(p *plant) { p.probe = seldom }
func rarely(p *plant)   { p.probe = rare }
