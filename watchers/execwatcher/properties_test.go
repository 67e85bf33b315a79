package execwatcher

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kballard/go-shellquote"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/watchers"
)

// decode is how a loader fills one property.
func decode[T any](text string) (v T, err error) {
	err = json.Unmarshal([]byte(text), &v)
	return v, err
}

func TestCheckCommand(t *testing.T) {
	const (
		ok      = ""
		warning = "warning: "
	)
	for command, want := range map[string]string{
		`"deploy --fast 'a;b' \"x|y\" a\\;b"`:                       ok,
		`"deploy {{ lookup \"data.version\" | quote }}"`:            ok,
		`"{{ if true }}'{{ end }}a"`:                                ok, // quotes may come from anywhere
		`["sh", "-c", "a | b; c"]`:                                  ok,
		`["sh", "-c", "a \"$1\"", "sh", "{{ lookup \"data.x\" }}"]`: ok,
		`["sh", "-c", "a {{ lookup \"data.x\" | quote }}"]`:         ok,
		`["sh", "-c", "{{ if true }}a{{ end }}"]`:                   ok,
		`["tool", "-c", "{{ lookup \"data.x\" }}"]`:                 ok,
		`["sh", "{{ lookup \"data.x\" }}"]`:                         ok,

		`""`:                           "is required",
		`[]`:                           "is required",
		`[""]`:                         "begins with an empty element",
		`" "`:                          "holds no word",
		`"''"`:                         "holds no word",
		`"a | b"`:                      "holds |,",
		`"a; b"`:                       "holds ;,",
		`"a && b"`:                     "holds &,",
		`"a > b"`:                      "holds >,",
		`"a 2>&1"`:                     "holds >,",
		`"a < b"`:                      "holds <,",
		`"(a)"`:                        "holds (,",
		"\"a `id`\"":                   "holds a backtick,",
		`"a $(id)"`:                    "holds $(,",
		`"a \"$(id)\""`:                "holds $(,",
		`"a # b"`:                      "holds a comment (#),",
		`"a {{ lookup \"x\" 1 }} | b"`: "holds |,",
		`"don't"`:                      "a ' is not closed",
		`"a \"b"`:                      `a " is not closed`,
		`"a \\"`:                       "nothing follows the last backslash",

		`"sh -c 'a {{ lookup \"data.x\" | quote }}'"`:                   warning + "a shell runs",
		`"sudo -u x bash -ec {{ lookup \"data.x\" | quote }}"`:          warning + "a shell runs",
		`["/bin/sh", "-c", "a {{ lookup \"data.x\" }}"]`:                warning + `a shell runs what {{ lookup "data.x" }} puts`,
		`["env", "A=b", "bash", "-xec", "{{ lookup \"data.x\" }}"]`:     warning + "a shell runs",
		`["sh", "-c", "{{ quote (lookup \"x\") }} {{ lookup \"y\" }}"]`: warning + `a shell runs what {{ lookup "y" }} puts`,
	} {
		c, err := decode[Command](command)
		if err != nil {
			t.Errorf("%s: %v", command, err)
			continue
		}
		got := ok
		for _, problem := range c.check() {
			if problem.Warning {
				got = warning
			}
			got += problem.Message
		}
		if (want == ok) != (got == ok) || !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q, want %q", command, got, want)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	for _, c := range []struct {
		property, text, want string
	}{
		{"command", `5`, "must be a string or a list of strings: this is no list"},
		{"command", `["sleep", 5]`, "must be a string or a list of strings: element 2 is no string: put it in quotes"},
		{"command", `["a", "{{ broken"]`, "element 2: template line 1: "},
		{"command", `"{{ broken"`, "template line 1: "},
		{"environment", `"A=b"`, "must be a list of VAR=value: this is no list"},
		{"environment", `["A"]`, "element 1: write VAR=value"},
		{"environment", `["A=b", "1=b"]`, "element 2: a name is made of letters, digits and _"},
		{"environment", `["{{ lookup \"data.x\" }}=b"]`, "element 1: a name is made of"},
		{"environment", `["LD_PRELOAD=x"]`, "element 1: LD_PRELOAD is refused"},
		{"environment", `["DYLD_INSERT_LIBRARIES=x"]`, "element 1: DYLD_INSERT_LIBRARIES is refused"},
		{"environment", `["BASH_ENV=x"]`, "element 1: BASH_ENV is refused"},
		{"environment", `["ENV=x"]`, "element 1: ENV is refused"},
		{"environment", `["IFS=x"]`, "element 1: IFS is refused"},
		{"environment", `["A={{ broken"]`, "element 1: A: template line 1: "},
		{"on_leave", `"stay"`, "must be finish or kill"},
		{"on_leave", `true`, "must be finish or kill"},
		{"retry", `5`, "delay: 5 has no unit: write 5s for seconds or 5m for minutes"},
		{"retry", `"0"`, "delay: must be more than 0, such as 5s"},
		{"retry", `{}`, "delay: must be more than 0, such as 5s"},
		{"retry", `{"delay": "5s", "attemps": 2}`, "attemps: no such key: there are delay, max_delay and attempts"},
		{"retry", `{"delay": "5s", "attempts": 1.5}`, "attempts: must be a whole number from 0 to 1073741824"},
		{"retry", `{"delay": "5s", "attempts": "2"}`, "attempts: must be a whole number from 0 to 1073741824"},
		{"retry", `{"delay": "5s", "max_delay": "1s"}`, "max_delay: must not be less than delay"},
		{"retry", `[]`, "delay: must be a duration such as 10s, 5m or 1h30m"},
		{"max_output", `"1MiB"`, "must be a whole number from 0 to 1073741824"},
		{"max_output", `-1`, "must be a whole number from 0 to 1073741824"},
		{"max_output", `1e99`, "must be a whole number from 0 to 1073741824"},
	} {
		p := defaults()
		field := map[string]any{
			"command": &p.Command, "environment": &p.Environment, "on_leave": &p.OnLeave,
			"retry": &p.Retry, "max_output": &p.MaxOutput,
		}[c.property]
		err := json.Unmarshal([]byte(c.text), field)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %s: got %v, want %s", c.property, c.text, err, c.want)
		}
		if diff := cmp.Diff(defaults(), p, cmp.AllowUnexported(Command{}), cmp.AllowUnexported(datalayer.Template{})); diff != "" {
			t.Errorf("%s: %s leaves something behind:\n%s", c.property, c.text, diff)
		}
	}
}

