package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
)

func (a *app) kvDelCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "del BUCKET KEY",
		Short:             "Delete a key",
		Long:              "Delete a key. Its history stays. On a terminal it asks before it does so.",
		Example:           "  keyturn kv del CFG username",
		Args:              between(2, 2),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.canAsk(force, "whether to delete the key"); err != nil {
				return err
			}
			return a.withBucket(cmd.Context(), args[0], func(s *store, bucket kv.Bucket) error {
				if _, err := bucket.Get(cmd.Context(), args[1]); err != nil {
					return err
				}
				if !force && !a.confirm("Really remove the %s key from bucket %s", args[1], args[0]) {
					return errors.New("the key was not removed")
				}
				if err := s.steady(func() error { return bucket.Delete(cmd.Context(), args[1], 0) }); err != nil {
					return err
				}
				return a.done(doneJSON{Bucket: args[0], Key: args[1], Done: "deleted"})
			})
		},
	}
	forceFlag(cmd, &force)
	return cmd
}
