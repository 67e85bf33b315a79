package datalayer

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sample is a crash with three commits in the journal, one of them of several
// blocks, and what the file holds with none, one, two and three of them.
func sample(t testing.TB) (image, [4]map[string]string) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	if err := os.WriteFile(path, []byte(`{"a": 1, "b": 1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	want := [4]map[string]string{items(s.View())}
	for i, c := range []Commit{
		set("a", `2`, "long", `"`+strings.Repeat("x", blockSize)+`"`),
		{Set: set("a", `3`).Set, Delete: []string{"b"}},
		set("a", `4`),
	} {
		commit(t, s, c, true)
		want[i+1] = items(s.View())
	}
	return imageOf(t, path), want
}

// TestJournalDamage flips each bit of the records, and cuts the journal anywhere: the
// commits before the damage are found, and none behind it.
func TestJournalDamage(t *testing.T) {
	crash, want := sample(t)
	starts := []int{0, 2 * blockSize, 3 * blockSize, 4 * blockSize}
	path := filepath.Join(t.TempDir(), "machine_data.json")
	file := version{sum: sha256.Sum256(crash.file)}
	wantCommits := func(journal []byte, want int, what string, at int) {
		t.Helper()
		if err := (image{journal: journal}).write(path); err != nil {
			t.Fatal(err)
		}
		if got, err := readJournal(path, file); err != nil || len(got) != want {
			t.Errorf("%s at %d: found %d commits, %v, want %d", what, at, len(got), err, want)
		}
	}
	wantCommits(crash.journal, 3, "nothing", 0)
	for i, start := range starts[:3] {
		end := start + len(bytes.TrimRight(crash.journal[start:starts[i+1]], "\x00"))
		for at := start; at < end; at++ {
			if start == 0 && at > 2*headerSize && at < blockSize {
				continue // one x is like the other
			}
			damaged := bytes.Clone(crash.journal)
			damaged[at] ^= 1 << (at % 8)
			wantCommits(damaged, i, "a flipped bit", at)
			wantCommits(crash.journal[:at], i, "a cut", at)
		}
		wantCommits(crash.journal[:end], i+1, "a cut", end)
	}
	// A record that is whole, but not the next.
	damaged := bytes.Clone(crash.journal)
	copy(damaged[starts[1]:], crash.journal[starts[2]:starts[3]])
	wantCommits(damaged, 1, "a record left out", starts[1])
	wantCommits(crash.journal[starts[2]:], 1, "the first two left out", 0)

	for n := range 3 {
		crash := image{crash.file, bytes.Clone(crash.journal)}
		crash.journal[starts[n]+headerSize]++
		wantItems(t, crash.open(t).View(), want[n])
	}
}

// FuzzJournal opens any bytes as the journal of a file: those of a whole one, cut to
// a size, and others from some place on.
func FuzzJournal(f *testing.F) {
	crash, want := sample(f)
	f.Add(uint32(journalSize), uint32(0), []byte{})
	f.Add(uint32(2*blockSize+headerSize), uint32(2*blockSize+lengthAt), []byte{0, 0, 0, 0})
	f.Add(uint32(journalSize), uint32(lengthAt), []byte{0xff, 0xff, 0xff, 0xff})
	f.Add(uint32(journalSize+1), uint32(2*blockSize), crash.journal[3*blockSize:3*blockSize+200])
	f.Add(uint32(journalSize), uint32(journalSize-1), []byte("xy"))
	path := filepath.Join(inMemory(f), "machine_data.json")
	f.Fuzz(func(t *testing.T, size, at uint32, others []byte) {
		journal := make([]byte, size%(2*journalSize))
		copy(journal, crash.journal)
		copy(journal[min(int(at%journalSize), len(journal)):], others)
		if err := (image{crash.file, journal}).write(path); err != nil {
			t.Fatal(err)
		}
		s := open(t, path)
		got := items(s.View())
		if !slices.ContainsFunc(want[:], func(want map[string]string) bool { return maps.Equal(got, want) }) {
			t.Errorf("found %v", got)
		}
		var unreadable *UnreadableError
		if errors.As(s.SetAside(), &unreadable) {
			if len(journal) <= journalSize {
				t.Error(unreadable)
			}
			if err := os.Remove(unreadable.Aside); err != nil {
				t.Fatal(err)
			}
		}
		commit(t, s, set("new", `1`), true)
		got["new"] = "1"
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		wantItems(t, open(t, path).View(), got)
	})
}
