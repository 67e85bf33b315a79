// Package cached answers the reads of a bucket from memory, at the price of one
// watch. [Bucket] is a kv.Bucket on top of any other.
//
// # What a reader may rely on
//
// Memory holds what the watch has told. So it is behind the bucket by as long as
// an event takes, and while the store is away by Options.MaxStale at most. Within
// that, of one key and through one Bucket:
//
//   - A Get never returns anything older than what was acknowledged to a Put or its
//     like, returned by a Get, or told by a Watch before that Get was called, in
//     any goroutine. After an Update or a Create that was refused, a Get returns
//     what was in the way, or newer. Where memory is not known to be as new as
//     that, the bucket is asked. The same goes for writes and Keys.
//   - That a key is not there, or was deleted, is answered from memory as well, the
//     latter with the marker.
//   - When the bucket is created again or restored, memory is given up as soon as
//     the watch says so, and filled anew. What an earlier life of the bucket has
//     acknowledged hides nothing of the next one.
//
// Older and newer are within one life of the bucket. Of two keys memory may be
// behind by different times: two Gets are no snapshot. What others write, also
// through another Bucket, comes with the watch.
//
// Before memory is filled, while it is too old, and when the bucket does not exist
// or may not be read, memory does not answer: calls go to the bucket, or fail with
// ErrStale, as Options.OnStale says. Calls about keys that are not cached, and all
// calls but Get and Keys, always go to the bucket. Its answers are as good as it is.
//
// One difference to the bucket remains. A marker that goes without a word, because
// it expired or the whole bucket was purged, is answered for a while: with
// ErrKeyDeleted where the bucket says ErrKeyNotFound, of which it is one.
//
// # What it costs
//
// A Get that memory answers takes no lock that others wait for, and allocates nothing
// (BenchmarkGet). A key takes some 250 bytes besides its name and value
// (BenchmarkKey), and what the bucket below keeps of the keys that it watches comes
// on top. After a delete the first Get asks the bucket, which does not say of which
// revision the marker is.
package cached

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyturn-io/keyturn/kv"
)

// ErrStale says that memory does not answer, because it is not filled yet or too
// old. It is a kv.ErrUnavailable.
var ErrStale = fmt.Errorf("%w: memory is not up to date", kv.ErrUnavailable)

// OnStale says what becomes of a call that memory does not answer.
type OnStale int

// What becomes of a call that memory does not answer.
const (
	FallThrough OnStale = iota // it goes to the bucket
	Fail                       // it returns ErrStale
)

// Options are the choices of a Bucket. The zero value works.
type Options struct {
	// Filters are the keys that are cached, as in kv.Bucket.Keys. None means all.
	Filters []string

	// MaxStale is how long memory answers after the last contact with the bucket:
	// an event of the watch or, where there is none for a third of this, an answer
	// to Status while the watch is not lost. 0 is without bound, and 100 milliseconds
	// is the least else. The bound trusts the watch to say so when it is cut off.
	MaxStale time.Duration

	// OnStale says what becomes of a call that memory does not answer.
	OnStale OnStale

	// MaxBytes bounds the values that are held; 0 is no bound. A value that does
	// not fit in is got from the bucket. Keys are always held. While memory is filled
	// anew there are two of them.
	MaxBytes int64
}

// Bucket is a bucket that answers Get and Keys from memory while Run runs. Its
// methods may be called at the same time from several goroutines.
type Bucket struct {
	bucket  kv.Bucket
	name    string
	opts    Options
	running atomic.Bool
	ready   chan struct{} // closed when memory was filled for the first time

	hits   hits
	misses atomic.Uint64

	// Get reads these without a lock, for a lock that many readers take is slower
	// than all the rest. It reads doubtful first: a doubt is over only after memory
	// has what it was about. They change under mu.
	doubtful atomic.Int64 // how many doubts there are
	memory   atomic.Pointer[memory]
	contact  atomic.Int64 // the last one, in nanoseconds after born
	born     time.Time

	mu     sync.RWMutex
	fed    bool  // memory, by the watch that runs now: it has told all and is not lost
	lost   error // why there is no watch, or what it said; nil while there is one
	doubts map[string]doubt
	number uint64 // of the newest doubt
}

