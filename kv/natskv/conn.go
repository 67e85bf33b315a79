package natskv

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyturn-io/keyturn/kv"
)

// ConnOptions are the options for a connection that is to live as long as its
// process: it is tried again for ever, soon at first and then every two seconds, a
// dead server is noticed after 30 seconds at most, and what was not sent when the
// connection broke is an error at once rather than a surprise hours later.
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

// pause is how long to wait after a number of attempts that failed, 1 or more: 50
// milliseconds at first, 2 seconds at most, each less a random part so that many
// who wait do not come back at once.
func pause(attempts int) time.Duration {
	const first, most = 50 * time.Millisecond, 2 * time.Second
	d := most
	if attempts < 7 {
		d = min(first<<max(attempts-1, 0), most)
	}
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

// request runs f, which sends to the subjects and waits for the answer until its
// context is done. A server says on another way that it refuses a subject: then
// the context is done at once and request returns kv.ErrPermission. A subject that
// ends in a dot stands for all that begin with it.
func (c *Client) request(ctx context.Context, f func(context.Context) error, subjects ...string) error {
	if err := c.connected(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &waiting{subjects: subjects, cancel: cancel}
	c.refusals.add(w)
	err := f(ctx)
	refused := c.refusals.remove(w)
	if err == nil {
		return nil
	}
	if refused == nil && errors.Is(err, context.DeadlineExceeded) && w.meant(c.nc.LastError()) {
		refused = c.nc.LastError() // somebody has replaced the handler that we had wrapped
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
	waiting map[*waiting]struct{}
}

// waiting is a request that has not been answered.
type waiting struct {
	subjects []string
	cancel   context.CancelFunc
	refused  error // guarded by refusals.mu
}

func (r *refusals) add(w *waiting) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == nil {
		r.waiting = map[*waiting]struct{}{}
	}
	r.waiting[w] = struct{}{}
}

// remove ends the waiting and returns the refusal if there was one.
func (r *refusals) remove(w *waiting) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, w)
	return w.refused
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
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for w := range r.waiting {
		if w.meant(err) {
			w.refused = err
			w.cancel()
		}
	}
}

// meant says whether err refuses one of the subjects, or an inbox without which
// no answer comes.
func (w *waiting) meant(err error) bool {
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
	for _, s := range w.subjects {
		if s == subject || strings.HasSuffix(s, ".") && strings.HasPrefix(subject, s) {
			return true
		}
	}
	return false
}
