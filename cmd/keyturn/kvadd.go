package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
	"github.com/keyturn-io/keyturn/watchers"
)

func (a *app) kvAddCommand() *cobra.Command {
	var (
		cfg     natskv.Config
		ttl     duration
		storage string
		value   int32
	)
	cmd := &cobra.Command{
		Use:     "add BUCKET",
		Short:   "Create a bucket",
		Long:    "Create a bucket. It is no error that there is one with the same settings.",
		Example: "  keyturn kv add CFG --history 10",
		Args:    between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			wrong := func(message string) error { return &usageError{cmd.CommandPath(), message} }
			switch {
			case cfg.History < 1 || cfg.History > 64:
				return wrong("--history must be from 1 to 64")
			case cfg.Replicas < 1 || cfg.Replicas > 5:
				return wrong("--replicas must be from 1 to 5")
			case value < 0 || cfg.MaxBytes < 0:
				return wrong("a size in bytes cannot be less than 0")
			case storage != "file" && storage != "memory":
				return wrong("--storage must be file or memory")
			case storage == "memory" && a.server == "":
				return wrong("--storage memory is of use with --server only: the store on this host ends with the last process that uses it")
			}
			cfg.Bucket, cfg.TTL, cfg.MaxValueSize, cfg.Memory = args[0], time.Duration(ttl), int(value), storage == "memory"
			return a.kvAdd(cmd, cfg)
		},
	}
	f := cmd.Flags()
	f.IntVar(&cfg.History, "history", defaultHistory, "how many entries to keep of each key, at most 64")
	f.IntVar(&cfg.Replicas, "replicas", 1, "on how many servers of a cluster to keep it, at most 5")
	f.Int32Var(&value, "max-value-size", 0, "the most `BYTES` of a value (default no limit)")
	f.Int64Var(&cfg.MaxBytes, "max-bucket-size", 0, "the most `BYTES` of the whole bucket (default no limit)")
	f.Var(&ttl, "ttl", "forget entries after this `DURATION`, such as 12h or 7d (default never)")
	f.StringVar(&storage, "storage", "file", "keep it in file or memory")
	// It fails only for a flag that is not there.
	_ = cmd.RegisterFlagCompletionFunc("storage", cobra.FixedCompletions([]string{"file", "memory"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// duration is a flag with the durations of a manifest.
type duration watchers.Duration

func (d *duration) Set(text string) error {
	parsed, err := watchers.ParseDuration(text)
	*d = duration(parsed)
	return err
}

func (d *duration) String() string { return time.Duration(*d).String() }

func (d *duration) Type() string { return "duration" }

// jsonBucket is a bucket as --json prints it.
type jsonBucket struct {
	Bucket       string `json:"bucket"`
	History      int    `json:"history"`
	TTL          string `json:"ttl,omitempty"`
	MaxValueSize int    `json:"max_value_size,omitempty"`
	MaxBytes     int64  `json:"max_bytes,omitempty"`
	Replicas     int    `json:"replicas"`
	Values       uint64 `json:"values"`
	Bytes        uint64 `json:"bytes"`
}

func (a *app) kvAdd(cmd *cobra.Command, cfg natskv.Config) error {
	return a.withBucket(cmd.Context(), cfg.Bucket, func(s *store, bucket kv.Bucket) error {
		if err := s.add(cmd.Context(), cfg); err != nil {
			return err
		}
		if !a.json {
			return a.print("bucket %s is there\n", cfg.Bucket)
		}
		status, err := bucket.Status(cmd.Context())
		if err != nil {
			return err
		}
		j := jsonBucket{
			Bucket: status.Bucket, History: status.History, MaxValueSize: status.MaxValueSize,
			MaxBytes: status.MaxBytes, Replicas: status.Replicas, Values: status.Values, Bytes: status.Bytes,
		}
		if status.TTL > 0 {
			j.TTL = status.TTL.String()
		}
		return a.print("%s", jsonLine(j))
	})
}

// print prints what a command was asked for.
func (a *app) print(format string, args ...any) error {
	if _, err := fmt.Fprintf(a.stdout, format, args...); err != nil {
		return fmt.Errorf("print the output: %w", cause(err))
	}
	return nil
}
