package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
)

func (a *app) kvGetCommand() *cobra.Command {
	var (
		raw      bool
		revision uint64
		from     string
	)
	cmd := &cobra.Command{
		Use:   "get BUCKET KEY",
		Short: "Print the value of a key",
		Example: `  keyturn kv get CFG username
  keyturn kv get CFG motd --raw > motd.txt
  keyturn kv get CFG username --revision 7
  keyturn kv get CFG username --from CFG_EU`,
		Args:              between(2, 2),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if raw && a.json {
				return a.wrong("--raw and --json exclude each other")
			}
			return a.withBucket(cmd.Context(), cmp.Or(from, args[0]), func(s *store, bucket kv.Bucket) error {
				if err := a.isReplica(cmd.Context(), s, from, args[0]); err != nil {
					return err
				}
				var entry kv.Entry
				var err error
				if cmd.Flags().Changed("revision") {
					entry, err = valueAt(cmd.Context(), bucket, args[1], kv.Revision(revision))
				} else {
					entry, err = bucket.Get(cmd.Context(), args[1])
				}
				entry.Bucket = args[0]
				switch {
				case err != nil:
					return err
				case a.json:
					return a.print("%s", jsonLine(newJSONEntry(entry)))
				case raw:
					return a.print("%s", entry.Value)
				default:
					created := entry.Created.UTC().Format("02 Jan 06 15:04 MST")
					return a.print("%s > %s created @ %s\n\n%s\n", args[0], args[1], created, a.shown(entry.Value))
				}
			})
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "print the bytes of the value and nothing else")
	cmd.Flags().Uint64Var(&revision, "revision", 0, "the value that the key had at this `REVISION`")
	cmd.Flags().StringVar(&from, "from", "", "read it from this `REPLICA` of the bucket, which may be behind")
	// It fails only for a flag that is not there.
	_ = cmd.RegisterFlagCompletionFunc("from", a.completeBucketName)
	return cmd
}

// isReplica refuses a bucket, unless its name is empty, that is no replica of an origin.
func (a *app) isReplica(ctx context.Context, s *store, name, origin string) error {
	if name == "" {
		return nil
	}
	info, err := s.BucketInfo(ctx, name)
	if err != nil {
		return err
	}
	if info.Mirror == nil || info.Mirror.Bucket != origin {
		return fmt.Errorf("bucket %s is no replica of %s: create one with %s", name, origin, a.again("kv", "add", "NAME", "--mirror", origin))
	}
	return nil
}

// valueAt returns what a key was at a revision, or an error that says that it was nothing.
func valueAt(ctx context.Context, bucket kv.Bucket, key string, revision kv.Revision) (kv.Entry, error) {
	entry, err := bucket.GetRevision(ctx, key, revision)
	switch {
	case errors.Is(err, kv.ErrKeyNotFound):
		return entry, fmt.Errorf("key %s has no revision %d, or it is no longer kept: kv history shows those that are", key, revision)
	case err == nil && entry.Operation != kv.OpPut:
		return entry, fmt.Errorf("revision %d of key %s is no value: it was deleted there", revision, key)
	}
	return entry, err
}
