package datalayer

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestJournalKeepsEveryByte finds in the journal what memory holds, more than fits.
func TestJournalKeepsEveryByte(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	s := open(t, path)
	for i, c := range []Commit{
		set("a", `1.50`, "b", `12345678901234567890`, "c", `1e6`),
		set("", `"<>&"`, "\u2028\"\x00\ufffd", "\"\u2028\\u2028\\ud800\"", "a", `{"z": [1.0, null], "a": {}}`),
		{Set: set("a", `1`, "a", `2`, "d", `3`).Set, Delete: []string{"a", "b", "d", "nothing"}},
		set("large", `"`+strings.Repeat("x", journalSize/2)+`"`),
		set("large", `"`+strings.Repeat("y", journalSize/2)+`"`),
		set("larger", `"`+strings.Repeat("y", journalSize)+`"`),
		set("deep", strings.Repeat("[", MaxDepth)+strings.Repeat("]", MaxDepth)),
		{Delete: []string{"a", "larger"}},
	} {
		commit(t, s, c, true)
		if got := imageOf(t, path).open(t).View(); !bytes.Equal(got.JSON(), s.View().JSON()) {
			t.Errorf("commit %d: the disk holds %.500s\nmemory %.500s", i, got.JSON(), s.View().JSON())
		}
	}
	for n := range 3 * journalSize / blockSize {
		commit(t, s, set("n", strconv.Itoa(n)), true)
		if got := imageOf(t, path).open(t).View(); !bytes.Equal(got.JSON(), s.View().JSON()) {
			t.Fatalf("n is %d in memory, not on the disk", n)
		}
	}
}

// TestCommitLeavesTheFile sees that a commit is in the journal and nowhere else, a
// checkpoint in the file.
func TestCommitLeavesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	s := open(t, path)
	for n := range 3 {
		before := imageOf(t, path)
		commit(t, s, set("n", strconv.Itoa(n)), true)
		after := imageOf(t, path)
		if !bytes.Equal(before.file, after.file) || len(before.journal) != journalSize || len(after.journal) != journalSize {
			t.Errorf("commit %d: the file was %q and is %q", n, before.file, after.file)
		}
		checkpoint(t, s)
		if got := imageOf(t, path).file; !bytes.Equal(got, s.View().JSON()) {
			t.Errorf("checkpoint %d: the file is %q", n, got)
		}
	}
}

// TestJournalIsVoid changes the file between a crash and the next Open.
func TestJournalIsVoid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	s := open(t, path)
	wantWith := func(file string, want map[string]string) {
		t.Helper()
		crash := imageOf(t, path)
		crash.file = nil
		if file != "" {
			crash.file = []byte(file)
		}
		opened := crash.open(t)
		wantItems(t, opened.View(), want)
		if opened.SetAside() != nil {
			t.Error(opened.SetAside())
		}
		wantItems(t, imageOf(t, opened.path).open(t).View(), want)
	}
	file := func() string { return string(imageOf(t, path).file) }

	commit(t, s, set("a", `1`), true)
	checkpoint(t, s)
	one := file()
	commit(t, s, set("a", `2`), true)
	commit(t, s, set("a", `3`), true)
	void := image{[]byte(one + " "), imageOf(t, path).journal}.open(t)
	wantItems(t, image{[]byte(one), imageOf(t, void.path).journal}.open(t).View(), map[string]string{"a": "1"})
	wantWith(one, map[string]string{"a": "3"})
	wantWith(one+" ", map[string]string{"a": "1"})
	wantWith(`{"of": "another machine"}`, map[string]string{"of": `"another machine"`})
	wantWith("{}", map[string]string{})
	wantWith("", map[string]string{})

	// What the records were written for comes back after they were written to the
	// file: by hand,
	checkpoint(t, s)
	three := file()
	wantWith(one, map[string]string{"a": "1"})
	// by a commit and a checkpoint,
	commit(t, s, set("a", `1`), true)
	wantWith(three, map[string]string{"a": "1"})
	checkpoint(t, s)
	wantWith(one, map[string]string{"a": "1"})
	// with the same record again, behind which one of then still stands,
	commit(t, s, set("a", `2`), true)
	wantWith(one, map[string]string{"a": "2"})
	// and by commits that do not fit into the journal.
	large := []string{"large", `"` + strings.Repeat("x", journalSize) + `"`}
	commit(t, s, set(large...), true)
	commit(t, s, Commit{Set: set("a", `1`, "b", `"`+strings.Repeat("x", journalSize)+`"`).Set, Delete: large[:1]}, true)
	commit(t, s, Commit{Delete: []string{"b"}}, true)
	checkpoint(t, s)
	if file() != one {
		t.Fatalf("the file is %q", file())
	}
	wantWith(one, map[string]string{"a": "1"})
}

