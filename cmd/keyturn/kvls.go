package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

func (a *app) kvLsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ls [BUCKET [FILTER...]]",
		Aliases: []string{"list"},
		Short:   "List the buckets, or the keys of one with their values",
		Long: `List the buckets, or the keys of one with their values. A FILTER is a key in
which a part between dots may be *, and the last one > for all that follows.`,
		Example: `  keyturn kv ls
  keyturn kv ls CFG 'app.>'`,
		ValidArgsFunction: a.completeBucket,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.kvLsBuckets(cmd.Context())
			}
			return a.withBucket(cmd.Context(), args[0], func(_ *store, bucket kv.Bucket) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
				defer cancel()
				entries, err := newest(ctx, bucket, args[1:])
				if err != nil {
					return err
				}
				return a.printNewest(entries)
			})
		},
	}
}

// kvLsBuckets lists the buckets.
func (a *app) kvLsBuckets(ctx context.Context) error {
	all := []jsonBucket{}
	if err := a.eachBucket(ctx, func(info natskv.Info) { all = append(all, newJSONBucket(info)) }); err != nil {
		return err
	}
	if a.json {
		return a.print("%s", jsonLine(all))
	}
	var rows [][]string
	for _, b := range all {
		rows = append(rows, []string{b.Bucket, strconv.Itoa(b.History), strconv.FormatUint(b.Values, 10)})
	}
	return a.printTable([]string{"bucket", "history", "values"}, rows)
}

// eachBucket calls do for all buckets, sorted by their names.
func (a *app) eachBucket(ctx context.Context, do func(natskv.Info)) error {
	return a.withStore(ctx, func(s *store) error {
		names, err := s.Buckets(ctx)
		if err != nil {
			return a.explain(err, "")
		}
		for _, name := range names {
			switch info, err := s.BucketInfo(ctx, name); {
			case err == nil:
				do(info)
			case errors.Is(err, kv.ErrBucketNotFound): // it went a moment ago
			case errors.Is(err, kv.ErrInvalidBucket): // another program's stream, no bucket
			default:
				return a.explain(err, name)
			}
		}
		return nil
	})
}

func (a *app) printNewest(entries []kv.Entry) error {
	if a.json {
		return a.printEntries(entries)
	}
	var rows [][]string
	for _, e := range entries {
		rows = append(rows, []string{e.Key, strconv.FormatUint(uint64(e.Revision), 10), moment(e.Created), brief(e.Value)})
	}
	return a.printTable([]string{"key", "seq", "time", "value"}, rows)
}

// newest returns the entries that hold a value now, sorted by their keys.
func newest(ctx context.Context, bucket kv.Bucket, filters []string) ([]kv.Entry, error) {
	entries := map[string]kv.Entry{}
	for event, err := range bucket.Watch(ctx, kv.WatchOptions{Filters: filters}) {
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return nil, fmt.Errorf("list bucket %s: %w: %w", bucket.Name(), kv.ErrUnavailable, err)
		case err != nil:
			return nil, err
		case event.Kind == kv.Lost:
			return nil, event.Err
		case event.Kind == kv.Synced:
			return slices.SortedFunc(maps.Values(entries), func(a, b kv.Entry) int { return strings.Compare(a.Key, b.Key) }), nil
		case event.Kind == kv.Put:
			entries[event.Entry.Key] = event.Entry
		default:
			delete(entries, event.Entry.Key)
		}
	}
	return nil, ctx.Err()
}
