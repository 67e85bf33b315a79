// Package natskv keeps buckets on NATS JetStream, as the streams that all
// JetStream KV clients read and write: what is put here, nats kv sees, and the
// other way round.
//
// A [Client] stands on a connection that the caller makes, best with
// [ConnOptions], and closes. It translates every error to those of package kv,
// bounds every call in time, and refuses names and keys that would hurt the
// connection before they are sent.
//
// # Watching
//
// All watches of one bucket through one Client share one consumer and one copy
// of what they watch. The consumer covers the union of their filters, so watching
// one key of a huge bucket costs one key; more than a few dozen filters become a
// watch of the whole bucket. After the last watch was left, the consumer stays
// for a few seconds (Options.Linger): a watch that begins meanwhile finds a warm
// one and only asks the server whether that is up to date. So beginning a watch again
// and again is cheap, and still all that was acknowledged before Watch was called
// is told before Synced.
//
// Revisions are never used to resume. A consumer is followed in sessions: a
// session begins with a snapshot of what the bucket holds, which is compared with
// what is known, goes on with the live stream, and ends at any doubt: the
// connection came back, a message is missing, the bucket is another or an older
// one, keys have vanished, or the server is silent. Then the next one begins. Only
// differences are told. While nothing happens, one look at the stream's state
// each Options.Probe finds what the live stream cannot tell: one request every two
// seconds, however many watch the bucket.
//
// A server that is back within one Options.Probe is not told as Lost: what differs
// is told, and a watch that acts on Lost does not act on every restart of a server.
//
// A key that vanishes without a marker is found by the number of keys, within two
// probes. The exception is a watched part of a bucket with more than 1000 keys: if
// as many keys appear in the bucket as vanish between two probes, it takes until
// the next snapshot, at most Options.Reconcile.
//
// In a cluster a snapshot reaches as far as the leader says, whichever server sends
// it. Get asks any server that has a copy, which may be a moment behind, and so may a
// mirror beside the bucket, which answers for it too.
//
// # Mirrors and backups
//
// A Bucket that is a mirror reads and watches what its origin held a moment ago, and
// refuses to be written with kv.ErrReadOnly. [Client.Backup] and [Client.Restore] carry
// buckets from one cluster to another: whole, proved to be, or not at all.
//
// # Permissions
//
// With a bucket B, reading needs to publish to $JS.API.STREAM.INFO.KV_B,
// $JS.API.STREAM.MSG.GET.KV_B and $JS.API.DIRECT.GET.KV_B.>, watching and listing
// keys $JS.API.CONSUMER.CREATE.KV_B.>, $JS.API.CONSUMER.DELETE.KV_B.> and $JS.FC.KV_B.>
// besides, and writing $KV.B.>; all need to subscribe to _INBOX.>. A backup needs what
// watching needs. Creating, editing, compacting, deleting, examining and listing buckets
// needs $JS.API.INFO and $JS.API.STREAM.>, and restoring $JS.SNAPSHOT.RESTORE.KV_B.> too.
package natskv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
)

// Options are the choices of a Client. The zero value works.
type Options struct {
	// Timeout is how long a call may take, if its context has no nearer
	// deadline. 0 is 5 seconds.
	Timeout time.Duration

	// Probe is how often the state of a watched bucket is looked at, and how long
	// the answer may take. 0 is 2 seconds, and 200 milliseconds is the least.
	Probe time.Duration

	// Reconcile is how often a watched bucket is compared in full without any
	// doubt. 0 is 5 minutes.
	Reconcile time.Duration

	// Linger is how long a watched bucket is followed after the last watch was
	// left. 0 is 5 seconds.
	Linger time.Duration

	// Log gets what is worth knowing and no caller can be told, such as invalid
	// keys in a bucket. nil is silence.
	Log *slog.Logger
}

// Client makes and manages buckets on one connection. Its methods may be called
// at the same time from several goroutines.
type Client struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	opts  Options
	calls *calls

	feeds   sync.WaitGroup
	ctx     context.Context // of all feeds
	endAll  context.CancelFunc
	mu      sync.Mutex
	closed  bool
	buckets map[string]*bucket
}

// errClosed ends the watches of a Client that was closed.
var errClosed = fmt.Errorf("%w: the client was closed", kv.ErrUnavailable)

// New returns a Client on a connection, which need not be connected yet and
// stays the caller's. The connection's handlers of asynchronous errors and of
// disconnecting are wrapped: who sets others afterwards should call these.
func New(nc *nats.Conn, opts Options) (*Client, error) {
	if nc == nil {
		return nil, errors.New("natskv: no connection")
	}
	orDefault(&opts.Timeout, 5*time.Second)
	orDefault(&opts.Probe, 2*time.Second)
	orDefault(&opts.Reconcile, 5*time.Minute)
	orDefault(&opts.Linger, 5*time.Second)
	if opts.Timeout < 0 || opts.Probe < minProbe || opts.Reconcile < 0 || opts.Linger < 0 {
		return nil, fmt.Errorf("natskv: a duration is negative, or Probe is below %s: %+v", minProbe, opts)
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("natskv: %w", err)
	}
	c := &Client{nc: nc, js: js, opts: opts, calls: newCalls(nc), buckets: map[string]*bucket{}}
	c.ctx, c.endAll = context.WithCancel(context.Background())
	return c, nil
}

func orDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// Close ends all watches with an error and waits until nothing of the client is
// left running. The connection stays open.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	for _, b := range c.buckets {
		if b.feed != nil {
			b.feed.view.End(fmt.Errorf("watch bucket %s: %w", b.name, errClosed))
		}
	}
	c.mu.Unlock()
	c.endAll()
	c.feeds.Wait()
}

// Bucket returns the bucket of that name, which need not exist; it asks nobody.
// It returns kv.ErrInvalidBucket for a name that kv.CheckBucket refuses.
func (c *Client) Bucket(name string) (kv.Bucket, error) { return c.bucket(name) }

func (c *Client) bucket(name string) (*bucket, error) {
	if err := kv.CheckBucket(name); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.buckets[name]
	if !ok {
		b = newBucket(c, name)
		c.buckets[name] = b
	}
	return b, nil
}
