package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
)

func (a *app) kvRmCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm BUCKET",
		Short:             "Remove a bucket with all that it holds",
		Long:              "Remove a bucket with all that it holds. On a terminal it asks before it does so.",
		Example:           "  keyturn kv rm CFG",
		Args:              between(1, 1),
		ValidArgsFunction: a.completeBucket,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.canAsk(force, "whether to remove the bucket"); err != nil {
				return err
			}
			return a.withBucket(cmd.Context(), args[0], func(s *store, bucket kv.Bucket) error {
				if _, err := bucket.Status(cmd.Context()); err != nil {
					return err
				}
				if !force && !a.confirm("Really remove the %s bucket", args[0]) {
					return errors.New("the bucket was not removed")
				}
				// Who asks again because the answer was lost may find it gone.
				tries := 0
				err := s.steady(func() error { tries++; return s.DeleteBucket(cmd.Context(), args[0]) })
				if err != nil && !(tries > 1 && errors.Is(err, kv.ErrBucketNotFound)) {
					return err
				}
				return a.done(doneJSON{Bucket: args[0], Done: "removed"})
			})
		},
	}
	forceFlag(cmd, &force)
	return cmd
}
