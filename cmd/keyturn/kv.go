package main

import (
	"context"
	"encoding/base64"
	"os"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/broker"
	"github.com/keyturn-io/keyturn/kv"
)

func (a *app) kvCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "kv",
		Short: "Put keys into buckets, and get them",
	},
		a.kvAddCommand(), a.kvAPICommand(), a.kvBackupCommand(), a.kvCompactCommand(), a.kvCreateCommand(),
		a.kvDelCommand(), a.kvDoctorCommand(), a.kvEditCommand(), a.kvGetCommand(), a.kvHistoryCommand(), a.kvInfoCommand(), a.kvKeysCommand(),
		a.kvLsCommand(), a.kvPurgeCommand(), a.kvPutCommand(), a.kvRestoreCommand(), a.kvRevertCommand(), a.kvRmCommand(),
		a.kvTxnCommand(), a.kvUpdateCommand(), a.kvWatchCommand(),
	)
}

// jsonEntry is an entry as --json prints it.
type jsonEntry struct {
	Bucket    string       `json:"bucket"`
	Key       string       `json:"key"`
	Value     string       `json:"value"`
	Encoding  string       `json:"encoding,omitempty"` // base64 for a value that is not UTF-8
	Revision  kv.Revision  `json:"revision"`
	Created   time.Time    `json:"created,omitzero"`
	Operation kv.Operation `json:"operation"`
}

func newJSONEntry(e kv.Entry) jsonEntry {
	j := jsonEntry{
		Bucket: e.Bucket, Key: e.Key, Value: string(e.Value),
		Revision: e.Revision, Created: e.Created, Operation: e.Operation,
	}
	if !utf8.Valid(e.Value) {
		j.Value, j.Encoding = base64.StdEncoding.EncodeToString(e.Value), "base64"
	}
	return j
}

// printEntries prints entries as JSON.
func (a *app) printEntries(entries []kv.Entry) error {
	list := []jsonEntry{}
	for _, e := range entries {
		list = append(list, newJSONEntry(e))
	}
	return a.print("%s", jsonLine(list))
}

// completeBucket completes the name of a bucket.
func (a *app) completeBucket(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeKey(cmd, args, typed)
}

// completeBucketName completes the name of a bucket as the value of a flag.
func (a *app) completeBucketName(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	return a.completeKey(cmd, nil, typed)
}

// completeKey completes the name of a bucket and then of a key in it.
func (a *app) completeKey(cmd *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	if len(args) > 1 || a.check(cmd) != nil || a.server == "" && !a.hasStore() {
		return nil, none
	}
	a.timeout = min(a.timeout, time.Second) // somebody waits for it with a key pressed
	err := a.withStore(cmd.Context(), func(s *store) (err error) {
		ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
		defer cancel()
		if len(args) == 0 {
			names, err = s.Buckets(ctx)
			return err
		}
		bucket, err := s.Bucket(args[0])
		if err != nil {
			return err
		}
		names, err = bucket.Keys(ctx)
		return err
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names, none
}

// hasStore says whether there is a store on this host, which completing must not make.
func (a *app) hasStore() bool {
	dir := a.store
	if dir == "" {
		var err error
		if dir, err = broker.DefaultDir(); err != nil {
			return false
		}
	}
	_, err := os.Stat(dir)
	return err == nil
}
