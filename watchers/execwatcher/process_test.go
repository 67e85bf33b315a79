package execwatcher_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/watchers"
	"github.com/keyturn-io/keyturn/watchers/execwatcher"
	"github.com/keyturn-io/keyturn/watchers/watchertest"
)

// slack is what a busy machine may add to any duration here.
const slack = 2 * time.Second

func TestTimeoutEndsGrandchildrenToo(t *testing.T) {
	m := watchertest.NewMachine(t)
	began := time.Now()
	o := runOnce(t, m, props{
		"command":    sh("sleep 60 & echo $!; sleep 3; echo late"),
		"timeout":    "1s",
		"kill_grace": "500ms",
	})
	took := time.Since(began)
	wantState(t, o, watchers.Failure, "timeout")
	if took < time.Second || took >= 2500*time.Millisecond {
		t.Errorf("took %v, want the timeout and the grace at most", took)
	}
	grandchild := firstPID(t, m)
	eventually(t, "the grandchild is gone", func() bool { return !runs(grandchild) })
	if strings.Contains(m.Stdout.String(), "late") {
		t.Error("the command went on after its timeout")
	}
}

func TestDeafToSIGTERM(t *testing.T) {
	m := watchertest.NewMachine(t)
	began := time.Now()
	o := runOnce(t, m, props{
		"command":    sh(`trap "" TERM; echo $$; while :; do sleep 0.05; done`),
		"timeout":    "200ms",
		"kill_grace": "300ms",
	})
	took := time.Since(began)
	wantState(t, o, watchers.Failure, "timeout")
	if took < 500*time.Millisecond || took > 500*time.Millisecond+slack {
		t.Errorf("took %v, want the timeout and the grace", took)
	}
	if pid := firstPID(t, m); runs(pid) {
		t.Errorf("%d still runs", pid)
	}
}

// The leader of the group ends at once; who does not has the rest of the grace.
func TestGraceIsTheWholeGroups(t *testing.T) {
	m := watchertest.NewMachine(t)
	o := runOnce(t, m, props{
		"command": sh(`
			sh -c 'trap "sleep 0.2; echo tidied up; exit" TERM; echo ready >&2; while :; do sleep 0.05; done' &
			sleep 60`),
		"timeout": "500ms",
	})
	wantState(t, o, watchers.Failure, "timeout")
	if got := m.Stdout.String(); got != "tidied up\n" {
		t.Errorf("got %q: a process of the group was killed within the grace", got)
	}
}

func TestSuccessLeavesNoChildHoldingThePipe(t *testing.T) {
	m := watchertest.NewMachine(t)
	began := time.Now()
	o := runOnce(t, m, props{"command": sh("sleep 60 & echo $!")})
	wantState(t, o, watchers.Success, "success")
	if took := time.Since(began); took > slack {
		t.Errorf("took %v, although the command ended at once", took)
	}
	child := firstPID(t, m)
	eventually(t, "the child is gone", func() bool { return !runs(child) })
}

func escape() {
	child := exec.Command("sleep", "60")
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		panic(err)
	}
	fmt.Println(child.Process.Pid)
}

// What leaves the group is out of reach. It holds up nobody, though it has the pipe.
func TestSessionOfItsOwnIsOutOfReach(t *testing.T) {
	m := watchertest.NewMachine(t)
	began := time.Now()
	o := runOnce(t, m, props{"command": []string{os.Args[0]}, "environment": []string{"PROGRAM=escape", "GORACE=atexit_sleep_ms=0"}})
	wantState(t, o, watchers.Success, "success")
	if took := time.Since(began); took > slack {
		t.Errorf("took %v, although the command ended at once", took)
	}
	pid := firstPID(t, m)
	if !runs(pid) {
		t.Errorf("%d is gone: say so in the package comment", pid)
	}
	syscall.Kill(pid, syscall.SIGKILL)
}

func TestEndlessOutputCostsLittle(t *testing.T) {
	m := watchertest.NewMachine(t)
	var passed ends
	m.Env.Stdout = &passed
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	residentBefore := peakResident(t)
	o := runOnce(t, m, props{"command": sh("head -c 300000000 /dev/zero; echo end"), "timeout": "60s"})
	wantState(t, o, watchers.Success, "success")
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 20<<20 {
		t.Errorf("300 MB of output cost %d bytes of heap", grown)
	}
	if grown := peakResident(t) - residentBefore; grown > 20<<20 {
		t.Errorf("300 MB of output cost %d bytes of memory", grown)
	}
	if passed.size < 2<<20 || passed.size > 2<<20+100 || !strings.HasSuffix(passed.last, "end\n") {
		t.Errorf("%d bytes were passed on, want the first and the last MiB", passed.size)
	}
}

// ends counts what is written and keeps the last of it.
type ends struct {
	size int
	last string
}

func (e *ends) Write(p []byte) (int, error) {
	e.size += len(p)
	e.last = string(p[max(0, len(p)-10):])
	return len(p), nil
}

