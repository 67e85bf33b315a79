package main

import (
	"context"
	"errors"
	"iter"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn-io/keyturn/kv"
)

// told is a bucket of which a watch tells these events.
type told struct {
	kv.Bucket
	events []kv.Event
}

func (b told) Name() string { return "CFG" }

func (b told) Watch(ctx context.Context, _ kv.WatchOptions) iter.Seq2[kv.Event, error] {
	return func(yield func(kv.Event, error) bool) {
		for _, event := range b.events {
			if !yield(event, nil) {
				return
			}
		}
		<-ctx.Done()
		yield(kv.Event{}, ctx.Err())
	}
}

func event(kind kv.EventKind, key string) kv.Event {
	return kv.Event{Kind: kind, Entry: kv.Entry{Key: key}}
}

// TestNewest lists a bucket that changes while it is read.
func TestNewest(t *testing.T) {
	bucket := told{events: []kv.Event{
		event(kv.Put, "b"), event(kv.Put, "gone"), event(kv.Put, "a"), event(kv.Put, "back"), event(kv.Delete, "never"),
		event(kv.Delete, "gone"), event(kv.Missing, "back"), event(kv.Put, "back"), {Kind: kv.Synced}, event(kv.Put, "late"),
	}}
	entries, err := newest(t.Context(), bucket, nil)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, e := range entries {
		keys = append(keys, e.Key)
	}
	if diff := cmp.Diff([]string{"a", "b", "back"}, keys); diff != "" {
		t.Error(diff)
	}
}

func TestNewestOfNothing(t *testing.T) {
	_, err := newest(t.Context(), told{events: []kv.Event{{Kind: kv.Lost, Err: kv.ErrBucketNotFound}}}, nil)
	if !errors.Is(err, kv.ErrBucketNotFound) {
		t.Errorf("a lost bucket is %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 1)
	defer cancel()
	if _, err = newest(ctx, told{}, nil); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("a silent bucket is %v", err)
	}
}
