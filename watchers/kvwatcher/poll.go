package kvwatcher

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/keyturn-io/keyturn/kv"
)

// poll tells what a key is now, and returns false when yield does.
func (w *watcher) poll(ctx context.Context, bucket kv.Bucket, key string, yield func(kv.Event, error) bool) bool {
	answered := func(events ...kv.Event) bool {
		w.misses = 0
		for _, event := range append(events, kv.Event{Kind: kv.Synced}) {
			if !yield(event, nil) {
				return false
			}
		}
		return true
	}
	entry, err := bucket.Get(ctx, key)
	switch {
	case ctx.Err() != nil:
		return false
	case err == nil:
		return answered(kv.Event{Kind: kv.Put, Entry: entry})
	case errors.Is(err, kv.ErrKeyDeleted):
		return answered(kv.Event{Kind: kv.Delete, Entry: entry})
	case errors.Is(err, kv.ErrKeyNotFound):
		return answered()
	case errors.Is(err, kv.ErrInvalidKey):
		yield(kv.Event{}, err)
		return false
	default:
		w.misses++
		return yield(kv.Event{Kind: kv.Lost, Err: err}, nil)
	}
}

// longestPause is how long a bucket that is away is left alone at most, if the
// interval is not longer.
const longestPause = 30 * time.Second

// pause returns how long to wait for the next poll: the interval, and up to twice as
// long each time while the bucket is away. How much of that is random, so that not all
// nodes of a fleet come back at once to a server that does.
func (w *watcher) pause() time.Duration {
	interval := w.env.Interval
	longest := interval
	for missed := 0; missed < w.misses && longest < longestPause; missed++ {
		longest = min(2*longest, longestPause)
	}

	return interval + rand.N(longest-interval+1)
}

// hintPause is how often the bucket is asked at most when hints come without end,
// which anybody may send.
const hintPause = 50 * time.Millisecond

// sleep waits for the next poll.
func sleep(ctx context.Context, pause time.Duration, hints <-chan struct{}) {
	began := time.Now()
	select {
	case <-time.After(pause):
	case <-ctx.Done():
	case <-hints:
		select {
		case <-time.After(hintPause - time.Since(began)):
		case <-ctx.Done():
		}
	}
}

// hints listens for messages that hint at a change; without a republish_trigger there
// are none.
func (w *watcher) hints(ctx context.Context) (<-chan struct{}, error) {
	if w.RepublishTrigger.IsZero() {
		return nil, nil
	}
	subject, err := w.RepublishTrigger.Expand(w.env.Scope())
	if err != nil {
		return nil, fmt.Errorf("property republish_trigger: %w", err)
	}
	t, err := w.target(w.env.Scope())
	if err != nil {
		return nil, err
	}
	bucket, err := w.env.Bucket(t.bucket)
	if err != nil {
		return nil, err
	}
	hinter, ok := bucket.(kv.Hinter)
	if !ok {
		return nil, fmt.Errorf("property republish_trigger: bucket %s cannot listen for messages", t.bucket)
	}

	hints, err := hinter.Hints(ctx, subject)
	if err != nil && !w.RepublishTrigger.Static() {
		err = errors.New("property republish_trigger: its template does not make a subject that can be listened to")
	}

	return hints, err
}
