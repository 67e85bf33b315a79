package machine

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

func TestRunDir(t *testing.T) {
	memory := memoryOnly(t)
	dir := t.TempDir()

	first := makeRun(t, dir)
	if filepath.Dir(first.path) != memory {
		t.Fatalf("%s: want a folder in %s", first.path, memory)
	}
	if info, err := os.Stat(first.path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v: want a private folder", info.Mode(), err)
	}
	left := filepath.Join(first.path, "left")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kill(first)
	second := makeRun(t, dir)
	if second.path != first.path {
		t.Errorf("the same machine gets %s after %s", second.path, first.path)
	}
	if exists(left) {
		t.Error("what a killed predecessor has left is not swept")
	}
	if other := makeRun(t, t.TempDir()); other.path == second.path {
		t.Errorf("two machines share %s", other.path)
	}
	second.remove()
	if exists(second.path) {
		t.Error("the folder is there after the machine")
	}
}

// TestRunDirOnDisk is what is used where there is no memory for it.
func TestRunDirOnDisk(t *testing.T) {
	for name, prepare := range map[string]func(path string) error{
		"nothing": func(string) error { return nil },
		"left by a killed process": func(path string) error {
			return errors.Join(os.Mkdir(path, 0o700), os.Mkdir(filepath.Join(path, "exec-1"), 0o700))
		},
		"open to all": func(path string) error { return errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, 0o777)) },
		"a file":      func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"a link":      func(path string) error { return os.Symlink(t.TempDir(), path) },
	} {
		path := filepath.Join(t.TempDir(), runFolder)
		if err := prepare(path); err != nil {
			t.Fatal(err)
		}
		run, err := takeRunDir(path)
		if err != nil || !private(path, os.Geteuid()) {
			t.Errorf("%s: %v, or it is not private", name, err)
			continue
		}
		if left, err := os.ReadDir(path); err != nil || len(left) > 0 {
			t.Errorf("%s: %v, %v are left", name, left, err)
		}
		run.remove()
	}
}

// TestRunDirsOfTheDead removes what machines have left that were killed, and nothing
// else that stands there.
func TestRunDirsOfTheDead(t *testing.T) {
	memory := memoryOnly(t)
	elsewhere := t.TempDir()
	alive, dead := makeRun(t, t.TempDir()), makeRun(t, t.TempDir())
	for _, folder := range []string{alive.path, dead.path, elsewhere, filepath.Join(memory, "other"), filepath.Join(memory, runPrefix+"open")} {
		if err := errors.Join(os.MkdirAll(folder, 0o700), os.WriteFile(filepath.Join(folder, "value"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	chmod(t, filepath.Join(memory, runPrefix+"open"), 0o755)
	if err := errors.Join(
		os.Symlink(elsewhere, filepath.Join(memory, runPrefix+"link")),
		os.Symlink(elsewhere, filepath.Join(dead.path, "link")),
		os.WriteFile(filepath.Join(memory, runPrefix+"file"), nil, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	kill(dead)

	makeRun(t, t.TempDir())
	for path, want := range map[string]bool{
		dead.path:                                        false,
		filepath.Join(alive.path, "value"):               true,
		filepath.Join(elsewhere, "value"):                true,
		filepath.Join(memory, "other", "value"):          true,
		filepath.Join(memory, runPrefix+"open", "value"): true,
		filepath.Join(memory, runPrefix+"file"):          true,
	} {
		if exists(path) != want {
			t.Errorf("%s: there is %v, want %v", path, !want, want)
		}
	}
}

// TestRunDirsAtOnce starts, ends and kills machines all at once: nobody's folder goes
// while it is in use.
func TestRunDirsAtOnce(t *testing.T) {
	memory := memoryOnly(t)
	var all sync.WaitGroup
	for range 8 {
		dir := t.TempDir()
		all.Go(func() {
			for n := range 200 {
				run, err := makeRunDir(dir)
				if err == nil {
					err = os.WriteFile(filepath.Join(run.path, "value"), nil, 0o600)
				}
				runtime.Gosched()
				if err != nil || !exists(filepath.Join(run.path, "value")) {
					t.Errorf("run %d: the folder is gone while it is in use: %v", n, err)
					return
				}
				if n%2 == 0 {
					kill(run)
				} else {
					run.remove()
				}
			}
		})
	}
	all.Wait()
	makeRun(t, t.TempDir()).remove()
	if left, err := os.ReadDir(memory); err != nil || len(left) > 0 {
		t.Errorf("%v are left, %v", left, err)
	}
}

// memoryOnly makes a folder the only one in memory, and returns what is to be in it.
func memoryOnly(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	chmod(t, dir, 0o700)
	t.Setenv("XDG_RUNTIME_DIR", dir)

	return filepath.Join(dir, "keyturn")
}

func makeRun(t *testing.T, dir string) runDir {
	t.Helper()
	run, err := makeRunDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(run.remove)

	return run
}

// kill gives the lock of a folder back, as the end of a process does, and no more.
func kill(run runDir) { run.lock.Close() }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestRunDirOfSomebodyElse uses no folder that somebody else may have prepared.
func TestRunDirOfSomebodyElse(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, runtime string){
		"open to all": func(t *testing.T, runtime string) { chmod(t, runtime, 0o777) },
		"open inside": func(t *testing.T, runtime string) {
			chmod(t, runtime, 0o700)
			if err := os.Mkdir(filepath.Join(runtime, "keyturn"), 0o700); err != nil {
				t.Fatal(err)
			}
			chmod(t, filepath.Join(runtime, "keyturn"), 0o755)
		},
		"a link": func(t *testing.T, runtime string) {
			chmod(t, runtime, 0o700)
			if err := os.Symlink(t.TempDir(), filepath.Join(runtime, "keyturn")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			runtime := t.TempDir()
			t.Setenv("XDG_RUNTIME_DIR", runtime)
			prepare(t, runtime)
			if run := makeRun(t, t.TempDir()); strings.HasPrefix(run.path, runtime) {
				t.Errorf("%s is used", run.path)
			}
		})
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}
