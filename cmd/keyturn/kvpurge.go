package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

func (a *app) kvPurgeCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "purge BUCKET [KEY]",
		Short: "Remove a key with its history, or all that a bucket holds",
		Long: `Remove a key with its history, or all that a bucket holds. The bucket stays. On a
terminal it asks before it does so.

Who watches the bucket is told that a purged key was removed. When a whole bucket is
purged there is nothing left that could say so: watches that compare, such as those of
keyturn, call the keys missing.`,
		Example: `  keyturn kv purge CFG username
  keyturn kv purge CFG`,
		Args:              between(1, 2),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.canAsk(force, "whether to purge it"); err != nil {
				return err
			}
			return a.withBucket(cmd.Context(), args[0], func(s *store, bucket kv.Bucket) error {
				if len(args) == 2 {
					return a.purgeKey(cmd.Context(), s, bucket, args[1], force)
				}
				return a.purgeBucket(cmd.Context(), s, bucket, force)
			})
		},
	}
	forceFlag(cmd, &force)
	return cmd
}

func (a *app) purgeKey(ctx context.Context, s *store, bucket kv.Bucket, key string, force bool) error {
	if _, err := bucket.Get(ctx, key); err != nil && !errors.Is(err, kv.ErrKeyDeleted) {
		return err
	}
	if !force && !a.confirm("Really remove the %s key from bucket %s", key, bucket.Name()) {
		return errors.New("the key was not removed")
	}
	if err := s.steady(func() error { return bucket.Purge(ctx, key, 0) }); err != nil {
		return err
	}
	return a.done(doneJSON{Bucket: bucket.Name(), Key: key, Done: "purged"})
}

func (a *app) purgeBucket(ctx context.Context, s *store, bucket kv.Bucket, force bool) error {
	if _, err := bucket.Status(ctx); err != nil {
		return err
	}
	// The question is Choria's, though the bucket stays.
	if !force && !a.confirm("Really remove the %s bucket", bucket.Name()) {
		return errors.New("the bucket was not purged")
	}
	if err := s.steady(func() error { return s.PurgeAll(ctx, bucket.Name()) }); err != nil {
		return err
	}
	return a.done(doneJSON{Bucket: bucket.Name(), Done: "purged"})
}

func (a *app) kvCompactCommand() *cobra.Command {
	var (
		force bool
		age   = duration(30 * time.Minute)
	)
	cmd := &cobra.Command{
		Use:   "compact BUCKET",
		Short: "Remove what deleted keys have left",
		Long: `Remove what deleted and purged keys have left: their history, and the markers that
say that they were deleted, where these are older than --older-than, so that everybody
who watches has seen them. Keys that hold a value keep all they have. On a terminal it
asks before it does so. It works in a bucket that is full, too.`,
		Example:           "  keyturn kv compact CFG --older-than 1d",
		Args:              between(1, 1),
		ValidArgsFunction: a.completeBucket,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.canAsk(force, "whether to compact it"); err != nil {
				return err
			}
			return a.withBucket(cmd.Context(), args[0], func(s *store, bucket kv.Bucket) error {
				if _, err := bucket.Status(cmd.Context()); err != nil {
					return err
				}
				if !force && !a.confirm("Really remove the history of deleted keys from bucket %s", args[0]) {
					return errors.New("the bucket was not compacted")
				}
				total := 0
				bar := a.progress("compacting of " + args[0])
				err := s.steady(func() error {
					removed, err := s.Compact(cmd.Context(), args[0], natskv.CompactOptions{Age: time.Duration(age), Progress: bar.report})
					total += removed
					return err
				})
				bar.end()
				switch {
				case err != nil:
					return err
				case a.json:
					return a.print("%s", jsonLine(map[string]any{"bucket": args[0], "markers": total}))
				default:
					return a.print("Removed %d markers from bucket %s\n", total, args[0])
				}
			})
		},
	}
	forceFlag(cmd, &force)
	cmd.Flags().Var(&age, "older-than", "remove markers of at least this `DURATION`")
	return cmd
}
