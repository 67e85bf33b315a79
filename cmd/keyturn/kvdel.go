package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

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
			if !force && !isTerminal(a.stdin) {
				return errors.New("there is no terminal to ask whether to delete the key: add --force")
			}
			return a.withBucket(cmd.Context(), args[0], func(s *store, bucket kv.Bucket) error {
				if _, err := bucket.Get(cmd.Context(), args[1]); err != nil {
					return err
				}
				if !force && !a.confirm("Really remove the %s key from bucket %s", args[1], args[0]) {
					return errors.New("the key was not removed")
				}
				return s.steady(func() error { return bucket.Delete(cmd.Context(), args[1], 0) })
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return cmd
}

// confirm asks a question on the terminal. Anything but a yes is a no.
func (a *app) confirm(question string, args ...any) bool {
	fmt.Fprintf(a.stderr, "? "+question+" (y/N) ", args...)
	answer, _ := bufio.NewReader(a.stdin).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true
	default:
		return false
	}
}
