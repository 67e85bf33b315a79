package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"
)

// TestReadme does what the README says, in its order and in a copy of this checkout:
// each command of its sh blocks must succeed, a machine runs on a terminal until the
// next one does, and what the README shows (text) must be what the terminal shows.
func TestReadme(t *testing.T) {
	for _, tool := range []string{"go", "make", "sh"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the README's commands need %s", tool)
		}
	}
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(text, []byte("\n")); lines >= 150 {
		t.Errorf("README.md has %d lines, want fewer than 150", lines)
	}

	home := newHome(t)
	serverURL := serve(t, &server.Options{})
	var screen *terminal
	ran := 0
	for _, block := range regexp.MustCompile("(?ms)^```(sh|text|yaml)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		switch kind, content := block[1], block[2]; kind {
		case "sh":
			for command := range strings.Lines(content) {
				command = strings.ReplaceAll(strings.TrimSpace(command), "nats://localhost:4222", serverURL)
				ran++
				switch {
				case command == "git clone https://github.com/keyturn-io/keyturn && cd keyturn":
					// The copy stands for it.
				case command == "make test":
					// It is what runs this test.
				case strings.Contains(command, "make run"), strings.Contains(command, "machine run"):
					screen = home.openTerminal(t, command)
					screen.await(t, "in another terminal type: ")
				default:
					home.run(t, command)
				}
			}
		case "text":
			before, _, stopped := strings.Cut(content, "^C\n")
			screen.await(t, lastLine(before))
			if stopped {
				screen.stop(t)
			}
			if diff := cmp.Diff(masked(content), masked(screen.text())); diff != "" {
				t.Errorf("the terminal shows something else (-README.md +terminal):\n%s", diff)
			}
		case "yaml":
			manifest, err := os.ReadFile("../../examples/machines/deployment/machine.yaml")
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasSuffix(manifest, []byte(content)) {
				t.Error("the README's manifest is not the one of the example")
			}
		}
	}
	if ran < 6 {
		t.Errorf("%d commands were found, want 6 or more", ran)
	}

	// The last machine runs on a server.
	screen.await(t, "deployed for alice")
	screen.stop(t)

	var left []string
	for _, path := range []string{"checkout/examples/machines/deployment", ".local/share"} {
		entries, err := os.ReadDir(filepath.Join(home.dir, path))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			left = append(left, entry.Name())
		}
	}
	want := []string{"README.md", "deploy.sh", "deployed.txt", "machine.yaml", "machine_data.json", "machine_state.json", "keyturn"}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("other files are left than there should be (-want +got):\n%s", diff)
	}
}

// masked is what a terminal shows, with every time and every duration the same.
func masked(text string) string {
	text = regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d`).ReplaceAllString(text, "hh:mm:ss")
	return regexp.MustCompile(`after \d+(\.\d+)?m?s`).ReplaceAllString(text, "after a while")
}

// lastLine is the last line of a text, from behind the time and before a duration.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	line, _, _ := strings.Cut(lines[len(lines)-1], " after ")
	return strings.TrimSpace(line[8:])
}

// home is the home folder of somebody who has just cloned the repository into checkout.
type home struct {
	dir string
	env []string
}

func newHome(t *testing.T) *home {
	t.Helper()
	h := &home{dir: t.TempDir()}
	checkout := filepath.Join(h.dir, "checkout")
	entries, err := os.ReadDir("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		from, to := filepath.Join("../..", entry.Name()), filepath.Join(checkout, entry.Name())
		switch {
		case entry.Name() == ".git", entry.Name() == "bin":
			continue
		case entry.Name() == "examples":
			err = copyExamples(to, from)
		case entry.IsDir():
			err = os.CopyFS(to, os.DirFS(from))
		default:
			var text []byte
			if text, err = os.ReadFile(from); err == nil {
				err = errors.Join(os.MkdirAll(checkout, 0o755), os.WriteFile(to, text, 0o644))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}

	// The caches of this go command make it quick, and its proxies are not needed.
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH"} {
		value, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		h.env = append(h.env, name+"="+strings.TrimSpace(string(value)))
	}
	h.env = append(h.env, "GOPROXY=off", "HOME="+h.dir, "PATH="+os.Getenv("PATH"), "NO_COLOR=1", "TERM=xterm")
	return h
}

func (h *home) command(line string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir, cmd.Env = filepath.Join(h.dir, "checkout"), slices.Clone(h.env)
	return cmd
}

func (h *home) run(t *testing.T, line string) {
	t.Helper()
	if out, err := h.command(line).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// terminal is a terminal on which a command runs.
type terminal struct {
	line   string
	master *os.File
	cmd    *exec.Cmd
	ended  chan struct{} // closed when the command has ended, with its status in err
	err    error

	mu    sync.Mutex // guards shown
	shown []byte
}

func (h *home) openTerminal(t *testing.T, line string) *terminal {
	t.Helper()
	master, slave, err := openPTY()
	if err != nil {
		t.Fatal(err)
	}
	s := &terminal{line: line, master: master, cmd: h.command(line), ended: make(chan struct{})}
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = slave, slave, slave
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()

	read := make(chan struct{})
	go func() {
		defer close(read)
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			s.mu.Lock()
			s.shown = append(s.shown, bytes.ReplaceAll(buffer[:n], []byte("\r"), nil)...)
			s.mu.Unlock()
			if err != nil { // EIO, when the last process on the terminal has ended
				return
			}
		}
	}()
	go func() {
		s.err = s.cmd.Wait()
		<-read
		close(s.ended)
	}()
	t.Cleanup(func() {
		syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		master.Close() // hangs up on what is not in that group
		<-s.ended
	})
	return s
}

func openPTY() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	return master, slave, nil
}

func (s *terminal) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.shown)
}

// await waits until the terminal shows a text. It may have to wait for a build.
func (s *terminal) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(5 * time.Minute)
	for !strings.Contains(s.text(), want) {
		select {
		case <-s.ended:
			t.Fatalf("%s ended (%v) before it showed %q:\n%s", s.line, s.err, want, s.text())
		case <-deadline:
			t.Fatalf("%s does not show %q:\n%s", s.line, want, s.text())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stop presses Ctrl-C: the command ends within a second.
func (s *terminal) stop(t *testing.T) {
	t.Helper()
	began := time.Now()
	if _, err := s.master.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.ended:
	case <-time.After(time.Minute):
		t.Fatalf("%s does not end:\n%s", s.line, s.text())
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("%s took %v to end", s.line, took)
	}
	// go run calls an interrupt a failure, whatever the program says.
	if s.err != nil && !strings.HasPrefix(s.line, "go run ") {
		t.Errorf("%s: %v\n%s", s.line, s.err, s.text())
	}
}
