package watchertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/watchers"
)

// patience is how long anything may take that should happen soon. It is fake in
// a synctest bubble. Only the test of this package changes it.
var patience = 10 * time.Second

// Machine stands in for the machine of one watcher: it commits what the watcher
// reports and keeps its mark, but it has no states and no events.
type Machine struct {
	// Env is what the watcher is made with. A test may change it before that.
	Env watchers.Env

	// Answer says what a report returns; nil takes every observation. It may end
	// the visit, as a machine does.
	Answer func(watchers.Observation) error

	// Log, Stdout and Stderr hold what the watcher logged and its commands printed.
	Log, Stdout, Stderr Buffer

	t       testing.TB
	stop    func()
	folder  []string   // what was in Env.Dir when the watcher was made
	mu      sync.Mutex // guards what follows
	store   *datalayer.Store
	visit   watchers.Visit
	facts   []byte
	mark    json.RawMessage
	pending json.RawMessage
	seen    []watchers.Observation
	told    chan struct{} // closed and made anew at each observation
	running bool
	busy    bool // a report is under way
}

// NewMachine makes a machine with empty folders, no data and no buckets, in a
// visit that a step began.
func NewMachine(t testing.TB) *Machine {
	t.Helper()
	store, err := datalayer.Open(filepath.Join(t.TempDir(), "machine_data.json"))
	if err != nil {
		t.Fatal(err)
	}
	stopping := make(chan struct{})
	m := &Machine{
		t:     t,
		stop:  sync.OnceFunc(func() { close(stopping) }),
		store: store,
		visit: watchers.Visit{State: "here", Cause: watchers.Stepped, Event: "go", Previous: "there"},
		facts: []byte("{}"),
		told:  make(chan struct{}),
	}
	m.Env = watchers.Env{
		Machine:  "test",
		Instance: "instance",
		Identity: "node.example.net",
		Watcher:  "watcher",
		Dir:      t.TempDir(),
		RunDir:   t.TempDir(),
		Log:      slog.New(slog.NewTextHandler(&m.Log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Stdout:   &m.Stdout,
		Stderr:   &m.Stderr,
		Bucket: func(name string) (kv.Bucket, error) {
			return nil, fmt.Errorf("open bucket %s: this machine has none", name)
		},
		Data:     store.View,
		Facts:    func() []byte { return locked(m, func() []byte { return m.facts }) },
		Visit:    func() watchers.Visit { return locked(m, func() watchers.Visit { return m.visit }) },
		Mark:     func() json.RawMessage { return locked(m, func() json.RawMessage { return m.mark }) },
		Pending:  func() json.RawMessage { return locked(m, func() json.RawMessage { return m.pending }) },
		Stopping: stopping,
	}
	return m
}

func locked[T any](m *Machine, read func() T) T {
	m.mu.Lock()
	defer m.mu.Unlock()
	return read()
}

// Watcher decodes properties, a JSON object, as a loader does, and makes the
// watcher. Anything wrong, but for warnings of Check, ends the test.
func (m *Machine) Watcher(kind watchers.Kind, properties string) watchers.Watcher {
	m.t.Helper()
	p, err := Decode(kind, properties)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, problem := range p.Check(watchers.Settings{Interval: m.Env.Interval}) {
		if !problem.Warning {
			m.t.Fatalf("%s: %s", problem.Property, problem.Message)
		}
	}
	w, err := p.Watcher(m.Env)
	if err != nil {
		m.t.Fatal(err)
	}
	return w
}

// Set commits items to the machine's data.
func (m *Machine) Set(items ...datalayer.Item) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.store.Commit(datalayer.Commit{Set: items}); err != nil {
		m.t.Fatal(err)
	}
}

// SetFacts sets what is known of the node, a JSON object.
func (m *Machine) SetFacts(facts string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.facts = []byte(facts)
}

// SetMark sets the mark that is settled.
func (m *Machine) SetMark(mark json.RawMessage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mark = mark
}

// SetVisit sets the visit of the Runs that follow.
func (m *Machine) SetVisit(v watchers.Visit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.visit = v
}

// Stop says that the machine stops. It does not end a visit.
func (m *Machine) Stop() { m.stop() }

// Run runs a watcher for one visit and returns what its Run returned.
func (m *Machine) Run(ctx context.Context, w watchers.Watcher) error {
	m.setRunning(true)
	defer m.setRunning(false)
	return w.Run(ctx, m.report)
}

func (m *Machine) setRunning(running bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running = running
}

// Enter begins a visit and returns a function that ends it, waits for Run and
// returns what that returned. A watcher that does not end fails the test.
func (m *Machine) Enter(w watchers.Watcher) (leave func() error) {
	return m.enter(context.Background(), w)
}

func (m *Machine) enter(ctx context.Context, w watchers.Watcher) (leave func() error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx, w) }()
	leave = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(patience):
			m.t.Errorf("Run has not returned %v after the end of the visit\n%s", patience, stacks())
			return nil
		}
	})
	m.t.Cleanup(func() { leave() })
	return leave
}

func (m *Machine) report(o watchers.Observation) error {
	m.mu.Lock()
	if m.busy {
		m.t.Error("report is called while a report is under way")
	}
	if !m.running {
		m.t.Error("report is called after Run has returned")
	}
	m.busy = true
	m.mu.Unlock()

	for range 10 {
		runtime.Gosched() // others that would report get their chance to be caught
	}
	var err error
	if m.Answer != nil {
		err = m.Answer(o)
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	m.busy = false
	if err == nil || errors.Is(err, watchers.ErrRefused) {
		if _, broken := m.store.Commit(datalayer.Commit{Set: o.Set, Delete: o.Delete}); broken != nil {
			m.t.Errorf("commit what was reported: %v", broken)
		}
		if o.Pending != nil {
			m.pending = slices.Clone(o.Pending)
		}
	}
	if err == nil && o.Mark != nil {
		m.mark, m.pending = slices.Clone(o.Mark), nil
	}
	m.seen = append(m.seen, o)
	close(m.told)
	m.told = make(chan struct{})
	return err
}

// Observations returns what was reported so far, taken or not.
func (m *Machine) Observations() []watchers.Observation {
	return locked(m, func() []watchers.Observation { return slices.Clone(m.seen) })
}

// Await waits until n observations were reported and returns all that were. That
// it takes too long ends the test.
func (m *Machine) Await(n int) []watchers.Observation {
	m.t.Helper()
	over := time.After(patience)
	for {
		m.mu.Lock()
		seen, told := slices.Clone(m.seen), m.told
		m.mu.Unlock()
		if len(seen) >= n {
			return seen
		}
		select {
		case <-told:
		case <-over:
			m.t.Fatalf("%d observations after %v, want %d: %+v\n%s", len(seen), patience, n, seen, stacks())
		}
	}
}

func stacks() string {
	buf := make([]byte, 64<<10)
	return string(buf[:runtime.Stack(buf, true)])
}

// Buffer is a bytes.Buffer that several goroutines may use.
type Buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

// Write appends to the buffer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns all that was written.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
