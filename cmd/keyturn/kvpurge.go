package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
)

func (a *app) kvPurgeCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "purge BUCKET KEY",
		Short:             "Remove a key with its history",
		Long:              "Remove a key with its history. On a terminal it asks before it does so.",
		Example:           "  keyturn kv purge CFG username",
		Args:              between(2, 2),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.canAsk(force, "whether to purge it"); err != nil {
				return err
			}
			return a.withBucket(cmd.Context(), args[0], func(s *store, bucket kv.Bucket) error {
				if _, err := bucket.History(cmd.Context(), args[1]); err != nil {
					return err
				}
				if !force && !a.confirm("Really remove the %s key from bucket %s", args[1], args[0]) {
					return errors.New("the key was not removed")
				}
				if err := s.steady(func() error { return bucket.Purge(cmd.Context(), args[1], 0) }); err != nil {
					return err
				}
				return a.done(doneJSON{Bucket: args[0], Key: args[1], Done: "purged"})
			})
		},
	}
	forceFlag(cmd, &force)
	return cmd
}
