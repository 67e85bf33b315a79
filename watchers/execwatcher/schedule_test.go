package execwatcher

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn-io/keyturn/watchers"
)

// schedule is a watcher in a bubble whose command is a function.
type schedule struct {
	w        *watcher
	stopping chan struct{}
	began    time.Time
	runs     []time.Duration // when the command ran
	told     []watchers.Observation
	answer   func(watchers.Observation) error
}

func newSchedule(p Properties, interval time.Duration, cause watchers.Cause, command func(run int) attempt) *schedule {
	s := &schedule{stopping: make(chan struct{}), began: time.Now()}
	s.w = &watcher{p: p, env: watchers.Env{
		Interval: interval,
		Stopping: s.stopping,
		Visit:    func() watchers.Visit { return watchers.Visit{Cause: cause} },
	}}
	s.w.once = func(context.Context) attempt {
		s.runs = append(s.runs, time.Since(s.began))
		return command(len(s.runs))
	}
	return s
}

func (s *schedule) run(ctx context.Context) error {
	return s.w.Run(ctx, func(o watchers.Observation) error {
		s.told = append(s.told, o)
		if s.answer != nil {
			return s.answer(o)
		}
		return nil
	})
}

// runFor runs the watcher in a visit of that length and returns what Run returned
// and how long it took.
func (s *schedule) runFor(visit time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), visit)
	defer cancel()
	began := time.Now()
	err := s.run(ctx)
	return time.Since(began), err
}

func succeed(int) attempt { return attempt{state: stateSuccess, detail: "fine"} }

func fail(int) attempt { return attempt{state: stateFailed, detail: "exit 1"} }

const sec = time.Second

func TestWhenItRuns(t *testing.T) {
	for name, c := range map[string]struct {
		cause    watchers.Cause
		gather   bool
		interval time.Duration
		want     []time.Duration // in a visit of 35 s
	}{
		"started":                            {watchers.Started, false, 0, nil},
		"started, gather_initial_state":      {watchers.Started, true, 0, []time.Duration{0}},
		"started, interval":                  {watchers.Started, false, 10 * sec, []time.Duration{0, 10 * sec, 20 * sec, 30 * sec}},
		"stepped":                            {watchers.Stepped, false, 0, []time.Duration{0}},
		"stepped, interval":                  {watchers.Stepped, false, 10 * sec, []time.Duration{0, 10 * sec, 20 * sec, 30 * sec}},
		"stepped, interval and gather":       {watchers.Stepped, true, 20 * sec, []time.Duration{0, 20 * sec}},
		"resumed":                            {watchers.Resumed, false, 0, []time.Duration{0}},
		"resumed, interval beyond the visit": {watchers.Resumed, false, time.Minute, []time.Duration{0}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSchedule(Properties{GatherInitialState: c.gather}, c.interval, c.cause, succeed)
				took, err := s.runFor(35 * sec)
				if diff := cmp.Diff(c.want, s.runs); diff != "" || err != nil {
					t.Errorf("%v (-want +got):\n%s", err, diff)
				}
				want := time.Duration(0)
				if c.interval > 0 {
					want = 35 * sec
				}
				if took != want {
					t.Errorf("Run took %v, want %v", took, want)
				}
			})
		})
	}
}

func TestFirstRunIsSpread(t *testing.T) {
	for _, c := range []struct{ interval, most time.Duration }{{10 * sec, 10 * sec}, {time.Hour, 30 * sec}} {
		synctest.Test(t, func(t *testing.T) {
			var first []time.Duration
			for range 200 {
				s := newSchedule(Properties{GatherInitialState: true}, c.interval, watchers.Started, succeed)
				s.runFor(2*c.interval - 1)
				if len(s.runs) < 1 || len(s.runs) > 2 || s.runs[0] >= c.most || len(s.runs) > 1 && s.runs[1] != s.runs[0]+c.interval {
					t.Fatalf("runs at %v", s.runs)
				}
				first = append(first, s.runs[0])
			}
			late := 0
			for _, at := range first {
				if at > c.most/2 {
					late++
				}
			}
			if late < 50 || late > 150 {
				t.Errorf("%d of 200 first runs are in the second half", late)
			}
		})
	}
}

func TestSpreadEndsWithTheVisit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSchedule(Properties{GatherInitialState: true}, time.Hour, watchers.Started, succeed)
		if _, err := s.runFor(1); err != nil || s.runs != nil {
			t.Errorf("got %v, runs at %v", err, s.runs)
		}
	})
}

