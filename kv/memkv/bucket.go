package memkv

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/internal/view"
)

// bucket is a name and what stands under it. Its fields are guarded by store.mu.
type bucket struct {
	store *Store
	name  string
	view  *view.View
	life  *life // nil while there is no such bucket
	down  bool
}

// life is what a bucket holds between its creation and its end.
type life struct {
	cfg     Config
	epoch   kv.Epoch
	last    kv.Revision
	entries map[string][]kv.Entry // of each key, oldest first, never empty
}

func (l *life) clone() *life {
	c := *l
	c.entries = make(map[string][]kv.Entry, len(l.entries))
	for key, entries := range l.entries {
		c.entries[key] = slices.Clone(entries)
	}
	return &c
}

func (l *life) newest(key string) (kv.Entry, bool) {
	entries := l.entries[key]
	if len(entries) == 0 {
		return kv.Entry{}, false
	}
	return entries[len(entries)-1], true
}

func (l *life) bytes() (n int64) {
	for _, entries := range l.entries {
		for _, e := range entries {
			n += size(e)
		}
	}
	return n
}

func size(e kv.Entry) int64 { return int64(len(e.Key) + len(e.Value)) }

// begin gives the bucket a new life.
func (b *bucket) begin(l *life) {
	b.store.epochs++
	l.epoch = kv.Epoch(strconv.Itoa(b.store.epochs))
	b.life = l
	b.tell()
}

// check returns why the bucket cannot be had, if it cannot.
func (b *bucket) check() error {
	switch {
	case b.store.down || b.down:
		return kv.ErrUnavailable
	case b.life == nil:
		return kv.ErrBucketNotFound
	}
	return nil
}

// tell tells all watches how the bucket stands now.
func (b *bucket) tell() {
	if err := b.check(); err != nil {
		b.view.Lose(fmt.Errorf("watch bucket %s: %w", b.name, err))
		return
	}
	known := make(map[string]*kv.Entry, len(b.life.entries))
	for key := range b.life.entries {
		e, _ := b.life.newest(key)
		known[key] = &e
	}
	b.view.Replace(b.life.epoch, known, false, b.view.Newest())
}

// do runs f while the bucket is there and stands still, and says in its error
// what was tried.
func (b *bucket) do(ctx context.Context, what string, f func(*life) error) error {
	err := ctx.Err()
	if err == nil {
		b.store.mu.Lock()
		defer b.store.mu.Unlock()
		err = b.check()
	}
	if err == nil {
		err = f(b.life)
	}
	if err != nil {
		return fmt.Errorf("%s in bucket %s: %w", what, b.name, err)
	}
	return nil
}

// doKey is do for a key.
func (b *bucket) doKey(ctx context.Context, what, key string, f func(*life) error) error {
	if err := kv.CheckKey(key); err != nil {
		return err
	}
	return b.do(ctx, what+" "+key, f)
}

var _ kv.Bucket = (*bucket)(nil)

func (b *bucket) Name() string { return b.name }

func (b *bucket) Get(ctx context.Context, key string) (e kv.Entry, err error) {
	err = b.doKey(ctx, "get", key, func(l *life) error {
		var ok bool
		if e, ok = l.newest(key); !ok {
			return kv.ErrKeyNotFound
		}
		if e.Operation != kv.OpPut {
			return kv.ErrKeyDeleted
		}
		return nil
	})
	return e, err
}

func (b *bucket) GetRevision(ctx context.Context, key string, rev kv.Revision) (e kv.Entry, err error) {
	err = b.doKey(ctx, "get revision "+strconv.FormatUint(uint64(rev), 10)+" of", key, func(l *life) error {
		i := slices.IndexFunc(l.entries[key], func(e kv.Entry) bool { return e.Revision == rev })
		if i < 0 {
			return kv.ErrKeyNotFound
		}
		e = l.entries[key][i]
		return nil
	})
	return e, err
}

func (b *bucket) Put(ctx context.Context, key string, value []byte) (rev kv.Revision, err error) {
	err = b.doKey(ctx, "put", key, func(l *life) error {
		rev, err = b.add(l, key, value, kv.OpPut)
		return err
	})
	return rev, err
}

func (b *bucket) Create(ctx context.Context, key string, value []byte) (rev kv.Revision, err error) {
	err = b.doKey(ctx, "create", key, func(l *life) error {
		if e, ok := l.newest(key); ok && e.Operation == kv.OpPut {
			return kv.ErrKeyExists
		}
		rev, err = b.add(l, key, value, kv.OpPut)
		return err
	})
	return rev, err
}

