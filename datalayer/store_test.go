package datalayer

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// open opens a store as a machine does, with a journal if there can be one.
func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Checkpoint() // fails on a disk that is full or read-only
	t.Cleanup(func() { s.Close() })
	return s
}

func set(pairs ...string) Commit {
	var c Commit
	for i := 0; i < len(pairs); i += 2 {
		c.Set = append(c.Set, Item{pairs[i], json.RawMessage(pairs[i+1])})
	}
	return c
}

func commit(t testing.TB, s *Store, c Commit, wantChanged bool) {
	t.Helper()
	changed, err := s.Commit(c)
	if err != nil {
		t.Fatal(err)
	}
	if changed != wantChanged {
		t.Errorf("changed is %v, want %v", changed, wantChanged)
	}
}

func checkpoint(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
}

func items(v *View) map[string]string {
	m := map[string]string{}
	for name, value := range v.All() {
		m[name] = string(value)
	}
	return m
}

func wantItems(t testing.TB, v *View, want map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, items(v)); diff != "" {
		t.Errorf("items, -want +got:\n%s", diff)
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(v.JSON(), &doc); err != nil {
		t.Errorf("the view as JSON: %v", err)
	}
	got := map[string]string{}
	for name, value := range doc {
		got[name] = string(value)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the view as JSON, -want +got:\n%s", diff)
	}
	if len(v.JSON()) != v.jsonSize() && v.Len() > 0 {
		t.Errorf("the view thinks that it has %d bytes, it has %d", v.jsonSize(), len(v.JSON()))
	}
}

// names returns what is in a folder.
func names(t testing.TB, folder string) []string {
	t.Helper()
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		names = append(names, file.Name())
	}
	return names
}

func TestCommitIsOnDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	s := open(t, path)
	wantItems(t, s.View(), map[string]string{})

	commit(t, s, set("b", `{"y": 1.50}`, "a", `"x"`, "c", `1`), true)
	before := s.View()
	commit(t, s, Commit{Set: set("b", `2`, "d", `1`, "d", `4`).Set, Delete: []string{"a", "d", "nothing"}}, true)

	want := map[string]string{"b": "2", "c": "1", "d": "4"}
	wantItems(t, s.View(), want)
	wantItems(t, imageOf(t, path).open(t).View(), want)
	wantItems(t, before, map[string]string{"a": `"x"`, "b": `{"y":1.50}`, "c": "1"})

	checkpoint(t, s)
	if got, want := string(imageOf(t, path).file), "{\n  \"b\": 2,\n  \"c\": 1,\n  \"d\": 4\n}\n"; got != want {
		t.Errorf("the file is for people to read, it is %q", got)
	}
	wantItems(t, imageOf(t, path).open(t).View(), want)
	for _, path := range []string{path, journalPath(path)} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file is %v, %v, want 0600", info.Mode(), err)
		}
	}

	commit(t, s, Commit{Delete: []string{"b", "c", "d"}}, true)
	wantItems(t, imageOf(t, path).open(t).View(), map[string]string{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, filepath.Dir(path)); len(got) != 1 {
		t.Errorf("files left behind: %q", got)
	}
	wantItems(t, open(t, path).View(), map[string]string{})
}

// TestCommitWithoutCheckpoint has an owner who does not know of the journal.
func TestCommitWithoutCheckpoint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	for n := range 3 {
		s, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		commit(t, s, set("a", strconv.Itoa(n)), true)
		if got := imageOf(t, path); string(got.file) != string(s.View().JSON()) || got.journal != nil {
			t.Errorf("the disk holds %q and a journal of %d bytes", got.file, len(got.journal))
		}
	}
}

func TestCommitWithoutChangeWritesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	s := open(t, path)
	before := imageOf(t, path)
	commit(t, s, Commit{Delete: []string{"a"}}, false)
	if diff := cmp.Diff(before, imageOf(t, path), cmp.AllowUnexported(image{})); diff != "" {
		t.Errorf("a commit that changes nothing wrote, -before +after:\n%s", diff)
	}
	commit(t, s, set("a", `{"x":1}`, "b", `1`), true)
	for range 2 { // from the journal and from the file
		before, view := imageOf(t, path), s.View()
		commit(t, s, Commit{Set: set("b", `1`, "a", ` {"x": 1}`).Set, Delete: []string{"c"}}, false)
		if diff := cmp.Diff(before, imageOf(t, path), cmp.AllowUnexported(image{})); diff != "" || s.View() != view {
			t.Errorf("a commit that changes nothing wrote or replaced the view, -before +after:\n%s", diff)
		}
		checkpoint(t, s)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	checkpoint(t, s)
	if after, err := os.Stat(path); err != nil || !os.SameFile(info, after) {
		t.Error("a checkpoint without anything to write replaced the file")
	}
}

func TestCommitRefusesWhatCouldNotBeRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	s := open(t, path)
	commit(t, s, set("a", `1`), true)
	huge := `"` + strings.Repeat("x", MaxSize) + `"`
	for _, value := range []string{``, `hunter2`, "\"hunter2\xff\"", `"hunter2" 1`, strings.Repeat("[", 1000), huge} {
		_, err := s.Commit(Commit{Set: set("a", `2`, "b", value).Set, Delete: []string{"a"}})
		if err == nil {
			t.Errorf("the value %.20q was taken", value)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error holds the value: %v", err)
		}
	}
	if _, err := s.Commit(set("\xff", `1`)); err == nil {
		t.Error("a name that is not UTF-8 was taken")
	}
	// One item more than fits, without making so many.
	full := &View{size: MaxSize - 10}
	if _, _, err := full.with(set("b", `"hunter2"`)); !errors.Is(err, errTooLarge) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("too many items: %v", err)
	}
	wantItems(t, s.View(), map[string]string{"a": "1"})
	wantItems(t, imageOf(t, path).open(t).View(), map[string]string{"a": "1"})

	deepest := strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth)
	commit(t, s, set("deep", deepest, "", `1`), true)
	want := map[string]string{"a": "1", "deep": deepest, "": "1"}
	wantItems(t, imageOf(t, path).open(t).View(), want)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantItems(t, open(t, path).View(), want)
}

func TestOpenSetsAsideWhatItCannotRead(t *testing.T) {
	for name, content := range map[string]string{
		"empty":        "",
		"truncated":    `{"a": "hunter2`,
		"not JSON":     `{"a": hunter2}`,
		"array":        `["hunter2"]`,
		"null":         `null`,
		"two objects":  `{"a":"hunter2"}{"a":1}`,
		"not UTF-8":    "{\"a\":\"hunter2\xff\"}",
		"nested":       `{"a":` + strings.Repeat("[", 1_000_000),
		"all nested":   `{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`,
		"all zeros":    strings.Repeat("\x00", 4096),
		"end is zeros": `{"a": "hunter2", ` + strings.Repeat("\x00", 4096),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "machine_data.json")
			for n := 1; n <= 3; n++ { // within one second: none replaces another
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				s := open(t, path)
				wantItems(t, s.View(), map[string]string{})
				var unreadable *UnreadableError
				if !errors.As(s.SetAside(), &unreadable) {
					t.Fatalf("SetAside is %v", s.SetAside())
				}
				if strings.Contains(unreadable.Error(), "hunter2") {
					t.Errorf("the error holds a value: %v", unreadable)
				}
				kept, err := os.ReadFile(unreadable.Aside)
				if err != nil || string(kept) != content {
					t.Errorf("set aside was %.20q, %v", kept, err)
				}
				if !strings.HasPrefix(unreadable.Aside, path+".unreadable-") {
					t.Errorf("the name %s does not say what it is", unreadable.Aside)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if got := names(t, filepath.Dir(path)); len(got) != n {
					t.Errorf("after %d broken files there are %q", n, got)
				}
			}
		})
	}
}

func TestOpenSetsAsideWhatIsNoFile(t *testing.T) {
	for name, make := range map[string]func(string) error{
		"folder":       func(path string) error { return os.Mkdir(path, 0o700) },
		"endless link": func(path string) error { return os.Symlink(path, path) },
		"pipe":         func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"huge": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, MaxSize+1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "machine_data.json")
			if err := make(path); err != nil {
				t.Fatal(err)
			}
			s := open(t, path)
			if s.SetAside() == nil || strings.Contains(s.SetAside().Error(), "larger than") != (name == "huge") {
				t.Errorf("SetAside is %v", s.SetAside())
			}
			commit(t, s, set("a", `1`), true)
			wantItems(t, imageOf(t, path).open(t).View(), map[string]string{"a": "1"})
		})
	}
}

func TestOpenReadsWhatPeopleWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	err := os.WriteFile(path, []byte("\n{ \"b\" : { \"x\" : 1.0 },\n\n\t\"a\\u0062\": 2 , \"b\": [ 3 ]}\n\n"), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	if s.SetAside() != nil {
		t.Error(s.SetAside())
	}
	wantItems(t, s.View(), map[string]string{"b": "[3]", "ab": "2"})
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is still %v, %v", info.Mode(), err)
	}
}

func TestOpenWithoutFolder(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(folder, "nothing", "data.json"), filepath.Join(file, "data.json")} {
		if _, err := Open(path); err == nil {
			t.Errorf("Open(%s) did not fail", path)
		}
	}
}

func TestOpenSweeps(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{"machine_data.json", "machine_data.json.tmp-123", "machine_state.json.tmp-1", "other"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := open(t, filepath.Join(folder, "machine_data.json")).Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{"machine_data.json", "machine_state.json.tmp-1", "other"}
	if diff := cmp.Diff(want, names(t, folder)); diff != "" {
		t.Errorf("files, -want +got:\n%s", diff)
	}
}

func TestWriteFileInTheWorkingFolder(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := WriteFile("machine_state.json", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := Sweep("machine_state.json"); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile("machine_state.json"); err != nil || string(got) != "x" {
		t.Errorf("the file holds %q, %v", got, err)
	}
}

func TestExport(t *testing.T) {
	folder := t.TempDir()
	s := open(t, filepath.Join(folder, "machine_data.json"))
	commit(t, s, set("a", `1`, "b", `"<&>"`), true)
	path := filepath.Join(folder, "data.json")
	if err := s.View().Export(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != string(s.View().JSON()) {
		t.Errorf("exported was %q, %v", got, err)
	}
	if err := s.View().Export(path); err == nil {
		t.Error("an export went over a file that was there")
	}
}

// TestViewsAreWhole reads while the owner commits: never a half of a commit.
func TestViewsAreWhole(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "machine_data.json"))
	commit(t, s, set("a", `0`, "b", `0`), true)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				view := s.View()
				a, _ := view.Get("a")
				b, _ := view.Lookup("b")
				if string(a) != string(b) {
					t.Errorf("a is %s and b is %s", a, b)
					return
				}
			}
		})
	}
	for n := range 200 {
		value := strconv.Itoa(n + 1)
		commit(t, s, set("a", value, "b", value, "c"+value, value), true)
	}
	close(stop)
	readers.Wait()
}

func TestNilView(t *testing.T) {
	var v *View
	if _, found := v.Get("a"); found || v.Len() != 0 || len(slices.Collect(maps.Keys(items(v)))) != 0 {
		t.Error("a nil view has items")
	}
	for _, path := range []string{"a", "a.b", "a|b", "*"} {
		if part, found := v.Lookup(path); found {
			t.Errorf("Lookup(%q) in a nil view finds %s", path, part)
		}
	}
	if got := string(v.JSON()); got != "{}\n" {
		t.Errorf("a nil view is %q", got)
	}
}

func FuzzOpen(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"a":1,"b":{"c":[1.50]}}`, "null", `{"a":`, "{\"\xff\":1}", `{"a":1}{}`, "{}\v", `{"\ud800":1,"\ufffd":2}`} {
		f.Add([]byte(seed))
	}
	path := filepath.Join(inMemory(f), "machine_data.json")
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, path)
		var unreadable *UnreadableError
		if errors.As(s.SetAside(), &unreadable) {
			if s.View().Len() != 0 {
				t.Error("there are items from a file that cannot be read")
			}
			if err := os.Remove(unreadable.Aside); err != nil {
				t.Fatal(err)
			}
		} else if !json.Valid(content) {
			t.Errorf("%q was read", content)
		}
		before := items(s.View())
		name := "new"
		for before[name] != "" {
			name += "er"
		}
		commit(t, s, set(name, `1`), true)
		before[name] = "1"
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		wantItems(t, open(t, path).View(), before)
	})
}
