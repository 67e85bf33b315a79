package natskv

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/keyturn-io/keyturn/kv"
)

var _ kv.Hinter = (*bucket)(nil)

// Hints listens on the connection itself, without a consumer. A connection that
// comes back is a hint, too.
func (b *bucket) Hints(ctx context.Context, subject string) (<-chan struct{}, error) {
	c := b.client
	hints := make(chan struct{}, 1)
	hint := func() {
		select {
		case hints <- struct{}{}:
		default: // one waits already
		}
	}

	sub, err := c.nc.Subscribe(subject, func(*nats.Msg) { hint() })
	if errors.Is(err, nats.ErrBadSubject) {
		err = fmt.Errorf("%w: it is no subject", kv.ErrInvalidConfig)
	}
	// Without a connection there is nobody who could refuse, and the next one asks again.
	if err == nil && c.nc.IsConnected() {
		err = c.subscribed(ctx, sub)
	}
	if err != nil {
		return nil, fmt.Errorf("listen for hints on %q: %w", subject, translate(err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = sub.Unsubscribe()
		return nil, errClosed
	}
	back := c.nc.StatusChanged(nats.CONNECTED)
	c.feeds.Go(func() {
		defer c.nc.RemoveStatusListener(back)
		defer func() { _ = sub.Unsubscribe() }() // it fails for a connection that is closed
		for {
			select {
			case <-back:
				hint()
			case <-ctx.Done():
				return
			case <-c.ctx.Done():
				return
			}
		}
	})

	return hints, nil
}

// subscribed waits until the server has taken a subscription, or ends it and returns why
// the server has not.
func (c *Client) subscribed(ctx context.Context, sub *nats.Subscription) error {
	k := c.call(ctx, c.opts.Timeout)
	defer k.cancel()
	err := k.request(func() error { return c.nc.FlushWithContext(k) }, sub.Subject)
	if last := c.nc.LastError(); err == nil && c.calls.forbids(last, []string{sub.Subject}) {
		err = refused(last)
	}
	if err != nil {
		_ = sub.Unsubscribe() // it fails for a connection that is closed
	}
	return err
}
