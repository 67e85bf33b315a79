package machine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/watchers"
)

// loop is a running machine. All of it is owned by the goroutine in Run; what
// others say to it comes through its channels.
type loop struct {
	*Machine
	log    *slog.Logger
	folder *os.File // holds the lock
	runDir runDir

	table    *table
	store    *datalayer.Store
	memory   memory
	storm    storm
	visit    int            // numbers the visits
	current  watchers.Visit // the visit that goes on
	since    time.Time      // when it began
	watchers []*runner      // in the order of the manifest

	reports  chan report   // of the visit that goes on
	late     chan report   // of visits that are over; never has to wait
	ended    chan *runner  // runs that have returned
	stopping chan struct{} // closed when the machine stops
	done     chan struct{} // closed when the loop has ended

	held      *report          // whose commit failed, until it can be tried again
	holdAlarm <-chan time.Time // when that is
	holdPause time.Duration
	pause     <-chan time.Time // the end of a storm's pause
	dirty     bool             // memory differs from its file
	saveAlarm <-chan time.Time // when to try to save again
	announce  <-chan time.Time // when a watcher is next to announce its state

	steps, refused, dropped uint64
	trouble                 string // for Status.Error
}

// report is what a run says: an observation, or that it gave up with an error.
type report struct {
	from        *runner
	visit       int
	observation watchers.Observation
	err         error
	reply       chan error // with room for one
}

