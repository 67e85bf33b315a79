package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
)

func (a *app) kvPutCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "put BUCKET KEY [VALUE]",
		Short: "Set a key, and print its value",
		Long: `Set a key, and print its value. A VALUE of -, or none at all, is read from stdin
as it is. In the store on this host the bucket is created if it is not there.`,
		Example: `  keyturn kv put CFG username bob
  keyturn kv put CFG motd - < motd.txt`,
		Args:              between(2, 3),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 && isTerminal(a.stdin) {
				return &usageError{cmd.CommandPath(), "there is no value: name it, or give it on stdin"}
			}
			if err := kv.CheckKey(args[1]); err != nil {
				return err
			}
			var value []byte
			if len(args) == 3 && args[2] != "-" {
				value = []byte(args[2])
			} else {
				var err error
				if value, err = readValue(a.stdin); err != nil {
					return err
				}
			}
			return a.kvPut(cmd, args[0], args[1], value)
		},
	}
}

// mostValue is more than any server takes.
const mostValue = 64 << 20

func readValue(r io.Reader) ([]byte, error) {
	value, err := io.ReadAll(io.LimitReader(r, mostValue+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the value from stdin: %w", cause(err))
	case len(value) > mostValue:
		return nil, fmt.Errorf("%w: stdin has more than %d bytes", kv.ErrValueTooLarge, mostValue)
	}
	return value, nil
}

func (a *app) kvPut(cmd *cobra.Command, name, key string, value []byte) error {
	return a.withBucket(cmd.Context(), name, func(s *store, bucket kv.Bucket) error {
		var revision kv.Revision
		put := func() (err error) {
			revision, err = bucket.Put(cmd.Context(), key, value)
			return err
		}
		err := s.steady(put)
		if s.own && errors.Is(err, kv.ErrBucketNotFound) {
			if err := s.create(cmd.Context(), name); err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "keyturn: created bucket %s\n", name)
			err = s.steady(put)
		}
		if err != nil {
			return err
		}
		if a.json {
			return a.print("%s", jsonLine(newJSONEntry(kv.Entry{
				Bucket: name, Key: key, Value: value, Revision: revision, Operation: kv.OpPut,
			})))
		}
		return a.print("%s\n", a.shown(value))
	})
}
