package natskv

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
)

// patience is how long a snapshot may make no progress. With a damaged record in
// the store its end never comes.
const patience = 10 * time.Second

var errIncomplete = fmt.Errorf("%w: the server does not tell all that is in the bucket", kv.ErrUnavailable)

var (
	// errGap ends a session that was not sent all.
	errGap = fmt.Errorf("%w: a message was lost on its way", kv.ErrUnavailable)

	errTooFast = fmt.Errorf("%w: the bucket is written faster than it can be read", kv.ErrUnavailable)
)

// session is the life of one consumer: the newest entry of each key, which makes
// the snapshot, and then what follows. It is over at the first thing that is not
// as it should be, which it says on doubt.
//
// The consumer pushes, because that costs no requests while nothing happens, and
// needs the permissions that a watch of any JetStream KV client needs.
type session struct {
	b        *bucket
	bound    *binding
	before   *jetstream.StreamInfo // the stream, when the session began
	consumer string
	sub      *nats.Subscription
	filters  []string
	began    time.Time
	taken    func(map[string]*kv.Entry)
	live     func(kv.Entry)

	// each, unless nil, gets every message until the last one of the bucket instead:
	// all revisions that are kept, invalid keys too. An error of it ends the session.
	each func(*nats.Msg, *nats.MsgMetadata) error

	complete chan struct{} // closed when the snapshot has been taken
	doubt    chan error    // the first reason why the session is over
	moved    chan struct{} // holds a token when something has come

	mu       sync.Mutex
	over     bool
	snapshot map[string]*kv.Entry // nil when it has been taken
	strange  map[string]struct{}  // keys that no client would put
	received uint64               // messages that came
	high     uint64               // what is known is as new as this revision
	last     uint64               // the revision of the last message that came
	need     uint64               // the snapshot must reach this revision
	caughtUp bool                 // there was nothing more to come, as far as the consumer knows
	heard    time.Time            // when the server was last heard of
	progress time.Time            // when the last message came
	pending  uint64               // the fewest messages that were yet to come
	closer   time.Time            // when there were fewer than ever
	took     time.Duration        // from the beginning to the end of the snapshot
}

// newSession returns a session that has yet to be opened. It calls taken once with
// the snapshot, and live with each entry after that.
func newSession(b *bucket, bound *binding, taken func(map[string]*kv.Entry), live func(kv.Entry)) *session {
	now := time.Now()
	return &session{
		b:        b,
		bound:    bound,
		before:   bound.stream.CachedInfo(),
		began:    now,
		taken:    taken,
		live:     live,
		complete: make(chan struct{}),
		doubt:    make(chan error, 1),
		moved:    make(chan struct{}, 1),
		snapshot: map[string]*kv.Entry{},
		strange:  map[string]struct{}{},
		high:     bound.stream.CachedInfo().State.LastSeq,
		heard:    now,
		progress: now,
		pending:  math.MaxUint64,
		closer:   now,
	}
}