// open takes the machine's folder and reads what the machine knew.
func open(m *Machine) (l *loop, err error) {
	l = &loop{
		Machine:  m,
		log:      m.opts.Log,
		reports:  make(chan report),
		late:     make(chan report),
		ended:    make(chan *runner),
		stopping: make(chan struct{}),
		done:     make(chan struct{}),
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()

	if err := l.lock(); err != nil {
		return l, err
	}
	if err := l.load(); err != nil {
		return l, err
	}
	if l.runDir, err = makeRunDir(m.opts.Dir); err != nil {
		return l, err
	}
	for i := range m.manifest.Watchers {
		r, err := l.newRunner(&m.manifest.Watchers[i])
		if err != nil {
			return l, err
		}
		l.watchers = append(l.watchers, r)
	}

	return l, nil
}

// lock makes this process the only one that runs the machine. The lock is on the
// folder itself, so it needs no file and ends with the process.
func (l *loop) lock() error {
	folder, err := os.Open(l.opts.Dir)
	if err != nil {
		return err
	}
	l.folder = folder
	switch err := unix.Flock(int(folder.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("another process runs the machine in %s: stop that one first", l.opts.Dir)
	case err != nil:
		return fmt.Errorf("lock the folder %s: %w", l.opts.Dir, err)
	}

	return nil
}

// load reads the data and the memory, and decides in which state to start.
func (l *loop) load() error {
	store, err := datalayer.Open(filepath.Join(l.opts.Dir, dataFile))
	if err != nil {
		return err
	}
	l.store = store
	known, found, aside, err := loadMemory(l.opts.Dir)
	if err != nil {
		return err
	}
	l.memory = known

	forget := !found
	if aside != nil {
		l.log.Error("the machine starts with no memory of what it has done", "error", aside)
		forget = true
	}
	if aside := store.SetAside(); aside != nil {
		l.log.Error("the machine starts with no data", "error", aside)
		l.memory, forget = emptyMemory(), true
	} else if !found && store.View().Len() > 0 {
		l.log.Info("data of other software is taken over", "items", store.View().Len())
		for _, w := range l.manifest.Watchers {
			l.memory.Marks[w.Name] = watchers.TakenOver
		}
	}

	l.current = watchers.Visit{State: l.manifest.InitialState, Cause: watchers.Started}
	if l.manifest.Resume && slices.Contains(l.manifest.states(), l.memory.State) {
		l.current = watchers.Visit{
			State: l.memory.State, Event: l.memory.Event, Previous: l.memory.Previous, Changes: l.memory.Changes,
		}
		if l.current.Event != "" {
			l.current.Cause = watchers.Resumed
		}
	} else if len(l.memory.Unsettled) > 0 {
		clear(l.memory.Unsettled)
		forget = true
	}
	l.table = newTable(l.manifest, l.current.State)

	if l.remember(); forget {
		// What is forgotten must not come back after a crash. And from the first start on,
		// data without marks means that a change was interrupted, not that somebody else
		// wrote it, so the file must be there before the first commit.
		return l.memory.save(l.opts.Dir)
	}

	return nil
}

// close leaves nothing behind, and gives the folder back.
func (l *loop) close() {
	if l.store != nil {
		if err := l.store.Close(); err != nil {
			l.log.Error("the machine's data file is not up to date: it is at the next start", "error", err)
		}
	}
	l.runDir.remove()
	if l.folder != nil {
		_ = l.folder.Close()
	}
}

// run is the goroutine that owns the machine. Each case is one reason to wake up.
func (l *loop) run(ctx context.Context) {
	defer close(l.done)
	l.since = time.Now()
	l.log.Info("started", "version", l.manifest.Version, "state", l.current.State, "instance", l.instance)
	l.publish()
	l.opts.OnStart()
	for _, w := range l.manifest.Warnings {
		l.log.Warn(w.Error())
	}
	l.save()
	l.beginRuns()
	l.nextAnnouncement()

	for {
		l.publish()
		select {
		case <-ctx.Done():
			l.stop()
			return
		case r := <-l.accepted():
			l.take(r)
		case r := <-l.late:
			l.take(r)
		case f := <-l.fires:
			f.reply <- l.operator(f.event)
		case r := <-l.ended:
			l.runEnded(r)
		case <-l.pause:
			l.pause = nil
		case <-l.holdAlarm:
			held := *l.held
			l.held, l.holdAlarm = nil, nil
			l.take(held)
		case <-l.saveAlarm:
			l.save()
		case <-l.announce:
			l.announceDue()
		}
	}
}

// accepted returns the channel of reports, or nil while reports have to wait: because
// of a storm, or because the report before them is not committed yet.
func (l *loop) accepted() <-chan report {
	if l.pause != nil || l.held != nil {
		return nil
	}

	return l.reports
}

// stop ends all runs, and waits until they have returned.
func (l *loop) stop() {
	close(l.stopping)
	l.endRuns()
	for l.going() {
		select {
		case r := <-l.late:
			l.drop(r)
		case r := <-l.reports:
			l.drop(r)
		case f := <-l.fires:
			f.reply <- fmt.Errorf("machine %s is stopping", l.manifest.Name)
		case r := <-l.ended:
			r.going = false
		}
	}
	if l.dirty {
		l.save()
	}
	l.publish()
	l.log.Info("stopped", "state", l.current.State)
}

// take does what a report asks for and answers it, unless its commit fails: then
// the report is held, all others wait, and it is tried again after a pause that grows.
func (l *loop) take(r report) {
	if r.visit != l.visit {
		l.drop(r)
		return
	}
	if r.err != nil {
		l.log.Error("watcher failed and is started again after a pause", "watcher", r.from.def.Name, "error", r.err)
		var panicked *panicError
		if errors.As(r.err, &panicked) {
			l.log.Error("where it panicked", "watcher", r.from.def.Name, "stack", string(panicked.stack))
		}
		l.say(r.from, watchers.Observation{State: "error", Detail: r.err.Error()})
		r.reply <- nil
		return
	}

	err := l.step(change{
		watcher:     r.from,
		observation: r.observation,
		event:       r.from.def.event(r.observation.Outcome),
	})
	var commit *commitError
	if errors.As(err, &commit) {
		l.hold(r, commit)
		return
	}
	l.holdPause = 0
	r.reply <- err
}

// The pauses between two tries of a commit or of saving the memory.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 10 * time.Second
)

// hold keeps a report whose commit failed.
func (l *loop) hold(r report, err error) {
	if l.holdPause == 0 {
		l.log.Error("the data cannot be saved: the step waits until it can", "watcher", r.from.def.Name, "error", err)
		l.say(r.from, watchers.Observation{State: "error", Detail: err.Error()})
	}
	l.holdPause = min(max(firstRetry, 2*l.holdPause), lastRetry)
	l.held, l.holdAlarm = &r, time.After(l.holdPause)
}

// drop refuses a report that comes after its visit.
func (l *loop) drop(r report) {
	if r.observation.Outcome != watchers.None {
		l.dropped++
		l.log.Warn("dropped what a watcher reported: its visit is over", "watcher", r.from.def.Name,
			"outcome", r.observation.Outcome.String(), "detail", r.observation.Detail)
	}
	r.reply <- watchers.ErrVisitOver
}

// operator fires an event that somebody asked for.
func (l *loop) operator(event string) error {
	err := l.step(change{event: event})
	if errors.Is(err, watchers.ErrRefused) {
		return &RefusedError{Machine: l.manifest.Name, Event: event, State: l.table.state(), Accepts: l.table.events()}
	}

	return err
}

// remember takes the visit into the memory, when a restart shall go on with it.
func (l *loop) remember() {
	l.memory.State, l.memory.Event, l.memory.Previous, l.memory.Changes = "", "", "", nil
	if l.manifest.Resume {
		l.memory.State, l.memory.Event, l.memory.Previous = l.current.State, l.current.Event, l.current.Previous
		l.memory.Changes, l.dirty = l.current.Changes, true
	}
}

// save brings the files up to date, which nobody waits for. It is tried again later
// when that fails: until then a crash repeats changes, and loses none.
func (l *loop) save() {
	l.saveAlarm = nil
	err := l.store.Checkpoint()
	if err == nil && l.dirty {
		err = l.memory.save(l.opts.Dir)
	}
	if err != nil {
		if l.trouble == "" {
			l.log.Error("what the machine remembers cannot be saved: a change may be repeated after a crash", "error", err)
		}
		l.trouble = err.Error()
		l.saveAlarm = time.After(lastRetry)
		return
	}
	l.dirty, l.trouble = false, ""
}

// publish makes the machine as it is now visible to everybody.
func (l *loop) publish() {
	status := &Status{
		Machine:  l.manifest.Name,
		Version:  l.manifest.Version,
		Instance: l.instance,
		State:    l.current.State,
		Since:    l.since,
		Event:    l.current.Event,
		Previous: l.current.Previous,
		Accepts:  l.table.events(),
		Steps:    l.steps,
		Refused:  l.refused,
		Dropped:  l.dropped,
		Storm:    l.storm.goesOn(time.Now()),
		Error:    l.trouble,
	}
	for _, r := range l.watchers {
		status.Watchers = append(status.Watchers, r.status)
	}
	l.status.Store(status)
}
