package machine_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyturn-io/keyturn/kv/memkv"
	"github.com/keyturn-io/keyturn/machine"
)

func newMachine(t *testing.T, dir, manifest string) *machine.Machine {
	t.Helper()
	m, err := machine.Parse("machine.yaml", []byte(manifest), testKinds)
	if err != nil {
		t.Fatal(err)
	}
	made, err := machine.New(m, machine.Options{Dir: dir, Bucket: memkv.New().Bucket})
	if err != nil {
		t.Fatal(err)
	}

	return made
}

// running runs a machine until the returned function is called, which returns what Run did.
func running(m *machine.Machine) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()

	return func() error { cancel(); return <-ended }
}

func TestFolderIsRunOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		first, second := newMachine(t, dir, small), newMachine(t, dir, small)
		stop := running(first)
		synctest.Wait()

		err := second.Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "another process runs the machine in "+dir) {
			t.Errorf("a second machine in the same folder: %v", err)
		}
		if err := first.Run(t.Context()); err == nil {
			t.Error("a machine runs twice")
		}
		if err := stop(); err != nil {
			t.Error(err)
		}

		stop = running(newMachine(t, dir, small))
		synctest.Wait()
		if err := stop(); err != nil {
			t.Errorf("after the first has ended: %v", err)
		}
	})
}

// TestNothingIsLeftBehind ends a machine in the middle of a command.
func TestNothingIsLeftBehind(t *testing.T) {
	runtime := t.TempDir()
	if err := os.Chmod(runtime, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", runtime)
	dir := t.TempDir()
	write(t, dir, "machine_state.json.tmp-1", "")
	manifest := strings.Replace(small, "type: command", "properties: {command: [sh, -c, 'echo begun; exec sleep 1000'], timeout: 1h}, type: exec", 1)
	parsed, err := machine.Parse("machine.yaml", []byte(manifest), testKinds)
	if err != nil {
		t.Fatal(err)
	}
	begun := make(told, 1)
	m, err := machine.New(parsed, machine.Options{
		Dir: dir, Bucket: memkv.New().Bucket,
		Output: func(string) (stdout, stderr io.Writer) { return begun, io.Discard },
	})
	if err != nil {
		t.Fatal(err)
	}
	stop := running(m)
	if err := m.Fire(t.Context(), "switch"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-begun:
	case <-time.After(30 * time.Second):
		t.Fatal("the command does not begin")
	}
	if folders := names(t, filepath.Join(runtime, "keyturn")); len(folders) != 1 {
		t.Errorf("the command has its files in %v", folders)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	if left := names(t, filepath.Join(runtime, "keyturn")); len(left) > 0 {
		t.Errorf("left behind in memory: %v", left)
	}
	if left := names(t, dir); !slices.Equal(left, []string{"machine_state.json"}) {
		t.Errorf("left behind: %v", left)
	}
	info, err := os.Stat(filepath.Join(dir, "machine_state.json"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("machine_state.json has mode %v", info.Mode())
	}
}

// told hears of what a command prints.
type told chan struct{}

func (c told) Write(p []byte) (int, error) {
	c <- struct{}{}
	return len(p), nil
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		names = append(names, f.Name())
	}

	return names
}

func TestFire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, t.TempDir(), small)

		waiting, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.Fire(waiting, "switch"); !errors.Is(err, context.Canceled) {
			t.Errorf("a machine that does not run yet: %v", err)
		}

		stop := running(m)
		if err := m.Fire(t.Context(), "switch"); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if s := m.Status(); s.State != "on" || s.Event != "switch" || s.Previous != "off" || s.Steps != 1 {
			t.Errorf("status: %+v", s)
		}
		var refused *machine.RefusedError
		if err := m.Fire(t.Context(), "swich"); !errors.As(err, &refused) || refused.State != "on" || len(refused.Accepts) != 1 {
			t.Errorf("an unknown event: %v", err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if err := m.Fire(t.Context(), "switch"); err == nil {
			t.Error("a machine that has stopped takes an event")
		}
	})
}

func TestSplayCanBeStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, t.TempDir(), "splay_start: 1d\n"+small)
		stop := running(m)
		synctest.Wait()
		if s := m.Status(); s.State != "" {
			t.Errorf("it has started: %+v", s)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestMemoryIsForgotten starts with a memory that must not count: marks whose data
// cannot be read, and marks that were not settled when the machine was interrupted.
func TestMemoryIsForgotten(t *testing.T) {
	for name, data := range map[string]string{"unreadable": "{", "readable": "{}"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				write(t, dir, "machine_data.json", data)
				write(t, dir, "machine_state.json", `{"state": "on", "marks": {"other": "settled"}, "unsettled": {"w": "not settled"}}`)
				m := newMachine(t, dir, small)
				stop := running(m)
				for range 2 {
					if err := m.Fire(t.Context(), "switch"); err != nil {
						t.Fatal(err)
					}
				}
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				text, err := os.ReadFile(filepath.Join(dir, "machine_state.json"))
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(string(text), `"w"`) {
					t.Errorf("what was not settled counts as settled: %s", text)
				}
				if kept := strings.Contains(string(text), "other"); kept != (name == "readable") {
					t.Errorf("marks are kept: %v: %s", kept, text)
				}
			})
		})
	}
}

// TestResumeInAStateThatIsGone starts with a memory of a state that the manifest does not
// have any more.
func TestResumeInAStateThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		write(t, dir, "machine_state.json", `{"state": "dimmed", "event": "dim", "marks": {}}`)
		m := newMachine(t, dir, strings.Replace(small, "version", "resume: true\nversion", 1))
		stop := running(m)
		synctest.Wait()
		if s := m.Status(); s.State != "off" || s.Event != "" {
			t.Errorf("it goes on in %s after %q, want the initial state", s.State, s.Event)
		}
		if err := m.Fire(t.Context(), "switch"); err != nil {
			t.Error(err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