func peakResident(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc here")
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

func TestOnLeave(t *testing.T) {
	for onLeave, finishes := range map[string]bool{"finish": true, "kill": false} {
		t.Run(onLeave, func(t *testing.T) {
			m := watchertest.NewMachine(t)
			// The command ends when the test has seen the visit end.
			w := m.Watcher(execwatcher.Kind, props{
				"command":  sh("echo $$; while ! test -e end; do sleep 0.01; done; echo finished"),
				"on_leave": onLeave,
			}.String())
			ctx, cancel := context.WithCancel(t.Context())
			m.Answer = func(watchers.Observation) error { return watchers.ErrVisitOver }
			done := make(chan error, 1)
			go func() { done <- m.Run(ctx, w) }()
			pid := firstPID(t, m)
			cancel()
			if finishes {
				write(t, m.Env.Dir, "end", "", 0o644)
			}
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
			if got := strings.Contains(m.Stdout.String(), "finished"); got != finishes {
				t.Errorf("the command finished: %v, want %v", got, finishes)
			}
			if runs(pid) {
				t.Error("the command still runs")
			}
			if seen := m.Observations(); (len(seen) == 1) != finishes {
				t.Errorf("got %+v; a command that finished is reported, one that was killed is not", seen)
			}
			if !finishes && !strings.Contains(m.Log.String(), "ended early") {
				t.Errorf("nothing in the log:\n%s", &m.Log)
			}
		})
	}
}

func TestStoppingEndsEverything(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		least  time.Duration
	}{
		"hears SIGTERM": {"echo $$; sleep 60", 0},
		"deaf":          {`trap "" TERM; echo $$; while :; do sleep 0.05; done`, 300 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			m := watchertest.NewMachine(t)
			w := m.Watcher(execwatcher.Kind, props{
				"command": sh(c.script), "timeout": "60s", "kill_grace": "300ms", "retry": "1h",
			}.String())
			done := make(chan error, 1)
			go func() { done <- m.Run(t.Context(), w) }()
			pid := firstPID(t, m)
			began := time.Now()
			m.Stop()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
			if took := time.Since(began); took < c.least || took > 300*time.Millisecond+slack {
				t.Errorf("stopping took %v with a grace of 300ms", took)
			}
			if runs(pid) {
				t.Error("the command still runs")
			}
			if seen := m.Observations(); len(seen) > 0 {
				t.Errorf("reports %+v", seen)
			}
		})
	}
}

// agent is a process that runs a command and can be killed.
func agent() {
	// A testing.T would be in the way: only Run is wanted.
	p, err := watchertest.Decode(execwatcher.Kind, props{"command": sh("echo $$ >pid.new; mv pid.new pid; exec sleep 60")}.String())
	if err != nil {
		panic(err)
	}
	w, err := p.Watcher(watchers.Env{
		Dir: os.Getenv("DIR"), RunDir: os.Getenv("DIR"),
		Data: func() *datalayer.View { return nil }, Facts: func() []byte { return nil },
		Visit: func() watchers.Visit { return watchers.Visit{Cause: watchers.Stepped} },
	})
	if err != nil {
		panic(err)
	}
	w.Run(context.Background(), func(watchers.Observation) error { return nil })
}

func TestKilledAgentLeavesNoCommand(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can do it")
	}
	dir := t.TempDir()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "PROGRAM=agent", "DIR="+dir)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	eventually(t, "the command is up", func() bool {
		text, _ := os.ReadFile(filepath.Join(dir, "pid"))
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return pid > 0
	})
	child.Process.Kill()
	child.Wait()
	eventually(t, "the command is gone", func() bool { return !runs(pid) })
}

func TestManyRunsLeaveNothing(t *testing.T) {
	m := watchertest.NewMachine(t)
	w := m.Watcher(execwatcher.Kind, props{"command": sh("sleep 60 & echo x")}.String())
	missing := m.Watcher(execwatcher.Kind, props{"command": "no-such-tool"}.String())
	goroutines := goleak.IgnoreCurrent()
	open := len(must(os.ReadDir("/proc/self/fd")))
	for range 100 {
		if err := m.Run(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		if err := m.Run(t.Context(), missing); err != nil {
			t.Fatal(err)
		}
	}
	if now := len(must(os.ReadDir("/proc/self/fd"))); now > open {
		t.Errorf("%d files are open, %d were before", now, open)
	}
	if err := goleak.Find(goroutines); err != nil {
		t.Error(err)
	}
	if left := children(t); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	for _, folder := range []string{m.Env.Dir, m.Env.RunDir} {
		if left := must(os.ReadDir(folder)); len(left) > 0 {
			t.Errorf("files are left: %v", left)
		}
	}
}

// A program that was written just now may still be open in a process that another
// watcher is about to start, and the kernel runs no file that is open for writing.
func TestRunsWhatWasJustWritten(t *testing.T) {
	m := watchertest.NewMachine(t)
	w := m.Watcher(execwatcher.Kind, props{"command": "./tool"}.String())
	ctx, stop := context.WithCancel(t.Context())
	var forks sync.WaitGroup
	for range 4 {
		forks.Go(func() {
			for ctx.Err() == nil {
				exec.Command("/bin/true").Run()
			}
		})
	}
	for range 200 {
		os.Remove(filepath.Join(m.Env.Dir, "tool"))
		write(t, m.Env.Dir, "tool", "#!/bin/sh\n", 0o755)
		if err := m.Run(t.Context(), w); err != nil {
			t.Error(err)
		}
	}
	stop()
	forks.Wait()
	for _, o := range m.Observations() {
		wantState(t, o, watchers.Success, "success")
	}
}
