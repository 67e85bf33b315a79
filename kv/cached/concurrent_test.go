package cached_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/cached"
	"github.com/keyturn-io/keyturn/kv/memkv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// jitter makes a watch be behind by anything up to d, and often not at all.
func jitter(d time.Duration) faults {
	return faults{lag: func(int) time.Duration {
		if rand.N(2) == 0 {
			return 0
		}
		return rand.N(d)
	}}
}

// history is what is known of keys by all who use one Bucket: the highest revision
// of each that a call has returned, or put a marker on.
type history struct {
	t     *testing.T
	b     *cached.Bucket
	known []atomic.Uint64
}

func newHistory(t *testing.T, b *cached.Bucket) *history {
	return &history{t, b, make([]atomic.Uint64, 5)}
}

// learn notes that a revision of a key is there, or a later one.
func (h *history) learn(i int, rev kv.Revision) {
	for old := h.known[i].Load(); old < uint64(rev); old = h.known[i].Load() {
		if h.known[i].CompareAndSwap(old, uint64(rev)) {
			return
		}
	}
}

// step calls the Bucket in some way and holds what it returns to what was known when
// the call began. That is the first promise of the package in one life of a bucket.
func (h *history) step() {
	i := rand.N(len(h.known))
	key, ctx := fmt.Sprint("k", i), h.t.Context()
	before := h.known[i].Load()
	switch rand.N(10) {
	case 0, 1:
		rev, err := h.b.Put(ctx, key, []byte(fmt.Sprint(rand.N(3))))
		if err != nil {
			h.t.Error(err)
		}
		h.learn(i, rev)
	case 2:
		rev, err := h.b.Update(ctx, key, []byte("updated"), kv.Revision(before))
		if err == nil {
			h.learn(i, rev)
		} else if !errors.Is(err, kv.ErrWrongRevision) {
			h.t.Error(err)
		}
	case 3:
		end := h.b.Delete
		if rand.N(2) == 0 {
			end = h.b.Purge
		}
		if err := end(ctx, key, 0); err != nil {
			h.t.Error(err)
		}
		h.learn(i, kv.Revision(before+1)) // its own is higher than all that were known
	default:
		e, err := h.b.Get(ctx, key)
		if err != nil && !errors.Is(err, kv.ErrKeyNotFound) {
			h.t.Error(err)
		}
		if uint64(e.Revision) < before {
			h.t.Errorf("get %s: revision %d, but %d was known before", key, e.Revision, before)
		}
		if (e.Operation == kv.OpPut) != (err == nil) {
			h.t.Errorf("get %s: %s and error %v", key, e.Operation, err)
		}
		h.learn(i, e.Revision)
	}
}

func TestNoKeyGoesBack(t *testing.T) {
	for range 20 {
		bubble(t, func(t *testing.T, s *memkv.Store, below *spy) {
			below.fault(jitter(5 * time.Millisecond))
			c := open(t, below, cached.Options{MaxBytes: 3})
			run(t, c)
			h := newHistory(t, c)
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for range 300 {
						h.step()
						if rand.N(3) == 0 {
							time.Sleep(rand.N(5 * time.Millisecond))
						}
					}
				})
			}
			wg.Go(func() { // a watch is a reader too
				ctx := t.Context()
				for event, err := range c.Watch(ctx, kv.WatchOptions{}) {
					if err != nil || t.Failed() || event.Entry.Key == "end" {
						return
					}
					var i int
					if _, err := fmt.Sscanf(event.Entry.Key, "k%d", &i); err == nil {
						h.learn(i, event.Entry.Revision)
					}
				}
			})
			for range 3 {
				time.Sleep(100 * time.Millisecond)
				s.Down()
				s.Up()
			}
			time.Sleep(time.Minute)
			put(t, c, "end", "")
			wg.Wait()
		})
	}
}

// TestOwnWritesAcrossLives has each goroutine put to a key of its own and get what it
// put, while the bucket is created again and restored in between.
func TestOwnWritesAcrossLives(t *testing.T) {
	for range 20 {
		bubble(t, func(t *testing.T, s *memkv.Store, below *spy) {
			below.fault(jitter(20 * time.Millisecond))
			c := open(t, below, cached.Options{})
			run(t, c)
			backup, err := s.Backup(name)
			must(t, err)

			// A life ends while nobody reads what he wrote. A mutex will not do: who
			// waits for one stops the clock of a bubble.
			const writers = 6
			life := make(chan struct{}, writers)
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					key := fmt.Sprint("k", w)
					for n := range 300 {
						value := fmt.Sprint(n)
						life <- struct{}{}
						put(t, c, key, value)
						for range rand.N(3) {
							time.Sleep(rand.N(5 * time.Millisecond))
							wantGet(t, c, key, value)
						}
						<-life
						time.Sleep(rand.N(5 * time.Millisecond))
					}
				})
			}
			for n := range 30 {
				time.Sleep(rand.N(100 * time.Millisecond))
				for range writers {
					life <- struct{}{}
				}
				switch n % 3 {
				case 0:
					must(t, s.Remove(name))
					must(t, s.Create(name, memkv.Config{}))
				case 1:
					s.Restore(backup)
				case 2:
					backup, err = s.Backup(name)
					must(t, err)
				}
				for range writers {
					<-life
				}
			}
			wg.Wait()

			// In the end memory holds what the bucket holds, and no doubt is left.
			time.Sleep(time.Minute)
			gets := below.gets()
			for w := range writers {
				key := fmt.Sprint("k", w)
				e, err := below.Bucket.Get(t.Context(), key)
				must(t, err)
				wantGet(t, c, key, string(e.Value))
			}
			wantCount(t, "gets from the bucket in the end", below.gets()-gets, 0)
			wantCount(t, "doubts in the end", c.Doubts(), 0)
		})
	}
}

// TestNoKeyGoesBackOverNATS is TestNoKeyGoesBack with a real server, which restarts.
func TestNoKeyGoesBackOverNATS(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("run", func(t *testing.T) {
		srv := startServer(t)
		client := srv.client(t)
		must(t, client.CreateBucket(t.Context(), natskv.Config{Bucket: name}))
		below, err := client.Bucket(name)
		must(t, err)
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()
		h := newHistory(t, c)
		for range 2 {
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range 2000 {
						h.step()
					}
				})
			}
			wg.Wait()
			srv.stop()
			eventually(t, "the server is lost", func() bool { return c.Stats().Lost != nil })
			if !c.Stats().Ready {
				t.Error("memory does not answer while the server is away")
			}
			srv.start()
			eventually(t, "the server is found", func() bool { return c.Stats().Lost == nil })
		}
		st := c.Stats()
		t.Logf("%d calls were answered from memory, %d by the bucket", st.Hits, st.Misses)
		if st.Hits == 0 {
			t.Error("memory never answered")
		}
	})
}

// TestRunLeavesNothing stops at any moment, in which synctest finds what is left.
func TestRunLeavesNothing(t *testing.T) {
	for i := range 50 {
		bubble(t, func(t *testing.T, s *memkv.Store, below *spy) {
			below.fault(jitter(10 * time.Millisecond))
			c := open(t, below, cached.Options{MaxStale: time.Second})
			stop := run(t, c)
			put(t, c, "a", "1")
			if i%2 == 0 {
				s.Down()
			}
			time.Sleep(rand.N(3 * time.Second))
			stop()
			synctest.Wait()
			if st := c.Stats(); st.Ready || st.Lost == nil {
				t.Errorf("after the end: %+v", st)
			}
		})
	}
}