func TestDecode(t *testing.T) {
	s := func(n float64) watchers.Duration { return watchers.Duration(n * float64(time.Second)) }
	for text, want := range map[string]Retry{
		`"5s"`:            {Delay: s(5), MaxDelay: s(50), Attempts: 5},
		`{"delay": "5s"}`: {Delay: s(5), MaxDelay: s(50), Attempts: 5},
		`{"delay": "5s", "max_delay": "5s", "attempts": 0}`: {Delay: s(5), MaxDelay: s(5)},
		`{"delay": "100y"}`: {Delay: 100 * 365 * 24 * s(3600), MaxDelay: math.MaxInt64 / 10 * 10, Attempts: 5},
	} {
		if got, err := decode[Retry](text); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", text, got, err, want)
		}
	}
	if got, err := decode[Bytes](`1e6`); err != nil || got != 1_000_000 {
		t.Errorf("1e6: got %v, %v", got, err)
	}
	if got, err := decode[OnLeave](`"kill"`); err != nil || got != Kill {
		t.Errorf("kill: got %v, %v", got, err)
	}
}

func TestCheck(t *testing.T) {
	command, err := decode[Command](`"true"`)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Properties)
		want   []string // the properties with problems
	}{
		"defaults":   {func(*Properties) {}, nil},
		"zero":       {func(p *Properties) { *p = Properties{} }, []string{"command", "timeout", "max_output"}},
		"no timeout": {func(p *Properties) { p.Timeout = 0 }, []string{"timeout"}},
		"no grace":   {func(p *Properties) { p.KillGrace = 0 }, nil},
		"disown":     {func(p *Properties) { p.Disown = true }, nil},
		"disown and all it refuses": {func(p *Properties) {
			*p = Properties{Command: p.Command, Disown: true, ParseAsData: true, Timeout: 1, KillGrace: 1,
				OnLeave: Kill, MaxOutput: 1, Retry: Retry{Delay: 1}}
		}, []string{"timeout", "kill_grace", "on_leave", "retry", "parse_as_data", "max_output"}},
	} {
		p := defaults()
		p.Command = command
		c.change(p)
		var got []string
		for _, problem := range p.Check(watchers.Settings{}) {
			got = append(got, problem.Property)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if _, err := p.Watcher(watchers.Env{}); (err != nil) != (c.want != nil) {
			t.Errorf("%s: Watcher returns %v", name, err)
		}
	}
}

