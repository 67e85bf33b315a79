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
	known  map[string]*kv.Entry // the newest of each key, markers included; an entry never changes
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
	nothing bool                // has been told; so all that is known is to be, and pending is empty
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

// identify returns the identity of an entry; nil is none.
func identify(e *kv.Entry) identity {
	if e == nil {
		return identity{}
	}
	return identity{e.Revision, e.Created, e.Operation}
}

func (a identity) equal(b identity) bool {
	return a.revision == b.revision && a.operation == b.operation && a.created.Equal(b.created)
}

// New returns a view of a bucket about which nothing is known yet.
func New(bucket string) *View {
	return &View{bucket: bucket, known: map[string]*kv.Entry{}, subs: map[*Subscriber]struct{}{}}
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
// caller gives the map and its entries away. Subscribers up to the number newest become ready.
// With reset, and with another epoch, the bucket is not the one it was before.
func (v *View) Replace(epoch kv.Epoch, known map[string]*kv.Entry, reset bool, newest uint64) {
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
	old := v.known[e.Key]
	if identify(old).equal(identify(&e)) {
		return
	}
	v.known[e.Key] = &e
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
	if ok && known.Revision == e.Revision {
		return known.Created.Equal(e.Created) // whatever the clock of the server did between two lives
	}
	return ok && known.Revision > e.Revision && !known.Created.Before(e.Created)
}

// mark notes that subscribers have to be told of a key, of which they were told old.
func (v *View) mark(key string, old identity) {
	for s := range v.subs {
		if !s.ready || !kv.MatchAny(s.filters, key) {
			continue
		}
		if _, ok := s.pending[key]; !ok && !s.nothing {
			s.pending[key] = old
		}
		s.poke()
	}
}

// begin makes the subscriber ready to be told all that is known.
func (s *Subscriber) begin() {
	s.ready, s.nothing, s.synced = true, true, true
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

// news is what there is to tell at one moment, in the order in which to tell it.
type news struct {
	epoch   kv.Epoch
	lost    error // and then back
	found   bool
	reset   bool
	changed []*kv.Entry // in order of revision
	missing []*kv.Entry // in order of keys
	synced  bool
	away    error // lost, and not back
}

// take returns what there is to tell now, and the error that ends the watch, if it
// has ended.
func (s *Subscriber) take() (news, error) {
	s.view.mu.Lock()
	defer s.view.mu.Unlock()
	if s.view.ended != nil {
		return news{}, s.view.ended
	}
	n := news{epoch: s.view.epoch, found: s.found, reset: s.reset, synced: s.synced}
	n.changed, n.missing = s.changes()
	if s.away == nil {
		n.lost = s.lost
	} else {
		n.away = s.lost
	}
	s.lost, s.found, s.reset, s.synced = nil, false, false, false
	return n, nil
}

// changes empties pending, or takes all if nothing has been told.
func (s *Subscriber) changes() (changed, missing []*kv.Entry) {
	if s.nothing {
		changed = s.matching()
	}
	for key, told := range s.pending {
		e, ok := s.view.known[key]
		switch {
		case !ok && told.operation == kv.OpPut:
			missing = append(missing, &kv.Entry{Bucket: s.view.bucket, Key: key, Revision: told.revision, Created: told.created})
		case ok && !identify(e).equal(told):
			changed = append(changed, e)
		}
	}
	s.nothing = false
	if len(s.pending) > 1000 {
		s.pending = map[string]identity{} // a map keeps the room it once took
	} else {
		clear(s.pending)
	}
	slices.SortFunc(changed, func(a, b *kv.Entry) int { return cmp.Compare(a.Revision, b.Revision) })
	slices.SortFunc(missing, func(a, b *kv.Entry) int { return cmp.Compare(a.Key, b.Key) })
	return changed, missing
}

// matching returns the entries that are known and that the subscriber watches.
func (s *Subscriber) matching() []*kv.Entry {
	var entries []*kv.Entry
	for key, e := range s.view.known {
		if kv.MatchAny(s.filters, key) {
			entries = append(entries, e)
		}
	}
	return entries
}

// events yields the news until yield returns false.
func (n news) events(yield func(kv.Event) bool) {
	one := func(kind kv.EventKind, when bool) bool {
		return !when || yield(kv.Event{Kind: kind, Epoch: n.epoch})
	}
	lost := func(err error) bool { return err == nil || yield(kv.Event{Kind: kv.Lost, Err: err}) }
	if !lost(n.lost) || !one(kv.Found, n.found) || !one(kv.Reset, n.reset) {
		return
	}
	for _, e := range n.changed {
		if !yield(kv.Event{Kind: kindOf(e.Operation), Entry: *e, Epoch: n.epoch}) {
			return
		}
	}
	for _, e := range n.missing {
		if !yield(kv.Event{Kind: kv.Missing, Entry: *e, Epoch: n.epoch}) {
			return
		}
	}
	_ = one(kv.Synced, n.synced) && lost(n.away)
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
		news, err := s.take()
		for event := range news.events {
			if ctx.Err() != nil {
				break
			}
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
