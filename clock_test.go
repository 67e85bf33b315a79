package keyturn

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// clockServer is a nats-server that sets its clock to as many seconds ahead as stdin says.
const clockServer = `package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

func main() {
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: os.Args[1], NoLog: true, NoSigs: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	srv.Start()
	fmt.Println(srv.ClientURL())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		time.Ahead, err = strconv.ParseInt(lines.Text(), 10, 64)
		fmt.Println(time.Now().Unix(), err)
	}
	srv.Shutdown()
}
`

// clock is a nats-server in a process whose clock a test can set, and nobody else's:
// its package time was built to have one that goes ahead of the computer's, or behind.
type clock struct {
	t     *testing.T
	url   string
	stdin io.Writer
	lines *bufio.Reader
}

func newClock(t *testing.T) *clock {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED, a clock that is set back is not tested: building a server that has one takes a minute")
	}
	cmd := exec.Command(buildClock(t), t.TempDir())
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close() // which ends it
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	c := &clock{t: t, stdin: stdin, lines: bufio.NewReader(stdout)}
	c.url = c.line()

	return c
}

// buildClock builds the server. What it is built from is this computer's package time
// with one line more, which stands on no disk but in an overlay.
func buildClock(t *testing.T) (binary string) {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	original := filepath.Join(strings.TrimSpace(string(out)), "src", "time", "time.go")
	source, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	const now = "\tsec, nsec, mono := runtimeNow()\n"
	begin := strings.Index(string(source), "func Now() Time {\n"+now)
	if begin < 0 {
		t.Fatalf("time.Now of %s is not what this test knows: see where it asks for the time, and change the test", runtime.Version())
	}
	changed := string(source[:begin]) + strings.Replace(string(source[begin:]), now, now+"\tsec += Ahead\n", 1)

	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	replace := map[string]string{}
	for path, content := range map[string]string{
		original: changed,
		filepath.Join(filepath.Dir(original), "ahead.go"): "package time\n\n// Ahead is in seconds.\nvar Ahead int64\n",
		filepath.Join(here, "clockserver", "main.go"):     clockServer,
	} {
		replace[path] = filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(replace[path], []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	binary = filepath.Join(dir, "clockserver")
	build := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, "./clockserver")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build a server whose clock can be set: %s: %s", err, out)
	}

	return binary
}

func (c *clock) line() string {
	c.t.Helper()
	line, err := c.lines.ReadString('\n')
	if err != nil {
		c.t.Fatal(err)
	}

	return strings.TrimSpace(line)
}

// set sets the clock to so much ahead of the computer's, and looks that it is.
func (c *clock) set(ahead time.Duration) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.stdin, "%d\n", int64(ahead.Seconds())); err != nil {
		c.t.Fatal(err)
	}
	var unix int64
	line := c.line()
	if _, err := fmt.Sscanf(line, "%d <nil>", &unix); err != nil {
		c.t.Fatalf("the server says %q: %s", line, err)
	}
	if off := time.Since(time.Unix(unix, 0)) + ahead; off.Abs() > 10*time.Second {
		c.t.Fatalf("the clock of the server is off by %s, want %s", off, ahead)
	}
}

func TestFaultClockSetBack(t *testing.T) {
	c := newClock(t)
	p := newPlant(t, 0)
	p.connect(c.url)
	seldomly(p)
	p.create(1)
	p.settle(c.url)
	before := p.newest("a")

	c.set(-time.Hour)
	p.rests("the clock was set back")
	p.put("a", "two")
	p.within(touch, "a put with an earlier time is acted on", func() { p.acts("two") })
	p.says("unchanged")
	p.rests("a put with an earlier time")
	p.sawNothing("a clock that is set back")
	if now := p.newest("a"); now.Created().After(before.Created().Add(-50 * time.Minute)) {
		t.Fatalf("the server has not set its clock back: %s after %s", now.Created(), before.Created())
	}

	// A value with an earlier time is deleted at one that is earlier still.
	c.set(-2 * time.Hour)
	p.delete("a")
	if data := p.next(); len(data) > 0 {
		t.Errorf("after it was deleted the data is %v", data)
	}
	p.put("a", "two")
	p.actsOnce("two")

	p.halt()
	p.run(c.url)
	p.says("unchanged")
	p.rests("a restart of the machine")

	if err := p.stream().Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.says("missing")
	p.put("a", "two")
	p.says("unchanged")
	p.rests("the same value after a purge")

	// Another life of the bucket that began before the one it follows.
	for _, value := range []string{"two", "three"} {
		c.set(-3 * time.Hour)
		p.until("delete the bucket", func(ctx context.Context) error { return p.direct.DeleteKeyValue(ctx, "CFG") })
		p.create(1)
		p.put("a", value)
		if value == "two" {
			p.rests("the bucket came back with the same value")
		}
	}
	p.actsOnce("three")
}

// TestClockAndExpiry holds what docs/watching.md says of values that expire.
func TestClockAndExpiry(t *testing.T) {
	c := newClock(t)
	p := newPlant(t, 0)
	p.connect(c.url)
	bucket, err := p.direct.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "CFG", TTL: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	p.put("back", "one")
	c.set(-time.Hour)
	pause(t.Context(), 3000)
	if _, err := bucket.Get(t.Context(), "back"); err != nil {
		t.Errorf("a value of a time to come: %s", err)
	}
	c.set(0)
	p.until("expire", func(ctx context.Context) error {
		if _, err := bucket.Get(ctx, "back"); err == nil {
			return fmt.Errorf("the value is still there")
		}
		return nil
	})
}

func (p *plant) newest(key string) jetstream.KeyValueEntry {
	p.t.Helper()
	bucket, err := p.direct.KeyValue(p.t.Context(), "CFG")
	if err != nil {
		p.t.Fatal(err)
	}
	entry, err := bucket.Get(p.t.Context(), key)
	if err != nil {
		p.t.Fatal(err)
	}

	return entry
}

func (p *plant) delete(key string) {
	p.t.Helper()
	bucket, err := p.direct.KeyValue(p.t.Context(), "CFG")
	if err == nil {
		err = bucket.Delete(p.t.Context(), key)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}
