package kvtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyturn-io/keyturn/kv"
)

// Recorder watches a bucket, keeps what it was told, and fails the test when
// that breaks the contract: an order that goes back, an event that changes
// nothing, a Found without a Lost.
type Recorder struct {
	t      testing.TB
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	changed chan struct{} // closed and made anew by each event
	events  []kv.Event
	state   map[string]kv.Entry // what the events make of the bucket
	last    kv.Revision         // told in this life of the bucket
	lost    error
	err     error
}

// Record begins to watch. The watch ends with the test at the latest.
func Record(t testing.TB, b kv.Bucket, opts kv.WatchOptions) *Recorder {
	ctx, cancel := context.WithCancel(context.Background())
	r := &Recorder{t: t, cancel: cancel, done: make(chan struct{}), changed: make(chan struct{}), state: map[string]kv.Entry{}}
	go func() {
		defer close(r.done)
		for event, err := range b.Watch(ctx, opts) {
			r.record(event, err)
		}
	}()
	t.Cleanup(func() { _ = r.Stop() })
	return r
}

// Stop ends the watch, waits for its end and returns the error it ended with.
func (r *Recorder) Stop() error {
	r.cancel()
	<-r.done
	return r.err
}

func (r *Recorder) record(event kv.Event, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.changed)
	r.changed = make(chan struct{})
	if r.err != nil {
		r.t.Errorf("told %s after the error %v", Describe(event), r.err)
	}
	if err != nil {
		r.err = err
		return
	}
	r.events = append(r.events, event)
	if complaint := r.apply(event); complaint != "" {
		r.t.Errorf("told %s: %s\n%s", Describe(event), complaint, r.log())
	}
}

func (r *Recorder) apply(event kv.Event) string {
	if (event.Epoch == "") != (event.Kind == kv.Lost) {
		return fmt.Sprintf("the epoch is %q", event.Epoch)
	}
	e := event.Entry
	old, known := r.state[e.Key]
	switch event.Kind {
	case kv.Put, kv.Delete, kv.Purge:
		want := map[kv.EventKind]kv.Operation{kv.Put: kv.OpPut, kv.Delete: kv.OpDelete, kv.Purge: kv.OpPurge}[event.Kind]
		switch {
		case e.Operation != want:
			return "the operation is " + string(e.Operation)
		case known && old.Operation == kv.OpPut && old.Revision == e.Revision && old.Created.Equal(e.Created):
			return "it was told before" // of a marker that vanished and came back nothing else was told
		case e.Revision <= r.last:
			return fmt.Sprintf("revision %d was told before it", r.last)
		}
		r.last = e.Revision
		r.state[e.Key] = e
	case kv.Missing:
		if !known || old.Operation != kv.OpPut {
			return "it was not there"
		}
		delete(r.state, e.Key)
	case kv.Reset:
		r.last = 0
	case kv.Lost:
		if r.lost != nil && reason(r.lost) == reason(event.Err) {
			return "it was lost before for the same reason"
		}
		r.lost = event.Err
		if reason(r.lost) == nil {
			return "the reason is none of package kv"
		}
	case kv.Found:
		if r.lost == nil {
			return "it was not lost"
		}
		r.lost = nil
	case kv.Synced:
		if r.lost != nil {
			return "it is lost"
		}
	default:
		return "there is no such event"
	}
	return ""
}

func reason(err error) error {
	for _, reason := range []error{kv.ErrBucketNotFound, kv.ErrPermission, kv.ErrUnavailable} {
		if errors.Is(err, reason) {
			return reason
		}
	}
	return nil
}

// Wait waits until the events that were told since the first skip ones fulfil cond.
func (r *Recorder) Wait(what string, skip int, cond func([]kv.Event) bool) {
	r.t.Helper()
	r.wait(what, func() bool { return cond(r.events[skip:]) })
}

// WaitKind waits for an event of a kind after the first skip events and returns
// how many events there are up to it.
func (r *Recorder) WaitKind(kind kv.EventKind, skip int) (n int) {
	r.t.Helper()
	r.wait(kind.String(), func() bool {
		i := slices.IndexFunc(r.events[skip:], func(e kv.Event) bool { return e.Kind == kind })
		n = skip + i + 1
		return i >= 0
	})
	return n
}

// WaitState waits until what was told makes a bucket of exactly these keys and values.
func (r *Recorder) WaitState(want map[string]string) {
	r.t.Helper()
	r.wait(fmt.Sprintf("%d values", len(want)), func() bool { return maps.Equal(r.values(), want) })
}

// Values are the keys and values that the bucket has by what was told.
func (r *Recorder) Values() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.values()
}

func (r *Recorder) values() map[string]string {
	values := map[string]string{}
	for key, e := range r.state {
		if e.Operation == kv.OpPut {
			values[key] = string(e.Value)
		}
	}
	return values
}

func (r *Recorder) wait(what string, cond func() bool) {
	r.t.Helper()
	timeout := time.NewTimer(deadline)
	defer timeout.Stop()
	for {
		r.mu.Lock()
		ok, changed := cond(), r.changed
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-r.done:
			r.t.Fatalf("the watch ended with %v before %s", r.err, what)
		case <-timeout.C:
			r.mu.Lock()
			defer r.mu.Unlock()
			r.t.Fatalf("after %s not told: %s\n%s", deadline, what, r.log())
		}
	}
}

// Len is how many events were told.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.events)
}

// Events returns what was told.
func (r *Recorder) Events() []kv.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// Log shows the events after the first skip ones, one a line.
func (r *Recorder) Log(skip int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lines []string
	for _, e := range r.events[skip:] {
		lines = append(lines, Describe(e))
	}
	return strings.Join(lines, "\n")
}

// log shows the newest events. It needs r.mu.
func (r *Recorder) log() string {
	from := max(len(r.events)-30, 0)
	lines := []string{fmt.Sprintf("%d events, the newest:", len(r.events))}
	for _, e := range r.events[from:] {
		lines = append(lines, "\t"+Describe(e))
	}
	return strings.Join(lines, "\n")
}

// Describe shows an event in one short line.
func Describe(e kv.Event) string {
	switch e.Kind {
	case kv.Lost:
		if r := reason(e.Err); r != nil {
			return "lost: " + r.Error()
		}
		return fmt.Sprintf("lost: %v", e.Err)
	case kv.Put:
		return fmt.Sprintf("put %s=%.20q @%d", e.Entry.Key, e.Entry.Value, e.Entry.Revision)
	case kv.Delete, kv.Purge:
		return fmt.Sprintf("%s %s @%d", e.Kind, e.Entry.Key, e.Entry.Revision)
	case kv.Missing:
		return "missing " + e.Entry.Key
	}
	return e.Kind.String()
}
