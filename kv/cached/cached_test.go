package cached_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/cached"
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

func TestAnswersFromMemory(t *testing.T) {
	bubble(t, func(t *testing.T, _ *memkv.Store, below *spy) {
		put(t, below, "a", "1")
		put(t, below, "deleted", "x")
		must(t, below.Delete(t.Context(), "deleted", 0))
		put(t, below, "purged", "x")
		must(t, below.Purge(t.Context(), "purged", 0))
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()

		for _, key := range []string{"a", "deleted", "purged", "never"} {
			want, wantErr := below.Bucket.Get(t.Context(), key)
			got, err := c.Get(t.Context(), key)
			if got.Bucket != want.Bucket || got.Key != want.Key || !bytes.Equal(got.Value, want.Value) || got.Revision != want.Revision ||
				!got.Created.Equal(want.Created) || got.Operation != want.Operation {
				t.Errorf("got %+v, the bucket has %+v", got, want)
			}
			if fmt.Sprint(err) != fmt.Sprint(wantErr) || errors.Is(err, kv.ErrKeyDeleted) != errors.Is(wantErr, kv.ErrKeyDeleted) {
				t.Errorf("get %s: %v, the bucket says %v", key, err, wantErr)
			}
		}
		wantGet(t, c, "a..b", kv.ErrInvalidKey)
		put(t, below, "a", "2") // by somebody else
		put(t, below, "b", "3")
		synctest.Wait()
		wantGet(t, c, "a", "2")
		keys, err := c.Keys(t.Context())
		must(t, err)
		if !slices.Equal(keys, []string{"a", "b"}) {
			t.Errorf("keys are %v", keys)
		}
		wantCount(t, "gets from the bucket", below.gets(), 0)
		wantCount(t, "lists from the bucket", below.lists(), 0)
		st := c.Stats()
		if !st.Ready || st.Lost != nil || st.Keys != 2 || st.Bytes != 2 || st.Revision != 7 || st.Epoch == "" || st.Hits != 6 || st.Misses != 0 {
			t.Errorf("stats are %+v", st)
		}
	})
}

// TestSeesOwnWrites has a watch that is a minute behind.
func TestSeesOwnWrites(t *testing.T) {
	bubble(t, func(t *testing.T, _ *memkv.Store, below *spy) {
		put(t, below, "a", "0")
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()
		below.fault(behind(time.Minute, all))
		ctx := t.Context()

		put(t, c, "a", "1")
		wantGet(t, c, "a", "1")
		rev, err := c.Create(ctx, "b", []byte("2"))
		must(t, err)
		wantGet(t, c, "b", "2")
		_, err = c.Update(ctx, "b", []byte("3"), rev)
		must(t, err)
		wantGet(t, c, "b", "3")
		must(t, c.Delete(ctx, "a", 0))
		if e := wantGet(t, c, "a", kv.ErrKeyDeleted); e.Operation != kv.OpDelete {
			t.Errorf("the marker is %+v", e)
		}
		must(t, c.Purge(ctx, "b", 0))
		if e := wantGet(t, c, "b", kv.ErrKeyDeleted); e.Operation != kv.OpPurge {
			t.Errorf("the marker is %+v", e)
		}
		put(t, c, "c", "4")
		keys, err := c.Keys(ctx)
		must(t, err)
		if !slices.Equal(keys, []string{"c"}) {
			t.Errorf("keys are %v", keys)
		}

		time.Sleep(time.Hour)
		gets, lists := below.gets(), below.lists()
		wantGet(t, c, "a", kv.ErrKeyDeleted)
		wantGet(t, c, "c", "4")
		_, err = c.Keys(ctx)
		must(t, err)
		wantCount(t, "gets from the bucket when the watch has caught up", below.gets()-gets, 0)
		wantCount(t, "lists from the bucket when the watch has caught up", below.lists()-lists, 0)
	})
}

