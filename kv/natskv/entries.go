package natskv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
)

// opHeader says what a message does to its key, unless that is a put.
const opHeader = "KV-Operation"

func (b *bucket) Get(ctx context.Context, key string) (kv.Entry, error) {
	return b.get(ctx, "get", key, func(k *call, bound *binding) (*jetstream.RawStreamMsg, error) {
		return bound.stream.GetLastMsgForSubject(k, bound.prefix+key)
	})
}

func (b *bucket) GetRevision(ctx context.Context, key string, rev kv.Revision) (kv.Entry, error) {
	what := "get revision " + strconv.FormatUint(uint64(rev), 10) + " of"
	e, err := b.get(ctx, what, key, func(k *call, bound *binding) (*jetstream.RawStreamMsg, error) {
		if rev == 0 {
			return nil, kv.ErrKeyNotFound
		}
		m, err := bound.stream.GetMsg(k, uint64(rev))
		if err == nil && m.Subject != bound.prefix+key {
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

func (b *bucket) PutTTL(ctx context.Context, key string, value []byte, ttl time.Duration) (kv.Revision, error) {
	header, err := expiring(ttl)
	if err != nil {
		return 0, err
	}
	return b.publish(ctx, "put", key, value, header)
}

func (b *bucket) Create(ctx context.Context, key string, value []byte) (kv.Revision, error) {
	return b.create(ctx, key, value, nil)
}

func (b *bucket) CreateTTL(ctx context.Context, key string, value []byte, ttl time.Duration) (kv.Revision, error) {
	header, err := expiring(ttl)
	if err != nil {
		return 0, err
	}
	return b.create(ctx, key, value, header)
}

func (b *bucket) create(ctx context.Context, key string, value []byte, header nats.Header) (kv.Revision, error) {
	rev, err := b.publish(ctx, "create", key, value, merge(header, expecting(0)))
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
		rev, err = b.publish(ctx, "create", key, value, merge(header, expecting(last.Revision)))
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
	return b.mark(ctx, "delete", key, last, kv.OpDelete)
}

func (b *bucket) Purge(ctx context.Context, key string, last kv.Revision) error {
	return b.mark(ctx, "purge", key, last, kv.OpPurge)
}

func (b *bucket) mark(ctx context.Context, what, key string, last kv.Revision, op kv.Operation) error {
	header := marking(op)
	if last > 0 {
		header = merge(header, expecting(last))
	}
	_, err := b.publish(ctx, what, key, nil, header)
	return err
}

// marking is the header of a marker.
func marking(op kv.Operation) nats.Header {
	header := nats.Header{opHeader: {string(op)}}
	if op == kv.OpPurge {
		header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	}
	return header
}

// expecting is the header that makes the server refuse a message unless last is
// the newest revision of its key, or there is none if last is 0.
func expecting(last kv.Revision) nats.Header {
	return nats.Header{jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(uint64(last), 10)}}
}

// expiring is the header that makes the server remove a message after a while. It counts
// whole seconds, and would cut off the rest.
func expiring(ttl time.Duration) (nats.Header, error) {
	if ttl < time.Second {
		return nil, fmt.Errorf("%w: a TTL of %s, the least is a second", kv.ErrInvalidConfig, ttl)
	}
	seconds := (ttl-1)/time.Second + 1
	return nats.Header{jetstream.MsgTTLHeader: {(seconds * time.Second).String()}}, nil
}

func merge(a, b nats.Header) nats.Header {
	merged := nats.Header{}
	maps.Copy(merged, a)
	maps.Copy(merged, b)
	return merged
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
		if bound.readOnly != nil {
			return bound.readOnly
		}
		msg := &nats.Msg{Subject: bound.prefix + key, Header: header, Data: value}
		reply, err := ask(k, msg)
		if errors.Is(err, errBroken) {
			return errUncertain // doing it again might undo what another did meanwhile
		}
		if err != nil {
			return err
		}
		if err := json.Unmarshal(reply.Data, &ack); err != nil || ack.Error == nil && ack.Seq == 0 {
			return errNotJetStream
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
	}{bound.prefix + filter})
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
		return kv.Entry{}, errNotJetStream
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
	return b.entry(strings.TrimPrefix(answer.Message.Subject, bound.prefix), m), nil
}

func (b *bucket) History(ctx context.Context, key string) ([]kv.Entry, error) {
	var entries []kv.Entry
	for from := uint64(1); ; {
		e, err := b.get(ctx, "history of", key, func(k *call, bound *binding) (*jetstream.RawStreamMsg, error) {
			return bound.stream.GetMsg(k, from, jetstream.WithGetMsgSubject(bound.prefix+key))
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

// Histories returns what is kept of all keys that one of the filters matches, or of all
// keys if there are none, in the order of revisions and markers included. It takes as
// long as it comes closer to the end, unless ctx is done before. It returns
// kv.ErrInvalidBucket, kv.ErrInvalidKey and kv.ErrBucketNotFound, and kv.ErrUnavailable
// too when the bucket was created again meanwhile.
func (c *Client) Histories(ctx context.Context, name string, filters ...string) ([]kv.Entry, error) {
	b, err := c.bucket(name)
	if err == nil {
		err = kv.CheckFilters(filters)
	}
	if err != nil {
		return nil, err
	}
	entries, err := b.histories(ctx, filters)
	if err != nil {
		return nil, fmt.Errorf("histories of bucket %s: %w", name, translateNet(err))
	}
	return entries, nil
}

func (b *bucket) histories(ctx context.Context, filters []string) (entries []kv.Entry, err error) {
	opening := b.client.call(ctx, b.client.opts.Timeout)
	defer opening.cancel()
	bound, err := b.bind(opening)
	if err != nil {
		return nil, translate(err)
	}
	s := newSession(b, bound, func(map[string]*kv.Entry) {}, func(kv.Entry) {})
	s.each = func(m *nats.Msg, meta *nats.MsgMetadata) error {
		key := strings.TrimPrefix(m.Subject, bound.prefix)
		if kv.CheckKey(key) == nil && kv.MatchAny(filters, key) {
			entries = append(entries, kv.Entry{
				Bucket: b.name, Key: key, Value: m.Data, Revision: kv.Revision(meta.Sequence.Stream),
				Created: meta.Timestamp, Operation: operation(m.Header),
			})
		}
		return nil
	}
	if err := s.open(opening, cover(orAll(filters)), false); err != nil {
		return nil, translate(err)
	}
	defer s.end()
	err = s.wait(ctx)
	return entries, err
}
