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
		nats.CustomReconnectDelay(pause),
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ReconnectBufSize(-1),
	}
}

// pause is how long to wait after a number of attempts that failed, 1 or more. It
// grows by a seventh each time, from 50 milliseconds to 2 seconds, so what comes back
// is found after a seventh of the time that it was away at most. A random part is
// taken off, so that many who wait do not come back at once.
func pause(attempts int) time.Duration {
	const first, most = 50 * time.Millisecond, 2 * time.Second
	d := min(time.Duration(float64(first)*math.Pow(8.0/7, float64(min(attempts, 40)-1))), most)
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

// errBroken ends a request whose answer will not come any more.
var errBroken = fmt.Errorf("%w: the connection broke before the answer came", kv.ErrUnavailable)

// call is one call of a caller, or one look of a feed: a context that is bounded
// in time, and the request that waits for its answer.
type call struct {
	context.Context
	client *Client
	cancel context.CancelFunc

	// Guarded by client.calls.mu.
	subjects []string // of the request that is under way
	failed   error    // why it will not be answered
}

// call begins a call. The caller ends it with cancel.
func (c *Client) call(ctx context.Context, timeout time.Duration) *call {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	return &call{Context: ctx, client: c, cancel: cancel}
}

// request runs f, which sends to the subjects and waits for the answer until the
// call is done. A server that refuses a subject says so on another way, and a
// connection that breaks says nothing: either ends the call at once, and request
// returns kv.ErrPermission or errBroken. A subject that ends in a dot stands for
// all that begin with it.
func (k *call) request(f func() error, subjects ...string) error {
	nc, calls := k.client.nc, k.client.calls
	if err := k.client.connected(k); err != nil {
		// The connection may have broken behind the answer to the call's last request.
		if failed := calls.end(k); failed != nil {
			return failed
		}
		return err
	}
	calls.begin(k, subjects)
	err := f()
	failed := calls.end(k)
	if err == nil {
		return nil
	}
	if last := nc.LastError(); failed == nil && errors.Is(err, context.DeadlineExceeded) && calls.forbids(last, subjects) {
		failed = refused(last) // somebody has replaced the handler that we had wrapped
	}
	if failed != nil {
		return failed
	}
	return err
}

func refused(err error) error { return fmt.Errorf("%w: %w", kv.ErrPermission, err) }

// calls are those that wait for an answer, and are told what ends the waiting.
type calls struct {
	inbox string // what the subjects of answers begin with

	mu      sync.Mutex
	waiting map[*call]struct{}
}

func (c *calls) begin(k *call, subjects []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k.subjects = subjects
	c.waiting[k] = struct{}{}
}

// end returns why the request was not answered, if it is known.
func (c *calls) end(k *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, k)
	return k.failed
}

// fail ends the calls that an error is about.
func (c *calls) fail(err error, about func(*call) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.waiting {
		if about(k) {
			k.failed = err
			k.cancel()
		}
	}
}

// wrapping guards the step from reading a connection's handlers to setting those
// around them, for clients that are made at the same time on one connection.
var wrapping sync.Mutex

// newCalls wraps the connection's handlers.
func newCalls(nc *nats.Conn) *calls {
	inbox := nc.NewInbox()
	c := &calls{inbox: inbox[:strings.LastIndexByte(inbox, '.')+1], waiting: map[*call]struct{}{}}
	wrapping.Lock()
	defer wrapping.Unlock()
	onError, onDisconnect := nc.ErrorHandler(), nc.DisconnectErrHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		c.fail(refused(err), func(k *call) bool { return c.forbids(err, k.subjects) })
		if onError != nil {
			onError(nc, sub, err)
		}
	})
	nc.SetDisconnectErrHandler(func(nc *nats.Conn, err error) {
		c.fail(errBroken, func(*call) bool { return true })
		if onDisconnect != nil {
			onDisconnect(nc, err)
		}
	})
	return c
}

// forbids says whether err refuses one of the subjects, or an inbox without which
// no answer comes.
func (c *calls) forbids(err error, subjects []string) bool {
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
		return strings.HasPrefix(subject, c.inbox) || slices.Contains(subjects, subject)
	}
	return slices.ContainsFunc(subjects, func(s string) bool {
		return s == subject || strings.HasSuffix(s, ".") && strings.HasPrefix(subject, s)
	})
}