// TestWriteIsToldAtOnce has a watch that is as fast as writes are: no Get needs
// the bucket, except after a delete, of which the revision is not known.
func TestWriteIsToldAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, _ *memkv.Store, below *spy) {
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()
		for i := range 10 {
			put(t, c, "a", fmt.Sprint(i))
			synctest.Wait()
			wantGet(t, c, "a", fmt.Sprint(i))
		}
		wantCount(t, "gets from the bucket", below.gets(), 0)
		must(t, c.Delete(t.Context(), "a", 0))
		synctest.Wait()
		wantGet(t, c, "a", kv.ErrKeyDeleted)
		wantGet(t, c, "a", kv.ErrKeyDeleted)
		wantCount(t, "gets from the bucket after a delete", below.gets(), 1)
	})
}

// TestTwoWritersAtTheSameTime has the first of two puts acknowledged last.
func TestTwoWritersAtTheSameTime(t *testing.T) {
	bubble(t, func(t *testing.T, _ *memkv.Store, below *spy) {
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()
		below.fault(faults{ack: time.Second})
		var wg sync.WaitGroup
		wg.Go(func() { put(t, c, "a", "first") })
		synctest.Wait() // the watch has told of it
		below.fault(behind(time.Minute, all))
		put(t, c, "a", "second")
		wg.Wait()
		wantGet(t, c, "a", "second")
	})
}

// TestDoubtEndsUnread deletes what nobody reads: listing keys is not slow for ever.
func TestDoubtEndsUnread(t *testing.T) {
	bubble(t, func(t *testing.T, _ *memkv.Store, below *spy) {
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()
		must(t, c.Delete(t.Context(), "a", 0))
		time.Sleep(3 * time.Second)
		wantCount(t, "gets from the bucket", below.gets(), 1)
		_, err := c.Keys(t.Context())
		must(t, err)
		wantCount(t, "lists from the bucket", below.lists(), 0)
	})
}

// TestManyDoubts has more doubts than are worth to be asked about one by one.
func TestManyDoubts(t *testing.T) {
	bubble(t, func(t *testing.T, _ *memkv.Store, below *spy) {
		const keys = 3000
		for i := range keys {
			put(t, below, fmt.Sprint("k", i), "")
		}
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()
		for i := range keys {
			if _, err := c.Create(t.Context(), fmt.Sprint("k", i), nil); !errors.Is(err, kv.ErrKeyExists) {
				t.Fatal(err)
			}
		}
		wantCount(t, "doubts", c.Doubts(), keys)
		put(t, below, "a", "")
		synctest.Wait()
		wantCount(t, "doubts when there were too many", c.Doubts(), 0)
		wantCount(t, "gets from the bucket", below.gets(), 0)
	})
}

// TestNoDoubtWithoutMemory reads and writes where no watch may be had for ever.
func TestNoDoubtWithoutMemory(t *testing.T) {
	bubble(t, func(t *testing.T, _ *memkv.Store, below *spy) {
		below.fault(faults{cut: kv.ErrPermission})
		c := open(t, below, cached.Options{})
		put(t, c, "a", "1")
		wantCount(t, "doubts before it runs", c.Doubts(), 0)
		run(t, c)
		synctest.Wait()
		put(t, c, "b", "1")
		wantGet(t, c, "a", "1")
		wantGet(t, c, "never", kv.ErrKeyNotFound)
		wantCount(t, "doubts while there is no watch", c.Doubts(), 0)
	})
}

// TestRefusedWriteIsFollowedByTheTruth makes a loop of Get and Update end although
// the watch is behind.
func TestRefusedWriteIsFollowedByTheTruth(t *testing.T) {
	bubble(t, func(t *testing.T, _ *memkv.Store, below *spy) {
		put(t, below, "a", "1")
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()
		below.fault(behind(time.Hour, all))
		put(t, below, "a", "2")
		wantGet(t, c, "a", "1")
		if _, err := c.Update(t.Context(), "a", []byte("3"), 1); !errors.Is(err, kv.ErrWrongRevision) {
			t.Fatalf("update from an old revision: %v", err)
		}
		wantGet(t, c, "a", "2")
		put(t, below, "b", "1")
		wantGet(t, c, "b", kv.ErrKeyNotFound)
		if _, err := c.Create(t.Context(), "b", nil); !errors.Is(err, kv.ErrKeyExists) {
			t.Fatalf("create what is there: %v", err)
		}
		wantGet(t, c, "b", "1")
	})
}

