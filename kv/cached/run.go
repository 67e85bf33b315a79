package cached

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/keyturn-io/keyturn/kv"
)

// settleEvery is how long a doubt may stand before the bucket is asked about it,
// and how long that may take. The watch ends most doubts at once.
const settleEvery = time.Second

// maxDoubts is how many doubts make it worth to begin anew rather than to ask about each.
const maxDoubts = 1000

// Run fills memory and keeps it up to date until ctx is done, and then returns nil.
// It may be called again after that, but not twice at the same time, which is an error.
func (b *Bucket) Run(ctx context.Context) error {
	if !b.running.CompareAndSwap(false, true) {
		return errors.New("cached: Run runs already")
	}
	defer b.running.Store(false)
	defer b.forget(errNotRunning)

	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { b.settle(ctx) })
	if b.opts.MaxStale > 0 {
		wg.Go(func() { b.probe(ctx) })
	}

	for attempts := 0; ctx.Err() == nil; {
		if b.session(ctx) {
			attempts = 0
			continue
		}
		attempts++
		select {
		case <-ctx.Done():
		case <-time.After(pause(attempts)):
		}
	}
	return nil
}

// pause is how long to wait after a number of watches that ended by themselves, 1
// or more: 50 milliseconds at first, 2 seconds at most, less a random part.
func pause(attempts int) time.Duration {
	d := min(50*time.Millisecond<<min(attempts-1, 10), 2*time.Second)
	return d/2 + rand.N(d/2)
}

// session fills a memory from one watch, lets it answer once all has been told, and
// follows the watch until there is a reason to begin anew. The old memory answers in
// the meantime, if it may. It returns false when the watch ended by itself.
func (b *Bucket) session(ctx context.Context) bool {
	m, before := &memory{}, b.begin()
	for event, err := range b.bucket.Watch(ctx, kv.WatchOptions{Filters: b.opts.Filters}) {
		if err != nil {
			b.lose(err)
			return false
		}
		switch event.Kind {
		case kv.Put, kv.Delete, kv.Purge, kv.Missing:
			if tooMuch := b.tell(m, event); tooMuch {
				return true
			}
		case kv.Synced:
			b.answer(m, before, event.Epoch)
		case kv.Lost:
			b.lose(event.Err)
		case kv.Found:
			return true
		case kv.Reset:
			b.forget(errReset)
			return true
		}
	}
	return false
}

// begin begins a session and returns the newest doubt before it.
func (b *Bucket) begin() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost, b.fed = nil, false
	return b.number
}

// tell remembers what has become of a key. It says whether there is so much
// besides values that beginning anew is better.
func (b *Bucket) tell(m *memory, event kv.Event) (tooMuch bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := event.Entry
	if event.Kind == kv.Missing {
		m.remove(e.Key)
	} else {
		m.put(e, b.opts.MaxBytes)
	}
	if m != b.memory.Load() {
		return false // it is being filled
	}
	b.heard(time.Now())
	if d, ok := b.doubts[e.Key]; ok && d.claim.meets(e) {
		b.settled(e.Key)
	}
	return m.overgrown() || len(b.doubts) > maxDoubts+m.size/2
}

// answer lets a memory answer that has been told all. The doubts up to the number
// before arose before it began, so it knows what they are about.
func (b *Bucket) answer(m *memory, before uint64, epoch kv.Epoch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.heard(time.Now())
	b.fed = true
	if m == b.memory.Load() {
		return
	}
	m.epoch = epoch
	m.markers = m.size - m.values
	b.memory.Store(m)
	for key, d := range b.doubts {
		if d.number <= before || m.meets(key, d.claim) {
			b.settled(key)
		}
	}
	select {
	case <-b.ready:
	default:
		close(b.ready)
	}
}

// lose notes that the watch is cut off. If the bucket is not merely out of reach,
// memory is of no use.
func (b *Bucket) lose(reason error) {
	if errors.Is(reason, kv.ErrBucketNotFound) || errors.Is(reason, kv.ErrPermission) {
		b.forget(reason)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fed, b.lost = false, reason
}

// forget gives memory up, for a reason.
func (b *Bucket) forget(reason error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.memory.Store(nil)
	b.fed, b.lost = false, reason
	clear(b.doubts)
	b.doubtful.Store(0)
}

// settle asks the bucket about each doubt that has stood for a while.
func (b *Bucket) settle(ctx context.Context) {
	ticker := time.NewTicker(settleEvery)
	defer ticker.Stop()
	for before := uint64(0); ; before = b.newestDoubt() {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		ctx, cancel := context.WithTimeout(ctx, settleEvery)
		for _, key := range b.standing(before) {
			if _, err := b.ask(ctx, key); err != nil && !errors.Is(err, kv.ErrKeyNotFound) {
				break
			}
		}
		cancel()
	}
}

// standing returns the keys of the doubts up to a number, if memory is fed.
func (b *Bucket) standing(upTo uint64) (keys []string) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for key, d := range b.doubts {
		if b.fed && d.number <= upTo {
			keys = append(keys, key)
		}
	}
	return keys
}

// probe asks for the bucket's status where the watch has nothing to tell, so that
// silence does not make memory too old.
func (b *Bucket) probe(ctx context.Context) {
	every := b.opts.MaxStale / 3
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		began := time.Now()
		if began.Sub(b.born)-time.Duration(b.contact.Load()) < every/2 {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, b.opts.MaxStale)
		st, err := b.bucket.Status(ctx)
		cancel()
		if err == nil {
			b.alive(st.Epoch, began)
		}
	}
}

// alive notes that the bucket of that epoch has answered at some time after at.
func (b *Bucket) alive(epoch kv.Epoch, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fed && b.memory.Load().epoch == epoch {
		b.heard(at)
	}
}

// heard notes a contact with the bucket. It needs b.mu.
func (b *Bucket) heard(at time.Time) {
	b.contact.Store(max(b.contact.Load(), int64(at.Sub(b.born))))
}
