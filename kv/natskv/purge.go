package natskv

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn-io/keyturn/kv"
)

// PurgeAll removes all entries of a bucket and leaves no markers. A watch of ours
// tells what was there as missing; those of other clients tell nothing. It returns
// kv.ErrReadOnly for a mirror, whose entries would not come again.
func (c *Client) PurgeAll(ctx context.Context, name string) error {
	return c.purge(ctx, "purge", name, func(b *bucket, k *call, _ *binding) error {
		return api(k, "STREAM.PURGE."+b.stream, nil, nil)
	})
}

// CompactOptions are the choices of Compact.
type CompactOptions struct {
	Age time.Duration // of markers that are removed; 0 is all of them

	// Progress, unless nil, is called for each deleted key with how many were treated,
	// and how many there are. It must not wait.
	Progress func(done, total uint64)
}

// Compact removes what deleted and purged keys have left: their history, and their
// markers too where these are older than an age, so that everybody has seen them. It
// returns how many markers it has removed. What was put meanwhile stays, unless the
// bucket is deleted and created again meanwhile: the server does not tell the two apart.
func (c *Client) Compact(ctx context.Context, name string, opts CompactOptions) (removed int, err error) {
	if opts.Progress == nil {
		opts.Progress = func(uint64, uint64) {}
	}
	b, err := c.bucket(name)
	if err != nil {
		return 0, err
	}
	if err := c.purge(ctx, "compact", name, func(*bucket, *call, *binding) error { return nil }); err != nil {
		return 0, err
	}
	var markers []*kv.Entry
	err = b.readAll(ctx, nil, func(snapshot map[string]*kv.Entry) {
		for _, e := range snapshot {
			if e.Operation != kv.OpPut {
				markers = append(markers, e)
			}
		}
	})
	if err != nil {
		return 0, fmt.Errorf("compact bucket %s: %w", name, err)
	}
	slices.SortFunc(markers, func(a, b *kv.Entry) int { return cmp.Compare(a.Revision, b.Revision) })
	for i, marker := range markers {
		opts.Progress(uint64(i), uint64(len(markers)))
		// The server purges up to a revision, without that.
		old := time.Since(marker.Created) >= opts.Age
		before := marker.Revision
		if old {
			before++
		} else if marker.Operation == kv.OpPurge {
			continue // it has no history
		}
		err = c.purge(ctx, "compact", name, func(b *bucket, k *call, bound *binding) error {
			return api(k, "STREAM.PURGE."+b.stream, struct {
				Filter string      `json:"filter"`
				Before kv.Revision `json:"seq"`
			}{bound.prefix + marker.Key, before}, nil)
		})
		if err != nil {
			break
		}
		if old {
			removed++
		}
	}
	return removed, err
}

// purge runs f on a bucket that is not a mirror.
func (c *Client) purge(ctx context.Context, what, name string, f func(*bucket, *call, *binding) error) error {
	b, err := c.bucket(name)
	if err != nil {
		return err
	}
	return b.do(ctx, what, "", func(k *call, bound *binding) error {
		if bound.readOnly != nil {
			return bound.readOnly
		}
		return f(b, k, bound)
	})
}