// TestGetFollowsWatch reads a key when a watch through the same Bucket tells of it.
func TestGetFollowsWatch(t *testing.T) {
	bubble(t, func(t *testing.T, s *memkv.Store, below *spy) {
		put(t, below, "a", "0")
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()
		seen := 0
		for event, err := range c.Watch(t.Context(), kv.WatchOptions{}) {
			must(t, err)
			switch event.Kind {
			case kv.Synced:
				below.fault(behind(time.Minute, first)) // of the watch that fills memory
				put(t, below.Bucket, "a", "1")
			case kv.Put:
				wantGet(t, c, "a", string(event.Entry.Value))
				if seen++; seen == 2 {
					must(t, s.Vanish(name, "a"))
				}
			case kv.Missing:
				wantGet(t, c, "a", kv.ErrKeyNotFound)
				return
			}
		}
	})
}

func TestStale(t *testing.T) {
	const bound = 9 * time.Second
	for _, onStale := range []cached.OnStale{cached.FallThrough, cached.Fail} {
		bubble(t, func(t *testing.T, s *memkv.Store, below *spy) {
			put(t, below, "a", "1")
			c := open(t, below, cached.Options{MaxStale: bound, OnStale: onStale})
			notReady := func() {
				t.Helper()
				if onStale == cached.Fail {
					wantGet(t, c, "a", cached.ErrStale)
					wantGet(t, c, "a", kv.ErrUnavailable)
					wantGet(t, c, "a b", kv.ErrInvalidKey)
					if _, err := c.Keys(t.Context()); !errors.Is(err, cached.ErrStale) {
						t.Errorf("keys: %v", err)
					}
				} else {
					gets := below.gets()
					wantGet(t, c, "a", "1")
					wantCount(t, "gets from the bucket", below.gets()-gets, 1)
				}
				if c.Stats().Ready {
					t.Error("it says that memory answers")
				}
			}
			notReady() // nothing runs
			run(t, c)
			<-c.Ready()
			quiet := func(gets int) {
				t.Helper()
				before := below.gets()
				wantGet(t, c, "a", "1")
				wantCount(t, "gets from the bucket", below.gets()-before, gets)
			}
			quiet(0)
			time.Sleep(time.Hour) // nothing happens, which a probe confirms
			quiet(0)
			if age := time.Since(c.Stats().LastContact); age > bound/2 {
				t.Errorf("the last contact was %s ago", age)
			}

			// A watch that does not notice is found by probes.
			below.fault(faults{status: func() (kv.Status, error) { return kv.Status{}, kv.ErrUnavailable }})
			for range 10 { // events are as good
				time.Sleep(bound / 3)
				put(t, below, "b", "")
				synctest.Wait()
				quiet(0)
			}
			time.Sleep(bound)
			quiet(0)
			time.Sleep(time.Nanosecond)
			notReady()
			below.fault(faults{})
			time.Sleep(bound/3 + 1)
			quiet(0)

			// A watch that is lost is stale from then on, whatever probes say.
			st, err := below.Status(t.Context())
			must(t, err)
			below.fault(faults{status: func() (kv.Status, error) { return st, nil }})
			s.Down()
			synctest.Wait()
			if lost := c.Stats().Lost; !errors.Is(lost, kv.ErrUnavailable) {
				t.Errorf("lost is %v", lost)
			}
			quiet(0)
			time.Sleep(bound / 2)
			quiet(0)
			time.Sleep(bound)
			if onStale == cached.Fail {
				notReady()
			} else {
				wantGet(t, c, "a", kv.ErrUnavailable)
			}
			s.Up()
			synctest.Wait()
			quiet(0)
			if st := c.Stats(); st.Lost != nil || time.Since(st.LastContact) != 0 {
				t.Errorf("after it was found: %+v", st)
			}
		})
	}
}