// TestJournalOfNoFile begins without a file.
func TestJournalOfNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	s := open(t, path)
	commit(t, s, set("a", `1`), true)
	crash := imageOf(t, path)
	if crash.file != nil {
		t.Fatalf("the first commit wrote the file %q", crash.file)
	}
	wantItems(t, crash.open(t).View(), map[string]string{"a": "1"})
	for _, file := range []string{"", "{}"} {
		crash.file = []byte(file)
		wantItems(t, crash.open(t).View(), map[string]string{})
	}
}

// TestStoreTakenFromUnderIt changes the files while the store is open: a commit must
// be found after that as well.
func TestStoreTakenFromUnderIt(t *testing.T) {
	for name, change := range map[string]func(path, journal string) error{
		"file edited":   func(path, _ string) error { return os.WriteFile(path, []byte(`{"a": 7}`), 0o600) },
		"file replaced": func(path, _ string) error { return WriteFile(path, []byte("{\n  \"a\": 2\n}\n")) },
		"file edited in place": func(path, _ string) error { // a moment later, to the same size
			later := time.Now().Add(time.Second)
			return errors.Join(os.WriteFile(path, []byte("{\n  \"a\": 7\n}\n"), 0o600), os.Chtimes(path, later, later))
		},
		"file removed":            func(path, _ string) error { return os.Remove(path) },
		"journal removed":         func(_, journal string) error { return os.Remove(journal) },
		"journal emptied":         func(_, journal string) error { return os.Truncate(journal, 0) },
		"journal replaced":        func(_, journal string) error { return WriteFile(journal, make([]byte, journalSize)) },
		"both removed":            func(path, journal string) error { return errors.Join(os.Remove(path), os.Remove(journal)) },
		"a pipe for the journal":  func(_, journal string) error { return errors.Join(os.Remove(journal), syscall.Mkfifo(journal, 0o600)) },
		"a link for the journal":  func(path, journal string) error { return errors.Join(os.Remove(journal), os.Symlink(path, journal)) },
		"the journal as the file": func(path, journal string) error { return os.Rename(journal, path) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "machine_data.json")
			s := open(t, path)
			commit(t, s, set("a", `1`), true)
			checkpoint(t, s)
			commit(t, s, set("a", `2`), true)
			if err := change(path, journalPath(path)); err != nil {
				t.Fatal(err)
			}
			for n := range 3 {
				commit(t, s, set("b", strconv.Itoa(n)), true)
				wantItems(t, s.View(), map[string]string{"a": "2", "b": strconv.Itoa(n)})
				wantItems(t, imageOf(t, path).open(t).View(), map[string]string{"a": "2", "b": strconv.Itoa(n)})
			}
			checkpoint(t, s)
			commit(t, s, set("b", `3`), true)
			if got := imageOf(t, path); s.journal.end == 0 || len(got.journal) != journalSize {
				t.Error("the store is not back at its journal")
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if got := names(t, filepath.Dir(path)); len(got) != 1 {
				t.Errorf("files left behind: %q", got)
			}
		})
	}
}

// TestJournalThatFails has a journal whose writes fail, or whose syncs alone, which
// leaves a record that may be there.
func TestJournalThatFails(t *testing.T) {
	for name, fail := range map[string]func(t *testing.T, s *Store, c Commit){
		"write": func(t *testing.T, s *Store, _ Commit) {
			if err := s.journal.file.Close(); err != nil {
				t.Fatal(err)
			}
		},
		"sync": func(t *testing.T, s *Store, c Commit) {
			null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := syncData(null); err == nil && runtime.GOOS == "linux" {
				t.Fatal("a sync of what cannot be synced succeeded")
			} else if err == nil {
				t.Skip("nothing here takes a write and refuses a sync")
			}
			_, err = s.journal.file.WriteAt(s.journal.encode(s.file, c), int64(s.journal.end))
			if err := errors.Join(err, s.journal.file.Close()); err != nil {
				t.Fatal(err)
			}
			s.journal.file = null
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "data", "machine_data.json")
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			s := open(t, path)
			for _, value := range []string{"1", "2"} { // with a journal that is empty, and one that is not
				failed := s.journal
				fail(t, s, set("a", value))
				commit(t, s, set("a", value), true) // the file does instead
				if got := items(imageOf(t, path).open(t).View())["a"]; got != value {
					t.Errorf("the disk holds %s, want %s", got, value)
				}
				checkpoint(t, s)
				if s.journal == nil || s.journal == failed {
					t.Error("there is no new journal")
				}
				commit(t, s, set("b", value), true)
			}

			// The file fails as well, because its folder is elsewhere.
			commit(t, s, Commit{Set: set("a", `3`).Set, Delete: []string{"b"}}, true)
			fail(t, s, set("a", `4`))
			c := set("a", `4`)
			record := s.journal.encode(s.file, c)
			away := filepath.Dir(path) + ".away"
			if err := s.journal.append(record); err == nil {
				t.Fatal("the journal does not fail")
			}
			if err := os.Rename(filepath.Dir(path), away); err != nil {
				t.Fatal(err)
			}
			if changed, err := s.Commit(c); err == nil || changed {
				t.Errorf("Commit = %v, %v", changed, err)
			}
			wantItems(t, s.View(), map[string]string{"a": "3"})
			if err := os.Rename(away, filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
			if got := items(imageOf(t, path).open(t).View())["a"]; got != "3" && got != "4" {
				t.Errorf("after the failure the disk holds %s", got)
			}
			// Whoever gives up that commit does not find it later.
			commit(t, s, Commit{}, false)
			wantItems(t, imageOf(t, path).open(t).View(), map[string]string{"a": "3"})
			commit(t, s, c, true)
			wantItems(t, imageOf(t, path).open(t).View(), map[string]string{"a": "4"})
		})
	}
}

