package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/watchers"
)

// change is a reason to step: what a watcher reports, or an event alone.
type change struct {
	watcher     *runner // nil for an operator
	observation watchers.Observation
	event       string // empty for none
}

// commitError says that data is not on disk because the disk or its folder is in
// no state to take it, which can change.
type commitError struct{ err error }

func (e *commitError) Error() string { return fmt.Sprintf("save the data: %s", e.err) }
func (e *commitError) Unwrap() error { return e.err }

// step is the only place where the state changes. Its lines stand in the order in
// which things happen: check, commit, transition, end runs, begin runs, tell. It
// returns a *commitError when nothing has happened because the data could not be
// saved, and watchers.ErrRefused when the data is saved and that is all.
func (l *loop) step(c change) error {
	taken := c.event != "" && l.table.accepts(c.event)

	if err := l.commit(c); err != nil {
		return err
	}
	if !taken {
		return l.stay(c)
	}

	from := l.table.state()
	newVisit, err := l.table.take(c.event)
	if err != nil {
		return err
	}
	if c.watcher != nil && c.observation.Mark != nil {
		l.memory.Unsettled[c.watcher.def.Name] = c.observation.Mark
	}
	l.steps++

	if newVisit {
		l.endRuns()
		l.visit++
		l.current = watchers.Visit{
			State: l.table.state(), Cause: watchers.Stepped, Event: c.event, Previous: from, Changes: c.observation.Changes,
		}
		l.since = time.Now()
		if pause := l.storm.step(l.since); pause > 0 {
			l.slowDown(pause)
		}
	}
	l.settle()
	if newVisit {
		l.beginRuns()
	}

	l.tell(c, from)
	l.remember()
	l.save()

	return nil
}

// commit changes the data as an observation says, once what it calls pending is kept.
func (l *loop) commit(c change) error {
	if pending := c.observation.Pending; pending != nil {
		l.memory.Pending[c.watcher.def.Name] = pending
		c.watcher.pending.Store(&pending)
		if err := l.memory.save(l.opts.Dir); err != nil {
			return &commitError{err}
		}
	}
	if len(c.observation.Set)+len(c.observation.Delete) == 0 {
		return nil
	}
	_, err := l.store.Commit(datalayer.Commit{Set: c.observation.Set, Delete: c.observation.Delete})
	var disk syscall.Errno
	if errors.As(err, &disk) {
		return &commitError{err}
	}
	if err != nil {
		return fmt.Errorf("the data cannot be kept: %w", err)
	}

	return nil
}

// stay ends a step that leads nowhere: there is no event, or the state refuses it.
func (l *loop) stay(c change) error {
	if c.watcher != nil {
		l.say(c.watcher, c.observation)
	}
	if c.event != "" {
		l.refused++
		l.log.Warn("refused an event", "event", c.event, "state", l.table.state(), "watcher", c.watcher.name())
		l.save()
		return watchers.ErrRefused
	}
	if c.watcher != nil && c.observation.Mark != nil {
		l.mark(c.watcher, c.observation.Mark)
	}
	l.save()

	return nil
}

// settle marks the changes whose watchers run in the state that the machine is in.
func (l *loop) settle() {
	for _, r := range l.watchers {
		mark, ok := l.memory.Unsettled[r.def.Name]
		if ok && r.def.activeIn(l.table.state()) {
			l.mark(r, mark)
			delete(l.memory.Unsettled, r.def.Name)
		}
	}
}

// mark records a change of a watcher as settled.
func (l *loop) mark(r *runner, mark json.RawMessage) {
	l.memory.Marks[r.def.Name] = mark
	r.mark.Store(&mark)
	delete(l.memory.Pending, r.def.Name)
	r.pending.Store(nil)
	l.dirty = true
}

// slowDown makes reports wait, for a machine that steps too often.
func (l *loop) slowDown(pause time.Duration) {
	if l.storm.steps == stormFree+1 {
		l.log.Warn("the machine steps so often that its steps pause from now on",
			"steps", l.storm.steps, "longest_pause", stormPause, "until_quiet_for", stormQuiet)
	}
	l.pause = time.After(pause)
}

// tell says that a step was taken.
func (l *loop) tell(c change, from string) {
	if c.watcher != nil {
		l.say(c.watcher, c.observation)
	}
	step := Step{
		Time:    time.Now(),
		Machine: l.manifest.Name,
		Event:   c.event,
		From:    from,
		To:      l.table.state(),
		Watcher: c.watcher.name(),
		Detail:  c.observation.Detail,
	}
	l.log.Info("step", "event", step.Event, "from", step.From, "to", step.To, "watcher", step.Watcher, "detail", step.Detail)
	l.opts.OnStep(step)
}
