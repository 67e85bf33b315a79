// Package execwatcher runs a command and reports whether it succeeded.
//
// # When
//
// The command runs when a step leads to the visit or the machine resumes it, and
// at each interval. When the machine starts in its initial state it runs if there
// is an interval, or with gather_initial_state.
//
// # What it gets
//
// It runs in the machine's folder, reads nothing from stdin, and finds the data,
// the facts and what led to the visit in the files that WATCHER_DATA, WATCHER_FACTS
// and WATCHER_CHANGES name; they are removed when it ends. It has the environment that newEnvironment lists and none
// of the agent's.
//
// # How it ends
//
// The command leads a process group. When it has ended, whatever way, what is left
// of its group is killed; at the timeout the group gets SIGTERM and, after
// kill_grace, SIGKILL. A process that leaves the group (setsid, setpgid) is out of
// reach. With on_leave: kill the same happens when the visit ends, and always when
// the machine stops. When the agent itself is killed, Linux kills the command, but
// not what that has started.
//
// Output is passed on as it comes, up to max_output of each stream; of what is more,
// the last max_output bytes follow when the command has ended.
//
// With disown the command is let go once it has started, in a session of its own;
// of how it ends nothing is known. It ignores SIGINT and SIGQUIT, as everything
// does that a shell has put into the background. Its files are removed when it ends,
// but may be sooner when the agent starts again: it should read them at once.
package execwatcher

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/keyturn-io/keyturn/watchers"
)

// Kind is the watcher that runs a command.
var Kind = watchers.Kind{
	Name: "exec",
	New:  func() watchers.Properties { return defaults() },
}

// The states that an exec watcher reports.
const (
	stateSuccess  = "success"
	stateFailed   = "failed"   // did not exit with 0, or printed no object for parse_as_data
	stateTimeout  = "timeout"  // had to be ended
	stateError    = "error"    // could not be started
	stateRetrying = "retrying" // failed one way or another, and will run again
)

// maxSpread bounds the random wait before the first run of gather_initial_state.
const maxSpread = 30 * time.Second

type watcher struct {
	p   Properties
	env watchers.Env

	once func(context.Context) attempt // runs the command; tests have their own
	told string                        // the state last reported
}

// Watcher makes a watcher. It returns an error for properties that Check refuses.
func (p *Properties) Watcher(env watchers.Env) (watchers.Watcher, error) {
	for _, problem := range p.Check(watchers.Settings{Interval: env.Interval}) {
		if !problem.Warning {
			return nil, fmt.Errorf("%s: %s", problem.Property, problem.Message)
		}
	}
	w := &watcher{p: *p, env: env}
	w.once = w.attempt
	return w, nil
}

// Run runs the command as often as the visit wants it.
func (w *watcher) Run(ctx context.Context, report watchers.Report) error {
	wait, wanted := w.first()
	if !wanted || wait > 0 && !w.sleep(ctx, wait) {
		return nil
	}
	var tick <-chan time.Time
	if w.env.Interval > 0 {
		ticker := time.NewTicker(w.env.Interval)
		defer ticker.Stop()
		tick = ticker.C
	}
	for w.lasts(ctx) {
		err := w.settle(ctx, report)
		if errors.Is(err, watchers.ErrVisitOver) {
			return nil
		}
		if err != nil || tick == nil {
			return err
		}
		select {
		case <-tick:
		case <-ctx.Done():
		case <-w.env.Stopping:
		}
	}
	return nil
}

// first says how long to wait before the first run, and whether there is one.
func (w *watcher) first() (wait time.Duration, wanted bool) {
	interval := w.env.Interval
	switch {
	case w.env.Visit().Cause != watchers.Started:
		return 0, true
	case !w.p.GatherInitialState:
		return 0, interval > 0
	case interval > 0:
		return rand.N(min(interval, maxSpread)), true
	default:
		return 0, true
	}
}

// settle runs the command until it succeeds or has failed for good, and reports that.
func (w *watcher) settle(ctx context.Context, report watchers.Report) error {
	for failed := 1; ; failed++ {
		a := w.once(ctx)
		if a.state == "" {
			return nil
		}
		if a.state == stateSuccess {
			return w.tell(report, watchers.Observation{
				Outcome: watchers.Success, State: a.state, Detail: a.detail, Set: a.items,
			})
		}
		pause, again := w.p.Retry.pause(failed)
		if !again || ctx.Err() != nil {
			return w.tell(report, watchers.Observation{Outcome: watchers.Failure, State: a.state, Detail: a.detail})
		}
		err := w.tell(report, watchers.Observation{
			State:  stateRetrying,
			Detail: fmt.Sprintf("run %d: %s: %s; again in %v", failed, a.state, a.detail, pause),
		})
		if err != nil || !w.sleep(ctx, pause) {
			return err
		}
	}
}

// tell reports an observation. That the state refuses its event is for the machine
// to say: the command has run, and that is all there is to it here.
func (w *watcher) tell(report watchers.Report, o watchers.Observation) error {
	state := o.State
	if w.p.SuppressSuccessAnnounce && o.Outcome == watchers.Success && state == w.told {
		o.State = "" // one success after another is no news
	}
	err := report(o)
	if err != nil && len(o.Set) > 0 && !errors.Is(err, watchers.ErrVisitOver) && !errors.Is(err, watchers.ErrRefused) {
		// To run the command again would not make its output fit.
		state = stateFailed
		err = report(watchers.Observation{Outcome: watchers.Failure, State: state, Detail: err.Error()})
	}
	if err != nil && !errors.Is(err, watchers.ErrRefused) {
		return err
	}
	w.told = state
	return nil
}

// sleep waits, and says whether the visit still lasts.
func (w *watcher) sleep(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-w.env.Stopping:
	}
	return w.lasts(ctx)
}

// lasts says whether the visit lasts and the machine does not stop.
func (w *watcher) lasts(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-w.env.Stopping:
		return false
	default:
		return true
	}
}
