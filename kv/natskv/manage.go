package natskv

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
)

// Config describes a bucket to create. Only Bucket is required.
type Config struct {
	Bucket      string
	Description string
	History     int           // entries kept for each key, at most 64; 0 is 1
	TTL         time.Duration // entries older than this expire; 0 is never
	MarkerTTL   time.Duration // what expires leaves a marker for this long; 0 is no marker

	// MaxValueSize is the most bytes of a value; 0 is no limit. The server counts
	// the headers of a message too, which Create, Update, Delete and Purge use:
	// about 50 bytes of the limit are theirs.
	MaxValueSize int

	MaxBytes int64 // of the whole bucket in the store; 0 is no limit
	Replicas int   // 0 is 1
	Memory   bool  // keep it in memory instead of on disk
}

// CreateBucket creates a bucket, or finds that it is there with the same
// settings. It returns kv.ErrInvalidBucket, and kv.ErrBucketExists when there is one
// with other settings.
func (c *Client) CreateBucket(ctx context.Context, cfg Config) error {
	if err := kv.CheckBucket(cfg.Bucket); err != nil {
		return err
	}
	storage := jetstream.FileStorage
	if cfg.Memory {
		storage = jetstream.MemoryStorage
	}
	if cfg.History < 0 || cfg.History > jetstream.KeyValueMaxHistory {
		return fmt.Errorf("create bucket %s: a history of %d, 0 to %d is allowed", cfg.Bucket, cfg.History, jetstream.KeyValueMaxHistory)
	}
	if cfg.MaxValueSize < 0 || cfg.MaxValueSize > math.MaxInt32 {
		return fmt.Errorf("create bucket %s: a value size of %d, 0 to %d is allowed", cfg.Bucket, cfg.MaxValueSize, math.MaxInt32)
	}
	config := jetstream.KeyValueConfig{
		Bucket:         cfg.Bucket,
		Description:    cfg.Description,
		History:        uint8(cfg.History),
		TTL:            cfg.TTL,
		LimitMarkerTTL: cfg.MarkerTTL,
		MaxValueSize:   int32(cfg.MaxValueSize),
		MaxBytes:       cfg.MaxBytes,
		Replicas:       cfg.Replicas,
		Storage:        storage,
	}
	stream := streamPrefix + cfg.Bucket
	return c.manage(ctx, "create bucket "+cfg.Bucket, func(ctx context.Context) error {
		for attempt := 1; ; attempt++ {
			_, err := c.js.CreateKeyValue(ctx, config)
			var api *jetstream.APIError
			if !errors.As(err, &api) || api.ErrorCode != codeStreamCreate || !sleep(ctx, pause(attempt)) {
				return err
			}
			// The server may still be removing a bucket of that name that was deleted.
		}
	}, "$JS.API.INFO", "$JS.API.STREAM.CREATE."+stream, "$JS.API.STREAM.INFO."+stream)
}

// DeleteBucket deletes a bucket with all it holds, or returns kv.ErrBucketNotFound.
func (c *Client) DeleteBucket(ctx context.Context, name string) error {
	if err := kv.CheckBucket(name); err != nil {
		return err
	}
	stream := streamPrefix + name
	return c.manage(ctx, "delete bucket "+name, func(ctx context.Context) error {
		return c.js.DeleteStream(ctx, stream)
	}, "$JS.API.STREAM.DELETE."+stream)
}

// Buckets returns the names of all buckets, sorted.
func (c *Client) Buckets(ctx context.Context) ([]string, error) {
	var names []string
	err := c.manage(ctx, "list buckets", func(ctx context.Context) error {
		list := c.js.KeyValueStoreNames(ctx)
		for name := range list.Name() {
			names = append(names, name)
		}
		return list.Error()
	}, "$JS.API.STREAM.NAMES")
	slices.Sort(names)
	return names, err
}

func (c *Client) manage(ctx context.Context, what string, f func(context.Context) error, subjects ...string) error {
	k := c.call(ctx, c.opts.Timeout)
	defer k.cancel()
	if err := k.request(func() error { return f(k) }, subjects...); err != nil {
		return fmt.Errorf("%s: %w", what, translate(err))
	}
	return nil
}
