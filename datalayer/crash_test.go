package datalayer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The test binary is also the process that TestCrash kills.
const crashEnv = "DATALAYER_TEST_CRASH"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		fmt.Fprintln(os.Stderr, commitForever(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// commitForever counts in the first and the last of many items, of which each
// commit also makes one longer or shorter, and prints each count that is on the disk.
func commitForever(path string) error {
	s, err := Open(path)
	if err != nil {
		return err
	}
	if err := errors.Join(s.SetAside(), s.Checkpoint()); err != nil {
		return err
	}
	n := 0
	if first, found := s.View().Get("a first"); found {
		if n, err = strconv.Atoi(string(first)); err != nil {
			return err
		}
	}
	for {
		n++
		count := json.RawMessage(strconv.Itoa(n))
		c := Commit{Set: []Item{{"a first", count}, {"z last", count}}}
		for i := range 40 {
			if name := fmt.Sprintf("item %d", i); i == n%40 || s.View().Len() == 0 {
				text := `"` + strings.Repeat("x", rand.IntN(20_000)) + `"`
				c.Set = append(c.Set, Item{name, json.RawMessage(text)})
			}
		}
		if _, err := s.Commit(c); err != nil {
			return err
		}
		if _, err := fmt.Println(n); err != nil {
			return err
		}
		if rand.IntN(2) == 0 {
			if err := s.Checkpoint(); err != nil {
				return err
			}
		}
	}
}

// TestCrash kills a process that commits without end, at any instant, and finds
// one of the last two commits whole.
func TestCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	// How many kills were in the middle of writing the file, how many left it behind
	// the journal, and after how many there was more than had been acknowledged.
	rounds, inFile, behind, ahead := 0, 0, 0, 0
	for deadline := time.Now().Add(time.Minute); rounds < 20 || inFile < 2 || behind < 2 || ahead < 2; rounds++ {
		if time.Now().After(deadline) {
			t.Fatalf("of %d kills only %d were in the file, %d behind, %d ahead", rounds, inFile, behind, ahead)
		}
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), crashEnv+"="+path)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		acknowledged := 0
		kill := rand.IntN(10)
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if acknowledged, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(err)
			}
			if n == kill {
				wait := rand.N(2 * time.Millisecond) // about what a commit takes
				for start := time.Now(); time.Since(start) < wait; {
				}
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := child.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Fatalf("the process that commits: %v", err)
		}

		for _, name := range names(t, filepath.Dir(path)) {
			if strings.Contains(name, tempInfix) {
				inFile++
			}
		}
		_, inFileAlone, err := readItems(path)
		if err != nil {
			t.Fatalf("kill %d: %v", rounds, err)
		}
		s := open(t, path)
		if err := s.SetAside(); err != nil {
			t.Fatalf("kill %d: %v", rounds, err)
		}
		if string(inFileAlone.JSON()) != string(s.View().JSON()) {
			behind++
		}
		first, _ := s.View().Get("a first")
		last, _ := s.View().Get("z last")
		n, err := strconv.Atoi(string(first))
		if err != nil || string(first) != string(last) || n != acknowledged && n != acknowledged+1 {
			t.Errorf("kill %d: %d was acknowledged, the disk holds %s and %s", rounds, acknowledged, first, last)
		}
		if n > acknowledged {
			ahead++
		}
		if rounds%2 == 0 {
			continue // and let the next process find what Open has left
		}
		if err := s.Close(); err != nil {
			t.Errorf("kill %d: %v", rounds, err)
		}
		if got := names(t, filepath.Dir(path)); len(got) != 1 {
			t.Errorf("kill %d: files left behind: %q", rounds, got)
		}
	}
	t.Logf("of %d kills %d were in the file, %d behind, %d ahead", rounds, inFile, behind, ahead)
}

// TestPowerCut cuts the power in each operation of a long row: each sector that the
// operation has changed in the journal may be old, new or garbage. What Open finds is
// all that was committed before, or that and the commit under way. There are so few
// contents that the file often gets back one for which there have been records.
func TestPowerCut(t *testing.T) {
	const sector = 512
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	path := filepath.Join(inMemory(t), "machine_data.json")
	s := open(t, path)

	long := `"` + strings.Repeat("x", 2*blockSize) + `"`
	large := `"` + strings.Repeat("y", journalSize) + `"`
	values := []string{`1`, `1`, `1`, `2`, `2`, `2`, `3`, `3`, long, long, large}
	for range 250 {
		before, viewBefore := imageOf(t, path), s.View()
		var done string
		switch n := random.IntN(10); {
		case n < 7:
			value := values[random.IntN(len(values))]
			done = "commit " + value[:1]
			if _, err := s.Commit(set("a", value)); err != nil {
				t.Fatal(err)
			}
		case n < 8:
			done = "delete"
			if _, err := s.Commit(Commit{Delete: []string{"a"}}); err != nil {
				t.Fatal(err)
			}
		default:
			done = "checkpoint"
			checkpoint(t, s)
		}
		after, viewAfter := imageOf(t, path), s.View()

		// The file is replaced at once, before the journal is touched.
		cuts := []image{before, after, {after.file, before.journal}}
		for range 3 {
			cut := image{after.file, bytes.Clone(before.journal)}
			for i := 0; i < journalSize; i += sector {
				was, is := cut.journal[i:i+sector], after.journal[i:i+sector]
				if bytes.Equal(was, is) {
					continue
				}
				switch random.IntN(5) {
				case 0, 1:
					copy(was, is)
				case 2:
					was[random.IntN(sector)] ^= 0xff
				}
			}
			cuts = append(cuts, cut)
		}
		for _, cut := range cuts {
			got := cut.open(t).View().JSON()
			if !bytes.Equal(got, viewBefore.JSON()) && !bytes.Equal(got, viewAfter.JSON()) {
				t.Fatalf("power cut in %s: found %.60q, before %.60q, after %.60q", done, got, viewBefore.JSON(), viewAfter.JSON())
			}
		}
	}
}
