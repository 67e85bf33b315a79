package cached_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/cached"
	"github.com/keyturn-io/keyturn/kv/memkv"
)

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