// Stats is the state of a Bucket at one moment.
type Stats struct {
	Ready       bool        // memory answers
	Lost        error       // why the watch is cut off; nil while it is not
	Keys        int         // that hold a value
	Bytes       int64       // of the values that are held
	LastContact time.Time   // with the bucket, see Options.MaxStale
	Revision    kv.Revision // the highest told
	Epoch       kv.Epoch    // the life of the bucket that memory is about
	Hits        uint64      // calls of Get and Keys that memory answered
	Misses      uint64      // calls of Get and Keys about cached keys that it did not
}

// Why memory does not answer, if the watch has not said more.
var (
	errNotRunning = errors.New("nothing keeps it so")
	errFilling    = errors.New("it is being filled")
	errReset      = errors.New("the bucket is not the one it was")
	errTooOld     = errors.New("the last contact with the bucket was too long ago")
)

// New returns a Bucket on top of another. It asks nobody and starts nothing: until
// Run runs, every call goes to the bucket or fails, as opts.OnStale says. It
// returns kv.ErrInvalidKey for a filter that kv.CheckFilter refuses.
func New(bucket kv.Bucket, opts Options) (*Bucket, error) {
	if bucket == nil {
		return nil, errors.New("cached: no bucket")
	}
	if err := kv.CheckFilters(opts.Filters); err != nil {
		return nil, fmt.Errorf("cached: %w", err)
	}
	switch {
	case opts.MaxStale < 0 || opts.MaxStale > 0 && opts.MaxStale < 100*time.Millisecond:
		return nil, fmt.Errorf("cached: MaxStale is %s, want 0 or at least 100ms", opts.MaxStale)
	case opts.OnStale != FallThrough && opts.OnStale != Fail:
		return nil, fmt.Errorf("cached: OnStale is %d, want FallThrough or Fail", opts.OnStale)
	case opts.MaxBytes < 0:
		return nil, fmt.Errorf("cached: MaxBytes is %d, want 0 or more", opts.MaxBytes)
	}
	opts.Filters = slices.Clone(opts.Filters)
	return &Bucket{
		bucket: bucket,
		name:   bucket.Name(),
		opts:   opts,
		ready:  make(chan struct{}),
		lost:   errNotRunning,
		born:   time.Now(),
		doubts: map[string]doubt{},
	}, nil
}

// Ready returns a channel that is closed when memory is filled for the first time.
func (b *Bucket) Ready() <-chan struct{} { return b.ready }

// Stats returns the state as it is now. It waits for nobody.
func (b *Bucket) Stats() Stats {
	b.mu.RLock()
	defer b.mu.RUnlock()
	st := Stats{
		Ready:  b.silent() == nil,
		Lost:   b.lost,
		Hits:   b.hits.sum(),
		Misses: b.misses.Load(),
	}
	if contact := b.contact.Load(); contact > 0 {
		st.LastContact = b.born.Add(time.Duration(contact))
	}
	if m := b.memory.Load(); m != nil {
		st.Keys, st.Bytes, st.Revision, st.Epoch = m.values, m.bytes, m.last, m.epoch
	}
	return st
}

// silent returns why memory does not answer, or nil when it does. It needs b.mu,
// at least for reading.
func (b *Bucket) silent() error {
	m := b.memory.Load()
	switch {
	case m == nil && b.lost == nil:
		return errFilling
	case m == nil:
		return b.lost
	case b.tooOld():
		return errTooOld
	}
	return nil
}

// tooOld says whether the last contact was too long ago.
func (b *Bucket) tooOld() bool {
	return b.opts.MaxStale > 0 && time.Since(b.born)-time.Duration(b.contact.Load()) > b.opts.MaxStale
}

// hits counts, in parts so that those who count do not wait for one another.
type hits [16]struct {
	n atomic.Uint64
	_ [56]byte // a cache line for each
}

// add counts one; part is any number that differs from call to call.
func (h *hits) add(part uint64) { h[part%uint64(len(h))].n.Add(1) }

func (h *hits) sum() (n uint64) {
	for i := range h {
		n += h[i].n.Load()
	}
	return n
}