// TestNoBound answers as long as the store is away, but not when the bucket is gone.
func TestNoBound(t *testing.T) {
	bubble(t, func(t *testing.T, s *memkv.Store, below *spy) {
		put(t, below, "a", "1")
		c := open(t, below, cached.Options{})
		stop := run(t, c)
		<-c.Ready()
		s.Down()
		time.Sleep(24 * time.Hour)
		wantGet(t, c, "a", "1")
		wantGet(t, c, "b", kv.ErrKeyNotFound)
		s.Up()
		must(t, s.Remove(name))
		synctest.Wait()
		wantGet(t, c, "a", kv.ErrBucketNotFound)
		must(t, s.Create(name, memkv.Config{}))
		synctest.Wait()
		gets := below.gets()
		wantGet(t, c, "a", kv.ErrKeyNotFound)
		wantCount(t, "gets from the bucket", below.gets()-gets, 0)

		stop() // and nothing keeps it up to date
		put(t, below, "a", "2")
		wantGet(t, c, "a", "2")
		run(t, c)
		synctest.Wait()
		gets = below.gets()
		wantGet(t, c, "a", "2")
		wantCount(t, "gets from the bucket when it runs again", below.gets()-gets, 0)
	})
}

// TestAnotherLife writes to a bucket that was created again before the watch has
// noticed, in which revisions are low.
func TestAnotherLife(t *testing.T) {
	bubble(t, func(t *testing.T, s *memkv.Store, below *spy) {
		for i := range 100 {
			put(t, below, "a", fmt.Sprint("old ", i))
		}
		put(t, below, "b", "old")
		must(t, below.Delete(t.Context(), "gone", 0))
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()
		below.fault(behind(time.Minute, all))
		put(t, c, "c", "old") // of which the watch never tells
		must(t, s.Remove(name))
		must(t, s.Create(name, memkv.Config{}))
		put(t, c, "a", "new")
		wantGet(t, c, "a", "new")
		wantGet(t, c, "c", kv.ErrKeyNotFound)
		time.Sleep(time.Hour)
		gets := below.gets()
		wantGet(t, c, "a", "new")
		wantGet(t, c, "b", kv.ErrKeyNotFound)
		wantGet(t, c, "c", kv.ErrKeyNotFound)
		if _, err := c.Get(t.Context(), "gone"); errors.Is(err, kv.ErrKeyDeleted) {
			t.Errorf("the marker of another life is there: %v", err)
		}
		wantCount(t, "gets from the bucket when the watch has noticed", below.gets()-gets, 0)
	})
}

// TestResetGivesMemoryUp restores a bucket and has the watch tell of that slowly.
func TestResetGivesMemoryUp(t *testing.T) {
	bubble(t, func(t *testing.T, s *memkv.Store, below *spy) {
		put(t, below, "a", "restored")
		backup, err := s.Backup(name)
		must(t, err)
		put(t, below, "a", "lost")
		must(t, below.Delete(t.Context(), "gone", 0))
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()
		below.fault(behind(time.Minute, later))
		s.Restore(backup)
		synctest.Wait()
		if c.Stats().Ready {
			t.Error("memory answers of another life")
		}
		wantGet(t, c, "a", "restored")
		time.Sleep(time.Hour)
		wantGet(t, c, "a", "restored")
		gets := below.gets()
		if _, err := c.Get(t.Context(), "gone"); errors.Is(err, kv.ErrKeyDeleted) {
			t.Errorf("the marker of another life is there: %v", err)
		}
		wantCount(t, "gets from the bucket when it was told", below.gets()-gets, 0)
	})
}

