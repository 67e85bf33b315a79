package cached

import (
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
	r, ok := b.recall(key)
	if ok && r != nil && r.held {
		b.hits.add(uint64(r.entry.Revision))
		if r.entry.Operation != kv.OpPut {
			return r.entry, b.wrap("get "+key, kv.ErrKeyDeleted)
		}
		return r.entry, nil
	}
	if err := kv.CheckKey(key); err != nil {
		return kv.Entry{}, err
	}
	if ok && r == nil {
		b.hits.add(uint64(len(key)))
		return kv.Entry{}, b.wrap("get "+key, kv.ErrKeyNotFound)
	}
	b.misses.Add(1)
	if err := b.refusal(); err != nil {
		return kv.Entry{}, b.wrap("get "+key, err)
	}
	return b.ask(ctx, key)
}

// recall returns what memory has of a key, nil for nothing. It returns false when
// memory does not answer, or there is a doubt about the key.
func (b *Bucket) recall(key string) (*record, bool) {
	if b.doubted(key) {
		return nil, false
	}
	m := b.memory.Load()
	if m == nil || b.tooOld() {
		return nil, false
	}
	return m.get(key), true
}

// refusal returns ErrStale if memory does not answer and the bucket is not to.
func (b *Bucket) refusal() error {
	if b.opts.OnStale != Fail {
		return nil
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if reason := b.silent(); reason != nil {
		return fmt.Errorf("%w: %w", ErrStale, reason)
	}
	return nil
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
	if keys, ok := b.list(filters); ok {
		b.hits.add(0)
		slices.Sort(keys)
		return keys, nil
	}
	b.misses.Add(1)
	if err := b.refusal(); err != nil {
		return nil, b.wrap("list keys", err)
	}
	return b.bucket.Keys(ctx, filters...)
}

// list returns the keys that memory has, in no order. It returns false when memory
// does not answer, or there is a doubt about a key that one of the filters matches.
func (b *Bucket) list(filters []string) ([]string, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for key := range b.doubts {
		if kv.MatchAny(filters, key) {
			return nil, false
		}
	}
	if b.silent() != nil {
		return nil, false
	}
	return b.memory.Load().keys(filters), true
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
