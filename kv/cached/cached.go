// Package cached answers the reads of a bucket from memory, at the price of one
// watch. [Bucket] is a kv.Bucket on top of any other.
//
// # What a reader may rely on
//
// Memory holds what the watch has told, so it is behind the bucket by as long as
// an event takes, and by no more than Options.MaxStale where the store is away.
// Within that, of one key and through one Bucket:
//
//   - A Get never returns what is older than what was acknowledged, got or told
//     before it was called, by Put and its like, by Get, or by Watch. A write that
//     was refused for a wrong revision is followed by the truth, too. Where memory
//     is not known to be as new as that, the bucket is asked.
//   - That there is no such key, or that it was deleted, is answered from memory as
//     well, with the marker.
//   - When the bucket is created again or restored, memory is given up as soon as
//     the watch says so, and filled anew. Nothing that an earlier life of the
//     bucket has acknowledged outlives that.
//
// The first of these holds within one life of the bucket. Of different keys memory
// may be behind by different times: a Get of one key is no snapshot with the Get of
// another. Writes by others, through another Bucket too, come with the watch.
//
// Before memory is filled, while it is too old, and when the bucket does not exist
// or may not be read, it does not answer: calls go to the bucket, or fail with
// ErrStale, as Options.OnStale says. Calls about keys that are not cached, and all
// but Get and Keys, always go to the bucket. Where this says that the bucket is
// asked, the answer is as good as the bucket's.
//
// One difference remains: a marker that goes without a word, because it expired
// or the bucket was purged, is answered for a while, as ErrKeyDeleted where the
// bucket says ErrKeyNotFound. The first is one of the second.
//
// # What it costs
//
// Each key costs some 250 bytes besides its name and value, and Get one copy of the
// value. [Bucket.Run] has to run somewhere; nothing else does.
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
	// not fit in is got from the bucket. Keys are always held.
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

	hits, misses atomic.Uint64

	mu      sync.RWMutex
	memory  *memory // nil when it cannot answer
	fed     bool    // by the watch that runs now: all it held was told, and it is not lost
	lost    error   // why there is no watch, or what it said; nil while there is one
	contact time.Time
	doubts  map[string]doubt
	number  uint64 // of the newest doubt
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
		Ready:       b.silent() == nil,
		Lost:        b.lost,
		LastContact: b.contact,
		Hits:        b.hits.Load(),
		Misses:      b.misses.Load(),
	}
	if m := b.memory; m != nil {
		st.Keys, st.Bytes, st.Revision, st.Epoch = m.values, m.bytes, m.last, m.epoch
	}
	return st
}

// silent returns why memory does not answer, or nil when it does. It needs b.mu,
// at least for reading.
func (b *Bucket) silent() error {
	switch {
	case b.memory == nil && b.lost == nil:
		return errFilling
	case b.memory == nil:
		return b.lost
	case b.opts.MaxStale > 0 && time.Since(b.contact) > b.opts.MaxStale:
		return errTooOld
	}
	return nil
}
