package machine

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/keyturn-io/keyturn/watchers"
)

// runner is a watcher and its runs, of which at most one goes on at any time.
type runner struct {
	def     *Watcher
	watcher watchers.Watcher
	status  WatcherStatus
	mark    atomic.Pointer[json.RawMessage] // the last settled one
	pending atomic.Pointer[json.RawMessage] // what was reported as such since

	visit     watchers.Visit // that the last run belongs to; set before it begins
	number    int            // of that visit
	going     bool           // the last run has not returned yet
	cancel    context.CancelFunc
	announced time.Time
}

// name is the watcher's name; that of a nil runner is empty.
func (r *runner) name() string {
	if r == nil {
		return ""
	}

	return r.def.Name
}

func (l *loop) newRunner(def *Watcher) (*runner, error) {
	r := &runner{def: def, status: WatcherStatus{Name: def.Name, Type: def.Type}}
	if mark, ok := l.memory.Marks[def.Name]; ok {
		r.mark.Store(&mark)
	}
	if pending, ok := l.memory.Pending[def.Name]; ok {
		r.pending.Store(&pending)
	}

	stdout, stderr := l.opts.Output(def.Name)
	watcher, err := def.Properties.Watcher(watchers.Env{
		Machine:  l.manifest.Name,
		Instance: l.instance,
		Identity: l.opts.Identity,
		Watcher:  def.Name,
		Dir:      l.opts.Dir,
		RunDir:   l.runDir.path,
		Interval: time.Duration(def.Interval),
		Log:      l.log.With("watcher", def.Name),
		Stdout:   stdout,
		Stderr:   stderr,
		Bucket:   l.opts.Bucket,
		Data:     l.store.View,
		Facts:    l.opts.Facts,
		Visit:    func() watchers.Visit { return r.visit },
		Mark:     func() json.RawMessage { return loaded(&r.mark) },
		Pending:  func() json.RawMessage { return loaded(&r.pending) },
		Stopping: l.stopping,
	})
	if err != nil {
		return nil, fmt.Errorf("watcher %s: %w", def.Name, err)
	}
	r.watcher = watcher

	return r, nil
}

func loaded(p *atomic.Pointer[json.RawMessage]) json.RawMessage {
	if raw := p.Load(); raw != nil {
		return *raw
	}

	return nil
}

// beginRuns begins a run of each watcher that is active in the current visit. One
// whose last run has not returned yet begins when it has.
func (l *loop) beginRuns() {
	for _, r := range l.watchers {
		r.status.Active = r.def.activeIn(l.current.State)
		if r.status.Active && !r.going {
			l.begin(r)
		}
	}
}

// endRuns cancels all runs, and refuses the report that is held.
func (l *loop) endRuns() {
	for _, r := range l.watchers {
		if r.going {
			r.cancel()
		}
	}
	if l.held != nil {
		l.drop(*l.held)
		l.held, l.holdAlarm, l.holdPause = nil, nil, 0
	}
}

// going says whether any run has not returned yet.
func (l *loop) going() bool {
	return slices.ContainsFunc(l.watchers, func(r *runner) bool { return r.going })
}

// begin begins a run in the current visit.
func (l *loop) begin(r *runner) {
	ctx, cancel := context.WithCancel(context.Background())
	r.going, r.cancel, r.visit, r.number = true, cancel, l.current, l.visit
	number := l.visit
	send := func(rep report) error {
		rep.from, rep.visit, rep.reply = r, number, make(chan error, 1)
		select {
		case l.reports <- rep:
		case <-ctx.Done():
			select {
			case l.late <- rep:
			case <-l.done:
				return watchers.ErrVisitOver
			}
		}
		return <-rep.reply
	}

	go func() { // the loop waits for it: see ended
		defer cancel()
		supervise(ctx, r.watcher, send)
		l.ended <- r
	}()
}

// runEnded notes that a run has returned, and begins the next one if the visit
// that goes on is another than the run's, and wants it.
func (l *loop) runEnded(r *runner) {
	r.going = false
	if r.status.Active && r.number != l.visit {
		l.begin(r)
	}
}

// The pauses before a watcher that gave up is run again.
const (
	firstPause = 500 * time.Millisecond
	lastPause  = time.Minute
)

// supervise runs a watcher until ctx is done or it has nothing more to observe.
func supervise(ctx context.Context, w watchers.Watcher, send func(report) error) {
	observe := func(o watchers.Observation) error { return send(report{observation: o}) }
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		began := time.Now()
		err := guarded(ctx, w, observe)
		if err == nil || ctx.Err() != nil {
			return
		}
		if time.Since(began) > lastPause {
			pause = firstPause
		}
		if send(report{err: err}) != nil {
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// panicError is a watcher's panic.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// guarded is Run, with a panic as an error that says where it happened.
func guarded(ctx context.Context, w watchers.Watcher, report watchers.Report) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{value: p, stack: debug.Stack()}
		}
	}()

	return w.Run(ctx, report)
}

// say takes over what a watcher says of itself, and tells it when it has changed.
func (l *loop) say(r *runner, o watchers.Observation) {
	if o.Outcome != watchers.None {
		r.status.Outcome = o.Outcome.String()
	}
	if o.State == "" || r.status.State == o.State && r.status.Detail == o.Detail {
		return
	}
	r.status.State, r.status.Detail = o.State, o.Detail
	r.status.Since = time.Now()
	l.opts.OnWatcher(r.status)
}

// announceDue tells the state of the watchers whose announce_interval has passed.
func (l *loop) announceDue() {
	for _, r := range l.watchers {
		if d := time.Duration(r.def.AnnounceInterval); d > 0 && time.Since(r.announced) >= d {
			r.announced = time.Now()
			status := r.status
			status.Announced = true
			l.opts.OnWatcher(status)
		}
	}
	l.nextAnnouncement()
}

// nextAnnouncement sets the alarm for the watcher that is next to announce itself.
func (l *loop) nextAnnouncement() {
	l.announce = nil
	var next time.Time
	for _, r := range l.watchers {
		d := time.Duration(r.def.AnnounceInterval)
		if d == 0 {
			continue
		}
		if r.announced.IsZero() {
			r.announced = time.Now()
		}
		if due := r.announced.Add(d); next.IsZero() || due.Before(next) {
			next = due
		}
	}
	if !next.IsZero() {
		l.announce = time.After(time.Until(next))
	}
}
