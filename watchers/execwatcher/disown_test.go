package execwatcher_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyturn-io/keyturn/watchers"
	"github.com/keyturn-io/keyturn/watchers/watchertest"
)

func TestDisown(t *testing.T) {
	m := watchertest.NewMachine(t)
	o := runOnce(t, m, props{
		"command": sh(`ps -o sid= -p $$ >sid; echo $$ >pid.new; mv pid.new pid
			while ! test -e go; do sleep 0.01; done; cat "$WATCHER_DATA" >data.new; mv data.new data`),
		"disown": true,
	})
	wantState(t, o, watchers.Success, "success")
	m.Stop()

	read := func(name string) string {
		text, _ := os.ReadFile(filepath.Join(m.Env.Dir, name))
		return strings.TrimSpace(string(text))
	}
	eventually(t, "the command is up", func() bool { return read("pid") != "" })
	if own := strconv.Itoa(must(unix.Getsid(0))); read("sid") == own {
		t.Error("the command is in our session")
	}
	if zombies := children(t); len(zombies) > 0 {
		t.Errorf("the command is our child: %v", zombies)
	}
	if left, _ := os.ReadDir(m.Env.RunDir); len(left) != 1 {
		t.Errorf("the folder of the run is gone while the command runs: %v", left)
	}
	write(t, m.Env.Dir, "go", "", 0o644)
	eventually(t, "the command has read its data", func() bool { return read("data") == "{}" })
	eventually(t, "the folder of the run is gone", func() bool {
		left, _ := os.ReadDir(m.Env.RunDir)
		return len(left) == 0
	})
}

func TestDisownSaysWhatDoesNotStart(t *testing.T) {
	for _, command := range []string{"no-such-tool", "./missing", "/"} {
		m := watchertest.NewMachine(t)
		wantState(t, runOnce(t, m, props{"command": command, "disown": true}), watchers.Failure, "error")
		if left, _ := os.ReadDir(m.Env.RunDir); len(left) > 0 {
			t.Errorf("%s: the run leaves %v", command, left)
		}
	}
}

// children lists our processes, also those that only wait to be reaped.
func children(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("ps", "-o", "pid=,stat=,args=", "--ppid", strconv.Itoa(os.Getpid())).Output()
	if err != nil && len(out) == 0 {
		return nil
	}
	var list []string
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "ps -o pid=") {
			list = append(list, strings.TrimSpace(line))
		}
	}
	return list
}
