package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
)

func (a *app) kvPutCommand() *cobra.Command {
	var ttl duration
	cmd := &cobra.Command{
		Use:   "put BUCKET KEY [VALUE]",
		Short: "Set a key, and print its value",
		Long: `Set a key, and print its value. A VALUE of -, or none at all, is read from stdin
as it is. In the store on this host the bucket is created if it is not there.`,
		Example: `  keyturn kv put CFG username bob
  keyturn kv put CFG motd - < motd.txt`,
		Args:              between(2, 3),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := a.value(args)
			if err != nil {
				return err
			}
			entry := kv.Entry{Bucket: args[0], Key: args[1], Value: value}
			return a.write(cmd.Context(), entry, ttl > 0, func(ctx context.Context, s *store, bucket kv.Bucket) (revision kv.Revision, err error) {
				// To put the same value twice does no harm.
				err = s.steady(func() error {
					revision, err = put(ctx, bucket, args[1], value, time.Duration(ttl))
					return err
				})
				return revision, err
			})
		},
	}
	ttlFlag(cmd, &ttl)
	return cmd
}

// ttlFlag adds the flag that makes a value expire.
func ttlFlag(cmd *cobra.Command, ttl *duration) {
	cmd.Flags().Var(ttl, "ttl", "forget the value after this `DURATION`, of 1s or more")
}

// put puts a value that expires, unless the TTL is 0.
func put(ctx context.Context, bucket kv.Bucket, key string, value []byte, ttl time.Duration) (kv.Revision, error) {
	if ttl == 0 {
		return bucket.Put(ctx, key, value)
	}
	return bucket.(kv.Expirer).PutTTL(ctx, key, value, ttl)
}

func (a *app) kvCreateCommand() *cobra.Command {
	var ttl duration
	cmd := &cobra.Command{
		Use:   "create BUCKET KEY [VALUE]",
		Short: "Set a key that holds no value, and print its value",
		Long: `Set a key that holds no value, because it never did or was deleted, and print its
value. A VALUE of -, or none at all, is read from stdin as it is. In the store on this
host the bucket is created if it is not there.`,
		Example:           "  keyturn kv create LOCKS deploy \"$(hostname)\" --ttl 10m",
		Args:              between(2, 3),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := a.value(args)
			if err != nil {
				return err
			}
			entry := kv.Entry{Bucket: args[0], Key: args[1], Value: value}
			return a.write(cmd.Context(), entry, ttl > 0, func(ctx context.Context, _ *store, bucket kv.Bucket) (kv.Revision, error) {
				if ttl == 0 {
					return bucket.Create(ctx, args[1], value)
				}
				return bucket.(kv.Expirer).CreateTTL(ctx, args[1], value, time.Duration(ttl))
			})
		},
	}
	ttlFlag(cmd, &ttl)
	return cmd
}

// value returns what a command line of BUCKET KEY [VALUE] wants to write.
func (a *app) value(args []string) ([]byte, error) {
	if len(args) == 2 && isTerminal(a.stdin) {
		return nil, a.wrong("there is no value: name it, or give it on stdin")
	}
	if err := kv.CheckKey(args[1]); err != nil {
		return nil, a.explain(err, args[0])
	}
	if len(args) > 2 && args[2] != "-" {
		return []byte(args[2]), nil
	}
	return readValue(a.stdin)
}

// mostValue is more than any server takes.
const mostValue = 64 << 20

func readValue(r io.Reader) ([]byte, error) {
	value, err := io.ReadAll(io.LimitReader(r, mostValue+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the value from stdin: %w", cause(err))
	case len(value) > mostValue:
		return nil, fmt.Errorf("%w: stdin has more than %d bytes", kv.ErrValueTooLarge, mostValue)
	}
	return value, nil
}

// write has do write an entry, which may expire, and prints it. In the store on this host
// it makes the bucket if there is none.
func (a *app) write(ctx context.Context, entry kv.Entry, expires bool, do func(context.Context, *store, kv.Bucket) (kv.Revision, error)) error {
	name := entry.Bucket
	return a.withBucket(ctx, name, func(s *store, bucket kv.Bucket) (err error) {
		entry.Operation = kv.OpPut
		entry.Revision, err = do(ctx, s, bucket)
		if s.own && errors.Is(err, kv.ErrBucketNotFound) {
			if err := s.create(ctx, name, expires); err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "keyturn: created bucket %s\n", name)
			entry.Revision, err = do(ctx, s, bucket)
		}
		switch {
		case errors.Is(err, kv.ErrBucketNotFound):
			return a.createIt(name)
		case expires && errors.Is(err, kv.ErrUnsupported):
			return a.switchOn(err, name, "--key-ttl")
		case err != nil:
			return err
		}
		return a.printWritten(entry)
	})
}

// printWritten prints what was written.
func (a *app) printWritten(entry kv.Entry) error {
	if a.json {
		return a.print("%s", jsonLine(newJSONEntry(entry)))
	}
	return a.print("%s\n", a.shown(entry.Value))
}