// TestResetUntold has a watch that does not tell of a reset: memory gets too old.
func TestResetUntold(t *testing.T) {
	bubble(t, func(t *testing.T, s *memkv.Store, below *spy) {
		put(t, below, "a", "old")
		c := open(t, below, cached.Options{MaxStale: time.Second})
		run(t, c)
		<-c.Ready()
		below.fault(behind(time.Hour, all))
		must(t, s.Remove(name))
		must(t, s.Create(name, memkv.Config{}))
		wantGet(t, c, "a", "old")
		time.Sleep(2 * time.Second)
		wantGet(t, c, "a", kv.ErrKeyNotFound)
	})
}

func TestMissing(t *testing.T) {
	bubble(t, func(t *testing.T, s *memkv.Store, below *spy) {
		put(t, below, "a", "1")
		put(t, below, "b", "2")
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()
		must(t, s.Vanish(name, "a"))
		synctest.Wait()
		wantGet(t, c, "a", kv.ErrKeyNotFound)
		must(t, s.PurgeAll(name))
		synctest.Wait()
		wantGet(t, c, "b", kv.ErrKeyNotFound)
		if st := c.Stats(); st.Keys != 0 || st.Bytes != 0 {
			t.Errorf("stats are %+v", st)
		}
		wantCount(t, "gets from the bucket", below.gets(), 0)
	})
}

// TestMarkersThatVanish deletes key after key and has the markers go without a word.
func TestMarkersThatVanish(t *testing.T) {
	bubble(t, func(t *testing.T, s *memkv.Store, below *spy) {
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()
		for i := range 5000 {
			key := fmt.Sprint("k", i)
			must(t, below.Delete(t.Context(), key, 0))
			synctest.Wait()
			must(t, s.Vanish(name, key))
		}
		if below.watches() < 4 || below.watches() > 6 {
			t.Errorf("memory was filled %d times, want about once for 1000 markers", below.watches())
		}
	})
}

func TestFilters(t *testing.T) {
	bubble(t, func(t *testing.T, _ *memkv.Store, below *spy) {
		for _, key := range []string{"a.b", "a.b.c", "x.y.z", "one", "other"} {
			put(t, below, key, key)
		}
		c := open(t, below, cached.Options{Filters: []string{"a.*", "x.>", "one"}})
		run(t, c)
		<-c.Ready()
		for key, gets := range map[string]int{"a.b": 0, "x.y.z": 0, "one": 0, "a.b.c": 1, "other": 1} {
			before := below.gets()
			wantGet(t, c, key, key)
			wantCount(t, "gets from the bucket of "+key, below.gets()-before, gets)
		}
		for filters, lists := range map[string]int{
			"": 1, ">": 1, "*": 1, "a.*": 0, "a.b": 0, "a.>": 1, "x.>": 0, "x.y.*": 0, "x.*.>": 0, "*.>": 1, "one": 0, "other": 1,
			"a.* one x.q": 0, "a.* other": 1, "one.>": 1,
		} {
			before := below.lists()
			got, err := c.Keys(t.Context(), strings.Fields(filters)...)
			must(t, err)
			want, err := below.Bucket.Keys(t.Context(), strings.Fields(filters)...)
			must(t, err)
			if !slices.Equal(got, want) {
				t.Errorf("keys of %q are %v, want %v", filters, got, want)
			}
			wantCount(t, fmt.Sprintf("lists of %q from the bucket", filters), below.lists()-before, lists)
		}
		put(t, c, "other", "2") // no doubt about what is not cached
		wantCount(t, "keys held", c.Stats().Keys, 3)
		before := below.lists()
		_, err := c.Keys(t.Context(), "one")
		must(t, err)
		wantCount(t, "lists from the bucket", below.lists()-before, 0)
	})
}

