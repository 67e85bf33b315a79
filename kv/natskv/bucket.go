package natskv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
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
	opHeader      = "KV-Operation"
)

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

// binding is where a bucket's keys are read and written, as its stream says. A
// mirror is read under its origin's subjects and written at its origin.
type binding struct {
	stream jetstream.Stream
	read   string // prefix of subjects
	write  string
}

var _ kv.Bucket = (*bucket)(nil)

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
	prefix := subjectPrefix + b.name + "."
	bound := &binding{stream: stream, read: prefix, write: prefix}
	if m := stream.CachedInfo().Config.Mirror; m != nil {
		prefix = subjectPrefix + strings.TrimPrefix(m.Name, streamPrefix) + "."
		bound.read, bound.write = prefix, prefix
		if m.External != nil && m.External.APIPrefix != "" {
			bound.write = m.External.APIPrefix + "." + prefix
		}
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

func (b *bucket) Get(ctx context.Context, key string) (kv.Entry, error) {
	return b.get(ctx, "get", key, func(k *call, bound *binding) (*jetstream.RawStreamMsg, error) {
		return bound.stream.GetLastMsgForSubject(k, bound.read+key)
	})
}

func (b *bucket) GetRevision(ctx context.Context, key string, rev kv.Revision) (kv.Entry, error) {
	what := "get revision " + strconv.FormatUint(uint64(rev), 10) + " of"
	e, err := b.get(ctx, what, key, func(k *call, bound *binding) (*jetstream.RawStreamMsg, error) {
		if rev == 0 {
			return nil, kv.ErrKeyNotFound
		}
		m, err := bound.stream.GetMsg(k, uint64(rev))
		if err == nil && m.Subject != bound.read+key {
			return nil, kv.ErrKeyNotFound
		}
		return m, err
	})
	if errors.Is(err, kv.ErrKeyDeleted) {
		return e, nil // a marker is what was asked for
	}
	return e, err
}

// get gets one message of a key. Of a marker it returns kv.ErrKeyDeleted too.
func (b *bucket) get(ctx context.Context, what, key string, f func(*call, *binding) (*jetstream.RawStreamMsg, error)) (e kv.Entry, err error) {
	if err := kv.CheckKey(key); err != nil {
		return kv.Entry{}, err
	}
	err = b.do(ctx, what, key, func(k *call, bound *binding) error {
		var m *jetstream.RawStreamMsg
		err := k.request(func() (err error) {
			m, err = f(k, bound)
			return err
		}, b.gets...)
		if err != nil {
			return err
		}
		e = b.entry(key, m)
		if e.Operation != kv.OpPut {
			return kv.ErrKeyDeleted
		}
		return nil
	})
	return e, err
}

func (b *bucket) entry(key string, m *jetstream.RawStreamMsg) kv.Entry {
	return kv.Entry{
		Bucket:    b.name,
		Key:       key,
		Value:     m.Data,
		Revision:  kv.Revision(m.Sequence),
		Created:   m.Time,
		Operation: operation(m.Header),
	}
}

// operation is what a message did to its key, as its headers say: those of
// clients, or those of the server, which puts markers too when something expires.
func operation(h nats.Header) kv.Operation {
	if len(h) == 0 {
		return kv.OpPut
	}
	switch h.Get(opHeader) {
	case string(kv.OpDelete):
		return kv.OpDelete
	case string(kv.OpPurge):
		return kv.OpPurge
	case "":
		switch h.Get(jetstream.MarkerReasonHeader) {
		case "MaxAge", "Purge":
			return kv.OpPurge
		case "Remove":
			return kv.OpDelete
		}
	}
	return kv.OpPut
}

func (b *bucket) Put(ctx context.Context, key string, value []byte) (kv.Revision, error) {
	return b.publish(ctx, "put", key, value, nil)
}

func (b *bucket) Create(ctx context.Context, key string, value []byte) (kv.Revision, error) {
	rev, err := b.publish(ctx, "create", key, value, expecting(0))
	if !errors.Is(err, kv.ErrWrongRevision) {
		return rev, err
	}
	// Something is there. A marker may be overwritten.
	var last kv.Entry
	err = b.do(ctx, "create", key, func(k *call, bound *binding) (err error) {
		last, err = b.newest(k, bound, key)
		return err
	})
	if err == nil && last.Operation != kv.OpPut {
		rev, err = b.publish(ctx, "create", key, value, expecting(last.Revision))
	} else if err == nil || errors.Is(err, kv.ErrKeyNotFound) {
		err = kv.ErrWrongRevision
	}
	if errors.Is(err, kv.ErrWrongRevision) {
		return 0, fmt.Errorf("create %s in bucket %s: %w", key, b.name, kv.ErrKeyExists)
	}
	return rev, err
}

func (b *bucket) Update(ctx context.Context, key string, value []byte, last kv.Revision) (kv.Revision, error) {
	return b.publish(ctx, "update", key, value, expecting(last))
}

func (b *bucket) Delete(ctx context.Context, key string, last kv.Revision) error {
	return b.mark(ctx, "delete", key, last, nats.Header{opHeader: {string(kv.OpDelete)}})
}

func (b *bucket) Purge(ctx context.Context, key string, last kv.Revision) error {
	return b.mark(ctx, "purge", key, last, nats.Header{
		opHeader:            {string(kv.OpPurge)},
		jetstream.MsgRollup: {jetstream.MsgRollupSubject},
	})
}

func (b *bucket) mark(ctx context.Context, what, key string, last kv.Revision, header nats.Header) error {
	if last > 0 {
		maps.Copy(header, expecting(last))
	}
	_, err := b.publish(ctx, what, key, nil, header)
	return err
}

// expecting is the header that makes the server refuse a message unless last is
// the newest revision of its key, or there is none if last is 0.
func expecting(last kv.Revision) nats.Header {
	return nats.Header{jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(uint64(last), 10)}}
}

