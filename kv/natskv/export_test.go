package natskv

import (
	"context"

	"github.com/keyturn-io/keyturn/kv"
)

// Prove proves a backup that has the newest revisions of these subjects.
func (c *Client) Prove(ctx context.Context, bucket string, has map[string]uint64, live map[string]kv.Revision) error {
	b, err := c.bucket(bucket)
	if err != nil {
		return err
	}
	k := c.call(ctx, c.opts.Timeout)
	defer k.cancel()
	if _, err := b.bind(k); err != nil {
		return err
	}
	return b.prove(ctx, content{newest: has}, live)
}

// SetChunkSize makes Restore send chunks of n bytes, until the test is over.
func SetChunkSize(t interface{ Cleanup(func()) }, n int) {
	old := chunkSize
	chunkSize = n
	t.Cleanup(func() { chunkSize = old })
}
