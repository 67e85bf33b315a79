package keyturn

import (
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFaultDiskFull takes the room from the real program while it runs, all of it: no
// file may grow beyond nothing, which needs no disk of our own and no privileges.
func TestFaultDiskFull(t *testing.T) {
	c := newCrash(t, rand.New(rand.NewPCG(1, 1)))
	log := &logged{}
	cmd := exec.CommandContext(t.Context(), c.binary, "machine", "run", c.dir, "--store", c.store)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.putValue("a", "one")
	c.rest()

	room := c.limit(cmd, 0)
	c.putValue("a", "two")
	c.wait("an error in the log", func() bool { return log.count("the data cannot be saved") > 0 })
	c.putValue("a", "three")
	c.putValue("b", "other")
	pause(t.Context(), 1000) // in which it tries again a few times
	c.look()
	if c.begun != 1 {
		t.Errorf("%d actions, want only the one before the disk was full", c.begun)
	}
	if n := log.count("the data cannot be saved"); n != 1 {
		t.Errorf("%d messages in the log, want one:\n%s", n, log)
	}
	c.whole()

	c.limit(cmd, room)
	c.rest()
	c.finish(cmd)
	if c.begun < 2 || c.begun > 3 {
		t.Errorf("%d actions: want one with what waited, and one with what came after that", c.begun-1)
	}
	if strings.Contains(log.String(), "three") {
		t.Error("the log holds a value")
	}
}

// limit sets how large a file may become that a program writes, and returns what it was.
func (c *crash) limit(cmd *exec.Cmd, bytes uint64) (before uint64) {
	c.t.Helper()
	var was unix.Rlimit
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_FSIZE, nil, &was); err != nil {
		c.t.Fatal(err)
	}
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: was.Max}, nil); err != nil {
		c.t.Fatal(err)
	}

	return was.Cur
}

// logged is a log that can be read while it is written.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) count(what string) int { return strings.Count(l.String(), what) }
