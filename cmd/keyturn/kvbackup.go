package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

func (a *app) kvBackupCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "backup BUCKET DIR",
		Short: "Write a bucket into a folder",
		Long: `Write a bucket with its history and its settings into a folder, which is made, and prove
that it is whole: each key that held a value at the start and was not deleted meanwhile is
in it. Others may go on writing. What fails or is interrupted leaves no backup.

The folder is like that of nats stream backup, and each tool restores the backups of the
other. Values are in it as they are: keep it as safe as the bucket.`,
		Example: "  keyturn kv backup CFG /srv/backup/cfg",
		Args:    between(2, 2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return nil, cobra.ShellCompDirectiveFilterDirs
			}
			return a.completeBucket(cmd, args, typed)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := a.interruptible(cmd.Context())
			defer stop()
			err := a.withBucket(ctx, args[0], func(s *store, _ kv.Bucket) error {
				bar := a.progress("backup of " + args[0])
				made, err := s.Backup(ctx, args[0], args[1], natskv.BackupOptions{Progress: bar.report})
				bar.end()
				switch {
				case errors.Is(err, fs.ErrExist):
					return fmt.Errorf("%w: remove it, or name another folder", err)
				case err != nil:
					return err
				case a.json:
					return a.print("%s", jsonLine(newJSONBackup(made, args[1])))
				}
				return a.print("Created %d bytes backup of bucket %s in %s\n", made.Bytes, args[0], args[1])
			})
			if err != nil && ctx.Err() != nil {
				return errors.New("interrupted: there is no backup")
			}
			return err
		},
	}
}

func (a *app) kvRestoreCommand() *cobra.Command {
	var opts natskv.RestoreOptions
	cmd := &cobra.Command{
		Use:   "restore DIR",
		Short: "Make a bucket of a backup",
		Long: `Make a bucket of a backup in a folder, on the cluster that it was on or on another one.
Nothing is sent before the whole backup was verified. A bucket that is there is left
alone: give the restored one another name with --as. What fails or is interrupted leaves
no bucket. With --dry-run it verifies the backup and that its name is free, and fails, as
the restore would, where the backup is damaged or there is such a bucket.`,
		Example: `  keyturn kv restore /srv/backup/cfg
  keyturn kv restore /srv/backup/cfg --as CFG_OLD --replicas 1
  keyturn kv restore /srv/backup/cfg --dry-run`,
		Args: between(1, 1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("replicas") && (opts.Replicas < 1 || opts.Replicas > 5) {
				return a.wrong("--replicas must be from 1 to 5")
			}
			ctx, stop := a.interruptible(cmd.Context())
			defer stop()
			err := a.withStore(ctx, func(s *store) error {
				bar := a.progress("restore of " + args[0])
				opts.Progress = bar.report
				made, err := s.Restore(ctx, args[0], opts)
				bar.end()
				switch {
				case errors.Is(err, fs.ErrNotExist):
					return fmt.Errorf("%w: there is no backup in this folder", err)
				case errors.Is(err, kv.ErrBackup):
					return fmt.Errorf("%w: nothing was restored, take another backup", err)
				case errors.Is(err, kv.ErrBucketExists) && opts.DryRun:
					return fmt.Errorf("%w: the backup is whole, restore it under another name with --as NAME", err)
				case errors.Is(err, kv.ErrBucketExists):
					return fmt.Errorf("%w: it was left alone, restore the backup under another name with --as NAME", err)
				case errors.Is(err, kv.ErrUnsupported):
					return err
				case err != nil:
					return a.explain(err, opts.As)
				case a.json:
					return a.print("%s", jsonLine(newJSONBackup(made, args[0])))
				case opts.DryRun:
					return a.print("Verified %d bytes backup from %s: it can become bucket %s\n", made.Bytes, args[0], made.Bucket)
				}
				return a.print("Restored %d bytes backup from %s\n", made.Bytes, args[0])
			})
			switch {
			case err != nil && ctx.Err() != nil && strings.HasSuffix(err.Error(), context.Canceled.Error()):
				return errors.New("interrupted: nothing was restored")
			case err != nil && ctx.Err() != nil: // what is left, and why
				return fmt.Errorf("interrupted: %w", err)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.As, "as", "", "give the bucket this `NAME`")
	f.IntVar(&opts.Replicas, "replicas", 0, "on how many servers to keep it (default as many as it had)")
	f.BoolVar(&opts.DryRun, "dry-run", false, "verify the backup and that its name is free, and restore nothing")
	return cmd
}

// jsonBackup is a backup as --json prints it.
type jsonBackup struct {
	Bucket       string      `json:"bucket"`
	Dir          string      `json:"dir"`
	Bytes        int64       `json:"bytes"`
	Entries      uint64      `json:"entries"`
	Keys         int         `json:"keys"`
	LastRevision kv.Revision `json:"last_revision"`
	Taken        time.Time   `json:"taken,omitzero"`
}

func newJSONBackup(b natskv.Backup, dir string) jsonBackup {
	return jsonBackup{b.Bucket, dir, b.Bytes, b.Entries, b.Keys, b.LastRevision, b.Taken}
}

// progress shows on a terminal how far something is. Elsewhere it shows nothing.
type progress struct {
	app  *app
	what string
	bar  *progressbar.ProgressBar // nil until there is something to show
}

func (a *app) progress(what string) *progress { return &progress{app: a, what: what} }

func (p *progress) report(done, total uint64) {
	if !isTerminal(p.app.stderr) || os.Getenv("TERM") == "dumb" {
		return
	}
	if p.bar == nil {
		p.bar = progressbar.NewOptions64(int64(total),
			progressbar.OptionSetWriter(p.app.stderr),
			progressbar.OptionSetDescription(p.what),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(),
			progressbar.OptionFullWidth(),
		)
		_ = p.bar.RenderBlank() // a terminal that cannot be written is no failure
	}
	p.bar.ChangeMax64(int64(total))
	_ = p.bar.Set64(int64(done))
}

// end removes what it has shown.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}
