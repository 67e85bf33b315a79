// Package view is the part of a bucket that is being watched, as it is known
// now, and who has yet to be told what about it. Implementations of kv.Bucket
// build their Watch on it, so that what a watch tells is decided in one place:
// they say what they have learned about the bucket, and the view works out what
// that means to each subscriber.
//
// What a subscriber has yet to be told is kept as a set of keys, not as a queue
// of events. So a slow reader costs no more than the bucket has keys, is told the
// newest entry of each, and is told nothing of what has come and gone meanwhile.
//
// Nothing in here waits, starts a goroutine or does I/O, except Tell, which runs
// in its caller's goroutine.
package view

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/keyturn-io/keyturn/kv"
)

// View is what is known of one bucket. Make it with New.
type View struct {
	bucket string

	mu     sync.Mutex
	epoch  kv.Epoch
	known  map[string]kv.Entry // the newest of each key, markers included
	subs   map[*Subscriber]struct{}
	number uint64 // of the newest subscriber
	ended  error  // why there is nothing more to tell; nil while there is
}

// Subscriber is one watch of a bucket. Its fields are guarded by view.mu.
type Subscriber struct {
	view    *View
	filters []string
	number  uint64
	wake    chan struct{} // holds a token when there is something to take

	// A subscriber is ready once what is known is as new as its start. Until then
	// it is told of nothing but Lost.
	ready   bool
	pending map[string]identity // the keys to tell, and what was told of each before
	synced  bool                // tell Synced
	reset   bool                // tell Reset
	lost    error               // tell Lost
	found   bool                // tell Found
	away    error               // what Lost was last told for, or will be; nil when the bucket is there
}

// identity tells one entry from another. The time is part of it because another
// life of the bucket may give a revision again.
type identity struct {
	revision  kv.Revision
	created   time.Time
	operation kv.Operation
}

func identify(e kv.Entry) identity { return identity{e.Revision, e.Created, e.Operation} }

func (a identity) equal(b identity) bool {
	return a.revision == b.revision && a.operation == b.operation && a.created.Equal(b.created)
}

// New returns a view of a bucket about which nothing is known yet.
func New(bucket string) *View {
	return &View{bucket: bucket, known: map[string]kv.Entry{}, subs: map[*Subscriber]struct{}{}}
}

// Subscribe adds a subscriber to the keys that one of the filters matches; no
// filter means all keys. It is told nothing before Replace or Admit makes it ready.
func (v *View) Subscribe(filters []string) *Subscriber {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.number++
	s := &Subscriber{
		view:    v,
		filters: slices.Clone(filters),
		number:  v.number,
		wake:    make(chan struct{}, 1),
		pending: map[string]identity{},
	}
	v.subs[s] = struct{}{}
	return s
}

// Leave takes the subscriber out of the view.
func (s *Subscriber) Leave() {
	s.view.mu.Lock()
	defer s.view.mu.Unlock()
	delete(s.view.subs, s)
}

// Filters are the filters that the subscriber came with.
func (s *Subscriber) Filters() []string { return s.filters }

// Newest is the number of the newest subscriber, for Replace.
func (v *View) Newest() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.number
}

// Waiting returns the subscribers that are not ready.
func (v *View) Waiting() []*Subscriber {
	v.mu.Lock()
	defer v.mu.Unlock()
	var waiting []*Subscriber
	for s := range v.subs {
		if !s.ready {
			waiting = append(waiting, s)
		}
	}
	return waiting
}

// Admit makes subscribers ready: the caller knows that what is known is as new
// as their start and holds all that their filters match.
func (v *View) Admit(subs ...*Subscriber) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range subs {
		if _, ok := v.subs[s]; ok && !s.ready {
			s.begin()
		}
	}
}

// Replace says that known is all there is: the newest entry of each key. The
// caller gives the map away. Subscribers up to the number newest become ready.
// With reset, and with another epoch, the bucket is not the one it was before.
func (v *View) Replace(epoch kv.Epoch, known map[string]kv.Entry, reset bool, newest uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.known
	reset = reset || epoch != v.epoch
	v.epoch, v.known = epoch, known
	for key, old := range before {
		now, ok := known[key]
		if ok && identify(now).equal(identify(old)) {
			continue
		}
		v.mark(key, identify(old))
		if ok && now.Revision <= old.Revision {
			reset = true // no bucket goes back by itself
		}
	}
	for key := range known {
		if _, ok := before[key]; !ok {
			v.mark(key, identity{})
		}
	}
	for s := range v.subs {
		switch {
		case s.ready:
			s.reset = s.reset || reset
			s.synced = s.synced || reset || s.away != nil
			s.back()
		case s.number <= newest:
			s.begin()
		}
	}
}

// Change says that e is now the newest entry of its key.
func (v *View) Change(e kv.Entry) {
	v.mu.Lock()
	defer v.mu.Unlock()
	old, ok := v.known[e.Key]
	if ok && identify(old).equal(identify(e)) {
		return
	}
	v.known[e.Key] = e
	v.mark(e.Key, identify(old))
}

// Lose says that the bucket cannot be had, and why.
func (v *View) Lose(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for s := range v.subs {
		if s.away != nil && sameReason(s.away, err) {
			continue
		}
		if s.found {
			s.found, s.synced = false, false // it went before they could be told
		}
		s.away, s.lost = err, err
		s.poke()
	}
}

