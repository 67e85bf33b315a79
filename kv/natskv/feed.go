package natskv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/internal/view"
)

// minProbe is the shortest Probe: the server refuses heartbeats of less than half of it.
const minProbe = 200 * time.Millisecond

// feed follows a bucket for all who watch it, from the first watch until a while
// after the last one was left. It lives in the goroutine in run.
type feed struct {
	b        *bucket
	view     *view.View
	attached chan struct{} // holds a token when somebody has come

	// Guarded by client.mu.
	watchers int
	left     time.Time // when the last one left
	wishes   map[string]*wish

	// Owned by the goroutine in run.
	epoch kv.Epoch  // of what was told
	high  uint64    // the highest revision seen in it
	good  time.Time // when the server last answered
}

// wish is a filter that somebody watches, or did a moment ago.
type wish struct {
	watchers int
	left     time.Time
}

// Why a session ends, besides the errors of requests.
var (
	errIdle  = errors.New("nobody watches")
	errWider = errors.New("more is watched than the session covers")
)

// doubt is a reason to compare the bucket with what is known of it.
type doubt struct{ reason error }

func (d doubt) Error() string { return d.reason.Error() }

func doubtful(format string, args ...any) error { return doubt{fmt.Errorf(format, args...)} }

// again says whether an error of a session is worth another one at once.
func again(err error) bool {
	var d doubt
	return errors.As(err, &d) || errors.Is(err, errGap)
}

// follow begins a watch. The caller calls leave when it ends.
func (b *bucket) follow(filters []string) (sub *view.Subscriber, leave func(), err error) {
	c := b.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, fmt.Errorf("watch bucket %s: %w", b.name, errClosed)
	}
	f := b.feed
	if f == nil {
		f = &feed{
			b:        b,
			view:     view.New(b.name),
			attached: make(chan struct{}, 1),
			wishes:   map[string]*wish{},
		}
		b.feed = f
		c.feeds.Go(func() { f.run(c.ctx) })
	}
	f.watchers++
	// The wishes come first: a session that counts the subscriber in covers it.
	for _, filter := range orAll(filters) {
		if f.wishes[filter] == nil {
			f.wishes[filter] = &wish{}
		}
		f.wishes[filter].watchers++
	}
	sub = f.view.Subscribe(filters)
	select {
	case f.attached <- struct{}{}:
	default:
	}
	return sub, func() { f.leave(sub) }, nil
}

func orAll(filters []string) []string {
	if len(filters) == 0 {
		return []string{all}
	}
	return filters
}

func (f *feed) leave(sub *view.Subscriber) {
	sub.Leave()
	c := f.b.client
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	f.watchers--
	f.left = now
	for _, filter := range orAll(sub.Filters()) {
		f.wishes[filter].watchers--
		f.wishes[filter].left = now
	}
}

// retire takes the feed from its bucket if nobody has watched for a while.
func (f *feed) retire() bool {
	c := f.b.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.watchers > 0 || time.Since(f.left) < c.opts.Linger {
		return false
	}
	f.b.feed = nil
	return true
}

// cover returns what a session has to cover.
func (f *feed) cover() []string {
	c := f.b.client
	c.mu.Lock()
	defer c.mu.Unlock()
	var filters []string
	for filter, w := range f.wishes {
		if w.watchers > 0 || time.Since(w.left) < c.opts.Linger {
			filters = append(filters, filter)
		} else {
			delete(f.wishes, filter)
		}
	}
	return cover(filters)
}

// run follows the bucket in one session after the other, until nobody watches.
func (f *feed) run(ctx context.Context) {
	status := f.b.client.nc.StatusChanged()
	defer f.b.client.nc.RemoveStatusListener(status)
	for attempts := 0; ; {
		began := time.Now()
		err := f.session(ctx, status)
		if ctx.Err() != nil || errors.Is(err, errIdle) {
			return
		}
		if time.Since(began) > f.b.client.opts.Probe {
			attempts = 0
		}
		var d doubt
		switch {
		case errors.Is(err, errWider):
			continue
		case errors.As(err, &d):
			f.b.client.opts.Log.Debug("watched bucket is compared again", "bucket", f.b.name, "reason", d.reason)
			if attempts++; attempts == 1 {
				continue
			}
		default:
			attempts++
			if err = translate(err); !known(err) {
				err = fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
			}
			// A server that is back within a probe was not lost.
			if !errors.Is(err, kv.ErrUnavailable) || time.Since(f.good) > f.b.client.opts.Probe {
				f.view.Lose(fmt.Errorf("watch bucket %s: %w", f.b.name, err))
			}
		}
		retry := time.NewTimer(time.Until(began.Add(pause(attempts))))
		select {
		case <-ctx.Done():
		case <-retry.C:
		case <-f.attached:
		case <-status:
		}
		retry.Stop()
		if f.retire() {
			return
		}
	}
}

