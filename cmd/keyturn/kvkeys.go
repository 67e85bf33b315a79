package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
)

func (a *app) kvKeysCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "keys BUCKET [FILTER...]",
		Short: "List the keys of a bucket",
		Long: `List the keys of a bucket that hold a value, each on a line. A FILTER is a key in
which a part between dots may be *, and the last one > for all that follows.`,
		Example: `  keyturn kv keys CFG
  keyturn kv keys CFG 'app.>' '*.port'`,
		Args:              between(1, -1),
		ValidArgsFunction: a.completeBucket,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withBucket(cmd.Context(), args[0], func(_ *store, bucket kv.Bucket) error {
				keys, err := bucket.Keys(cmd.Context(), args[1:]...)
				if err != nil {
					return err
				}
				if a.json {
					return a.print("%s", jsonLine(append([]string{}, keys...)))
				}
				if len(keys) == 0 {
					return nil
				}
				return a.print("%s\n", strings.Join(keys, "\n"))
			})
		},
	}
}
