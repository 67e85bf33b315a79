package kvwatcher

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/watchers"
)

// The states in which a kv watcher says it is.
const (
	stateChanged   = "changed"
	stateUnchanged = "unchanged"
	stateMissing   = "missing" // what is watched is not there, or went without a marker
	stateError     = "error"   // the bucket is away
)

// never is longer than any process lives.
const never = 100 * 365 * 24 * time.Hour

type watcher struct {
	Properties
	env watchers.Env

	last    target                 // of the last session
	away    bool                   // the bucket, which has been said
	failed  bool                   // the machine has taken that as a failure
	misses  int                    // polls in a row that the bucket has not answered
	nextGet time.Time              // when on_successful_get may fire again
	warned  map[string]bool        // keys that are missing, which has been said
	bad     map[string]kv.Revision // keys whose value cannot be used, which has been said
}

var _ watchers.Watcher = (*watcher)(nil)

// Run watches until ctx is done, session by session: each begins with all that the
// bucket holds. A poll is a session, and so is the time between two reconciles.
func (w *watcher) Run(ctx context.Context, report watchers.Report) error {
	hints, err := w.hints(ctx)
	if err != nil {
		return err
	}
	var b *book
	for ctx.Err() == nil {
		t, err := w.target(w.env.Scope())
		if err != nil {
			return err
		}
		if b == nil || b.target != t {
			b = newBook(w, t)
			if w.last != t {
				w.last, w.warned, w.bad = t, map[string]bool{}, map[string]kv.Revision{}
			}
		}
		if err := w.session(ctx, b, hints, report); err != nil && ctx.Err() == nil {
			return err
		}
	}

	return nil
}

// session follows the bucket from its beginning until the session ends.
func (w *watcher) session(ctx context.Context, b *book, hints <-chan struct{}, report watchers.Report) error {
	bucket, err := w.env.Bucket(b.target.bucket)
	if err != nil {
		return err
	}
	b.begin()
	events := w.events(ctx, bucket, b.target.filter, hints)
	if w.Debounce > 0 {
		return w.debounced(ctx, b, events, report)
	}
	for event, err := range events {
		if err := w.take(b, told{event, err}, report); err != nil {
			return err
		}
	}

	return nil
}

// debounced is a session that reports what has changed when the bucket has been quiet
// for long enough. The events come from a goroutine of their own, so that it can wait
// for one and for the time at once.
func (w *watcher) debounced(ctx context.Context, b *book, events iter.Seq2[kv.Event, error], report watchers.Report) error {
	ctx, cancel := context.WithCancel(ctx)
	told, ended := pump(ctx, events)
	defer func() { cancel(); <-ended }()

	for {
		var due <-chan time.Time
		if wait, pending := b.quiet(); b.complete && pending {
			due = time.After(wait)
		}
		select {
		case <-due:
			if err := w.tell(b, report); err != nil {
				return err
			}
		case t, ok := <-told:
			if !ok {
				return nil
			}
			if err := w.take(b, t, report); err != nil {
				return err
			}
		}
	}
}

// told is one turn of a loop over a bucket's events.
type told struct {
	event kv.Event
	err   error
}

// pump loops over events until that ends, which closes both channels.
func pump(ctx context.Context, events iter.Seq2[kv.Event, error]) (<-chan told, <-chan struct{}) {
	out, ended := make(chan told), make(chan struct{})
	go func() { // debounced waits for it
		defer close(ended)
		defer close(out)
		for event, err := range events {
			select {
			case out <- told{event, err}:
			case <-ctx.Done():
				return
			}
		}
	}()

	return out, ended
}

// take notes what the bucket tells, and reports it unless it comes while the bucket is
// being told or has to be quiet first.
func (w *watcher) take(b *book, t told, report watchers.Report) error {
	if t.err != nil {
		return t.err
	}
	switch t.event.Kind {
	case kv.Put:
		b.put(t.event.Entry, t.event.Epoch)
	case kv.Delete, kv.Purge:
		b.gone(t.event.Entry)
	case kv.Missing:
		b.missing(t.event.Entry.Key)
	case kv.Reset:
		w.env.Log.Warn("the bucket is not the one it was: what differs is a change", "bucket", b.target.bucket)
		b.complete = false
	case kv.Found:
		b.complete = false
	case kv.Lost:
		b.complete = false
		return w.lost(b, t.event.Err, report)
	case kv.Synced:
		b.synced(t.event.Epoch)
		if w.away {
			w.env.Log.Warn("the bucket is back: what has changed is acted on", "bucket", b.target.bucket)
		}
		w.away, w.failed = false, false
		return w.sync(b, report)
	}
	if wait, pending := b.quiet(); !b.complete || pending && wait > 0 {
		return nil
	}

	return w.tell(b, report)
}

