package execwatcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyturn-io/keyturn/datalayer"
)

// attempt is what came of one run of the command.
type attempt struct {
	state  string // empty when the command was ended because nobody waits for it
	detail string // without output and values
	items  []datalayer.Item
}

func failure(state string, err error) attempt { return attempt{state: state, detail: err.Error()} }

// attempt runs the command once.
func (w *watcher) attempt(ctx context.Context) attempt {
	folder, err := os.MkdirTemp(w.env.RunDir, "exec-") // 0700
	if errors.Is(err, fs.ErrNotExist) && os.Mkdir(w.env.RunDir, 0o700) == nil {
		// It is in memory, and some systems sweep that when a user logs out.
		folder, err = os.MkdirTemp(w.env.RunDir, "exec-")
	}
	if err != nil {
		return failure(stateError, fmt.Errorf("make a folder for the run: %w", err))
	}
	p, err := w.prepare(folder)
	if err == nil && w.p.Disown {
		if err = w.letGo(p, folder); err == nil {
			return attempt{state: stateSuccess, detail: "started, and let go"}
		}
	}
	defer os.RemoveAll(folder)
	if err != nil {
		return failure(stateError, err)
	}
	return w.run(ctx, p)
}

// prepare writes the files that the command may read and makes its arguments and
// environment, all from the same data.
func (w *watcher) prepare(folder string) (program, error) {
	scope := w.env.Scope()
	args, err := w.p.Command.arguments(scope)
	if err != nil {
		return program{}, err
	}
	env, err := newEnvironment(w.env, folder).add(w.p.Environment, scope)
	if err != nil {
		return program{}, err
	}
	path, err := lookPath(args[0], w.env.Dir, env.get("PATH"))
	if err != nil {
		return program{}, w.explain(err, args[0], path)
	}
	if err := w.export(folder, scope); err != nil {
		return program{}, err
	}
	return program{path: path, args: args, env: env, dir: w.env.Dir}, nil
}

// export writes the files that the command may read.
func (w *watcher) export(folder string, scope datalayer.Scope) error {
	if err := scope.Data.Export(filepath.Join(folder, dataFile)); err != nil {
		return err
	}
	facts := scope.Facts
	if len(facts) == 0 {
		facts = []byte("{}")
	}
	if err := os.WriteFile(filepath.Join(folder, factsFile), facts, 0o600); err != nil {
		return fmt.Errorf("export facts: %w", err)
	}
	changes := []byte("[]")
	if all := w.env.Visit().Changes; len(all) > 0 {
		var err error
		if changes, err = json.Marshal(all); err != nil {
			return fmt.Errorf("export changes: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(folder, changesFile), changes, 0o600); err != nil {
		return fmt.Errorf("export changes: %w", err)
	}
	return nil
}

// run starts the command and stays with it until it and its group have ended.
func (w *watcher) run(ctx context.Context, p program) attempt {
	limit := int(w.p.MaxOutput)
	stdout := &capture{limit: limit, sink: w.env.Stdout}
	stderr := &capture{limit: limit, sink: w.env.Stderr}
	began := time.Now()
	proc, err := start(p, stdout, stderr)
	if err != nil {
		return failure(stateError, w.explain(err, p.args[0], p.path))
	}
	why := w.await(ctx, proc)
	if why != byItself {
		proc.terminate(time.Duration(w.p.KillGrace))
	}
	proc.finish()
	took := time.Since(began).Round(time.Millisecond)

	switch {
	case why == unwanted:
		w.env.Log.Info("command ended early, because the visit is over or the machine stops", "after", took)
		return attempt{}
	case why == tooLong:
		return attempt{state: stateTimeout, detail: fmt.Sprintf("timeout after %v, gone after %v", w.p.Timeout, took)}
	case proc.err != nil:
		return failure(stateError, fmt.Errorf("wait for the command: %w", proc.err))
	case !proc.state.Success():
		return attempt{state: stateFailed, detail: fmt.Sprintf("%s after %v", describe(proc.state), took)}
	}

	done := attempt{state: stateSuccess, detail: fmt.Sprintf("exit 0 after %v", took)}
	if w.p.ParseAsData {
		if stdout.truncated() {
			return failure(stateFailed, fmt.Errorf("exit 0, but stdout is more than max_output (%d bytes)", limit))
		}
		if done.items, err = parseObject(stdout.bytes()); err != nil {
			return failure(stateFailed, fmt.Errorf("exit 0, but %w", err))
		}
	}
	return done
}

// ending is why a command has ended or has to.
type ending int

const (
	byItself ending = iota
	tooLong
	unwanted // the visit is over, or the machine stops
)

func (w *watcher) await(ctx context.Context, proc *process) ending {
	timeout := time.NewTimer(time.Duration(w.p.Timeout))
	defer timeout.Stop()
	var leave <-chan struct{} // nil for a command that may finish
	if w.p.OnLeave == Kill {
		leave = ctx.Done()
	}
	select {
	case <-proc.ended:
		return byItself
	case <-timeout.C:
		return tooLong
	case <-leave:
		return unwanted
	case <-w.env.Stopping:
		return unwanted
	}
}

// letGo starts a program in a session of its own and does not wait for it. A shell
// comes in between, so that it is not our child and we need not stay to reap it,
// and so that the folder of the run is removed when the program has ended.
func (w *watcher) letGo(p program, folder string) error {
	if _, err := exec.LookPath(p.path); err != nil { // the shell could not tell us
		return w.explain(err, p.args[0], p.path)
	}
	const script = `("$@"; /bin/rm -rf -- "$0") &`
	shell := exec.Command("/bin/sh", append([]string{"-c", script, folder, p.path}, p.args[1:]...)...)
	shell.Dir, shell.Env = p.dir, p.env
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := shell.Run(); err != nil {
		return w.explain(err, p.args[0], p.path)
	}
	return nil
}

// explain makes an error of a start one for people, without values.
func (w *watcher) explain(err error, name, file string) error {
	if !w.p.Command.names(name) {
		name = "what the template of the command names"
	}
	return explainStart(err, name, file, w.env.Dir)
}

func describe(state *os.ProcessState) string {
	status, ok := state.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return "killed by " + unix.SignalName(status.Signal())
	}
	return fmt.Sprintf("exit %d", state.ExitCode())
}