func (b *bucket) Update(ctx context.Context, key string, value []byte, last kv.Revision) (rev kv.Revision, err error) {
	err = b.doKey(ctx, "update", key, func(l *life) error {
		if e, _ := l.newest(key); e.Revision != last {
			return kv.ErrWrongRevision
		}
		rev, err = b.add(l, key, value, kv.OpPut)
		return err
	})
	return rev, err
}

func (b *bucket) Delete(ctx context.Context, key string, last kv.Revision) error {
	return b.doKey(ctx, "delete", key, func(l *life) error { return b.end(l, key, last, kv.OpDelete) })
}

func (b *bucket) Purge(ctx context.Context, key string, last kv.Revision) error {
	return b.doKey(ctx, "purge", key, func(l *life) error { return b.end(l, key, last, kv.OpPurge) })
}

func (b *bucket) end(l *life, key string, last kv.Revision, op kv.Operation) error {
	if e, _ := l.newest(key); last > 0 && e.Revision != last {
		return kv.ErrWrongRevision
	}
	_, err := b.add(l, key, nil, op)
	return err
}

// add adds an entry within the limits and tells those who watch.
func (b *bucket) add(l *life, key string, value []byte, op kv.Operation) (kv.Revision, error) {
	if limit := l.cfg.MaxValueSize; limit > 0 && len(value) > limit {
		return 0, fmt.Errorf("%w: %d bytes, at most %d are allowed", kv.ErrValueTooLarge, len(value), limit)
	}
	e := kv.Entry{
		Bucket:    b.name,
		Key:       key,
		Value:     slices.Clip(bytes.Clone(value)), // so that appending copies
		Revision:  l.last + 1,
		Created:   b.store.now(),
		Operation: op,
	}
	kept := append(slices.Clone(l.entries[key]), e)
	switch {
	case op == kv.OpPurge:
		kept = kept[len(kept)-1:]
	case len(kept) > l.cfg.History:
		kept = kept[len(kept)-l.cfg.History:]
	}
	if limit := l.cfg.MaxBytes; limit > 0 {
		total := l.bytes()
		for _, old := range l.entries[key] {
			total -= size(old)
		}
		for _, now := range kept {
			total += size(now)
		}
		if total > limit {
			return 0, kv.ErrBucketFull
		}
	}
	l.last = e.Revision
	l.entries[key] = kept
	b.view.Change(e)
	return e.Revision, nil
}

func (b *bucket) History(ctx context.Context, key string) (entries []kv.Entry, err error) {
	err = b.doKey(ctx, "history of", key, func(l *life) error {
		entries = slices.Clone(l.entries[key])
		if len(entries) == 0 {
			return kv.ErrKeyNotFound
		}
		return nil
	})
	return entries, err
}

func (b *bucket) Keys(ctx context.Context, filters ...string) (keys []string, err error) {
	if err := kv.CheckFilters(filters); err != nil {
		return nil, err
	}
	err = b.do(ctx, "list keys", func(l *life) error {
		for _, key := range slices.Sorted(maps.Keys(l.entries)) {
			if e, _ := l.newest(key); e.Operation == kv.OpPut && kv.MatchAny(filters, key) {
				keys = append(keys, key)
			}
		}
		return nil
	})
	return keys, err
}

func (b *bucket) Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
	return func(yield func(kv.Event, error) bool) {
		if err := kv.CheckFilters(opts.Filters); err != nil {
			yield(kv.Event{}, err)
			return
		}
		sub := b.view.Subscribe(opts.Filters)
		defer sub.Leave()
		b.welcome(sub)
		sub.Tell(ctx, yield)
	}
}

// welcome tells a new watch how the bucket stands.
func (b *bucket) welcome(sub *view.Subscriber) {
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	if err := b.check(); err != nil {
		b.view.Lose(fmt.Errorf("watch bucket %s: %w", b.name, err))
		return
	}
	b.view.Admit(sub)
}

func (b *bucket) Status(ctx context.Context) (st kv.Status, err error) {
	err = b.do(ctx, "status", func(l *life) error {
		st = kv.Status{
			Bucket:       b.name,
			Epoch:        l.epoch,
			Bytes:        uint64(l.bytes()),
			History:      l.cfg.History,
			MaxValueSize: l.cfg.MaxValueSize,
			MaxBytes:     l.cfg.MaxBytes,
			Replicas:     1,
			LastRevision: l.last,
		}
		for _, entries := range l.entries {
			st.Values += uint64(len(entries))
		}
		return nil
	})
	return st, err
}
