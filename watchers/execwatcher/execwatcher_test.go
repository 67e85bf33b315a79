package execwatcher_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/watchers"
	"github.com/keyturn-io/keyturn/watchers/execwatcher"
	"github.com/keyturn-io/keyturn/watchers/watchertest"
)

// TestMain lets the test binary be the programs that sh cannot be.
func TestMain(m *testing.M) {
	if program, ok := programs[os.Getenv("PROGRAM")]; ok {
		program()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var programs = map[string]func(){
	"args":   printArgs,
	"escape": escape,
	"agent":  agent,
}

func TestContract(t *testing.T) {
	watchertest.Run(t, watchertest.Harness{
		Kind:       execwatcher.Kind,
		Properties: `{"command": "cat /dev/null"}`,
	})
}

// props is properties as a test writes them.
type props map[string]any

func (p props) String() string {
	text, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// sh is a command that a shell runs.
func sh(script string, args ...string) []string {
	return append([]string{"sh", "-c", script, "sh"}, args...)
}

// runOnce runs a watcher for one visit and returns its one observation.
func runOnce(t *testing.T, m *watchertest.Machine, p props) watchers.Observation {
	t.Helper()
	if err := m.Run(t.Context(), m.Watcher(execwatcher.Kind, p.String())); err != nil {
		t.Errorf("Run: %v", err)
	}
	seen := m.Observations()
	if len(seen) != 1 {
		t.Fatalf("%d observations, want 1: %+v", len(seen), seen)
	}
	return seen[0]
}

func wantState(t *testing.T, o watchers.Observation, outcome watchers.Outcome, state string) {
	t.Helper()
	if o.Outcome != outcome || o.State != state {
		t.Errorf("got %v, %s (%s), want %v, %s", o.Outcome, o.State, o.Detail, outcome, state)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	over := time.After(10 * time.Second)
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for !holds() {
		select {
		case <-look.C:
		case <-over:
			t.Fatalf("still not: %s", what)
		}
	}
}

// runs says whether a process runs; one that only waits to be reaped does not.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// firstPID reads the process number that a command has printed.
func firstPID(t *testing.T, m *watchertest.Machine) int {
	t.Helper()
	var pid int
	eventually(t, "the command prints a process number", func() bool {
		line, _, whole := strings.Cut(m.Stdout.String(), "\n")
		var err error
		pid, err = strconv.Atoi(line)
		return whole && err == nil
	})
	return pid
}

func write(t *testing.T, folder, name, content string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(folder, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestExitStatus(t *testing.T) {
	for script, want := range map[string]struct {
		outcome watchers.Outcome
		state   string
		detail  string
	}{
		"exit 0":          {watchers.Success, "success", "exit 0 after "},
		"exit 3":          {watchers.Failure, "failed", "exit 3 after "},
		"kill -SEGV $$":   {watchers.Failure, "failed", "killed by SIGSEGV after "},
		"no-such-command": {watchers.Failure, "failed", "exit 127 after "},
	} {
		o := runOnce(t, watchertest.NewMachine(t), props{"command": sh(script)})
		wantState(t, o, want.outcome, want.state)
		if !strings.HasPrefix(o.Detail, want.detail) {
			t.Errorf("%s: got detail %q, want %q...", script, o.Detail, want.detail)
		}
	}
}

func TestEnvironmentIsExact(t *testing.T) {
	t.Setenv("SECRET_OF_THE_AGENT", "secret")
	t.Setenv("HOME", "/home/agent")
	t.Setenv("LANG", "C.UTF-8")
	path := os.Getenv("PATH")
	m := watchertest.NewMachine(t)
	m.Set(datalayer.Item{Name: "color", Value: json.RawMessage(`"deep red"`)})
	// env prints what it got; sh would add to it.
	o := runOnce(t, m, props{
		"command":     "env",
		"environment": []string{`COLOR={{ lookup "data.color" }}`, "LANG=de_DE", "EMPTY=", "TWICE=1", "TWICE=2=2"},
	})
	wantState(t, o, watchers.Success, "success")

	got := map[string]string{}
	for line := range strings.Lines(m.Stdout.String()) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if _, twice := got[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		got[name] = value
	}
	for _, name := range []string{"WATCHER_DATA", "WATCHER_FACTS", "WATCHER_CHANGES"} {
		if filepath.Dir(filepath.Dir(got[name])) != m.Env.RunDir {
			t.Errorf("%s=%s is not in a folder in %s", name, got[name], m.Env.RunDir)
		}
		delete(got, name)
	}
	want := map[string]string{
		"MACHINE_NAME":           m.Env.Machine,
		"MACHINE_WATCHER_NAME":   m.Env.Watcher,
		"MACHINE_INSTANCE_ID":    m.Env.Instance,
		"MACHINE_STATE":          "here",
		"MACHINE_EVENT":          "go",
		"MACHINE_PREVIOUS_STATE": "there",
		"PATH":                   path + ":" + m.Env.Dir,
		"HOME":                   "/home/agent",
		"LANG":                   "de_DE",
		"COLOR":                  "deep red",
		"EMPTY":                  "",
		"TWICE":                  "2=2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestFilesOfTheRun(t *testing.T) {
	m := watchertest.NewMachine(t)
	m.Set(datalayer.Item{Name: "n", Value: json.RawMessage(`1234567`)})
	m.SetFacts(`{"os":"linux"}`)
	m.SetVisit(watchers.Visit{State: "here", Cause: watchers.Stepped, Event: "go", Changes: []watchers.Change{
		{Bucket: "B", Key: "k", Operation: "put", Revision: 7, Old: json.RawMessage(`"was"`)},
	}})
	o := runOnce(t, m, props{"command": sh(`
		stat -c %a "$(dirname "$WATCHER_DATA")" "$WATCHER_DATA" "$WATCHER_FACTS" "$WATCHER_CHANGES"
		cat "$WATCHER_DATA" "$WATCHER_FACTS" "$WATCHER_CHANGES"; echo; pwd
		readlink /proc/self/fd/0
		read -r line || echo nothing to read; touch "$(dirname "$WATCHER_DATA")/more"`)})
	wantState(t, o, watchers.Success, "success")
	want := "700\n600\n600\n600\n{\n  \"n\": 1234567\n}\n{\"os\":\"linux\"}" +
		`[{"bucket":"B","key":"k","operation":"put","revision":7,"old":"was"}]` + "\n" + m.Env.Dir + "\n/dev/null\nnothing to read\n"
	if diff := cmp.Diff(want, m.Stdout.String()); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, &m.Stderr)
	}
	if left, _ := os.ReadDir(m.Env.RunDir); len(left) > 0 {
		t.Errorf("the run leaves %v", left)
	}
}

func TestStreamsStayApart(t *testing.T) {
	m := watchertest.NewMachine(t)
	runOnce(t, m, props{"command": sh("echo out; echo err >&2")})
	if m.Stdout.String() != "out\n" || m.Stderr.String() != "err\n" {
		t.Errorf("got %q and %q", m.Stdout.String(), m.Stderr.String())
	}
}

// hostile is a value that does harm where anybody takes it for more than a value.
const hostile = `a "b' $(id) ; rm -rf * | & > ` + "`id` \\ \t\n{{ end"

func printArgs() {
	for _, arg := range os.Args[1:] {
		fmt.Printf("%q\n", arg)
	}
}

func TestArguments(t *testing.T) {
	self := os.Args[0]
	value, err := datalayer.Encode(hostile)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		command any
		want    []string
	}{
		"a value in a list is one argument": {
			[]string{self, `{{ lookup "data.v" }}`, "", `-x={{ lookup "data.two" }}`},
			[]string{hostile, "", "-x=one two"},
		},
		"a quoted value in a line is one word": {
			self + ` {{ lookup "data.v" | quote }} 'and more'`,
			[]string{hostile, "and more"},
		},
		"a bare value in a line may be several": {
			self + ` {{ lookup "data.two" }} "{{ lookup "data.two" }}"`,
			[]string{"one", "two", "one two"},
		},
		"a line is split like a shell would": {
			self + ` "a b"c 'd "e' f\ g "\$h" ""` + "\n",
			[]string{"a bc", `d "e`, "f g", "$h", ""},
		},
		"what no shell expands stays": {
			self + ` $HOME * ~`,
			[]string{"$HOME", "*", "~"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := watchertest.NewMachine(t)
			m.Set(datalayer.Item{Name: "v", Value: value}, datalayer.Item{Name: "two", Value: json.RawMessage(`"one two"`)})
			wantState(t, runOnce(t, m, props{"command": c.command, "environment": []string{"PROGRAM=args", "GORACE=atexit_sleep_ms=0"}}), watchers.Success, "success")
			want := ""
			for _, arg := range c.want {
				want += fmt.Sprintf("%q\n", arg)
			}
			if diff := cmp.Diff(want, m.Stdout.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseAsData(t *testing.T) {
	item := func(name, value string) datalayer.Item {
		return datalayer.Item{Name: name, Value: json.RawMessage(value)}
	}
	for name, c := range map[string]struct {
		stdout string
		want   []datalayer.Item
		detail string
	}{
		"object":        {`{"b": 1234567.0, "a": {"z": 1, "y": [12345678901234567890]}, "": "<&>"}` + "\n", []datalayer.Item{item("b", "1234567.0"), item("a", `{"z":1,"y":[12345678901234567890]}`), item("", `"<&>"`)}, ""},
		"empty object":  {"{}", nil, ""},
		"nothing":       {"", nil, "exit 0, but stdout is not one JSON object, as parse_as_data wants it"},
		"array":         {"[1]", nil, "exit 0, but stdout is not one JSON object, as parse_as_data wants it"},
		"null":          {"null", nil, "exit 0, but stdout is not one JSON object, as parse_as_data wants it"},
		"two objects":   {`{"a":1} {"b":2}`, nil, "exit 0, but stdout is not one JSON object, as parse_as_data wants it"},
		"garbage after": {`{"a":1} done`, nil, "exit 0, but stdout is not one JSON object, as parse_as_data wants it"},
		"half":          {`{"a":1`, nil, "exit 0, but stdout is not one JSON object, as parse_as_data wants it"},
		"not UTF-8":     {"{\"a\":\"\xff\"}", nil, "exit 0, but stdout is not one JSON object, as parse_as_data wants it"},
		"too deep":      {strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 200), nil, "exit 0, but stdout is not one JSON object, as parse_as_data wants it"},
		"twice":         {`{"a":1,"\u0061":2}`, nil, "exit 0, but a key stands twice in the JSON object on stdout"},
		"too much":      {`{"a":"` + strings.Repeat("x", 5000) + `"}`, nil, "exit 0, but stdout is more than max_output (4096 bytes)"},
	} {
		t.Run(name, func(t *testing.T) {
			m := watchertest.NewMachine(t)
			write(t, m.Env.Dir, "stdout", c.stdout, 0o644)
			o := runOnce(t, m, props{
				"command":       sh(`echo "warning: {" >&2; cat stdout; echo "more" >&2`),
				"parse_as_data": true,
				"max_output":    4096,
			})
			if c.detail == "" {
				wantState(t, o, watchers.Success, "success")
			} else {
				wantState(t, o, watchers.Failure, "failed")
				if o.Detail != c.detail {
					t.Errorf("got %q, want %q", o.Detail, c.detail)
				}
			}
			if diff := cmp.Diff(c.want, o.Set); diff != "" {
				t.Errorf("items (-want +got):\n%s", diff)
			}
		})
	}

	m := watchertest.NewMachine(t)
	o := runOnce(t, m, props{"command": sh(`echo '{"a":1}'; exit 1`), "parse_as_data": true})
	wantState(t, o, watchers.Failure, "failed")
	if o.Set != nil {
		t.Errorf("a command that failed sets %v", o.Set)
	}
}

// TestSaysNothingSecret looks for values and output where people read.
func TestSaysNothingSecret(t *testing.T) {
	const secret = "hunter2"
	for name, p := range map[string]props{
		"success":       {"command": []string{"echo", `{{ lookup "data.secret" }}`}},
		"exit 1":        {"command": sh(`echo "$1" >&2; exit 1`, `{{ lookup "data.secret" }}`)},
		"not an object": {"command": []string{"echo", `{{ lookup "data.secret" }}`}, "parse_as_data": true},
		"twice":         {"command": []string{"echo", `{"{{ lookup "data.secret" }}":1,"{{ lookup "data.secret" }}":2}`}, "parse_as_data": true},
		"timeout":       {"command": sh(`echo "$1"; sleep 60`, `{{ lookup "data.secret" }}`), "timeout": "50ms"},
		"no program":    {"command": `{{ lookup "data.secret" }}`},
		"no path":       {"command": `/{{ lookup "data.secret" }}/x`},
		"unclosed":      {"command": `echo {{ lookup "data.secret" }}'{{""}}`},
		"bad template":  {"command": `echo {{ index (lookup "data.secret") 99 }}`},
		"bad variable":  {"command": "true", "environment": []string{`X={{ lookup (lookup "data.secret") }}`}},
		"disowned":      {"command": `{{ lookup "data.secret" }}`, "disown": true},
	} {
		t.Run(name, func(t *testing.T) {
			m := watchertest.NewMachine(t)
			m.Set(datalayer.Item{Name: "secret", Value: json.RawMessage(`"` + secret + `"`)})
			o := runOnce(t, m, p)
			if text := o.Detail + o.State + m.Log.String(); strings.Contains(text, secret) {
				t.Errorf("the secret is in %s", text)
			}
		})
	}
}