// events returns what the bucket tells in one session.
func (w *watcher) events(ctx context.Context, bucket kv.Bucket, filter string, hints <-chan struct{}) iter.Seq2[kv.Event, error] {
	return func(yield func(kv.Event, error) bool) {
		if w.Mode == Poll {
			if w.poll(ctx, bucket, filter, yield) {
				sleep(ctx, w.pause(), hints)
			}
			return
		}
		if w.env.Interval > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, w.env.Interval)
			defer cancel()
		}
		for event, err := range bucket.Watch(ctx, kv.WatchOptions{Filters: []string{filter}}) {
			if err != nil && ctx.Err() != nil || !yield(event, err) {
				return
			}
		}
	}
}

// lost reports that the bucket is away, as a failure until the machine has taken that.
func (w *watcher) lost(b *book, reason error, report watchers.Report) error {
	if !w.away {
		w.env.Log.Warn("the bucket cannot be had: the data stays as it is", "bucket", b.target.bucket, "error", reason)
		w.away = true
	}
	observation := watchers.Observation{
		State:  stateError,
		Detail: strings.ReplaceAll(reason.Error(), context.DeadlineExceeded.Error(), "no answer in time"),
	}
	if !w.failed && !b.lostRefused {
		observation.Outcome = watchers.Failure
	}
	err := report(observation)
	switch {
	case errors.Is(err, watchers.ErrRefused):
		b.lostRefused = true // a visit that can take it will hear of it
		return nil
	case err == nil && observation.Outcome == watchers.Failure:
		w.failed = true
	}

	return err
}

// sync reports what was found when all was told, if only that all is as it was.
func (w *watcher) sync(b *book, report watchers.Report) error {
	if b.adopt {
		// What is adopted must be settled before anything else is: else an interrupted
		// change would look as if it had been adopted.
		if err := report(watchers.Observation{Mark: encode(b.settled.with(b.epoch, nil))}); err != nil {
			return err
		}
		b.adopt = false
	}
	if wait, pending := b.quiet(); pending && wait > 0 {
		return nil
	} else if pending || !w.OnSuccessfulGet || !b.held() || time.Now().Before(w.nextGet) {
		return w.tell(b, report)
	}

	return w.success(b, watchers.Observation{State: stateUnchanged, Detail: "nothing has changed"}, report)
}

// tell reports what has changed, or in which state the watcher is.
func (w *watcher) tell(b *book, report watchers.Report) error {
	switch {
	case len(b.changes) > 0:
		return w.success(b, watchers.Observation{State: stateChanged, Detail: b.detail()}, report)
	case len(b.matched) > 0:
		return w.success(b, watchers.Observation{State: stateUnchanged, Detail: b.matchedDetail()}, report)
	case len(b.bad) > 0:
		return report(watchers.Observation{State: stateError, Detail: fmt.Sprintf("values that cannot be used: %d", len(b.bad))})
	case len(b.absent) > 0:
		return report(watchers.Observation{State: stateMissing, Detail: fmt.Sprintf("keys that are missing: %d", len(b.absent))})
	case !b.held():
		return report(watchers.Observation{State: stateMissing, Detail: "there is no value yet"})
	default:
		return report(watchers.Observation{State: stateUnchanged})
	}
}

// success reports a success, with what has changed. A visit that a successful get began
// ends in one that begins with a get, so that counts only once in an interval.
func (w *watcher) success(b *book, o watchers.Observation, report watchers.Report) error {
	o.Outcome = watchers.Success
	err := b.report(o, report)
	if err == nil {
		w.nextGet = time.Now().Add(w.env.Interval)
		if w.env.Interval == 0 {
			w.nextGet = time.Now().Add(never)
		}
	}

	return err
}
