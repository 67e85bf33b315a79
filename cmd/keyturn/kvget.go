package main

import (
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
)

func (a *app) kvGetCommand() *cobra.Command {
	var raw bool
	cmd := &cobra.Command{
		Use:   "get BUCKET KEY",
		Short: "Print the value of a key",
		Example: `  keyturn kv get CFG username
  keyturn kv get CFG motd --raw > motd.txt`,
		Args:              between(2, 2),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if raw && a.json {
				return &usageError{cmd.CommandPath(), "--raw and --json exclude each other"}
			}
			return a.withBucket(cmd.Context(), args[0], func(_ *store, bucket kv.Bucket) error {
				entry, err := bucket.Get(cmd.Context(), args[1])
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
	return cmd
}

// shown is a value as it is printed. A terminal gets no control characters: whoever
// may put a key shall not write on the screen of those who look at it.
func (a *app) shown(value []byte) string {
	text := string(value)
	if !isTerminal(a.stdout) {
		return text
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}