// End ends all watches, those to come included, with an error as their last word.
func (v *View) End(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ended = err
	for s := range v.subs {
		s.poke()
	}
}

// Len is how many keys are known, markers included.
func (v *View) Len() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.known)
}

// Any says whether a key is known that the filter matches.
func (v *View) Any(filter string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for key := range v.known {
		if kv.Match(filter, key) {
			return true
		}
	}
	return false
}

// Has says whether what is known of the entry's key is that entry or a newer one
// of the same life of the bucket.
func (v *View) Has(e kv.Entry) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	known, ok := v.known[e.Key]
	return ok && known.Revision >= e.Revision && !known.Created.Before(e.Created)
}

// mark notes that subscribers have to be told of a key, of which they were told old.
func (v *View) mark(key string, old identity) {
	for s := range v.subs {
		if !s.ready || !kv.MatchAny(s.filters, key) {
			continue
		}
		if _, ok := s.pending[key]; !ok {
			s.pending[key] = old
		}
		s.poke()
	}
}

// begin makes the subscriber ready to be told all that is known.
func (s *Subscriber) begin() {
	for key := range s.view.known {
		if kv.MatchAny(s.filters, key) {
			s.pending[key] = identity{}
		}
	}
	s.ready, s.synced = true, true
	s.back()
}

// back notes that the bucket can be had.
func (s *Subscriber) back() {
	s.found = s.found || s.away != nil
	s.away = nil
	if s.found || s.reset || s.synced {
		s.poke()
	}
}

func (s *Subscriber) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take returns what there is to tell now, in the order in which to tell it, and
// the error that ends the watch, if it has ended.
func (s *Subscriber) take() ([]kv.Event, error) {
	s.view.mu.Lock()
	defer s.view.mu.Unlock()
	if s.view.ended != nil {
		return nil, s.view.ended
	}
	epoch := s.view.epoch
	var events []kv.Event
	lost := func() {
		if s.lost != nil {
			events = append(events, kv.Event{Kind: kv.Lost, Err: s.lost})
		}
	}
	if s.away == nil {
		lost() // it has come and gone
	}
	if s.found {
		events = append(events, kv.Event{Kind: kv.Found, Epoch: epoch})
	}
	if s.reset {
		events = append(events, kv.Event{Kind: kv.Reset, Epoch: epoch})
	}
	events = append(events, s.changes()...)
	if s.synced {
		events = append(events, kv.Event{Kind: kv.Synced, Epoch: epoch})
	}
	if s.away != nil {
		lost()
	}
	s.lost, s.found, s.reset, s.synced = nil, false, false, false
	return events, nil
}

// changes empties pending: what is there in order of revision, then what is
// missing in order of keys.
func (s *Subscriber) changes() []kv.Event {
	if len(s.pending) == 0 {
		return nil
	}
	events := make([]kv.Event, 0, len(s.pending))
	for key, told := range s.pending {
		e, ok := s.view.known[key]
		switch {
		case !ok && told.operation == kv.OpPut:
			missing := kv.Entry{Bucket: s.view.bucket, Key: key, Revision: told.revision, Created: told.created}
			events = append(events, kv.Event{Kind: kv.Missing, Entry: missing, Epoch: s.view.epoch})
		case ok && !identify(e).equal(told):
			events = append(events, kv.Event{Kind: kindOf(e.Operation), Entry: e, Epoch: s.view.epoch})
		}
	}
	slices.SortFunc(events, func(a, b kv.Event) int {
		if am, bm := a.Kind == kv.Missing, b.Kind == kv.Missing; am || bm {
			if am && bm {
				return cmp.Compare(a.Entry.Key, b.Entry.Key)
			}
			if am {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.Entry.Revision, b.Entry.Revision)
	})
	if len(s.pending) > 1000 {
		s.pending = map[string]identity{} // a map keeps the room it once took
	} else {
		clear(s.pending)
	}
	return events
}

func kindOf(op kv.Operation) kv.EventKind {
	switch op {
	case kv.OpDelete:
		return kv.Delete
	case kv.OpPurge:
		return kv.Purge
	}
	return kv.Put
}

// Tell yields what there is to tell until ctx is done, the view has ended, or
// yield returns false: it is the loop of a Watch.
func (s *Subscriber) Tell(ctx context.Context, yield func(kv.Event, error) bool) {
	for {
		events, err := s.take()
		for _, event := range events {
			if ctx.Err() != nil {
				break
			}
			event.Entry.Value = bytes.Clone(event.Entry.Value)
			if !yield(event, nil) {
				return
			}
		}
		if err != nil {
			yield(kv.Event{}, err)
			return
		}
		select {
		case <-ctx.Done():
			yield(kv.Event{}, ctx.Err())
			return
		case <-s.wake:
		}
	}
}

// reasons are the conditions that make one Lost another than the one before.
var reasons = []error{kv.ErrBucketNotFound, kv.ErrPermission, kv.ErrUnavailable}

func sameReason(a, b error) bool {
	for _, reason := range reasons {
		if errors.Is(a, reason) != errors.Is(b, reason) {
			return false
		}
	}
	return true
}
