// Command bench plays one script to Keyturn and to others that run a command when a key of a NATS
// bucket changes, on one server, and prints what each did in one table.
//
// Run it in its folder: go run . (make bench does). It needs a C compiler, and the modules
// of the others, which is why it is a module of its own. docs/benchmarks.md says what is
// measured how.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// settings are what the flags say.
type settings struct {
	json    bool
	verbose bool
	sync    bool          // the server syncs each write to disk
	puts    int           // that are spaced
	rounds  int           // of bursts and of restarts of the server
	hang    time.Duration // that a command hangs
	only    string        // contestants, comma separated; empty is all
	script  string        // acts, comma separated; empty is all
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var s settings
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	flags.BoolVar(&s.json, "json", false, "print JSON")
	flags.BoolVar(&s.verbose, "v", false, "show what the contestants log")
	flags.BoolVar(&s.sync, "sync", true, "the server syncs each write to disk before it acknowledges it")
	flags.IntVar(&s.puts, "puts", 150, "how many spaced puts")
	flags.IntVar(&s.rounds, "rounds", 3, "how many bursts, and restarts of the server")
	flags.DurationVar(&s.hang, "hang", 5*time.Second, "how long a command hangs")
	flags.StringVar(&s.only, "only", "", "these contestants `NAME,...` of: "+strings.Join(names(), ", "))
	flags.StringVar(&s.script, "script", "", "these acts `NAME,...` of: "+strings.Join(acts(), ", "))
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := errors.Join(known(s.only, names()), known(s.script, acts())); err != nil {
		return err
	}
	if _, err := exec.LookPath("cc"); err != nil {
		fmt.Fprintln(stderr, "SKIPPED: there is no C compiler to build the command with")
		return nil
	}

	dir, err := os.MkdirTemp("", "keyturn-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Fprintln(stderr, "building Keyturn and the others")
	if err := build(ctx, dir); err != nil {
		return err
	}
	r, err := newRig(ctx, dir, s, stderr)
	if err != nil {
		return err
	}
	defer r.close()
	p := &play{rig: r, report: newReport(s)}
	for _, a := range script {
		if s.script != "" && !slices.Contains(strings.Split(s.script, ","), a.name) {
			continue
		}
		fmt.Fprintln(stderr, a.name+":", a.what)
		if err := a.play(p); ctx.Err() != nil {
			return errors.New("interrupted")
		} else if err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
	}
	if s.json {
		return p.report.writeJSON(stdout)
	}

	return p.report.writeText(stdout)
}

// known checks a list of names.
func known(list string, all []string) error {
	if list == "" {
		return nil
	}
	for _, name := range strings.Split(list, ",") {
		if !slices.Contains(all, name) {
			return fmt.Errorf("unknown name %q: known are %s", name, strings.Join(all, ", "))
		}
	}

	return nil
}

// build builds the command, Keyturn as its own module has it, and the others.
func build(ctx context.Context, dir string) error {
	source := filepath.Join(dir, "command.c")
	if err := os.WriteFile(source, commandSource, 0o600); err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"cc", "-O2", "-static", "-o", filepath.Join(dir, "command"), source},
		{"go", "build", "-C", "..", "-o", filepath.Join(dir, "keyturn"), "./cmd/keyturn"},
		{"go", "build", "-o", dir + string(filepath.Separator), "./peers/..."},
	} {
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
		}
	}

	return nil
}
