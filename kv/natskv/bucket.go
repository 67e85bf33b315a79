package natskv

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
)

// How buckets are laid out in JetStream.
const (
	streamPrefix  = "KV_"
	subjectPrefix = "$KV."
	restorePrefix = "$KEYTURN.RESTORE." // instead of subjectPrefix, while it is being restored
)

// restoring says whether a stream is what is there of a bucket that is being restored,
// or was when that was interrupted. It is not a bucket yet.
func restoring(sc jetstream.StreamConfig) bool { return sc.Metadata[restoringKey] != "" }

// restoringKey is the metadata that such a stream has.
const restoringKey = "keyturn.restoring"

var errRestoring = fmt.Errorf("%w: it is being restored, or a restore was interrupted", kv.ErrBucketNotFound)

// bucket is a bucket by name. It does not know whether there is one.
type bucket struct {
	client *Client
	name   string
	stream string
	gets   []string // the subjects that Get may publish to

	bound atomic.Pointer[binding]
	feed  *feed // while somebody watches; guarded by client.mu

	warned bool // of invalid keys; owned by the feed
}

func newBucket(c *Client, name string) *bucket {
	stream := streamPrefix + name
	return &bucket{
		client: c,
		name:   name,
		stream: stream,
		gets:   []string{"$JS.API.DIRECT.GET." + stream + ".", "$JS.API.DIRECT.GET." + stream, "$JS.API.STREAM.MSG.GET." + stream},
	}
}

// binding is where a bucket's keys are, as its stream says. Those of a mirror have
// the subjects of its origin, and cannot be written.
type binding struct {
	stream   jetstream.Stream
	prefix   string // of subjects
	readOnly error  // nil unless it is a mirror
}

var (
	_ kv.Bucket  = (*bucket)(nil)
	_ kv.Expirer = (*bucket)(nil)
)

func (b *bucket) Name() string { return b.name }

// bind asks the server for the stream.
func (b *bucket) bind(k *call) (*binding, error) {
	var stream jetstream.Stream
	err := k.request(func() (err error) {
		stream, err = b.client.js.Stream(k, b.stream)
		return err
	}, "$JS.API.STREAM.INFO."+b.stream)
	if err != nil {
		b.bound.Store(nil)
		return nil, err
	}
	if restoring(stream.CachedInfo().Config) {
		b.bound.Store(nil)
		return nil, errRestoring
	}
	bound := &binding{stream: stream, prefix: subjectPrefix + b.name + "."}
	if m := stream.CachedInfo().Config.Mirror; m != nil {
		origin := strings.TrimPrefix(m.Name, streamPrefix)
		bound.prefix = subjectPrefix + origin + "."
		bound.readOnly = fmt.Errorf("%w: it is a mirror, write to its origin %s", kv.ErrReadOnly, origin)
	}
	b.bound.Store(bound)
	return bound, nil
}

// do runs f on the bucket's stream within the client's timeout, and says in its
// error what was tried on which key, if any. Where nobody answers, the stream is gone,
// has moved or has no leader for the moment: it is looked for again, and so it is
// when the connection breaks.
func (b *bucket) do(ctx context.Context, what, key string, f func(*call, *binding) error) error {
	timeout := b.client.opts.Timeout
	began := time.Now()
	k := b.client.call(ctx, timeout)
	defer func() { k.cancel() }()
	bound, err := b.bound.Load(), error(nil)
	if bound == nil {
		bound, err = b.bind(k)
	}
	if err == nil {
		err = f(k, bound)
	}
	for attempt := 1; errors.Is(err, nats.ErrNoResponders) || errors.Is(err, errBroken); attempt++ {
		if errors.Is(err, errBroken) { // and the call with it
			k.cancel()
			k = b.client.call(ctx, timeout-time.Since(began))
		} else if attempt > 1 && !sleep(k, pause(attempt)) {
			break
		}
		if bound, err = b.bind(k); err == nil {
			err = f(k, bound)
		} else if errors.Is(err, nats.ErrNoResponders) {
			break // not even JetStream answers
		}
	}
	if err != nil && key != "" {
		what += " " + key
	}
	if err != nil {
		return fmt.Errorf("%s in bucket %s: %w", what, b.name, translate(err))
	}
	return nil
}

// sleep waits, and says whether it was for as long as it should.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (b *bucket) Keys(ctx context.Context, filters ...string) ([]string, error) {
	if err := kv.CheckFilters(filters); err != nil {
		return nil, err
	}
	var keys []string
	err := b.do(ctx, "list keys", "", func(k *call, bound *binding) error {
		entries, err := b.snapshot(k, bound, filters)
		if err != nil {
			return err // and perhaps this is done again
		}
		for key, e := range entries {
			if e.Operation == kv.OpPut && kv.MatchAny(filters, key) {
				keys = append(keys, key)
			}
		}
		return nil
	})
	slices.Sort(keys)
	return keys, err
}

func (b *bucket) Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
	return func(yield func(kv.Event, error) bool) {
		if err := kv.CheckFilters(opts.Filters); err != nil {
			yield(kv.Event{}, err)
			return
		}
		sub, leave, err := b.follow(opts.Filters)
		if err != nil {
			yield(kv.Event{}, err)
			return
		}
		defer leave()
		sub.Tell(ctx, yield)
	}
}

func (b *bucket) Status(ctx context.Context) (st kv.Status, err error) {
	err = b.do(ctx, "get status", "", func(k *call, _ *binding) error {
		bound, err := b.bind(k)
		if err != nil {
			return err
		}
		st = statusOf(bound.stream.CachedInfo())
		return nil
	})
	return st, err
}

func statusOf(info *jetstream.StreamInfo) kv.Status {
	c := configOf(info.Config)
	return kv.Status{
		Bucket:       c.Bucket,
		Epoch:        epoch(info),
		Values:       info.State.Msgs,
		Bytes:        info.State.Bytes,
		History:      c.History,
		TTL:          c.TTL,
		MaxValueSize: c.MaxValueSize,
		MaxBytes:     c.MaxBytes,
		Replicas:     c.Replicas,
		LastRevision: kv.Revision(info.State.LastSeq),
	}
}

// epoch is the time at which the stream was created.
func epoch(info *jetstream.StreamInfo) kv.Epoch {
	return kv.Epoch(info.Created.UTC().Format(time.RFC3339Nano))
}
