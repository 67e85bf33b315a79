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

// commitForever counts in two items with something large between them, and
// prints each count that is on the disk.
func commitForever(path string) error {
	s, err := Open(path)
	if err != nil {
		return err
	}
	if err := s.SetAside(); err != nil {
		return err
	}
	start := 0
	if first, found := s.View().Get("first"); found {
		if start, err = strconv.Atoi(string(first)); err != nil {
			return err
		}
	}
	for n := start + 1; ; n++ {
		count := json.RawMessage(strconv.Itoa(n))
		large := encodeText([]byte(strings.Repeat("x", rand.IntN(500_000))))
		if _, err := s.Commit(Commit{Set: []Item{{"first", count}, {"large", large}, {"second", count}}}); err != nil {
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
	leftOver := 0
	for round := range 40 {
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
				wait := rand.N(5 * time.Millisecond) // about what a commit takes
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
			t.Fatalf("round %d: %v", round, err)
		}
		first, _ := s.View().Get("first")
		second, _ := s.View().Get("second")
		n, err := strconv.Atoi(string(first))
		if err != nil || string(first) != string(second) || n != acknowledged && n != acknowledged+1 {
			t.Errorf("round %d: %d was acknowledged, the file holds %s and %s", round, acknowledged, first, second)
		}
		if got := names(t, filepath.Dir(path)); len(got) != 1 {
			t.Errorf("round %d: files left behind: %q", round, got)
		}
	}
	t.Logf("%d of 40 kills were in the middle of a write", leftOver)
	if leftOver == 0 {
		t.Error("no kill was in the middle of a write, so nothing was tested")
	}
}
