package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
)

func (a *app) kvHistoryCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "history BUCKET KEY",
		Short: "Show what a key was, as far as the bucket keeps it",
		Long: `Show what a key was, as far as the bucket keeps it, oldest first.

Long values are shown in part, and those that cannot be printed in quotes;
keyturn kv get BUCKET KEY --revision SEQ prints them as they are.`,
		Example:           "  keyturn kv history CFG username",
		Args:              between(2, 2),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withBucket(cmd.Context(), args[0], func(_ *store, bucket kv.Bucket) error {
				entries, err := bucket.History(cmd.Context(), args[1])
				if err != nil {
					return err
				}
				if a.json {
					return a.printEntries(entries)
				}
				var rows [][]string
				for _, e := range entries {
					rows = append(rows, []string{
						strconv.FormatUint(uint64(e.Revision), 10), string(e.Operation), moment(e.Created),
						strconv.Itoa(len(e.Value)), brief(e.Value),
					})
				}
				return a.printTable([]string{"seq", "operation", "time", "length", "value"}, rows)
			})
		},
	}
}