func FuzzCommand(f *testing.F) {
	for _, seed := range []string{
		`a 'b c' "d e" f\ g`, `{{ lookup "data.x" "y" | quote }}`, "a;b", "$(id)", "\"", "\\", "a\x00b", "é\xff #", "{{", "'{{\"'\"}}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		// As a list, every text that is no template is one argument as it stands.
		element, err := datalayer.Parse(line)
		if err == nil && element.Static() && line != "" && !strings.Contains(line, "\x00") {
			list := Command{list: []datalayer.Template{element, element}}
			if args, err := list.arguments(datalayer.Scope{}); err != nil || !slices.Equal(args, []string{line, line}) {
				t.Errorf("list of %q: got %q, %v", line, args, err)
			}
		}
		if err != nil {
			return
		}
		// As a line, what passes the check is what a shell makes of it: the words
		// put in quotes again are the same words.
		command := Command{line: element}
		problems := command.check()
		args, err := command.arguments(datalayer.Scope{})
		if len(problems) == 0 && element.Static() && !strings.Contains(line, "\x00") {
			if err != nil {
				t.Fatalf("%q passes the check and then: %v", line, err)
			}
			if again, err := shellquote.Split(shellquote.Join(args...)); err != nil || !slices.Equal(again, args) {
				t.Errorf("%q: words %q, then %q, %v", line, args, again, err)
			}
		}
		if err == nil && (len(args) == 0 || args[0] == "") {
			t.Errorf("%q: nothing to run, and no error", line)
		}
		if err == nil && strings.ContainsRune(strings.Join(args, ""), 0) {
			t.Errorf("%q: a NUL byte gets through", line)
		}
	})
}

func FuzzEnvironment(f *testing.F) {
	for _, seed := range []string{"A=b", "A=", "=", "LD_PRELOAD=x", "ENV=x", "PATH={{ lookup \"data.x\" }}", "A=\x00", "É=1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		raw, _ := json.Marshal([]string{text})
		variables, err := decode[Environment](string(raw))
		if err != nil {
			return
		}
		start := environment{"A=1", "PATH=/bin"}
		env, err := slices.Clone(start).add(variables, datalayer.Scope{})
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, variable := range env {
			name, _, ok := strings.Cut(variable, "=")
			if !ok || seen[name] || strings.HasPrefix(name, "LD_") || strings.Contains(variable, "\x00") {
				t.Errorf("%q makes %q", text, env)
			}
			seen[name] = true
		}
		if len(env) > len(start)+1 {
			t.Errorf("%q makes %q", text, env)
		}
	})
}

func FuzzRetryAndBytes(f *testing.F) {
	for _, seed := range []string{`"5s"`, `{"delay":"1s","max_delay":"1m","attempts":3}`, `{"delay":"99999d"}`, `1e9`, `0`, `null`, `{"delay":null}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if b, err := decode[Bytes](text); err == nil && (b < 0 || b > maxCount) {
			t.Errorf("%s is %d bytes", text, b)
		}
		r, err := decode[Retry](text)
		if err != nil || r == (Retry{}) {
			return
		}
		last := time.Duration(0)
		for failed := 1; failed < 100; failed++ {
			pause, again := r.pause(failed)
			if again != (r.Attempts == 0 || failed < r.Attempts) {
				t.Fatalf("%s: after %d runs: again %v", text, failed, again)
			}
			if !again {
				break
			}
			if pause < last || pause <= 0 || pause > time.Duration(r.MaxDelay) {
				t.Fatalf("%s: pause %v after %v", text, pause, last)
			}
			last = pause
		}
	})
}

func FuzzParseObject(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":1}`, `{"a":1,"a":2}`, `{"a":{"b":[1.0]}} x`, "{\"a\":\"\xff\"}", `{"\ud800":1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		items, err := parseObject(text)
		if err != nil {
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(text, &want); err != nil || len(want) != len(items) {
			t.Fatalf("%q: %d items, want %d (%v)", text, len(items), len(want), err)
		}
		for _, item := range items {
			if _, ok := want[item.Name]; !ok || !json.Valid(item.Value) {
				t.Errorf("%q: item %q is %q", text, item.Name, item.Value)
			}
		}
	})
}
