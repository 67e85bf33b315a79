package natskv

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyturn-io/keyturn/kv"
)

// ConnOptions are the options for a connection that is to live as long as its
// process: it is tried again for ever, after 50 milliseconds at first and after 2
// seconds in the end, a dead server is noticed after 30 seconds at most, and a
// message that cannot be sent is an error rather than kept and sent hours later.
// Who cannot wait for the first connection adds nats.RetryOnFailedConnect.
func ConnOptions() []nats.Option {
	return []nats.Option{
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.CustomReconnectDelay(func(attempts int) time.Duration { return pause(attempts) }),
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ReconnectBufSize(-1),
	}
}

// pause is how long to wait after a number of attempts that failed, 1 or more. It
// grows by a quarter each time, from 50 milliseconds to 2 seconds, so what comes back
// is found after a quarter of the time that it was away at most. A random part is
// taken off, so that many who wait do not come back at once.
func pause(attempts int) time.Duration {
	const first, most = 50 * time.Millisecond, 2 * time.Second
	d := min(time.Duration(float64(first)*math.Pow(1.25, float64(min(attempts, 20)-1))), most)
	return d/2 + rand.N(d/2)
}

// connected waits until the connection is there.
func (c *Client) connected(ctx context.Context) error {
	if c.nc.IsConnected() {
		return nil
	}
	status := c.nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer c.nc.RemoveStatusListener(status)
	for !c.nc.IsConnected() {
		if c.nc.IsClosed() {
			return nats.ErrConnectionClosed
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: not connected: %w", kv.ErrUnavailable, ctx.Err())
		case <-status:
		}
	}
	return nil
}

// call is one call of a caller, or one look of a feed: a context that is bounded
// in time, and the request that waits for its answer.
type call struct {
	context.Context
	client *Client
	cancel context.CancelFunc

	// Guarded by client.refusals.mu.
	subjects []string // of the request that is under way
	refused  error    // the server's word that it will not be answered
}

// call begins a call. The caller ends it with cancel.
func (c *Client) call(ctx context.Context, timeout time.Duration) *call {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	return &call{Context: ctx, client: c, cancel: cancel}
}

// request runs f, which sends to the subjects and waits for the answer until the
// call's context is done. That a subject is refused the server says on another way: then
// the context is done at once and request returns kv.ErrPermission. A subject
// that ends in a dot stands for all that begin with it.
func (k *call) request(f func() error, subjects ...string) error {
	nc, refusals := k.client.nc, &k.client.refusals
	if err := k.client.connected(k); err != nil {
		return err
	}
	refusals.begin(k, subjects)
	err := f()
	refused := refusals.end(k)
	if err == nil {
		return nil
	}
	if last := nc.LastError(); refused == nil && errors.Is(err, context.DeadlineExceeded) && forbids(last, subjects) {
		refused = last // somebody has replaced the handler that we had wrapped
	}
	if refused != nil {
		return fmt.Errorf("%w: %w", kv.ErrPermission, refused)
	}
	return err
}

// refusals brings together requests and the asynchronous errors that say that
// they are not permitted.
type refusals struct {
	mu      sync.Mutex
	waiting map[*call]struct{}
}

func (r *refusals) begin(k *call, subjects []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k.subjects = subjects
	r.waiting[k] = struct{}{}
}

func (r *refusals) end(k *call) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, k)
	return k.refused
}

// wrapping guards the step from reading a connection's handler to setting the
// one around it, for clients that are made at the same time on one connection.
var wrapping sync.Mutex

// listen wraps the connection's error handler.
func (r *refusals) listen(nc *nats.Conn) {
	wrapping.Lock()
	defer wrapping.Unlock()
	next := nc.ErrorHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		r.hear(err)
		if next != nil {
			next(nc, sub, err)
		}
	})
}

func (r *refusals) hear(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range r.waiting {
		if forbids(err, k.subjects) {
			k.refused = err
			k.cancel()
		}
	}
}

// forbids says whether err refuses one of the subjects, or an inbox without which
// no answer comes.
func forbids(err error, subjects []string) bool {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return false
	}
	// It reads: Permissions Violation for Publish to "the.subject"
	_, what, ok := strings.Cut(err.Error(), `"`)
	subject, _, closed := strings.Cut(what, `"`)
	if !ok || !closed {
		return false
	}
	if strings.Contains(strings.ToLower(err.Error()), "for subscription to") {
		return strings.HasPrefix(subject, nats.InboxPrefix)
	}
	return slices.ContainsFunc(subjects, func(s string) bool {
		return s == subject || strings.HasSuffix(s, ".") && strings.HasPrefix(subject, s)
	})
}
