// Package machine runs one machine: a table of states and transitions that one
// goroutine owns, with the watchers that observe the world for it.
//
// A [Manifest] says what the machine is. [New] makes it, [Machine.Run] runs it
// until its context is done. Everything that happens to it passes through the one
// select in loop.go, and what an event causes is written once, in step.go.
//
// Package machine knows no kind of watcher by name; kinds come in as a value,
// [watchers.Kinds].
package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keyturn-io/keyturn/kv"
)

// Options are what a machine needs from its surroundings. All but Dir and Bucket
// may be left out.
type Options struct {
	// Dir is the machine's folder. Commands run there, and there the machine keeps
	// machine_data.json and machine_state.json.
	Dir string

	// Bucket is a handle on a bucket, which need not exist.
	Bucket func(name string) (kv.Bucket, error)

	// Facts is what is known of the node, a JSON object. It may be called from
	// several goroutines at the same time. Nil is no facts.
	Facts func() []byte

	// Identity is the node's name.
	Identity string

	// Log takes what operators should know. Nil discards it.
	Log *slog.Logger

	// OnStart hears once that the machine has its folder and starts now, in the state
	// that Status then has.
	OnStart func()

	// OnStep hears of every step, and OnWatcher of every change of a watcher's
	// state, and of the state as it is at each announce_interval. All three are called by
	// the machine's goroutine, in order, and must not block.
	OnStep    func(Step)
	OnWatcher func(WatcherStatus)

	// Output returns where the commands of a watcher print. Nil discards it. The
	// writers may be called from several goroutines at the same time.
	Output func(watcher string) (stdout, stderr io.Writer)
}

// Machine is one machine. Its methods may be called from any goroutine.
type Machine struct {
	manifest *Manifest
	opts     Options
	instance string

	started atomic.Bool
	stopped chan struct{} // closed when Run returns
	fires   chan fire
	status  atomic.Pointer[Status]
}

// New makes a machine and starts nothing.
func New(m *Manifest, opts Options) (*Machine, error) {
	if opts.Dir == "" || opts.Bucket == nil {
		return nil, errors.New("a machine needs a folder and buckets")
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("the machine's folder %s: %w", opts.Dir, err)
	}
	opts.Dir = dir
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	opts.Log = opts.Log.With("machine", m.Name)
	if opts.Facts == nil {
		opts.Facts = func() []byte { return []byte("{}") }
	}
	if opts.OnStart == nil {
		opts.OnStart = func() {}
	}
	if opts.OnStep == nil {
		opts.OnStep = func(Step) {}
	}
	if opts.OnWatcher == nil {
		opts.OnWatcher = func(WatcherStatus) {}
	}
	if opts.Output == nil {
		opts.Output = func(string) (io.Writer, io.Writer) { return io.Discard, io.Discard }
	}

	machine := &Machine{
		manifest: m,
		opts:     opts,
		instance: fmt.Sprintf("%016x", rand.Uint64()),
		stopped:  make(chan struct{}),
		fires:    make(chan fire),
	}
	machine.status.Store(&Status{Machine: m.Name, Version: m.Version, Instance: machine.instance})

	return machine, nil
}

// Run runs the machine until ctx is done, and returns when everything that it
// started has ended, which takes no longer than the grace of a running command. It
// returns nil then, and an error when the machine cannot start: its folder is in use
// by another process or cannot be written to. It can be called once.
func (m *Machine) Run(ctx context.Context) error {
	if m.started.Swap(true) {
		return errors.New("the machine has been run already")
	}
	defer close(m.stopped)

	l, err := open(m)
	if err != nil {
		return fmt.Errorf("start machine %s: %w", m.manifest.Name, err)
	}
	defer l.close()

	if splay := time.Duration(m.manifest.SplayStart); splay > 0 {
		wait := rand.N(splay)
		l.log.Info("waiting before the start", "splay", wait.Round(time.Millisecond))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
	l.run(ctx)

	return nil
}

// fire is an event that somebody asks for.
type fire struct {
	event string
	reply chan error
}

// Fire makes the machine take an event now, also while steps pause because of a
// storm. It returns nil when the step was taken, and a *RefusedError when the
// current state has no transition for it. It waits for a machine that is not
// running yet, until ctx is done.
func (m *Machine) Fire(ctx context.Context, event string) error {
	f := fire{event, make(chan error, 1)}
	select {
	case m.fires <- f:
		return <-f.reply
	case <-m.stopped:
		return fmt.Errorf("machine %s has stopped", m.manifest.Name)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// RefusedError says that a state has no transition for an event.
type RefusedError struct {
	Machine string
	Event   string
	State   string
	Accepts []string // the events that the state does accept, sorted
}

// Error names the event, the state, and what could be asked instead.
func (e *RefusedError) Error() string {
	accepts := "none"
	if len(e.Accepts) > 0 {
		accepts = strings.Join(e.Accepts, ", ")
	}

	return fmt.Sprintf("machine %s refuses event %s in state %s: it accepts %s", e.Machine, quoted(e.Event), quoted(e.State), accepts)
}
