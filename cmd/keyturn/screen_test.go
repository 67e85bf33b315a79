package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn-io/keyturn/machine"
)

func TestScreen(t *testing.T) {
	at := time.Date(2026, 11, 22, 12, 3, 4, 0, time.Local)
	for _, test := range []struct {
		name string
		show func(s *screen, stdout, stderr io.Writer)
		want string
	}{
		{"what to do next", func(s *screen, _, _ io.Writer) {
			s.starting("m", []string{"keyturn kv add CFG", "keyturn kv put CFG key bob"})
			s.starting("m", nil)
		}, `
starting machine m; in another terminal type: keyturn kv add CFG && keyturn kv put CFG key bob
starting machine m
`},
		{"a step and its command", func(s *screen, stdout, stderr io.Writer) {
			s.watcher(machine.WatcherStatus{Name: "kv", State: "changed", Outcome: "success", Detail: "CFG.key changed", Since: at})
			s.step(machine.Step{Time: at, Event: "go", From: "A", To: "B", Watcher: "kv", Detail: "CFG.key changed"})
			fmt.Fprint(stdout, "one\ntwo, ")
			fmt.Fprint(stderr, "from stderr\n")
			fmt.Fprint(stdout, "and more\nno end")
			s.watcher(machine.WatcherStatus{Name: "run", State: "success", Outcome: "success", Detail: "exit 0", Since: at})
			s.step(machine.Step{Time: at, Event: "done", From: "B", To: "A", Watcher: "run", Detail: "exit 0"})
			s.step(machine.Step{Time: at, Event: "asked", From: "A", To: "A"})
		}, `
12:03:04  A --go--> B  CFG.key changed
          one
          from stderr
          two, and more
          no end
12:03:04  B --done--> A  exit 0
12:03:04  A --asked--> A
`},
		{"a failure is told once", func(s *screen, _, _ io.Writer) {
			s.watcher(machine.WatcherStatus{Name: "run", State: "failed", Outcome: "failure", Detail: "exit 3", Since: at})
			s.step(machine.Step{Time: at, Event: "failed", From: "B", To: "A", Watcher: "run", Detail: "exit 3"})
			s.watcher(machine.WatcherStatus{Name: "run", State: "failed", Outcome: "failure", Detail: "exit 4", Since: at, Announced: true})
			s.watcher(machine.WatcherStatus{Name: "kv", State: "missing", Detail: "no value yet", Since: at})
			s.watcher(machine.WatcherStatus{Name: "run", State: "retrying", Detail: "again in 1s", Since: at})
		}, `
12:03:04  B --failed--> A  run failed: exit 3
12:03:04  kv missing: no value yet
12:03:04  run retrying: again in 1s
`},
		{"a failure without a step", func(s *screen, _, _ io.Writer) {
			s.watcher(machine.WatcherStatus{Name: "run", State: "failed", Outcome: "failure", Detail: "exit 3", Since: at})
			s.step(machine.Step{Time: at, Event: "go", From: "A", To: "B", Watcher: "kv", Detail: "CFG.key changed"})
			s.watcher(machine.WatcherStatus{Name: "run", State: "failed", Outcome: "failure", Detail: "exit 4", Since: at})
			s.watcher(machine.WatcherStatus{Name: "kv", State: "error", Detail: "no answer", Since: at})
			time.Sleep(2 * holdFor)
		}, `
12:03:04  run failed: exit 3
12:03:04  A --go--> B  CFG.key changed
12:03:04  run failed: exit 4
12:03:04  kv error: no answer
`},
		{"a line without end", func(s *screen, stdout, _ io.Writer) {
			fmt.Fprint(stdout, strings.Repeat("x", maxLine))
			fmt.Fprint(stdout, "end\n")
		}, "\n          " + strings.Repeat("x", maxLine) + "\n          end\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out strings.Builder
				s := newScreen(&out)
				s.colours = false
				stdout, stderr := s.output("run")
				test.show(s, stdout, stderr)
				synctest.Wait()
				if diff := cmp.Diff(strings.TrimPrefix(test.want, "\n"), out.String()); diff != "" {
					t.Errorf("the screen differs (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestScreenShowsTheLog(t *testing.T) {
	var out strings.Builder
	s := newScreen(&out)
	s.colours = false
	log := slog.New(newPlainHandler(slog.LevelWarn, s.log)).With("machine", "m", "watcher", "w")
	log.Info("not shown")
	log.Warn("the bucket is away", "bucket", "CFG", "error", "no answer")
	log.WithGroup("g").Error("broken", "machine", "other")
	s.resumed("DEPLOY")
	// The watcher then says the same of itself.
	log.Warn("away", "error", "no answer")
	s.watcher(machine.WatcherStatus{Name: "w", State: "error", Outcome: "failure", Detail: "no answer"})

	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, line[len(indent):]) // after the time
	}
	want := []string{
		"warn: the bucket is away: no answer (watcher w, bucket CFG)\n",
		"error: broken (watcher w, g.machine other)\n",
		"in DEPLOY, resumed\n",
		"warn: away: no answer (watcher w)\n",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("the log differs (-want +got):\n%s", diff)
	}
}

func TestScreenColours(t *testing.T) {
	show := func() string {
		var out strings.Builder
		newScreen(&out).step(machine.Step{Event: "go", From: "A", To: "B", Detail: "why"})
		return out.String()
	}
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	if got, want := show(), "A \x1b[36m--go-->\x1b[0m B  \x1b[2mwhy\x1b[0m\n"; got != want {
		t.Errorf("with colours it is %q, want %q", got, want)
	}
	for _, env := range [][2]string{{"NO_COLOR", "1"}, {"TERM", "dumb"}} {
		t.Run(env[0], func(t *testing.T) {
			t.Setenv(env[0], env[1])
			if got, want := show(), "A --go--> B  why\n"; got != want {
				t.Errorf("without colours it is %q, want %q", got, want)
			}
		})
	}
}
