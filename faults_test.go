package keyturn

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
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
- {name: watch, type: kv, state_match: [WAIT], success_transition: update, fail_transition: away, properties: {bucket: CFG, mode: watch}}
- {name: deploy, type: exec, state_match: [DEPLOY], success_transition: deployed, properties: {command: [/bin/sh, -c, 'cat "$WATCHER_DATA" | tr -d "\n"; echo']}}
`

// soon is how long anything may take that should happen at once, on a busy computer.
const soon = 10 * time.Second

// plant is a machine on a real server, with what its user would see.
type plant struct {
	t       *testing.T
	servers []*server.Options
	running []*server.Server
	direct  jetstream.JetStream // not through what a fault breaks
	actions chan string         // the data that each command had
	states  chan string         // of the kv watcher
	partial string
	mu      sync.Mutex
}

func newPlant(t *testing.T, servers int) *plant {
	t.Helper()
	p := &plant{t: t, actions: make(chan string, 100_000), states: make(chan string, 100_000)}
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
	nc, err := nats.Connect(p.url(servers-1), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if p.direct, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(100_000)); err != nil {
		t.Fatal(err)
	}

	return p
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
	if !srv.ReadyForConnections(soon) {
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

// until tries something again and again until it works.
func (p *plant) until(what string, try func(context.Context) error) {
	p.t.Helper()
	deadline := time.Now().Add(3 * soon)
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

// run runs the machine on a connection to a server, until the test ends.
func (p *plant) run(url string) {
	p.t.Helper()
	// A machine that can go to another server of a cluster would not be cut off.
	nc, err := nats.Connect(url, append(natskv.ConnOptions(), nats.IgnoreDiscoveredServers())...)
	if err != nil {
		p.t.Fatal(err)
	}
	client, err := natskv.New(nc, natskv.Options{Probe: 300 * time.Millisecond})
	if err != nil {
		p.t.Fatal(err)
	}
	manifest, err := machine.Parse("faults", []byte(faultManifest), builtin.Kinds())
	if err != nil {
		p.t.Fatal(err)
	}
	m, err := machine.New(manifest, machine.Options{
		Dir: p.t.TempDir(), Bucket: client.Bucket,
		Output: func(string) (stdout, stderr io.Writer) { return p, p },
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
	p.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			p.t.Error(err)
		}
		client.Close()
		nc.Close()
	})
}

// acts waits for an action whose data has a value, and returns how many came before it.
func (p *plant) acts(value string) (before int) {
	p.t.Helper()
	deadline := time.After(3 * soon)
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

// says waits until the kv watcher is in a state.
func (p *plant) says(state string) {
	p.t.Helper()
	deadline := time.After(3 * soon)
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

// rests wants no action, for a little longer than two probes.
func (p *plant) rests(after string) {
	p.t.Helper()
	select {
	case data := <-p.actions:
		p.t.Errorf("an action after %s, with %s", after, data)
	case <-time.After(time.Second):
	}
}

// settled begins every story: a machine that has acted on a value and is quiet.
func settled(t *testing.T) *plant {
	t.Helper()
	p := newPlant(t, 1)
	p.create(1)
	p.put("a", "one")
	p.run(p.url(0))
	p.acts("one")
	p.says("unchanged")

	return p
}

// TestFaultBrokerRestarts and those after it are the table of docs/watching.md.
func TestFaultBrokerRestarts(t *testing.T) {
	p := settled(t)
	p.stop(0)
	p.says("error")
	p.start(0)
	p.says("unchanged")
	p.rests("a restart of the broker")
	p.put("a", "two")
	p.acts("two")
}

func TestFaultBrokerAway(t *testing.T) {
	p := newPlant(t, 3)
	p.create(3)
	p.put("a", "one")
	p.run(p.url(0))
	p.acts("one")

	p.stop(0)
	p.says("error")
	p.put("a", "two") // through another server of the cluster
	p.put("a", "three")
	pause(t.Context(), 3000)
	p.start(0)
	// The server that comes back may not have caught up at first.
	if before := p.acts("three"); before > 1 {
		t.Errorf("%d actions before the newest value", before)
	}
	p.rests("the newest value")
}

func TestFaultLinkSwallows(t *testing.T) {
	p := newPlant(t, 1)
	p.create(1)
	p.put("a", "one")
	link := newLink(t, fmt.Sprintf("127.0.0.1:%d", p.servers[0].Port))
	p.run("nats://" + link.listener.Addr().String())
	p.acts("one")
	p.says("unchanged")

	link.swallow(true)
	p.put("a", "two")
	p.says("error")
	link.swallow(false)
	p.acts("two")
}

func TestFaultConsumerDeleted(t *testing.T) {
	p := settled(t)
	stream, err := p.direct.Stream(t.Context(), "KV_CFG")
	if err != nil {
		t.Fatal(err)
	}
	deleted := 0
	for name := range stream.ConsumerNames(t.Context()).Name() {
		if err := stream.DeleteConsumer(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		deleted++
	}
	if deleted != 1 {
		t.Errorf("%d consumers, want one for a bucket", deleted)
	}
	p.rests("the consumer was deleted")
	p.put("a", "two")
	p.acts("two")
}

func TestFaultBucketPurged(t *testing.T) {
	p := settled(t)
	stream, err := p.direct.Stream(t.Context(), "KV_CFG")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.says("missing")
	p.rests("a purge")
	p.put("a", "one")
	p.says("unchanged")
	p.rests("the same value after a purge")
	p.put("a", "two")
	p.acts("two")
}

func TestFaultBucketCreatedAgain(t *testing.T) {
	p := settled(t)
	again := func() {
		p.until("delete the bucket", func(ctx context.Context) error { return p.direct.DeleteKeyValue(ctx, "CFG") })
		p.create(1)
	}
	again()
	p.put("a", "one")
	p.rests("the bucket came back with the same value")
	again()
	p.put("a", "two")
	p.acts("two")
	again()
	p.put("b", "three")
	p.acts("three")
}

func TestFaultBucketRestoredOlder(t *testing.T) {
	p := settled(t)
	backup := filepath.Join(t.TempDir(), "backup")
	p.stop(0)
	if err := os.CopyFS(backup, os.DirFS(p.servers[0].StoreDir)); err != nil {
		t.Fatal(err)
	}
	p.start(0)
	p.put("a", "two")
	p.acts("two")

	p.stop(0)
	if err := os.RemoveAll(p.servers[0].StoreDir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(p.servers[0].StoreDir, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	p.start(0)
	p.acts("one")
	p.put("a", "two") // with the revision that it had before
	p.acts("two")
}

func TestFaultBurst(t *testing.T) {
	for _, keys := range []int{1, 1000} {
		t.Run(fmt.Sprintf("%d keys", keys), func(t *testing.T) {
			p := settled(t)
			const puts = 10_000
			for i := range puts {
				subject := fmt.Sprintf("$KV.CFG.key%d", i%keys)
				if _, err := p.direct.PublishAsync(subject, fmt.Appendf(nil, "value %d", i)); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case <-p.direct.PublishAsyncComplete():
			case <-time.After(3 * soon):
				t.Fatal("the puts are not acknowledged")
			}
			before := p.acts(fmt.Sprintf("value %d", puts-1))
			t.Logf("%d actions for %d puts", before+1, puts)
			p.rests("the last value")
		})
	}
}

// link is a way to a server that can swallow what is sent, as a cable does that is cut.
type link struct {
	t        *testing.T
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu        sync.Mutex // guards what follows
	swallowed bool
	conns     []net.Conn
}

func newLink(t *testing.T, target string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{t: t, listener: listener, target: target}
	l.wg.Go(l.accept)
	t.Cleanup(func() {
		listener.Close()
		l.mu.Lock()
		for _, c := range l.conns {
			c.Close()
		}
		l.mu.Unlock()
		l.wg.Wait()
	})

	return l
}

func (l *link) swallow(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.swallowed = on
}

func (l *link) accept() {
	for {
		from, err := l.listener.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", l.target)
		if err != nil {
			from.Close()
			continue
		}
		l.mu.Lock()
		l.conns = append(l.conns, from, to)
		l.mu.Unlock()
		l.wg.Go(func() { l.carry(from, to) })
		l.wg.Go(func() { l.carry(to, from) })
	}
}

// carry carries what is sent in one direction. What was swallowed is gone.
func (l *link) carry(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		l.mu.Lock()
		swallowed := l.swallowed
		l.mu.Unlock()
		if swallowed {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
