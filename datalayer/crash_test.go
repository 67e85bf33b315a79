package datalayer

import (
	"bufio"
	"encoding/json"
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
	if err := s.SetAside(); err != nil {
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
	}
}

// TestCrash kills a process that commits without end, at any instant, and finds
// one of the last two commits whole.
func TestCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine_data.json")
	rounds, leftOver := 0, 0
	for deadline := time.Now().Add(time.Minute); rounds < 20 || leftOver < 5; rounds++ {
		if time.Now().After(deadline) {
			t.Fatalf("of %d kills only %d were in the middle of a write", rounds, leftOver)
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

		leftOver += len(names(t, filepath.Dir(path))) - 1
		s := open(t, path)
		if err := s.SetAside(); err != nil {
			t.Fatalf("kill %d: %v", rounds, err)
		}
		first, _ := s.View().Get("a first")
		last, _ := s.View().Get("z last")
		n, err := strconv.Atoi(string(first))
		if err != nil || string(first) != string(last) || n != acknowledged && n != acknowledged+1 {
			t.Errorf("kill %d: %d was acknowledged, the file holds %s and %s", rounds, acknowledged, first, last)
		}
		if got := names(t, filepath.Dir(path)); len(got) != 1 {
			t.Errorf("kill %d: files left behind: %q", rounds, got)
		}
	}
	t.Logf("%d of %d kills were in the middle of a write", leftOver, rounds)
}
