package cached_test

import (
	"context"
	"errors"
	"iter"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/memkv"
)

const name = "TEST"

// memory returns a store with an empty bucket.
func memory(t testing.TB) *memkv.Store {
	t.Helper()
	s := memkv.New()
	must(t, s.Create(name, memkv.Config{}))
	return s
}

// bubble runs a test in a bubble, in which time is fake and a goroutine that is left
// behind fails the test.
func bubble(t *testing.T, f func(t *testing.T, s *memkv.Store, below *spy)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := memory(t)
		b, err := s.Bucket(name)
		must(t, err)
		f(t, s, newSpy(b))
	})
}

// spy is a bucket that counts what it is asked, and that has faults.
type spy struct {
	kv.Bucket
	asked  counts
	faults atomic.Pointer[faults]
}

type counts struct{ gets, lists, watches atomic.Int64 }

type faults struct {
	lag    func(watch int) time.Duration // of each event that the watch of that number tells
	cut    error                         // ends each watch at once
	status func() (kv.Status, error)     // answers in the bucket's place
	ack    time.Duration                 // how long after a put it is acknowledged
}

func newSpy(b kv.Bucket) *spy {
	s := &spy{Bucket: b}
	s.fault(faults{})
	return s
}

func (s *spy) fault(f faults) {
	if f.lag == nil {
		f.lag = func(int) time.Duration { return 0 }
	}
	s.faults.Store(&f)
}

func (s *spy) gets() int    { return int(s.asked.gets.Load()) }
func (s *spy) lists() int   { return int(s.asked.lists.Load()) }
func (s *spy) watches() int { return int(s.asked.watches.Load()) }

func (s *spy) Get(ctx context.Context, key string) (kv.Entry, error) {
	s.asked.gets.Add(1)
	return s.Bucket.Get(ctx, key)
}

func (s *spy) Keys(ctx context.Context, filters ...string) ([]string, error) {
	s.asked.lists.Add(1)
	return s.Bucket.Keys(ctx, filters...)
}

func (s *spy) Put(ctx context.Context, key string, value []byte) (kv.Revision, error) {
	ack := s.faults.Load().ack
	rev, err := s.Bucket.Put(ctx, key, value)
	time.Sleep(ack)
	return rev, err
}

func (s *spy) Status(ctx context.Context) (kv.Status, error) {
	if status := s.faults.Load().status; status != nil {
		return status()
	}
	return s.Bucket.Status(ctx)
}

func (s *spy) Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
	return func(yield func(kv.Event, error) bool) {
		watch := int(s.asked.watches.Add(1))
		if err := s.faults.Load().cut; err != nil {
			yield(kv.Event{}, err)
			return
		}
		for event, err := range s.Bucket.Watch(ctx, opts) {
			if lag := s.faults.Load().lag(watch); lag > 0 {
				time.Sleep(lag)
			}
			if !yield(event, err) {
				return
			}
		}
	}
}

// behind makes some watches be behind.
func behind(d time.Duration, only func(watch int) bool) faults {
	return faults{lag: func(watch int) time.Duration {
		if only(watch) {
			return d
		}
		return 0
	}}
}

func all(int) bool         { return true }
func first(watch int) bool { return watch == 1 }
func later(watch int) bool { return watch > 1 }

// wantGet wants a value, or an error if want is one.
func wantGet(t *testing.T, b kv.Bucket, key string, want any) kv.Entry {
	t.Helper()
	e, err := b.Get(t.Context(), key)
	if target, ok := want.(error); ok {
		if !errors.Is(err, target) {
			t.Errorf("get %s: %q and error %v, want error %v", key, e.Value, err, target)
		}
	} else if err != nil || string(e.Value) != want {
		t.Errorf("get %s: %q and error %v, want %q", key, e.Value, err, want)
	}
	return e
}

func put(t *testing.T, b kv.Bucket, key, value string) {
	t.Helper()
	_, err := b.Put(t.Context(), key, []byte(value))
	must(t, err)
}

func wantCount(t *testing.T, what string, got, want int) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %d, want %d", what, got, want)
	}
}
