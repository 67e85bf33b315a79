package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/machine"
	"github.com/keyturn-io/keyturn/watchers/builtin"
)

func (a *app) machineRunCommand() *cobra.Command {
	r := &machineRun{app: a}
	cmd := &cobra.Command{
		Use:   "run DIR",
		Short: "Run the machine in a folder until Ctrl-C",
		Long: `Run the machine whose machine.yaml is in DIR until Ctrl-C or SIGTERM, and end well then.

What the machine learns it keeps in DIR, in machine_data.json and machine_state.json.
In the store on this host, the buckets that its kv watchers name are created if they
are not there. On a server they are not: the watchers wait for them.

On a terminal it shows each step and what the commands print. Otherwise it logs to
stderr, and what the commands print goes to stdout as it is. With --json, stdout has an
object on a line for each step and for each line that a command prints.`,
		Example: "  keyturn machine run examples/machines/deployment",
		Args:    between(1, 1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(_ *cobra.Command, args []string) error { return r.run(args[0]) },
	}
	cmd.Flags().StringVar(&r.facts, "facts", "", "give commands and templates the facts in `FILE`, a JSON object")
	cmd.Flags().StringVar(&r.identity, "identity", "", "call this node `NAME` (default its host name)")
	return cmd
}

// machineRun is keyturn machine run.
type machineRun struct {
	*app
	facts    string
	identity string
}

func (r *machineRun) run(dir string) error {
	stdout, stderr := newOutlet(r.stdout), newOutlet(r.stderr)
	defer stderr.Close()
	defer stdout.Close()
	ctx, stop := untilInterrupted(func() {
		if isTerminal(r.stdout) && !r.json {
			_, _ = stdout.Write([]byte("\n")) // ends the line on which the terminal shows ^C
		}
	})
	defer stop()

	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		if filepath.Base(dir) != "machine.yaml" {
			return fmt.Errorf("%s is a file: name the folder that has the machine.yaml", dir)
		}
		dir = filepath.Dir(dir) // who names the file means its machine
	}
	manifest, err := machine.Load(dir, builtin.Kinds())
	if err != nil {
		return err
	}
	if r.identity == "" {
		if r.identity, err = os.Hostname(); err != nil {
			return fmt.Errorf("the name of this host: %w: name it with --identity", err)
		}
	}

	report, log, err := r.reporter(stdout, stderr)
	if err != nil {
		return err
	}
	lost := func(bytes int) { log.Warn("dropped output that nobody has read in time", "bytes", bytes) }
	stdout.onLoss(lost)
	stderr.onLoss(lost)

	err = r.withMachine(ctx, dir, manifest, report, log)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil // Ctrl-C before the machine was there
	}
	return err
}

// untilInterrupted returns a context that is done when somebody wants the process to
// end, who is answered first. Who wants it a second time gets it at once.
func untilInterrupted(answer func()) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// Whoever reads our output may go away without us: a write then fails and nothing more.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)

	go func() {
		select {
		case <-signals:
			answer()
			cancel()
		case <-ctx.Done():
			return
		}
		for first := time.Now(); ; {
			// What ends a whole group, as timeout does, may say it twice.
			if s := <-signals; s != syscall.SIGTERM || time.Since(first) > sameSignal {
				os.Exit(exitFailure)
			}
		}
	}()
	return ctx, func() {
		signal.Stop(broken)
		signal.Stop(signals)
		cancel()
	}
}

// sameSignal is how long after the first signal a SIGTERM means the same.
const sameSignal = 500 * time.Millisecond

// reporter returns how to show what happens, and the log.
func (r *machineRun) reporter(stdout, stderr *outlet) (reporter, *slog.Logger, error) {
	switch {
	case r.json:
		log, err := r.logger(slog.LevelInfo, stderr)
		return &jsonReporter{logReporter: logReporter{log, stdout}}, log, err
	case !isTerminal(r.stdout):
		log, err := r.logger(slog.LevelInfo, stderr)
		return &logReporter{log, stdout}, log, err
	}
	screen := newScreen(stdout)
	if r.logFormat != "" || !isTerminal(r.stderr) {
		log, err := r.logger(slog.LevelInfo, stderr)
		return screen, log, err
	}
	level, err := r.level(slog.LevelWarn)
	return screen, slog.New(newPlainHandler(level, screen.log)), err
}

// withMachine runs the machine on its store.
func (r *machineRun) withMachine(ctx context.Context, dir string, manifest *machine.Manifest, report reporter, log *slog.Logger) error {
	facts, err := openFacts(r.facts, log)
	if err != nil {
		return err
	}
	store, err := r.open(ctx, log)
	if err != nil {
		return err
	}
	defer store.Close()

	next, err := r.prepare(ctx, store, manifest)
	if err != nil {
		return err
	}
	var m *machine.Machine
	m, err = machine.New(manifest, machine.Options{
		Dir:      dir,
		Bucket:   store.Bucket,
		Facts:    facts.get,
		Identity: r.identity,
		Log:      log,
		OnStart: func() {
			report.starting(manifest.Name, next)
			if state := m.Status().State; state != manifest.InitialState {
				report.resumed(state)
			}
		},
		OnStep:    report.step,
		OnWatcher: report.watcher,
		Output:    report.output,
	})
	if err != nil {
		return err
	}
	defer time.AfterFunc(settled, giveBack).Stop()
	err = m.Run(ctx)
	if path, ok := errors.AsType[*fs.PathError](err); ok && (errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)) {
		return fmt.Errorf("start machine %s: write into its folder %s: %w: make it writable, or run a copy of it", manifest.Name, dir, path.Err)
	}
	if err != nil {
		return err
	}
	report.stopped(m.Status().State)
	return nil
}

// settled is when a machine has seen its buckets, as a rule.
const settled = 2 * time.Second

// prepare makes the buckets of the machine, where that is ours to do, and returns
// the commands for somebody to type next.
func (r *machineRun) prepare(ctx context.Context, store *store, manifest *machine.Manifest) (next []string, err error) {
	for _, name := range buckets(manifest) {
		bucket, err := store.Bucket(name)
		if err != nil {
			return nil, err
		}
		switch _, err := bucket.Status(ctx); {
		case errors.Is(err, kv.ErrBucketNotFound) && store.own:
			if err := store.create(ctx, name, false); err != nil {
				return nil, err
			}
		case errors.Is(err, kv.ErrBucketNotFound):
			next = append(next, r.again("kv", "add", name))
		case err != nil && store.own:
			return nil, err
		}
		// What else is wrong with a bucket on a server its watchers will tell, and wait.
	}
	return append(next, r.put(manifest)...), nil
}
