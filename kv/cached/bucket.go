package cached

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/keyturn-io/keyturn/kv"
)

var _ kv.Bucket = (*Bucket)(nil)

// Name is the bucket's name.
func (b *Bucket) Name() string { return b.name }

// Get returns the newest entry of a key as kv.Bucket.Get does, from memory if that
// may answer.
func (b *Bucket) Get(ctx context.Context, key string) (kv.Entry, error) {
	if !kv.MatchAny(b.opts.Filters, key) {
		return b.bucket.Get(ctx, key)
	}
	if err := ctx.Err(); err != nil {
		return kv.Entry{}, b.wrap("get "+key, err)
	}
	r, reason, doubted := b.look(key)
	if r != nil && r.held && reason == nil && !doubted {
		b.hits.Add(1)
		e := r.entry
		e.Value = bytes.Clone(e.Value)
		if e.Operation != kv.OpPut {
			return e, b.wrap("get "+key, kv.ErrKeyDeleted)
		}
		return e, nil
	}
	if err := kv.CheckKey(key); err != nil {
		return kv.Entry{}, err
	}
	switch {
	case reason == nil && !doubted && r == nil:
		b.hits.Add(1)
		return kv.Entry{}, b.wrap("get "+key, kv.ErrKeyNotFound)
	case reason != nil && b.opts.OnStale == Fail:
		b.misses.Add(1)
		return kv.Entry{}, b.wrap("get "+key, fmt.Errorf("%w: %w", ErrStale, reason))
	}
	b.misses.Add(1)
	return b.ask(ctx, key)
}

// look returns what memory has of a key, why it does not answer, and whether there
// is a doubt about the key.
func (b *Bucket) look(key string) (r *record, reason error, doubted bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if reason = b.silent(); b.memory != nil {
		r = b.memory.records[key]
	}
	_, doubted = b.doubts[key]
	return r, reason, doubted
}

// ask gets a key from the bucket and ends the doubt about it, if memory says the same.
func (b *Bucket) ask(ctx context.Context, key string) (kv.Entry, error) {
	before := b.newestDoubt()
	e, err := b.bucket.Get(ctx, key)
	if err == nil || errors.Is(err, kv.ErrKeyNotFound) {
		b.saw(key, e, before)
	}
	return e, err
}

// Keys returns the keys that hold a value, sorted, from memory if that may answer
// and all keys that a filter can match are cached.
func (b *Bucket) Keys(ctx context.Context, filters ...string) ([]string, error) {
	if err := kv.CheckFilters(filters); err != nil {
		return nil, err
	}
	if !b.covers(filters) {
		return b.bucket.Keys(ctx, filters...)
	}
	if err := ctx.Err(); err != nil {
		return nil, b.wrap("list keys", err)
	}
	keys, reason, doubted := b.list(filters)
	switch {
	case reason != nil && b.opts.OnStale == Fail:
		b.misses.Add(1)
		return nil, b.wrap("list keys", fmt.Errorf("%w: %w", ErrStale, reason))
	case reason != nil || doubted:
		b.misses.Add(1)
		return b.bucket.Keys(ctx, filters...)
	}
	b.hits.Add(1)
	return keys, nil
}

// list returns the keys that memory has, why it does not answer, and whether there
// is a doubt about one that the filters match.
func (b *Bucket) list(filters []string) (keys []string, reason error, doubted bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for key := range b.doubts {
		doubted = doubted || kv.MatchAny(filters, key)
	}
	if reason = b.silent(); reason == nil && !doubted {
		keys = b.memory.keys(filters)
	}
	return keys, reason, doubted
}

// covers says whether all keys that one of the filters can match are cached.
func (b *Bucket) covers(filters []string) bool {
	if len(b.opts.Filters) == 0 {
		return true
	}
	if len(filters) == 0 {
		filters = []string{">"}
	}
	for _, f := range filters {
		if !slices.ContainsFunc(b.opts.Filters, func(cached string) bool { return covers(cached, f) }) {
			return false
		}
	}
	return true
}

// covers says whether a filter matches all keys that another one can match. Taken
// as a key the other one matches then, except that * does not stand for a >.
func covers(filter, other string) bool {
	return kv.Match(filter, other) && (strings.HasSuffix(filter, ">") || !strings.HasSuffix(other, ">"))
}

// Put sets a key in the bucket.
func (b *Bucket) Put(ctx context.Context, key string, value []byte) (kv.Revision, error) {
	return b.write(key, value, func() (kv.Revision, error) { return b.bucket.Put(ctx, key, value) })
}

// Create sets a key in the bucket that holds no value there.
func (b *Bucket) Create(ctx context.Context, key string, value []byte) (kv.Revision, error) {
	return b.write(key, value, func() (kv.Revision, error) { return b.bucket.Create(ctx, key, value) })
}

// Update sets a key in the bucket whose newest revision there is last.
func (b *Bucket) Update(ctx context.Context, key string, value []byte, last kv.Revision) (kv.Revision, error) {
	return b.write(key, value, func() (kv.Revision, error) { return b.bucket.Update(ctx, key, value, last) })
}

// Delete puts a delete marker on a key in the bucket.
func (b *Bucket) Delete(ctx context.Context, key string, last kv.Revision) error {
	_, err := b.write(key, nil, func() (kv.Revision, error) { return 0, b.bucket.Delete(ctx, key, last) })
	return err
}

// Purge puts a purge marker on a key in the bucket and removes its history.
func (b *Bucket) Purge(ctx context.Context, key string, last kv.Revision) error {
	_, err := b.write(key, nil, func() (kv.Revision, error) { return 0, b.bucket.Purge(ctx, key, last) })
	return err
}

// write makes a write that a Get after it is to see. A write that is refused for a
// wrong revision says that memory may be behind.
func (b *Bucket) write(key string, value []byte, f func() (kv.Revision, error)) (kv.Revision, error) {
	before := b.newestDoubt()
	rev, err := f()
	told := err == nil || errors.Is(err, kv.ErrWrongRevision) || errors.Is(err, kv.ErrKeyExists)
	if told && kv.MatchAny(b.opts.Filters, key) {
		b.wrote(key, claimOf(kv.Entry{Revision: rev, Operation: kv.OpPut, Value: value}), before)
	}
	return rev, err
}

// GetRevision asks the bucket.
func (b *Bucket) GetRevision(ctx context.Context, key string, rev kv.Revision) (kv.Entry, error) {
	return b.bucket.GetRevision(ctx, key, rev)
}

// History asks the bucket.
func (b *Bucket) History(ctx context.Context, key string) ([]kv.Entry, error) {
	return b.bucket.History(ctx, key)
}

// Status asks the bucket.
func (b *Bucket) Status(ctx context.Context) (kv.Status, error) { return b.bucket.Status(ctx) }

// Watch watches the bucket. A Get that follows an event is as new as the event.
func (b *Bucket) Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
	return func(yield func(kv.Event, error) bool) {
		for event, err := range b.bucket.Watch(ctx, opts) {
			if key := event.Entry.Key; key != "" && kv.MatchAny(b.opts.Filters, key) {
				e := event.Entry
				if event.Kind == kv.Missing {
					e = kv.Entry{}
				}
				b.saw(key, e, 0)
			}
			if !yield(event, err) {
				return
			}
		}
	}
}

func (b *Bucket) wrap(what string, err error) error {
	return fmt.Errorf("%s in bucket %s: %w", what, b.name, err)
}
