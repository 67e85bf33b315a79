package cached_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/cached"
	"github.com/keyturn-io/keyturn/kv/memkv"
)

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