func TestRetry(t *testing.T) {
	retry := Retry{Delay: watchers.Duration(sec), MaxDelay: watchers.Duration(5 * sec), Attempts: 6}
	forever := retry
	forever.Attempts = 0
	for name, c := range map[string]struct {
		retry   Retry
		command func(int) attempt
		visit   time.Duration
		runs    []time.Duration
		last    watchers.Observation
	}{
		"pauses grow up to the most": {retry, fail, time.Hour,
			[]time.Duration{0, 1 * sec, 3 * sec, 7 * sec, 12 * sec, 17 * sec},
			watchers.Observation{Outcome: watchers.Failure, State: stateFailed, Detail: "exit 1"}},
		"a success ends it": {retry, func(run int) attempt {
			if run < 3 {
				return fail(run)
			}
			return succeed(run)
		}, time.Hour,
			[]time.Duration{0, 1 * sec, 3 * sec},
			watchers.Observation{Outcome: watchers.Success, State: stateSuccess, Detail: "fine"}},
		"the end of the visit ends it": {forever, fail, 10 * sec,
			[]time.Duration{0, 1 * sec, 3 * sec, 7 * sec},
			watchers.Observation{State: stateRetrying, Detail: "run 4: failed: exit 1; again in 5s"}},
		"without it a failure is final": {Retry{}, fail, time.Hour,
			[]time.Duration{0},
			watchers.Observation{Outcome: watchers.Failure, State: stateFailed, Detail: "exit 1"}},
		"a command that outlives the visit is not run again": {forever, func(int) attempt {
			time.Sleep(20 * sec)
			return fail(0)
		}, 10 * sec,
			[]time.Duration{0},
			watchers.Observation{Outcome: watchers.Failure, State: stateFailed, Detail: "exit 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSchedule(Properties{Retry: c.retry}, 0, watchers.Stepped, c.command)
				if _, err := s.runFor(c.visit); err != nil {
					t.Error(err)
				}
				if diff := cmp.Diff(c.runs, s.runs); diff != "" {
					t.Errorf("runs (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(c.last, s.told[len(s.told)-1]); diff != "" {
					t.Errorf("last observation (-want +got):\n%s", diff)
				}
				for _, o := range s.told[:len(s.told)-1] {
					if o.Outcome != watchers.None || o.State != stateRetrying {
						t.Errorf("a run that is not the last reports %+v", o)
					}
				}
			})
		})
	}
}

func TestStoppingEndsEveryWait(t *testing.T) {
	for name, c := range map[string]struct {
		p        Properties
		interval time.Duration
		cause    watchers.Cause
		command  func(int) attempt
	}{
		"spread":   {Properties{GatherInitialState: true}, time.Hour, watchers.Started, succeed},
		"interval": {Properties{}, time.Hour, watchers.Stepped, succeed},
		"retry":    {Properties{Retry: Retry{Delay: watchers.Duration(time.Hour), MaxDelay: watchers.Duration(time.Hour)}}, 0, watchers.Stepped, fail},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSchedule(c.p, c.interval, c.cause, c.command)
				done := make(chan error)
				go func() { done <- s.run(context.Background()) }()
				synctest.Wait()
				close(s.stopping)
				if err := <-done; err != nil || time.Since(s.began) > 0 {
					t.Errorf("got %v after %v", err, time.Since(s.began))
				}
			})
		})
	}
}

func TestNoRunWhenStopping(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			var s *schedule
			s = newSchedule(Properties{}, sec, watchers.Stepped, func(int) attempt {
				time.Sleep(2 * sec) // a tick waits when it ends
				close(s.stopping)
				return attempt{}
			})
			if err := s.run(t.Context()); err != nil || len(s.runs) != 1 {
				t.Fatalf("got %v, runs at %v", err, s.runs)
			}
		})
	}
}

func TestWhatTheReportReturns(t *testing.T) {
	broken := errors.New("disk full")
	for name, c := range map[string]struct {
		answer error
		want   error
		runs   int // in a visit of three intervals
	}{
		"taken":          {nil, nil, 3},
		"refused":        {watchers.ErrRefused, nil, 3},
		"visit is over":  {watchers.ErrVisitOver, nil, 1},
		"commit failure": {broken, broken, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSchedule(Properties{}, sec, watchers.Stepped, succeed)
				s.answer = func(watchers.Observation) error { return c.answer }
				if _, err := s.runFor(3*sec - 1); err != c.want || len(s.runs) != c.runs {
					t.Errorf("got %v and %d runs, want %v and %d", err, len(s.runs), c.want, c.runs)
				}
			})
		})
	}
}

// When a tick and the end of the visit come at once, the visit has ended.
func TestNoRunAfterTheVisit(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			s := newSchedule(Properties{}, sec, watchers.Stepped, func(int) attempt {
				time.Sleep(2 * sec) // a tick waits when it ends
				cancel()
				return attempt{state: stateSuccess}
			})
			if err := s.run(ctx); err != nil || len(s.runs) != 1 {
				t.Fatalf("got %v, runs at %v", err, s.runs)
			}
		})
	}
}

func TestSuppressSuccessAnnounce(t *testing.T) {
	for suppress, want := range map[bool][]string{
		false: {stateSuccess, stateSuccess, stateFailed, stateSuccess, stateSuccess},
		true:  {stateSuccess, "", stateFailed, stateSuccess, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSchedule(Properties{SuppressSuccessAnnounce: suppress}, sec, watchers.Stepped, func(run int) attempt {
				if run == 3 {
					return fail(run)
				}
				return succeed(run)
			})
			s.runFor(5*sec - 1)
			var states []string
			for _, o := range s.told {
				states = append(states, o.State)
				if o.Outcome == watchers.None {
					t.Errorf("no event: %+v", o)
				}
			}
			if diff := cmp.Diff(want, states); diff != "" {
				t.Errorf("suppress %v (-want +got):\n%s", suppress, diff)
			}
		})
	}
}