// open creates the consumer on the keys that one of the filters matches. After it
// has returned without an error the session has to be ended.
func (s *session) open(k *call, filters []string, headersOnly bool) error {
	subjects := make([]string, len(filters))
	for i, f := range filters {
		subjects[i] = s.bound.prefix + f
	}
	inbox := k.client.nc.NewInbox()
	sub, err := k.client.nc.Subscribe(inbox, s.deliver)
	if err != nil {
		return err
	}
	s.sub = sub
	s.filters = filters
	// The server sends no more than 32 MB ahead of what was confirmed. An error
	// says that the connection was closed, which the request will say too.
	_ = sub.SetPendingLimits(-1, 64<<20)
	policy := jetstream.DeliverLastPerSubjectPolicy
	if s.each != nil {
		policy = jetstream.DeliverAllPolicy
	}
	need, err := s.newest(k)
	if err != nil {
		s.end()
		return err
	}
	s.need = need
	config := jetstream.ConsumerConfig{
		DeliverSubject:    inbox,
		DeliverPolicy:     policy,
		FilterSubjects:    subjects,
		AckPolicy:         jetstream.AckNonePolicy,
		MaxDeliver:        1,
		FlowControl:       true,
		IdleHeartbeat:     k.client.opts.Probe / 2,
		InactiveThreshold: 5 * time.Second,
		HeadersOnly:       headersOnly,
		MemoryStorage:     true,
		Replicas:          1,
	}
	var pending uint64
	err = k.request(func() error {
		consumer, err := s.bound.stream.CreatePushConsumer(k, config)
		if err != nil {
			return err
		}
		info := consumer.CachedInfo()
		s.consumer, pending = info.Name, info.NumPending
		return nil
	}, "$JS.API.CONSUMER.CREATE."+s.b.stream+".")
	if err != nil {
		s.end()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if pending == 0 && s.received == 0 {
		s.caughtUp = true
		s.takeIfWhole()
	}
	return nil
}

// newest asks for the newest revision that the snapshot has to reach. The server puts a
// consumer on any of those that have a copy of the stream, and that may be behind
// and not know it; only the leader can tell. Where there is one copy, nobody is behind.
func (s *session) newest(k *call) (uint64, error) {
	if c := s.bound.stream.CachedInfo().Cluster; c == nil || len(c.Replicas) == 0 {
		return 0, nil
	}
	var newest kv.Revision
	for _, filter := range s.filters {
		last, err := s.b.newest(k, s.bound, filter)
		if err != nil && !errors.Is(translate(err), kv.ErrKeyNotFound) {
			return 0, err
		}
		newest = max(newest, last.Revision)
	}
	return uint64(newest), nil
}

// look finds out whether the rest of a snapshot that takes its time will come, and
// returns a doubt if it will not: there is another bucket, the consumer is gone, or
// what was yet to come has been removed.
func (s *session) look(k *call) error {
	probe := s.b.client.opts.Probe
	st := s.state()
	if st.stuck > patience {
		return errIncomplete
	}
	bound, err := s.b.bind(k)
	switch {
	case s.late(err):
		return nil
	case err != nil:
		return err
	}
	now := bound.stream.CachedInfo()
	if err := another(s.before, now); err != nil {
		return err
	}
	if s.each == nil { // which may take its time
		switch {
		case st.silent > probe:
			return doubtful("the server has been silent for %s", st.silent)
		case st.stuck > probe && removed(s.before, now):
			return doubtful("nothing has come for %s, and there is less in the bucket", st.stuck)
		}
	}
	return s.settle(k)
}

// late says whether an answer did not come in time because so much else comes: over a slow
// link it is behind all that the server has sent before.
func (s *session) late(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) && s.state().stuck < s.b.client.opts.Probe
}

// another says whether a stream is not the one it was before.
func another(before, now *jetstream.StreamInfo) error {
	switch {
	case !now.Created.Equal(before.Created):
		return doubtful("the bucket was created again")
	case now.State.LastSeq < before.State.LastSeq:
		return doubtful("the bucket went back from revision %d to %d", before.State.LastSeq, now.State.LastSeq)
	}
	return nil
}

// removed says whether a stream has lost entries, to new ones of their keys perhaps.
func removed(before, now *jetstream.StreamInfo) bool {
	return now.State.Msgs < before.State.Msgs+(now.State.LastSeq-before.State.LastSeq)
}

// settle asks again how far the snapshot has to reach, in case what was the newest
// entry has vanished since.
func (s *session) settle(k *call) error {
	s.mu.Lock()
	late := s.snapshot != nil && s.caughtUp
	s.mu.Unlock()
	if !late {
		return nil
	}
	need, err := s.newest(k)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.need = min(s.need, need)
	s.takeIfWhole()
	return nil
}

// wait waits for the snapshot, as long as it comes closer.
func (s *session) wait(ctx context.Context) error {
	tick := time.NewTicker(s.b.client.opts.Probe)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.complete:
			return nil
		case err := <-s.doubt:
			return err
		case <-tick.C:
			if s.state().behind > 3*patience {
				return errTooFast
			}
			k := s.b.client.call(ctx, s.b.client.opts.Timeout)
			err := s.look(k)
			k.cancel()
			if err != nil {
				return err
			}
		}
	}
}

// end ends the session and its consumer. Nothing is told after it has returned.
func (s *session) end() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	// Errors: without a connection there is nothing to end, and the server removes
	// what nobody listens to.
	_ = s.sub.Unsubscribe()
	if s.consumer != "" {
		_ = s.b.client.nc.Publish("$JS.API.CONSUMER.DELETE."+s.b.stream+"."+s.consumer, nil)
	}
}