// errUncertain is all that can be said of a change whose answer was lost.
var errUncertain = fmt.Errorf("%w: the connection broke before the answer came, so it may be done or not", kv.ErrUnavailable)

// publish puts a message on a key and returns its revision.
func (b *bucket) publish(ctx context.Context, what, key string, value []byte, header nats.Header) (kv.Revision, error) {
	if err := kv.CheckKey(key); err != nil {
		return 0, err
	}
	var ack struct {
		Seq   uint64              `json:"seq"`
		Error *jetstream.APIError `json:"error"`
	}
	err := b.do(ctx, what, key, func(k *call, bound *binding) error {
		msg := &nats.Msg{Subject: bound.write + key, Header: header, Data: value}
		reply, err := ask(k, msg)
		if errors.Is(err, errBroken) {
			return errUncertain // doing it again might undo what another did meanwhile
		}
		if err != nil {
			return err
		}
		if err := json.Unmarshal(reply.Data, &ack); err != nil || ack.Error == nil && ack.Seq == 0 {
			return fmt.Errorf("%w: the answer is not JetStream's", kv.ErrUnavailable)
		}
		if ack.Error != nil {
			return ack.Error
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return kv.Revision(ack.Seq), nil
}

// ask sends a message and waits for the answer.
func ask(k *call, msg *nats.Msg) (reply *nats.Msg, err error) {
	err = k.request(func() error {
		reply, err = k.client.nc.RequestMsgWithContext(k, msg)
		return err
	}, msg.Subject)
	return reply, err
}

// newest returns the newest entry of all keys that a filter matches, markers
// included. Unlike Get it asks the stream's leader, so it is never behind what
// was acknowledged before.
func (b *bucket) newest(k *call, bound *binding, filter string) (kv.Entry, error) {
	query, err := json.Marshal(struct {
		Subject string `json:"last_by_subj"`
	}{bound.read + filter})
	if err != nil {
		return kv.Entry{}, err
	}
	reply, err := ask(k, &nats.Msg{Subject: "$JS.API.STREAM.MSG.GET." + b.stream, Data: query})
	if err != nil {
		return kv.Entry{}, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return kv.Entry{}, fmt.Errorf("%w: the answer is not JetStream's", kv.ErrUnavailable)
	}
	if answer.Error != nil {
		return kv.Entry{}, answer.Error
	}
	m := &jetstream.RawStreamMsg{Sequence: answer.Message.Seq, Time: answer.Message.Time}
	if len(answer.Message.Header) > 0 {
		if m.Header, err = nats.DecodeHeadersMsg(answer.Message.Header); err != nil {
			return kv.Entry{}, fmt.Errorf("%w: the headers cannot be read", kv.ErrUnavailable)
		}
	}
	return b.entry(strings.TrimPrefix(answer.Message.Subject, bound.read), m), nil
}

func (b *bucket) History(ctx context.Context, key string) ([]kv.Entry, error) {
	var entries []kv.Entry
	for from := uint64(1); ; {
		e, err := b.get(ctx, "history of", key, func(k *call, bound *binding) (*jetstream.RawStreamMsg, error) {
			return bound.stream.GetMsg(k, from, jetstream.WithGetMsgSubject(bound.read+key))
		})
		switch {
		case err == nil, errors.Is(err, kv.ErrKeyDeleted):
			entries = append(entries, e)
			from = uint64(e.Revision) + 1
		case errors.Is(err, kv.ErrKeyNotFound) && len(entries) > 0:
			return entries, nil
		default:
			return nil, err
		}
	}
}

func (b *bucket) Keys(ctx context.Context, filters ...string) ([]string, error) {
	if err := kv.CheckFilters(filters); err != nil {
		return nil, err
	}
	var keys []string
	err := b.do(ctx, "list keys", "", func(k *call, bound *binding) error {
		entries, err := b.snapshot(k, bound, filters)
		for key, e := range entries {
			if e.Operation == kv.OpPut && kv.MatchAny(filters, key) {
				keys = append(keys, key)
			}
		}
		return err
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
		info := bound.stream.CachedInfo()
		st = kv.Status{
			Bucket:       b.name,
			Epoch:        epoch(info),
			Values:       info.State.Msgs,
			Bytes:        info.State.Bytes,
			History:      int(info.Config.MaxMsgsPerSubject),
			TTL:          info.Config.MaxAge,
			MaxValueSize: max(int(info.Config.MaxMsgSize), 0),
			MaxBytes:     max(info.Config.MaxBytes, 0),
			Replicas:     info.Config.Replicas,
			LastRevision: kv.Revision(info.State.LastSeq),
		}
		return nil
	})
	return st, err
}

// epoch is the time at which the stream was created.
func epoch(info *jetstream.StreamInfo) kv.Epoch {
	return kv.Epoch(info.Created.UTC().Format(time.RFC3339Nano))
}
