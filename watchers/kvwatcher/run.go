package kvwatcher

import (
	"context"
	"errors"
	"fmt"
	"iter"
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

	away    bool            // the bucket, and the machine has heard of it
	nextGet time.Time       // when on_successful_get may fire again
	warned  map[string]bool // keys that are missing, which has been said
}

var _ watchers.Watcher = (*watcher)(nil)

// Run watches until ctx is done, session by session: each begins with all that the
// bucket holds. A poll is a session, and so is the time between two reconciles.
func (w *watcher) Run(ctx context.Context, report watchers.Report) error {
	var b *book
	for ctx.Err() == nil {
		t, err := w.target(w.env.Scope())
		if err != nil {
			return err
		}
		if b == nil || b.target != t {
			b = newBook(w, t)
		}
		if err := w.session(ctx, b, report); err != nil && ctx.Err() == nil {
			return err
		}
	}

	return nil
}

// session follows the bucket from its beginning until the session ends.
func (w *watcher) session(ctx context.Context, b *book, report watchers.Report) error {
	bucket, err := w.env.Bucket(b.target.bucket)
	if err != nil {
		return err
	}
	b.begin()
	told := false // all that the bucket holds, so that what follows is reported as it comes
	for event, err := range w.events(ctx, bucket, b.target.filter) {
		if err != nil {
			return err
		}
		switch event.Kind {
		case kv.Put:
			b.put(event.Entry, event.Epoch)
		case kv.Delete, kv.Purge:
			b.gone(event.Entry.Key)
		case kv.Missing:
			b.missing(event.Entry.Key)
		case kv.Reset:
			w.env.Log.Warn("the bucket is not the one it was: what differs is a change", "bucket", b.target.bucket)
			told = false
		case kv.Found:
			w.env.Log.Info("the bucket is back", "bucket", b.target.bucket)
			told = false
		case kv.Lost:
			if err := w.lost(b.target, event.Err, report); err != nil {
				return err
			}
			told = false
		case kv.Synced:
			b.synced(event.Epoch)
			told, w.away = true, false
		}
		if !told {
			continue // all at once, when the bucket has been told
		}
		if err := w.tell(b, event.Kind == kv.Synced, report); err != nil {
			return err
		}
	}

	return nil
}

// events returns what the bucket tells in one session.
func (w *watcher) events(ctx context.Context, bucket kv.Bucket, filter string) iter.Seq2[kv.Event, error] {
	return func(yield func(kv.Event, error) bool) {
		if w.Mode == Poll {
			if poll(ctx, bucket, filter, yield) {
				sleep(ctx, w.env.Interval)
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

// poll tells what a key is now, and returns false when yield does.
func poll(ctx context.Context, bucket kv.Bucket, key string, yield func(kv.Event, error) bool) bool {
	entry, err := bucket.Get(ctx, key)
	switch {
	case ctx.Err() != nil:
		return false
	case err == nil:
		return yield(kv.Event{Kind: kv.Put, Entry: entry}, nil) && yield(kv.Event{Kind: kv.Synced}, nil)
	case errors.Is(err, kv.ErrKeyDeleted):
		return yield(kv.Event{Kind: kv.Delete, Entry: entry}, nil) && yield(kv.Event{Kind: kv.Synced}, nil)
	case errors.Is(err, kv.ErrKeyNotFound):
		return yield(kv.Event{Kind: kv.Synced}, nil)
	case errors.Is(err, kv.ErrInvalidKey):
		yield(kv.Event{}, err)
		return false
	default:
		return yield(kv.Event{Kind: kv.Lost, Err: err}, nil)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// lost reports that the bucket is away, as a failure when that begins.
func (w *watcher) lost(t target, reason error, report watchers.Report) error {
	observation := watchers.Observation{State: stateError, Detail: reason.Error()}
	if !w.away {
		w.env.Log.Warn("the bucket cannot be had: the data stays as it is", "bucket", t.bucket, "error", reason)
		observation.Outcome = watchers.Failure
	}
	err := report(observation)
	if errors.Is(err, watchers.ErrRefused) {
		return nil // a visit that can take it will hear of it
	}
	w.away = w.away || err == nil

	return err
}

// tell reports what has changed, or in which state the watcher is.
func (w *watcher) tell(b *book, synced bool, report watchers.Report) error {
	if synced && b.adopt {
		// What is adopted must be settled before anything else is: else an interrupted
		// change would look as if it had been adopted.
		if err := report(watchers.Observation{Mark: b.settled.with(b.epoch, nil).encode()}); err != nil {
			return err
		}
		b.adopt = false
	}

	// A visit that a successful get began ends in one that begins with a get, so it
	// counts only once in an interval.
	get := synced && w.OnSuccessfulGet && b.held() && !time.Now().Before(w.nextGet)
	switch {
	case len(b.changes) > 0:
		return w.success(b, watchers.Observation{State: stateChanged, Detail: b.detail()}, report)
	case b.matched != "":
		detail := fmt.Sprintf("%s.%s has a new revision with the same value", b.target.bucket, b.matched)
		return w.success(b, watchers.Observation{State: stateUnchanged, Detail: detail}, report)
	case get:
		return w.success(b, watchers.Observation{State: stateUnchanged, Detail: "nothing has changed"}, report)
	case len(b.absent) > 0:
		return report(watchers.Observation{State: stateMissing, Detail: fmt.Sprintf("%d keys are missing", len(b.absent))})
	case !b.held():
		return report(watchers.Observation{State: stateMissing, Detail: "there is no value yet"})
	default:
		return report(watchers.Observation{State: stateUnchanged})
	}
}

// success reports a success, with what has changed.
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
