package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

func (a *app) kvAddCommand() *cobra.Command {
	var (
		settings     bucketFlags
		storage      string
		mirror       string
		mirrorDomain string
	)
	cmd := &cobra.Command{
		Use:   "add BUCKET",
		Short: "Create a bucket",
		Long: `Create a bucket. It is no error that there is one with the same settings.

A bucket with --mirror is a replica of another one that can only be read, for those who
are far from its origin. Unless it is told otherwise it keeps as much as the origin does.`,
		Example: `  keyturn kv add CFG --history 10
  keyturn kv add SESSIONS --ttl 12h --max-bucket-size 1GB
  keyturn kv add CFG_EU --mirror CFG --cluster eu`,
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg := natskv.Config{Bucket: args[0], History: defaultHistory, Replicas: 1, Memory: storage == "memory"}
			switch {
			case storage != "file" && storage != "memory":
				return a.wrong("--storage must be file or memory")
			case storage == "memory" && a.server == "":
				return a.wrong("--storage memory is of use with --server only: the store on this host ends with the last process that uses it")
			case mirrorDomain != "" && mirror == "":
				return a.wrong("--mirror-domain needs --mirror")
			}
			if mirror != "" {
				cfg.History = 0
				o := origin(mirror)
				if mirrorDomain != "" {
					o.Domain = mirrorDomain
				}
				cfg.Mirror = &o
			}
			if err := settings.apply(cmd, a.server == "", &cfg); err != nil {
				return a.wrong("%s", err)
			}
			return a.withBucket(cmd.Context(), cfg.Bucket, func(s *store, _ kv.Bucket) error {
				err := s.add(cmd.Context(), cfg)
				if cfg.Mirror != nil && errors.Is(err, kv.ErrBucketNotFound) {
					return a.explain(err, cfg.Mirror.Bucket)
				}
				if err != nil {
					return err
				}
				return a.printChanged(cmd.Context(), s, cfg.Bucket)
			})
		},
	}
	settings.add(cmd)
	f := cmd.Flags()
	f.StringVar(&storage, "storage", "file", "keep it in file or memory")
	f.StringVar(&mirror, "mirror", "", "make it a replica of this `BUCKET[@DOMAIN]`")
	f.StringVar(&mirrorDomain, "mirror-domain", "", "the JetStream domain that has the mirrored bucket, its `NAME`")
	// It fails only for a flag that is not there.
	_ = cmd.RegisterFlagCompletionFunc("storage", cobra.FixedCompletions([]string{"file", "memory"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("mirror", a.completeBucketName)
	return cmd
}

func (a *app) kvEditCommand() *cobra.Command {
	var settings bucketFlags
	cmd := &cobra.Command{
		Use:   "edit BUCKET",
		Short: "Change settings of a bucket",
		Long: `Change settings of a bucket in place: those that are named, and no others. Nothing that
it holds is lost, except what a smaller history or a shorter TTL no longer keeps.`,
		Example:           "  keyturn kv edit CFG --replicas 3 --max-bucket-size 10MB",
		Args:              between(1, 1),
		ValidArgsFunction: a.completeBucket,
		RunE: func(cmd *cobra.Command, args []string) error {
			changes := false
			cmd.Flags().Visit(func(f *pflag.Flag) { changes = changes || cmd.InheritedFlags().Lookup(f.Name) == nil })
			if !changes {
				return a.wrong("there is nothing to change: name a setting, such as --history 10")
			}
			return a.withBucket(cmd.Context(), args[0], func(s *store, _ kv.Bucket) error {
				var bad error
				err := s.steady(func() error {
					return s.EditBucket(cmd.Context(), args[0], func(cfg *natskv.Config) {
						changed := *cfg
						if bad = settings.apply(cmd, a.server == "", &changed); bad == nil {
							*cfg = changed
						}
					})
				})
				if bad != nil {
					return a.wrong("%s", bad)
				}
				if err != nil {
					return err
				}
				return a.printChanged(cmd.Context(), s, args[0])
			})
		},
	}
	settings.add(cmd)
	return cmd
}

// printChanged prints what a bucket has become, as JSON if that is wanted.
func (a *app) printChanged(ctx context.Context, s *store, name string) error {
	if !a.json {
		return nil
	}
	return a.printInfo(ctx, s, name)
}
