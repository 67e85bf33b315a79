package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// apiBucket is a bucket as configuration management says and hears it. Its form is
// that of choria kv api.
type apiBucket struct {
	Name          string `json:"name"`
	History       int    `json:"history"`
	Expire        int64  `json:"expire"` // seconds; 0 is never
	Replicas      int    `json:"replicas"`
	MaxValueSize  int64  `json:"max_value_size"`  // bytes; -1 is no limit
	MaxBucketSize int64  `json:"max_bucket_size"` // bytes; -1 is no limit
}

func newAPIBucket(cfg natskv.Config) apiBucket {
	unlimited := func(n int64) int64 {
		if n == 0 {
			return -1
		}
		return n
	}
	return apiBucket{
		cfg.Bucket, cfg.History, int64(cfg.TTL / time.Second), cfg.Replicas,
		unlimited(int64(cfg.MaxValueSize)), unlimited(cfg.MaxBytes),
	}
}

// set makes a config what the bucket is to be, and leaves all else as it is.
func (b apiBucket) set(cfg *natskv.Config) {
	cfg.Bucket, cfg.History, cfg.TTL = b.Name, b.History, time.Duration(b.Expire)*time.Second
	cfg.Replicas, cfg.MaxValueSize, cfg.MaxBytes = b.Replicas, int(max(b.MaxValueSize, 0)), max(b.MaxBucketSize, 0)
}

func (b apiBucket) check() error {
	switch {
	case b.Name == "":
		return errors.New("name required")
	case b.History < 1:
		return errors.New("history can not be 0")
	case b.Replicas < 1 || b.Replicas > 5:
		return errors.New("replicas should be 1-5")
	case b.Expire < 0:
		return errors.New("expire can not be less than 0")
	}
	return nil
}

func (a *app) kvAPICommand() *cobra.Command {
	var check, list, ensure, remove, force bool
	wanted := apiBucket{}
	cmd := &cobra.Command{
		Use:   "api {--check|--list|--ensure|--delete}",
		Short: "Manage buckets from configuration management",
		Long: `Manage buckets from configuration management. What it prints is JSON, errors too: an
object with the one member error, on stdout, and an exit status of 1.

--ensure makes a bucket what its flags say, or, without --name, what an object on stdin
says that has the members name, history, expire, replicas, max_value_size and
max_bucket_size. One of these limits that is left out is none. A bucket that is there is
changed in place and keeps all else. No data is ever deleted, except what a smaller
history or a shorter expiry no longer keeps.`,
		Example: `  keyturn kv api --ensure --name CFG --history 5 --replicas 3 --expire 0
  keyturn kv api --list`,
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			actions := 0
			for _, action := range []bool{check, list, ensure, remove} {
				if action {
					actions++
				}
			}
			ctx := cmd.Context()
			var answer any
			var err error
			switch {
			case actions != 1:
				return a.wrong("give one of --check, --list, --ensure and --delete")
			case check:
				answer = map[string]string{"api": "ok"}
			case list:
				answer, err = a.apiList(ctx)
			case ensure:
				answer, err = a.apiEnsure(ctx, wanted)
			case remove && wanted.Name == "":
				err = errors.New("no name given")
			case remove:
				err = a.withBucket(ctx, wanted.Name, func(s *store, _ kv.Bucket) error { return s.DeleteBucket(ctx, wanted.Name) })
			}
			if err != nil {
				message := plain(err)
				if wrong, ok := errors.AsType[*usageError](err); ok {
					message = wrong.message
				}
				if err := a.print("%s", jsonLine(map[string]string{"error": message})); err != nil {
					return err
				}
				return errTold
			}
			if answer == nil {
				return nil
			}
			return a.print("%s", jsonLine(answer))
		},
	}
	f := cmd.Flags()
	f.BoolVar(&check, "check", false, "say that this API is there")
	f.BoolVar(&list, "list", false, "list the buckets")
	f.BoolVar(&ensure, "ensure", false, "create a bucket, or change it")
	f.BoolVar(&remove, "delete", false, "delete a bucket with all that it holds")
	f.StringVar(&wanted.Name, "name", "", "the `BUCKET`")
	f.IntVar(&wanted.History, "history", 0, "how many entries to keep of each key, at most 64")
	f.Int64Var(&wanted.Expire, "expire", 0, "forget entries after so many `SECONDS`; 0 is never")
	f.IntVar(&wanted.Replicas, "replicas", 0, "on how many servers to keep it, at most 5")
	f.Int64Var(&wanted.MaxValueSize, "max-value-size", -1, "the most `BYTES` of a value; -1 is no limit")
	f.Int64Var(&wanted.MaxBucketSize, "max-bucket-size", -1, "the most `BYTES` of the whole bucket; -1 is no limit")
	f.BoolVar(&force, "force", false, "taken for those who always give it: there is nothing to force, for no bucket is ever created anew")
	return cmd
}

func (a *app) apiList(ctx context.Context) ([]apiBucket, error) {
	buckets := []apiBucket{}
	err := a.eachBucket(ctx, func(info natskv.Info) { buckets = append(buckets, newAPIBucket(info.Config)) })
	return buckets, err
}

func (a *app) apiEnsure(ctx context.Context, wanted apiBucket) (is apiBucket, err error) {
	if wanted.Name == "" && !isTerminal(a.stdin) {
		decoder := json.NewDecoder(a.stdin)
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&wanted); errors.Is(err, io.EOF) {
			return is, errors.New("read a bucket from stdin: there is none")
		} else if err != nil {
			return is, fmt.Errorf("read a bucket from stdin: %w", badJSON(err))
		}
	}
	if err := wanted.check(); err != nil {
		return is, err
	}
	err = a.withBucket(ctx, wanted.Name, func(s *store, _ kv.Bucket) error {
		err := s.steady(func() error { return s.EditBucket(ctx, wanted.Name, wanted.set) })
		if errors.Is(err, kv.ErrBucketNotFound) {
			cfg := natskv.Config{}
			wanted.set(&cfg)
			err = s.add(ctx, cfg)
		}
		if err != nil {
			return err
		}
		info, err := s.BucketInfo(ctx, wanted.Name)
		is = newAPIBucket(info.Config)
		return err
	})
	return is, err
}