func TestOpenSetsAsideAJournalThatIsNone(t *testing.T) {
	for name, make := range map[string]func(journal, other string) error{
		"folder":       func(journal, _ string) error { return os.MkdirAll(filepath.Join(journal, "sub"), 0o700) },
		"link":         func(journal, other string) error { return os.Symlink(other, journal) },
		"endless link": func(journal, _ string) error { return os.Symlink(journal, journal) },
		"pipe":         func(journal, _ string) error { return syscall.Mkfifo(journal, 0o600) },
		"huge":         func(journal, _ string) error { return os.WriteFile(journal, make([]byte, journalSize+1), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "machine_data.json")
			other := filepath.Join(t.TempDir(), "other")
			if err := errors.Join(os.WriteFile(path, []byte(`{"a":1}`), 0o600), os.WriteFile(other, []byte("other"), 0o640)); err != nil {
				t.Fatal(err)
			}
			if err := make(journalPath(path), other); err != nil {
				t.Fatal(err)
			}
			s := open(t, path)
			var unreadable *UnreadableError
			if !errors.As(s.SetAside(), &unreadable) || !strings.HasPrefix(unreadable.Aside, journalPath(path)+".unreadable-") {
				t.Errorf("SetAside is %v", s.SetAside())
			}
			wantItems(t, s.View(), map[string]string{"a": "1"})
			commit(t, s, set("a", `2`), true)
			wantItems(t, imageOf(t, path).open(t).View(), map[string]string{"a": "2"})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if got := names(t, filepath.Dir(path)); len(got) != 2 {
				t.Errorf("there are %q, want the file and what was set aside", got)
			}
			info, err := os.Stat(other)
			content, _ := os.ReadFile(other)
			if err != nil || string(content) != "other" || info.Mode().Perm() != 0o640 {
				t.Errorf("what the link leads to is %q, %v now", content, info.Mode())
			}
		})
	}
}

func TestCloseThatFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	s := open(t, path)
	commit(t, s, set("a", `1`), true)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err == nil {
		t.Error("Close wrote a file over a folder")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantItems(t, open(t, path).View(), map[string]string{"a": "1"})
}

// TestJournalIsNoLink puts a link where the journal is to be made, as somebody may who
// can write to the folder: what it leads to is not written to.
func TestJournalIsNoLink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	target := filepath.Join(t.TempDir(), "target")
	if err := os.WriteFile(target, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := os.Symlink(target, journalPath(path)); err != nil {
		t.Fatal(err)
	}
	checkpoint(t, s)
	commit(t, s, set("a", `1`), true)
	if content, err := os.ReadFile(target); err != nil || string(content) != "mine" {
		t.Errorf("what the link leads to holds %d bytes: %v", len(content), err)
	}
	wantOnDisk(t, path, s.View())
}

// TestJournalThatIsNotCleared has a journal that takes the mark of an empty one and
// cannot sync it: then its records may be back after a power cut, so it must go.
func TestJournalThatIsNotCleared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	s := open(t, path)
	commit(t, s, set("a", `1`), true)
	failed := s.journal
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syncData(null); err == nil {
		t.Skip("nothing here takes a write and refuses a sync")
	}
	if err := failed.file.Close(); err != nil {
		t.Fatal(err)
	}
	failed.file = null
	checkpoint(t, s)
	if s.journal == nil || s.journal == failed {
		t.Error("there is no new journal")
	}
	wantOnDisk(t, path, s.View())
}

// TestJournalThatStays has a journal that can be neither cleared nor removed. As long as
// that is so, no commit and no checkpoint succeeds: its records might come back.
func TestJournalThatStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	s := open(t, path)
	commit(t, s, set("a", `1`), true)
	if err := os.Remove(journalPath(path)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(journalPath(path), "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Checkpoint(); err == nil {
			t.Error("a checkpoint succeeds beside a journal that stays")
		}
		if _, err := s.Commit(set("a", `1`)); err == nil {
			t.Error("a commit succeeds beside a journal that stays")
		}
	}
	if err := os.RemoveAll(journalPath(path)); err != nil {
		t.Fatal(err)
	}
	checkpoint(t, s)
	commit(t, s, set("a", `2`), true)
	wantOnDisk(t, path, s.View())
}
