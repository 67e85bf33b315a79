package natskv

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
)

// Op is one change of a transaction.
type Op struct {
	Operation kv.Operation // empty is kv.OpPut
	Key       string
	Value     []byte        // of a put
	TTL       time.Duration // of a put; 0 is what the bucket has
	Last      *kv.Revision  // unless nil, the condition: the newest revision of the key, 0 if it has none
}

// maxTxn is how many changes the server takes at once, unless it is set to less.
const maxTxn = 1000

// Txn makes several changes, each of another key, or none of them: none is seen
// before all are. It returns their revisions, which follow each other. A condition
// that does not hold is kv.ErrWrongRevision. kv.ErrUnsupported says that the bucket
// was made without transactions (see Config.NoTxn) or the server is older than 2.12.
// When an error is kv.ErrUnavailable, they may be made or not, as with every put.
func (c *Client) Txn(ctx context.Context, name string, ops []Op) ([]kv.Revision, error) {
	b, err := c.bucket(name)
	if err != nil {
		return nil, err
	}
	msgs, err := batch(ops)
	if err != nil {
		return nil, fmt.Errorf("transaction in bucket %s: %w", name, err)
	}
	var last uint64
	err = b.do(ctx, "transaction", "", func(k *call, bound *binding) error {
		sc := bound.stream.CachedInfo().Config
		switch {
		case bound.readOnly != nil:
			return bound.readOnly
		case !sc.AllowAtomicPublish:
			// Perhaps it was changed since.
			if bound, err = b.bind(k); err != nil {
				return err
			}
			if !bound.stream.CachedInfo().Config.AllowAtomicPublish {
				return errNoTxn
			}
		}
		last, err = commit(k, bound, msgs)
		return err
	})
	if err != nil {
		return nil, err
	}
	revisions := make([]kv.Revision, len(ops))
	for i := range revisions {
		revisions[i] = kv.Revision(last) - kv.Revision(len(ops)-1-i)
	}
	return revisions, nil
}

var errNoTxn = fmt.Errorf("%w: the bucket is not set to take transactions", kv.ErrUnsupported)

// batch returns the messages of a transaction, their subjects being keys.
func batch(ops []Op) ([]*nats.Msg, error) {
	if len(ops) == 0 || len(ops) > maxTxn {
		return nil, fmt.Errorf("%w: %d changes at once, 1 to %d are possible", kv.ErrUnsupported, len(ops), maxTxn)
	}
	seen := map[string]bool{}
	var msgs []*nats.Msg
	for _, op := range ops {
		if err := kv.CheckKey(op.Key); err != nil {
			return nil, err
		}
		if seen[op.Key] {
			return nil, fmt.Errorf("%w: two changes of %s at once", kv.ErrUnsupported, op.Key)
		}
		seen[op.Key] = true
		msg := &nats.Msg{Subject: op.Key, Header: nats.Header{}}
		switch op.Operation {
		case "", kv.OpPut:
			msg.Data = op.Value
			if op.TTL == 0 {
				break
			}
			ttl, err := expiring(op.TTL)
			if err != nil {
				return nil, err
			}
			maps.Copy(msg.Header, ttl)
		case kv.OpDelete, kv.OpPurge:
			maps.Copy(msg.Header, marking(op.Operation))
		default:
			return nil, fmt.Errorf("%w: operation %q", kv.ErrUnsupported, op.Operation)
		}
		if op.Last != nil {
			maps.Copy(msg.Header, expecting(*op.Last))
		}
		msgs = append(msgs, msg)
	}
	return msgs, nil
}

// commit sends the messages of a transaction and returns the revision of the last. The
// server keeps them apart until that one has come, and forgets them if it does not
// come within 10 seconds.
func commit(k *call, bound *binding, keyed []*nats.Msg) (uint64, error) {
	id := rand.Text()
	for i, m := range keyed {
		msg := &nats.Msg{Subject: bound.prefix + m.Subject, Data: m.Data, Header: maps.Clone(m.Header)}
		msg.Header.Set("Nats-Batch-Id", id)
		msg.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		last := i == len(keyed)-1
		if last {
			msg.Header.Set("Nats-Batch-Commit", "1")
		} else if i > 0 {
			// Of these only the order counts, so they need not wait for each other. What
			// was wrong with one of them is an answer to the last.
			if err := k.client.nc.PublishMsg(msg); err != nil {
				return 0, err
			}
			continue
		}
		reply, err := ask(k, msg)
		switch {
		case errors.Is(err, errBroken) && last:
			return 0, errUncertain
		case err != nil:
			return 0, err
		case !last && len(reply.Data) == 0:
			continue
		}
		var ack struct {
			Seq   uint64              `json:"seq"`
			Error *jetstream.APIError `json:"error"`
		}
		if err := json.Unmarshal(reply.Data, &ack); err != nil {
			return 0, errNotJetStream
		}
		if ack.Error != nil {
			return 0, ack.Error
		}
		if !last {
			return 0, errNotJetStream
		}
		return ack.Seq, nil
	}
	return 0, nil
}
