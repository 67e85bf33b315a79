package main

import (
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
	)
	cmd := &cobra.Command{
		Use:   "get BUCKET KEY",
		Short: "Print the value of a key",
		Example: `  keyturn kv get CFG username
  keyturn kv get CFG motd --raw > motd.txt
  keyturn kv get CFG username --revision 7`,
		Args:              between(2, 2),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if raw && a.json {
				return &usageError{cmd.CommandPath(), "--raw and --json exclude each other"}
			}
			return a.withBucket(cmd.Context(), args[0], func(_ *store, bucket kv.Bucket) error {
				var entry kv.Entry
				var err error
				if cmd.Flags().Changed("revision") {
					entry, err = valueAt(cmd.Context(), bucket, args[1], kv.Revision(revision))
				} else {
					entry, err = bucket.Get(cmd.Context(), args[1])
				}
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
	return cmd
}

// valueAt returns what a key was at a revision, or an error that says that it was nothing.
func valueAt(ctx context.Context, bucket kv.Bucket, key string, revision kv.Revision) (kv.Entry, error) {
	entry, err := bucket.GetRevision(ctx, key, revision)
	switch {
	case errors.Is(err, kv.ErrKeyNotFound):
		return entry, fmt.Errorf("key %s has no revision %d, or it is no longer kept: look at keyturn kv history %s %s", key, revision, bucket.Name(), key)
	case err == nil && entry.Operation != kv.OpPut:
		return entry, fmt.Errorf("revision %d of key %s is no value: it was deleted there", revision, key)
	}
	return entry, err
}
