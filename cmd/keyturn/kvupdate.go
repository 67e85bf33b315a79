package main

import (
	"errors"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
)

func (a *app) kvUpdateCommand() *cobra.Command {
	var last uint64
	cmd := &cobra.Command{
		Use:   "update BUCKET KEY [VALUE [REVISION]]",
		Short: "Set a key that nobody has changed meanwhile, and print its value",
		Long: `Set a key if its newest revision still is REVISION, and print its value. A revision
of 0 means that the key was never there. A VALUE of -, or none at all, is read from stdin
as it is; then the revision is named by --revision.`,
		Example: `  keyturn kv update CFG username alice 7
  keyturn kv update CFG motd --revision 8 < motd.txt`,
		Args:              between(2, 4),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch named := cmd.Flags().Changed("revision"); {
			case named && len(args) == 4:
				return a.wrong("the revision is there twice")
			case len(args) == 4:
				var err error
				if last, err = strconv.ParseUint(args[3], 10, 64); err != nil {
					return a.wrong("%q is no revision: keyturn kv history shows those of a key", args[3])
				}
			case !named:
				return a.wrong("there is no revision: name the one that the key has, as keyturn kv history shows it")
			}
			value, err := a.value(args)
			if err != nil {
				return err
			}
			return a.withBucket(cmd.Context(), args[0], func(_ *store, bucket kv.Bucket) error {
				revision, err := bucket.Update(cmd.Context(), args[1], value, kv.Revision(last))
				if err != nil {
					return err
				}
				return a.printWritten(kv.Entry{Bucket: args[0], Key: args[1], Value: value, Revision: revision, Operation: kv.OpPut})
			})
		},
	}
	cmd.Flags().Uint64Var(&last, "revision", 0, "the newest `REVISION` of the key")
	return cmd
}

func (a *app) kvRevertCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "revert BUCKET KEY REVISION",
		Short: "Set a key to what it was, and print its value",
		Long: `Set a key to the value that it had at REVISION, and print that. It is a new revision,
so what the key is now stays in its history. It fails if somebody else changes the key
at the same moment.`,
		Example:           "  keyturn kv revert CFG username 7",
		Args:              between(3, 3),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			revision, err := strconv.ParseUint(args[2], 10, 64)
			if err != nil {
				return a.wrong("%q is no revision: keyturn kv history shows those of a key", args[2])
			}
			ctx := cmd.Context()
			return a.withBucket(ctx, args[0], func(_ *store, bucket kv.Bucket) error {
				last, err := bucket.Get(ctx, args[1])
				if err != nil && !errors.Is(err, kv.ErrKeyDeleted) {
					return err
				}
				old, err := valueAt(ctx, bucket, args[1], kv.Revision(revision))
				if err != nil {
					return err
				}
				if old.Revision, err = bucket.Update(ctx, args[1], old.Value, last.Revision); err != nil {
					return err
				}
				return a.printWritten(kv.Entry{Bucket: args[0], Key: args[1], Value: old.Value, Revision: old.Revision, Operation: kv.OpPut})
			})
		},
	}
}
