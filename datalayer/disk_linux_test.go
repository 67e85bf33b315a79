package datalayer

import (
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// wantRefused commits what cannot be written, and finds all as it was.
func wantRefused(t *testing.T, s *Store, c Commit, want error) {
	t.Helper()
	before := s.View()
	changed, err := s.Commit(c)
	if err == nil || changed || !errors.Is(err, want) {
		t.Errorf("Commit = %v, %v, want the error %q", changed, err, want)
	}
	if err != nil && strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error holds a value: %v", err)
	}
	if s.View() != before {
		t.Error("the items changed although they are not on the disk")
	}
}

// wantOnDisk reads the file as another process would.
func wantOnDisk(t *testing.T, path string, v *View) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != string(v.JSON()) {
		t.Errorf("the file holds %q, %v, want %q", got, err, v.JSON())
	}
	if got := names(t, filepath.Dir(path)); len(got) != 1 {
		t.Errorf("files left behind: %q", got)
	}
}

var hunter = encodeText([]byte(strings.Repeat("hunter2", 100_000)))

func TestCommitOnFullDisk(t *testing.T) {
	folder := t.TempDir()
	if err := syscall.Mount("keyturn-test", folder, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("SKIPPED, a full disk is not tested: it takes root to mount a small one: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(folder, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(folder, "machine_data.json")
	s := open(t, path)
	commit(t, s, set("a", `1`), true)
	wantRefused(t, s, Commit{Set: []Item{{"large", hunter}}, Delete: []string{"a"}}, syscall.ENOSPC)
	wantOnDisk(t, path, s.View())
	if err := s.View().Export(filepath.Join(folder, "data.json")); err != nil {
		t.Error(err)
	}
	large, _, err := s.View().with(Commit{Set: []Item{{"large", hunter}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := large.Export(filepath.Join(folder, "large.json")); !errors.Is(err, syscall.ENOSPC) || len(names(t, folder)) != 2 {
		t.Errorf("export: %v, files %q", err, names(t, folder))
	}
	commit(t, s, set("a", `2`), true)
}

// TestCommitWithLimit ends a write half-way: the file may not grow any more.
func TestCommitWithLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	s := open(t, path)
	commit(t, s, set("a", `1`), true)

	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 4096, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, s, Commit{Set: []Item{{"large", hunter}}, Delete: []string{"a"}}, syscall.EFBIG)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	wantOnDisk(t, path, s.View())
	commit(t, s, Commit{Set: []Item{{"large", hunter}}}, true)
	wantOnDisk(t, path, s.View())
}

func TestCommitWithoutFolder(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "machine")
	path := filepath.Join(folder, "machine_data.json")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	commit(t, s, set("a", `1`), true)
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, s, set("a", `"hunter2"`), os.ErrNotExist)
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	commit(t, s, set("b", `2`), true)
	wantOnDisk(t, path, s.View())
}

func TestCommitOverFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	s := open(t, path)
	if err := os.MkdirAll(filepath.Join(path, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, s, set("a", `"hunter2"`), os.ErrExist)
	if got := names(t, filepath.Dir(path)); len(got) != 1 {
		t.Errorf("files left behind: %q", got)
	}
}

// TestReadOnly has a folder in which nothing can be written.
func TestReadOnly(t *testing.T) {
	folder := t.TempDir()
	t.Chdir(folder) // another user cannot come here by its whole path
	path := "machine_data.json"
	s := open(t, path)
	commit(t, s, set("a", `1`), true)
	if err := os.Chmod(path, 0o644); err != nil { // so that anybody may read, as below
		t.Fatal(err)
	}
	writeProtected(t, folder, func() {
		wantRefused(t, s, set("a", `"hunter2"`), os.ErrPermission)
		wantItems(t, open(t, path).View(), map[string]string{"a": "1"})
	})
	wantOnDisk(t, path, s.View())

	// After a failure nobody can be sure what the file holds, so even a commit
	// without a change writes it.
	if err := os.WriteFile(path, []byte(`{"a":"from a write that failed late"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	commit(t, s, Commit{}, false)
	wantOnDisk(t, path, s.View())

	if err := os.WriteFile(path, []byte(`broken`), 0o644); err != nil {
		t.Fatal(err)
	}
	writeProtected(t, folder, func() {
		if _, err := Open(path); !errors.Is(err, os.ErrPermission) {
			t.Errorf("Open of a broken file that cannot be set aside: %v", err)
		}
	})
}

// writeProtected runs f while the folder cannot be written by its thread, also
// when that is root's, whom permissions do not stop: it is another user then.
func writeProtected(t *testing.T, folder string, f func()) {
	t.Helper()
	if err := os.Chmod(folder, 0o555); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if os.Geteuid() == 0 {
			runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
			if err := syscall.Setfsuid(65534); err != nil {
				t.Error(err)
				return
			}
		}
		f()
	}()
	<-done
	if err := os.Chmod(folder, 0o700); err != nil {
		t.Fatal(err)
	}
}
