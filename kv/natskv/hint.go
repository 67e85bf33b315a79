package natskv

import (
	"context"
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

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	sub, err := c.nc.Subscribe(subject, func(*nats.Msg) { hint() })
	if err != nil {
		return nil, fmt.Errorf("listen for hints on %q: %w: %w", subject, kv.ErrUnavailable, err)
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
