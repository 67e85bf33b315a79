package datalayer

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
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

// wantOnDisk finds a view on the disk, as another process would after a crash.
func wantOnDisk(t *testing.T, path string, v *View) {
	t.Helper()
	if got := imageOf(t, path).open(t).View(); string(got.JSON()) != string(v.JSON()) {
		t.Errorf("the disk holds %q, want %q", got.JSON(), v.JSON())
	}
	for _, name := range names(t, filepath.Dir(path)) {
		if name != filepath.Base(path) && name != filepath.Base(journalPath(path)) {
			t.Errorf("left behind: %s", name)
		}
	}
}

var hunter = encodeText([]byte(strings.Repeat("hunter2", 100_000)))

// smallDisk mounts a disk of so many bytes.
func smallDisk(t *testing.T, size string) string {
	folder := t.TempDir()
	if err := syscall.Mount("keyturn-test", folder, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("SKIPPED, a full disk is not tested: it takes root to mount a small one: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(folder, 0); err != nil {
			t.Error(err)
		}
	})
	return folder
}

// fill leaves no room on the disk of a folder, until it is called again.
func fill(t *testing.T, folder string) (empty func()) {
	filler := filepath.Join(folder, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	return func() {
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCommitOnFullDisk(t *testing.T) {
	folder := smallDisk(t, "256k")
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
	before := len(names(t, folder))
	if err := large.Export(filepath.Join(folder, "large.json")); !errors.Is(err, syscall.ENOSPC) || len(names(t, folder)) != before {
		t.Errorf("export: %v, files %q", err, names(t, folder))
	}
	commit(t, s, set("a", `2`), true)
}

// TestJournalOnFullDisk goes on in the journal, whose place is taken already, as
// long as that lasts.
func TestJournalOnFullDisk(t *testing.T) {
	folder := smallDisk(t, "256k")
	path := filepath.Join(folder, "machine_data.json")
	s := open(t, path)
	empty := fill(t, folder)
	for n := range journalSize / blockSize {
		commit(t, s, set("a", strconv.Itoa(n)), true)
		if err := s.Checkpoint(); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("Checkpoint: %v", err)
		}
	}
	wantRefused(t, s, set("a", `"hunter2"`), syscall.ENOSPC)
	if err := s.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Close: %v", err)
	}
	for range 2 {
		s = open(t, path)
		wantItems(t, s.View(), map[string]string{"a": "15"})
	}
	wantRefused(t, s, set("a", `"hunter2"`), syscall.ENOSPC)
	wantItems(t, imageOf(t, path).open(t).View(), map[string]string{"a": "15"})

	empty()
	commit(t, s, set("a", `16`), true)
	wantOnDisk(t, path, s.View())
	checkpoint(t, s)
	if s.journal == nil {
		t.Error("there is no journal although there is room for it")
	}
}

// TestCommitWithoutRoomForAJournal has room for the file alone.
func TestCommitWithoutRoomForAJournal(t *testing.T) {
	folder := smallDisk(t, "48k")
	path := filepath.Join(folder, "machine_data.json")
	s := open(t, path)
	for n := range 40 {
		commit(t, s, set("a", strconv.Itoa(n)), true)
		wantOnDisk(t, path, s.View())
	}
	if got := names(t, folder); len(got) != 1 {
		t.Errorf("there are %q, want the file alone", got)
	}
	empty := fill(t, folder)
	wantRefused(t, s, set("a", `"hunter2"`), syscall.ENOSPC)
	empty()
	wantOnDisk(t, path, s.View())
	commit(t, s, set("a", `"hunter2"`), true)
	wantOnDisk(t, path, s.View())
}

// alone runs a test in a process of its own, and says whether this is that one. The
// limit below is the process's, and go test writes a log of the files that tests open.
func alone(t *testing.T) bool {
	const env = "DATALAYER_TEST_ALONE"
	if os.Getenv(env) == t.Name() {
		return true
	}
	process := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	process.Env = append(os.Environ(), env+"="+t.Name())
	if out, err := process.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// withLimit runs f while no file may grow beyond so many bytes: a write across that
// place is done half.
func withLimit(t *testing.T, bytes int, f func()) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: uint64(bytes), Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	f()
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
}

func TestCommitWithLimit(t *testing.T) {
	if !alone(t) {
		return
	}
	path := filepath.Join(t.TempDir(), "machine_data.json")
	s := open(t, path)
	commit(t, s, set("a", `1`), true)
	withLimit(t, 4096, func() {
		wantRefused(t, s, Commit{Set: []Item{{"large", hunter}}, Delete: []string{"a"}}, syscall.EFBIG)
	})
	wantOnDisk(t, path, s.View())
	commit(t, s, Commit{Set: []Item{{"large", hunter}}}, true)
	wantOnDisk(t, path, s.View())
}

// TestRecordWithLimit ends the writing of a record at each of its bytes.
func TestRecordWithLimit(t *testing.T) {
	if !alone(t) {
		return
	}
	path := filepath.Join(t.TempDir(), "machine_data.json")
	s := open(t, path)
	first, second := set("first", `"`+strings.Repeat("x", 3*blockSize)+`"`), set("second", `"hunter2"`)
	commit(t, s, first, true)
	checkpoint(t, s)
	size := len(s.journal.encode(s.file, second))
	for cut := range size {
		// A record in the third block, the first two being there.
		commit(t, s, set("n", strconv.Itoa(-1-cut)), true)
		commit(t, s, set("n", strconv.Itoa(cut)), true)
		withLimit(t, s.journal.end+cut, func() {
			// Cut off there, the file is too short for itself as well.
			wantRefused(t, s, second, syscall.EFBIG)
		})
		wantOnDisk(t, path, s.View())
		commit(t, s, second, true)
		wantOnDisk(t, path, s.View())
		if cut%2 == 0 {
			checkpoint(t, s)
		}
		commit(t, s, Commit{Delete: []string{"second"}}, true)
		checkpoint(t, s)
	}
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
	if err := s.Close(); err == nil {
		t.Error("Close wrote a file over a folder")
	}
	if got := names(t, filepath.Dir(path)); len(got) != 2 {
		t.Errorf("there are %q, want the folder and the journal", got)
	}
}

// TestReadOnly has a folder in which nothing can be made.
func TestReadOnly(t *testing.T) {
	folder := t.TempDir()
	t.Chdir(folder) // another user cannot come here by its whole path
	path := "machine_data.json"
	readable := func() {
		for _, name := range names(t, ".") {
			if err := os.Chmod(name, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := open(t, path)
	commit(t, s, set("a", `1`), true)
	checkpoint(t, s)
	commit(t, s, set("a", `2`), true)
	readable()
	writeProtected(t, folder, func() {
		commit(t, s, set("b", `1`), true) // the journal is there already
		if err := s.Checkpoint(); !errors.Is(err, os.ErrPermission) {
			t.Errorf("Checkpoint: %v", err)
		}
		wantItems(t, open(t, path).View(), map[string]string{"a": "2", "b": "1"})
		wantRefused(t, s, Commit{Set: []Item{{"a", hunter}}}, os.ErrPermission)
	})
	wantOnDisk(t, path, s.View())

	// After a failure nobody can be sure what the file holds, so even a commit
	// without a change writes it.
	if err := os.WriteFile(path, []byte(`{"a":"from a write that failed late"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	commit(t, s, Commit{}, false)
	wantOnDisk(t, path, s.View())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	readable()
	writeProtected(t, folder, func() {
		s := open(t, path)
		wantItems(t, s.View(), map[string]string{"a": "2", "b": "1"})
		wantRefused(t, s, set("a", `"hunter2"`), os.ErrPermission)
	})

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