// deliver takes what the server sends. It is called for one message at a time.
func (s *session) deliver(msg *nats.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		s.control(msg)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.heard = time.Now()
	s.progress = s.heard
	if meta.Sequence.Consumer != s.received+1 {
		s.stop(errGap)
		return
	}
	if s.received == 0 && s.snapshot != nil && s.each == nil {
		s.snapshot = make(map[string]*kv.Entry, meta.NumPending+1) // growing it would take longer than filling it
	}
	s.received++
	s.last = meta.Sequence.Stream
	s.high = max(s.high, s.last)
	s.caughtUp = meta.NumPending == 0
	if meta.NumPending < s.pending {
		s.pending, s.closer = meta.NumPending, s.heard
	}
	if s.each != nil {
		s.pass(msg, meta)
		return
	}
	key := strings.TrimPrefix(msg.Subject, s.bound.prefix)
	entry := kv.Entry{
		Bucket:    s.b.name,
		Key:       key,
		Value:     slices.Clip(msg.Data), // so that appending copies
		Revision:  kv.Revision(meta.Sequence.Stream),
		Created:   meta.Timestamp,
		Operation: operation(msg.Header),
	}
	invalid := kv.CheckKey(key) != nil
	switch {
	case invalid:
		s.strange[key] = struct{}{}
	case s.snapshot != nil:
		s.snapshot[key] = &entry
	default:
		s.live(entry)
	}
	s.takeIfWhole()
	select {
	case s.moved <- struct{}{}:
	default:
	}
}

// pass gives a message to each. It needs s.mu.
func (s *session) pass(msg *nats.Msg, meta *nats.MsgMetadata) {
	if s.snapshot == nil {
		return // it is complete
	}
	if err := s.each(msg, meta); err != nil {
		s.stop(err)
	} else {
		s.takeIfWhole()
	}
}

// takeIfWhole ends the snapshot when all has come. It needs s.mu.
func (s *session) takeIfWhole() {
	if s.snapshot == nil || !s.caughtUp || s.last < s.need {
		return
	}
	s.took = time.Since(s.began)
	s.taken(s.snapshot)
	s.snapshot = nil
	close(s.complete)
}

// stop says why the session is over. It needs s.mu.
func (s *session) stop(reason error) {
	s.over = true
	select {
	case s.doubt <- reason:
	default:
	}
}

// control takes what the server has to say besides messages: that it is alive and
// what it has sent, and that it waits for an answer before it sends more.
func (s *session) control(msg *nats.Msg) {
	if msg.Header.Get("Status") != "100" {
		return
	}
	reply := msg.Reply
	if stalled := msg.Header.Get("Nats-Consumer-Stalled"); stalled != "" {
		reply = stalled
	}
	if reply != "" {
		_ = s.b.client.nc.Publish(reply, nil) // without a connection the session is over anyway
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = time.Now()
	last, err := strconv.ParseUint(msg.Header.Get("Nats-Last-Consumer"), 10, 64)
	if err == nil && last > s.received && !s.over {
		s.stop(errGap)
	}
}

// state is what a session knows of itself at one moment.
type state struct {
	high    uint64
	strange int
	silent  time.Duration // since the server was heard of
	stuck   time.Duration // since a message came
	behind  time.Duration // since it came closer to the end
	took    time.Duration
}

func (s *session) state() state {
	s.mu.Lock()
	defer s.mu.Unlock()
	return state{s.high, len(s.strange), time.Since(s.heard), time.Since(s.progress), time.Since(s.closer), s.took}
}

// snapshot returns the newest entries of at least the keys that one of the filters matches,
// without their values.
func (b *bucket) snapshot(k *call, bound *binding, filters []string) (map[string]*kv.Entry, error) {
	if len(filters) == 0 {
		filters = []string{all}
	}
	for {
		entries, err := b.trySnapshot(k, bound, cover(filters))
		if !again(err) {
			return entries, err
		}
		if bound, err = b.bind(k); err != nil {
			return nil, err
		}
	}
}

func (b *bucket) trySnapshot(k *call, bound *binding, filters []string) (entries map[string]*kv.Entry, err error) {
	s := newSession(b, bound, func(snapshot map[string]*kv.Entry) { entries = snapshot }, func(kv.Entry) {})
	if err := s.open(k, filters, true); err != nil {
		return nil, err
	}
	defer s.end()
	err = k.request(func() error {
		err := s.wait(k)
		if err != nil && k.Err() != nil {
			err = fmt.Errorf("%w: %w", errIncomplete, k.Err())
		}
		return err
	})
	return entries, err
}