// session follows the bucket for the life of one consumer and returns why it ended.
func (f *feed) session(ctx context.Context, status <-chan nats.Status) error {
	for len(status) > 0 {
		<-status // what happened before this session is no doubt about it
	}
	opts := f.b.client.opts
	newest, filters := f.view.Newest(), f.cover()
	opening := f.b.client.call(ctx, opts.Probe)
	defer opening.cancel()
	bound, err := f.b.bind(opening)
	if err != nil {
		return err
	}
	info := bound.stream.CachedInfo()
	life := epoch(info)
	reset := life == f.epoch && info.State.LastSeq < f.high
	s := newSession(f.b, bound, func(snapshot map[string]*kv.Entry) {
		f.view.Replace(life, snapshot, reset, newest)
	}, f.view.Change)
	if err := s.open(opening, filters, false); err != nil {
		return err
	}
	f.good = time.Now()
	defer s.end()
	defer func() {
		select {
		case <-s.complete:
			f.epoch, f.high = life, max(s.state().high, info.State.LastSeq)
		default: // nothing of it has been told, nor that it is a reset
		}
	}()

	ticker := time.NewTicker(opts.Probe)
	defer ticker.Stop()
	complete := s.complete
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-s.doubt:
			return doubt{err}
		case now := <-status:
			return doubtful("the connection is %s", now)
		case <-complete:
			complete = nil
			err = f.admit(ctx, s, filters)
		case <-f.attached:
			if complete == nil {
				err = f.admit(ctx, s, filters)
			}
		case <-ticker.C:
			f.warn(s)
			switch {
			case f.retire():
				return errIdle
			case complete == nil:
				info, err = f.probe(ctx, s, filters, info)
			default:
				err = f.look(ctx, s)
			}
		}
		if err != nil {
			return err
		}
	}
}

// look looks after a snapshot that takes its time.
func (f *feed) look(ctx context.Context, s *session) error {
	k := f.b.client.call(ctx, f.b.client.opts.Probe)
	defer k.cancel()
	return s.look(k)
}

// admit makes those who came after the session began ready, once it is sure that
// what is known is as new as their coming.
func (f *feed) admit(ctx context.Context, s *session, filters []string) error {
	subs := f.view.Waiting()
	var asked []string
	for _, sub := range subs {
		for _, filter := range orAll(sub.Filters()) {
			if !covered(filters, filter) {
				return errWider
			}
			if !slices.Contains(asked, filter) {
				asked = append(asked, filter)
			}
		}
	}
	if len(asked) > maxFilters {
		return errWider // one snapshot costs less than so many questions
	}
	k := f.b.client.call(ctx, f.b.client.opts.Probe)
	defer k.cancel()
	for _, filter := range asked {
		last, err := f.b.newest(k, s.bound, filter)
		if err != nil && !errors.Is(translate(err), kv.ErrKeyNotFound) {
			return doubtful("ask for the newest revision: %w", translate(err))
		}
		for !f.reflects(s, filter, last) {
			select {
			case <-s.moved:
			case err := <-s.doubt:
				return doubt{err}
			case <-k.Done():
				return doubtful("revision %d has not come", last.Revision)
			}
		}
	}
	f.view.Admit(subs...)
	return nil
}

// reflects says whether what is known is as new as last, the newest entry that
// the filter matches; without a revision there is none.
func (f *feed) reflects(s *session, filter string, last kv.Entry) bool {
	switch {
	case last.Revision == 0:
		return !f.view.Any(filter)
	case kv.CheckKey(last.Key) != nil:
		return s.state().high >= uint64(last.Revision)
	}
	return f.view.Has(last)
}

// probe looks at the stream for what the consumer cannot tell. It returns what
// the next probe is to compare with, and an error that ends the session.
func (f *feed) probe(ctx context.Context, s *session, filters []string, before *jetstream.StreamInfo) (*jetstream.StreamInfo, error) {
	k := f.b.client.call(ctx, f.b.client.opts.Probe)
	defer k.cancel()
	st := s.state()
	known := uint64(f.view.Len() + st.strange) // before it is asked how many there are
	bound, err := f.b.bind(k)
	switch {
	case s.late(err):
		return before, nil
	case err != nil:
		return before, err
	}
	now := bound.stream.CachedInfo()
	if err := another(before, now); err != nil {
		return before, err
	}
	switch {
	case st.silent > f.b.client.opts.Probe:
		return before, doubtful("the server has been silent for %s", st.silent)
	case filters[0] == all && before.State.LastSeq > s.state().high:
		return before, doubtful("revision %d has not come", before.State.LastSeq)
	case time.Since(s.began) > f.b.client.opts.Reconcile:
		return before, doubtful("it is time")
	}
	fewer, err := f.fewer(k, bound, filters, known, before, now)
	switch {
	case err != nil:
		return before, err
	case !fewer:
		f.good = time.Now()
		return now, nil
	case time.Since(s.began) < 10*st.took:
		return before, nil // where keys expire all the time, this is not all we do
	}
	return before, doubtful("keys have vanished")
}

// countable is up to how many keys their names are asked for to count them.
const countable = 1000

// fewer says whether the bucket has fewer keys than are known. Of a part of a
// bucket the keys are counted if something has happened in it and they are few;
// where they are many, only that the whole bucket has fewer is noticed.
func (f *feed) fewer(k *call, bound *binding, filters []string, known uint64, before, now *jetstream.StreamInfo) (bool, error) {
	was, is := before.State, now.State
	switch {
	case filters[0] == all:
		return is.NumSubjects < known, nil
	case known > countable:
		return is.NumSubjects < was.NumSubjects, nil
	case is.LastSeq == was.LastSeq && is.Msgs == was.Msgs:
		return false, nil
	}
	var counted uint64
	for _, filter := range filters {
		err := k.request(func() error {
			info, err := bound.stream.Info(k, jetstream.WithSubjectFilter(bound.prefix+filter))
			if err == nil {
				counted += uint64(len(info.State.Subjects))
			}
			return err
		}, "$JS.API.STREAM.INFO."+f.b.stream)
		if err != nil {
			return false, err
		}
	}
	return counted < known, nil
}

// warn tells once that there are keys which no client of this package would put.
func (f *feed) warn(s *session) {
	if n := s.state().strange; n > 0 && !f.b.warned {
		f.b.warned = true
		f.b.client.opts.Log.Warn("the bucket holds invalid keys, which are skipped", "bucket", f.b.name, "keys", n)
	}
}
