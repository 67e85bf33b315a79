package execwatcher_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/watchers"
	"github.com/keyturn-io/keyturn/watchers/watchertest"
)

func TestLookPath(t *testing.T) {
	for name, c := range map[string]struct {
		command string
		env     []string
		want    string
	}{
		"the machine's folder ends PATH":      {"only-here", nil, "folder"},
		"PATH comes first":                    {"sort -V /dev/null", nil, ""},
		"a path is relative to the folder":    {"bin/tool", nil, "bin"},
		"a dot as well":                       {"./only-here", nil, "folder"},
		"the manifest's PATH counts":          {"tool", []string{"PATH=bin:/bin:/usr/bin"}, "bin"},
		"and is all there is then":            {"/bin/sh only-here", []string{"PATH=/nowhere"}, "folder"},
		"what is not executable is passed by": {"data", []string{"PATH=.:bin:/bin"}, "bin data"},
	} {
		t.Run(name, func(t *testing.T) {
			m := watchertest.NewMachine(t)
			write(t, m.Env.Dir, "only-here", "#!/bin/sh\necho folder", 0o755)
			write(t, m.Env.Dir, "sort", "#!/bin/sh\necho wrong", 0o755)
			write(t, m.Env.Dir, "data", "no program", 0o644)
			write(t, m.Env.Dir, "bin/tool", "#!/bin/sh\necho bin", 0o755)
			write(t, m.Env.Dir, "bin/data", "#!/bin/sh\necho bin data", 0o755)
			o := runOnce(t, m, props{"command": c.command, "environment": append([]string{}, c.env...)})
			wantState(t, o, watchers.Success, "success")
			if got := strings.TrimSpace(m.Stdout.String()); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestWhatDoesNotStart(t *testing.T) {
	for name, c := range map[string]struct {
		command any
		env     string
		want    string
	}{
		"no such name":   {"no-such-tool -x", "", "no-such-tool: no such command in PATH or the machine's folder: install it, make it executable, or write its full path"},
		"no such file":   {"./missing", "", "./missing: no such file: a relative path begins at the machine's folder DIR"},
		"not executable": {"./text", "", "./text: is not executable: chmod +x it"},
		"a folder":       {"./folder", "", "./folder: is a folder, not a command"},
		"no interpreter": {"./orphan", "", "./orphan: its interpreter does not exist: look at its first line (#!), or at what it is linked with"},
		"no program":     {"./garbage", "", "./garbage: is neither a program of this system nor a script that begins with a #! line"},
		"large argument": {[]string{"true", `{{ lookup "data.large" }}`}, "", "true: its arguments and environment are too large for the system: let it read large values from $WATCHER_DATA"},
		"large variable": {"true", `X={{ lookup "data.large" }}`, "true: its arguments and environment are too large for the system: let it read large values from $WATCHER_DATA"},
		"NUL":            {[]string{"true", `{{ lookup "data.nul" }}`}, "", "command: argument 1 holds a NUL byte"},
		"NUL in env":     {"true", `X={{ lookup "data.nul" }}`, "environment, X: it holds a NUL byte"},
		"secret name":    {[]string{`{{ lookup "data.secret" }}`}, "", "what the template of the command names: no such command in PATH or the machine's folder: install it, make it executable, or write its full path"},
		"secret path":    {`./{{ lookup "data.secret" }}`, "", "what the template of the command names: no such file: a relative path begins at the machine's folder DIR"},
		"nothing":        {[]string{`{{ lookup "data.empty" }}`}, "", "command: there is nothing to run"},
		"no word":        {`{{ lookup "data.empty" }}`, "", "command: there is nothing to run"},
		"open quote":     {`echo {{ lookup "data.quote" }}`, "", "command: a ' is not closed"},
	} {
		t.Run(name, func(t *testing.T) {
			m := watchertest.NewMachine(t)
			write(t, m.Env.Dir, "text", "text", 0o644)
			write(t, m.Env.Dir, "folder/x", "", 0o644)
			write(t, m.Env.Dir, "orphan", "#!/no/such/interpreter\n", 0o755)
			write(t, m.Env.Dir, "garbage", "\x00\x01\x02", 0o755)
			m.Set(
				datalayer.Item{Name: "large", Value: json.RawMessage(`"` + strings.Repeat("x", 200<<10) + `"`)},
				datalayer.Item{Name: "nul", Value: json.RawMessage(`"a\u0000b"`)},
				datalayer.Item{Name: "secret", Value: json.RawMessage(`"hunter2"`)},
				datalayer.Item{Name: "empty", Value: json.RawMessage(`""`)},
				datalayer.Item{Name: "quote", Value: json.RawMessage(`"don't"`)},
			)
			p := props{"command": c.command}
			if c.env != "" {
				p["environment"] = []string{c.env}
			}
			o := runOnce(t, m, p)
			wantState(t, o, watchers.Failure, "error")
			if want := strings.ReplaceAll(c.want, "DIR", m.Env.Dir); o.Detail != want {
				t.Errorf("got %q, want %q", o.Detail, want)
			}
			if left, _ := os.ReadDir(m.Env.RunDir); len(left) > 0 {
				t.Errorf("the run leaves %v", left)
			}
		})
	}
}

func TestBrokenTemplateAndFolders(t *testing.T) {
	m := watchertest.NewMachine(t)
	o := runOnce(t, m, props{"command": `echo {{ lookup "data.none" }}`})
	wantState(t, o, watchers.Failure, "error")
	if !strings.HasPrefix(o.Detail, "command: template line 1") {
		t.Errorf("got %q", o.Detail)
	}

	m = watchertest.NewMachine(t)
	os.Remove(m.Env.RunDir) // as a system does that sweeps its memory
	wantState(t, runOnce(t, m, props{"command": "true"}), watchers.Success, "success")

	m = watchertest.NewMachine(t)
	os.Remove(m.Env.Dir)
	o = runOnce(t, m, props{"command": "true"})
	wantState(t, o, watchers.Failure, "error")
	if want := "true: the machine's folder " + m.Env.Dir + " is gone"; o.Detail != want {
		t.Errorf("got %q, want %q", o.Detail, want)
	}
}
