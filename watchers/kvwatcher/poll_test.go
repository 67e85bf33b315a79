package kvwatcher_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/watchers"
	"github.com/keyturn-io/keyturn/watchers/kvwatcher"
	"github.com/keyturn-io/keyturn/watchers/watchertest"
)

const polling = `{"bucket": "CFG", "key": "a"}`

// asked notes when a bucket is asked for a key.
type asked struct {
	kv.Bucket
	mu    sync.Mutex // guards times
	times []time.Time
}

func (a *asked) Get(ctx context.Context, key string) (kv.Entry, error) {
	a.mu.Lock()
	a.times = append(a.times, time.Now())
	a.mu.Unlock()

	return a.Bucket.Get(ctx, key)
}

// pauses returns the times between one question and the next so far, and forgets them.
func (a *asked) pauses() (pauses []time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := 1; i < len(a.times); i++ {
		pauses = append(pauses, a.times[i].Sub(a.times[i-1]))
	}
	a.times = nil

	return pauses
}

// TestPollBacksOff leaves a bucket that is away alone for longer and longer, at random
// and up to a limit, and asks as often as before once it is back.
func TestPollBacksOff(t *testing.T) {
	for _, c := range []struct{ interval, longest time.Duration }{
		{time.Second, 30 * time.Second},
		{7 * time.Second, 30 * time.Second},
		{time.Minute, time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			store := newStore(t)
			bucket, err := store.Bucket("CFG")
			if err != nil {
				t.Fatal(err)
			}
			a := &asked{Bucket: bucket}
			m := watchertest.NewMachine(t)
			m.Env.Interval = c.interval
			m.Env.Bucket = func(string) (kv.Bucket, error) { return a, nil }
			leave := m.Enter(m.Watcher(kvwatcher.Kind, polling))
			usual := func(when string) {
				time.Sleep(5 * c.interval)
				pauses := a.pauses()
				if len(pauses) < 3 || slices.ContainsFunc(pauses, func(p time.Duration) bool { return p != c.interval }) {
					t.Errorf("%v, %s: pauses of %v", c.interval, when, pauses)
				}
			}
			time.Sleep(c.interval / 2) // not when it asks
			a.pauses()
			usual("before")

			store.Down()
			time.Sleep(2 * time.Hour)
			pauses := a.pauses()
			limit, different := 2*c.interval, map[time.Duration]bool{}
			for i, pause := range pauses {
				limit = min(limit, c.longest)
				if pause < c.interval || pause > limit {
					t.Errorf("%v: pause %d is %v, want %v to %v", c.interval, i+1, pause, c.interval, limit)
				}
				limit *= 2
				different[pause] = true
			}
			if random := c.interval < c.longest; random != (len(different) > len(pauses)/2) {
				t.Errorf("%v: %d different ones among %d pauses", c.interval, len(different), len(pauses))
			}

			store.Up()
			time.Sleep(c.longest + c.interval/2)
			a.pauses()
			usual("after")
			if err := leave(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAwayIsSaidOnce says once that the bucket is away and once that it is back, each
// time, and reports the failure until the machine takes it, once in each visit.
func TestAwayIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore(t)
		m := watchertest.NewMachine(t)
		m.Env.Interval, m.Env.Bucket = time.Second, store.Bucket
		refuses := true
		m.Answer = func(o watchers.Observation) error {
			if refuses && o.Outcome == watchers.Failure {
				return watchers.ErrRefused
			}
			return nil
		}
		w := m.Watcher(kvwatcher.Kind, polling)
		visit := func() {
			t.Helper()
			leave := m.Enter(w)
			time.Sleep(5 * time.Minute)
			if err := leave(); err != nil {
				t.Error(err)
			}
		}
		visit()
		store.Down()
		visit()
		visit()
		refuses = false
		visit()
		visit()
		store.Up()
		visit()
		store.Down()
		visit()
		store.Up()
		visit()

		failures := 0
		for _, o := range m.Observations() {
			if o.Outcome == watchers.Failure {
				failures++
			}
		}
		if failures != 4 {
			t.Errorf("%d failures, want one in each visit that refuses it and one that is taken, and one the second time", failures)
		}
		log := m.Log.String()
		if away, back := strings.Count(log, "cannot be had"), strings.Count(log, "is back"); away != 2 || back != 2 {
			t.Errorf("the log says %d times that the bucket is away and %d times that it is back:\n%s", away, back, log)
		}
	})
}

// silent is a bucket whose server does not answer.
type silent struct{ kv.Bucket }

func (silent) Get(context.Context, string) (kv.Entry, error) {
	return kv.Entry{}, fmt.Errorf("get a: %w: %w", kv.ErrUnavailable, context.DeadlineExceeded)
}

// TestSilenceIsToldInPlainWords shows what people read of a server that does not answer.
func TestSilenceIsToldInPlainWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := watchertest.NewMachine(t)
		m.Env.Interval = time.Second
		m.Env.Bucket = func(string) (kv.Bucket, error) { return silent{}, nil }
		leave := m.Enter(m.Watcher(kvwatcher.Kind, polling))
		synctest.Wait()
		if err := leave(); err != nil {
			t.Fatal(err)
		}
		if all := m.Observations(); len(all) == 0 || all[0].Detail != "get a: store unavailable: no answer in time" {
			t.Errorf("it reports %+v", all)
		}
	})
}