func TestMaxBytes(t *testing.T) {
	bubble(t, func(t *testing.T, s *memkv.Store, below *spy) {
		value := strings.Repeat("v", 40)
		for _, key := range []string{"a", "b", "c"} {
			put(t, below, key, value)
		}
		c := open(t, below, cached.Options{MaxBytes: 100})
		run(t, c)
		<-c.Ready()
		check := func(key, value string, gets int) {
			t.Helper()
			before := below.gets()
			wantGet(t, c, key, value)
			wantCount(t, "gets from the bucket of "+key, below.gets()-before, gets)
			if n := c.Stats().Bytes; n > 100 {
				t.Errorf("%d bytes are held", n)
			}
		}
		check("a", value, 0)
		check("b", value, 0)
		check("c", value, 1)
		check("c", value, 1)
		put(t, below, "a", "short")
		synctest.Wait()
		check("c", value, 1)
		check("c", value, 0) // there was room when it was got
		put(t, below, "a", value)
		synctest.Wait()
		check("a", value, 1)
		must(t, below.Delete(t.Context(), "b", 0))
		synctest.Wait()
		check("a", value, 1)
		check("a", value, 0)
		wantCount(t, "bytes", int(c.Stats().Bytes), 80)

		// Beginning anew holds no more.
		s.Down()
		synctest.Wait()
		s.Up()
		synctest.Wait()
		wantCount(t, "watches", below.watches(), 2)
		wantCount(t, "bytes", int(c.Stats().Bytes), 80)
		check("a", value, 0)
		check("c", value, 0)
	})
}

// TestWatchThatEnds tries again, ever slower, and then goes on.
func TestWatchThatEnds(t *testing.T) {
	bubble(t, func(t *testing.T, _ *memkv.Store, below *spy) {
		put(t, below, "a", "1")
		below.fault(faults{cut: fmt.Errorf("closed: %w", kv.ErrUnavailable)})
		c := open(t, below, cached.Options{})
		run(t, c)
		time.Sleep(time.Minute)
		if below.watches() < 30 || below.watches() > 80 {
			t.Errorf("%d watches in a minute", below.watches())
		}
		if lost := c.Stats().Lost; !errors.Is(lost, kv.ErrUnavailable) {
			t.Errorf("lost is %v", lost)
		}
		wantGet(t, c, "a", "1")
		below.fault(faults{})
		<-c.Ready()
		gets := below.gets()
		wantGet(t, c, "a", "1")
		wantCount(t, "gets from the bucket", below.gets()-gets, 0)
	})
}

func TestPermissionWithdrawn(t *testing.T) {
	bubble(t, func(t *testing.T, s *memkv.Store, below *spy) {
		put(t, below, "a", "1")
		c := open(t, below, cached.Options{OnStale: cached.Fail})
		run(t, c)
		<-c.Ready()
		below.fault(faults{cut: kv.ErrPermission})
		s.Down()
		synctest.Wait()
		wantGet(t, c, "a", "1")
		s.Up()
		synctest.Wait()
		wantGet(t, c, "a", cached.ErrStale)
		wantGet(t, c, "a", kv.ErrPermission)
	})
}

func TestRunTwice(t *testing.T) {
	bubble(t, func(t *testing.T, _ *memkv.Store, below *spy) {
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()
		if err := c.Run(t.Context()); err == nil {
			t.Error("Run ran twice at the same time")
		}
		if !c.Stats().Ready {
			t.Error("the second one took memory away from the first")
		}
	})
}

func TestNewRefuses(t *testing.T) {
	b, err := memkv.New().Bucket(name)
	must(t, err)
	for _, opts := range []cached.Options{
		{Filters: []string{"a", "a..b"}}, {MaxStale: -1}, {MaxStale: time.Millisecond}, {OnStale: 2}, {MaxBytes: -1},
	} {
		if _, err := cached.New(b, opts); err == nil {
			t.Errorf("%+v was taken", opts)
		}
	}
	if _, err := cached.New(nil, cached.Options{}); err == nil {
		t.Error("no bucket was taken")
	}
}
