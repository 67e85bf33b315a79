package datalayer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mattn/go-shellwords"
)

const testFacts = `{"os": {"family": "Debian", "cores": 8}, "load": 0.50}`

func testScope(t testing.TB) Scope {
	t.Helper()
	s := open(t, filepath.Join(t.TempDir(), "machine_data.json"))
	commit(t, s, set(
		"user", `"bob o'hara"`,
		"app", `{"version": 1234567, "ratio": 1.50, "zero": 0.0, "big": 12345678901234567890, "none": null,
			"on": true, "list": ["a", 2, 3.0], "small": {"b": 1e2, "a": "<"}}`,
		"a.b", `{"c": "dotted"}`,
		"text", `"{\"inner\": 1}"`,
		"secret", `"hunter2"`,
		"secrets", `["hunter2"]`,
	), true)
	return Scope{Data: s.View(), Facts: []byte(testFacts)}
}

func TestTemplate(t *testing.T) {
	scope := testScope(t)
	for _, test := range []struct{ text, want string }{
		{``, ``},
		{`plain } text {`, `plain } text {`},
		{`{{ lookup "data.user" }}!`, `bob o'hara!`},
		{`{{ lookup "data.user" "x" }}`, `bob o'hara`},
		{`{{ lookup "data.nobody" "x" }}`, `x`},
		{`{{ lookup "data.user.name" "x" }}`, `x`},
		{`{{ lookup "data.text.inner" "x" }}`, `x`},
		{`{{ lookup "data.a\\.b.c" }}`, `dotted`},
		{`{{ lookup "data.app.list.1" }}`, `2`},
		{`{{ lookup "data.app.list.#" }}`, `3`},
		{`{{ lookup "data.app.list.@reverse.0" }}`, `3.0`},
		{`{{ lookup "data.us*" }}`, `bob o'hara`},
		{`{{ lookup "facts.os.family" }}`, `Debian`},
		{`{{ lookup "facts.os.kernel" "none" }}`, `none`},
		{`{{ (lookup "facts").os.family }} {{ (lookup "data").user }}`, `Debian bob o'hara`},

		// numbers
		{`{{ lookup "data.app.version" }}`, `1234567`},
		{`{{ lookup "data.app.ratio" }} {{ lookup "facts.load" }}`, `1.50 0.50`},
		{`{{ lookup "data.app.big" }} {{ lookup "data.app.zero" }}`, `12345678901234567890 0.0`},
		{`{{ lookup "data.nobody" 1234567.0 }} {{ lookup "data.nobody" 7 }}`, `1234567 7`},
		{`{{ (lookup "data.app").version }} {{ lookup "data.app.list" }}`, `1234567 [a 2 3.0]`},
		{`{{ printf "%d|%5.2f|%s|%v|%05d|%x" (lookup "data.app.version") (lookup "data.app.ratio") (lookup "data.app.ratio") (lookup "data.app.big") 42 255 }}`,
			`1234567| 1.50|1.50|12345678901234567890|00042|ff`},
		{`{{ if lookup "data.app.zero" }}yes{{ else }}no{{ end }}`, `no`},
		{`{{ with lookup "data.app.ratio" }}{{ . }}{{ end }}`, `1.50`},
		{`{{ or (lookup "data.app.zero") "other" }} {{ not (lookup "data.app.version") }}`, `other false`},
		{`{{ if eq (lookup "data.app.ratio") 1.5 }}eq{{ end }}{{ if eq (lookup "data.app.version") 1 2 1234567 }}eq{{ end }}`, `eqeq`},
		{`{{ if gt (lookup "facts.os.cores") 4 }}gt{{ end }}{{ if gt (lookup "facts.os.cores") 4.0 }}gt{{ end }}`, `gtgt`},
		{`{{ lt (lookup "data.app.ratio") (lookup "facts.os.cores") }} {{ le 1 1 }} {{ ge 1 2 }} {{ ne 1 1.0 }}`, `true true false false`},
		{`{{ gt 9007199254740993 9007199254740992 }}`, `true`},
		{`{{ eq (lookup "data.user") "bob o'hara" }} {{ eq true (lookup "data.app.on") }} {{ eq (lookup "data.app.none") "x" }} {{ eq (lookup "data.app.none") nil }}`, `true true false true`},
		{`{{ lt "a" "b" }}`, `true`},

		// functions
		{`{{ Title "hello wORLD foo-bar it's 1st a.b web_01 'x' éA" }} {{ Capitalize "bob" }}`, `Hello World Foo-Bar It's 1St A.b Web_01 'X' Éa Bob`},
		{`{{ ToUpper (lookup "data.user") }} {{ ToLower "ABC" }} {{ ToUpper 1.5 }}`, `BOB O'HARA abc 1.5`},
		{`{{ StringsJoin (lookup "data.app.list") }}|{{ StringsJoin (lookup "data.app.list") "+" }}`, `a, 2, 3.0|a+2+3.0`},
		{`{{ Base64Encode "bob" }} {{ Base64Decode "Ym9i" }} {{ "x" | Base64Encode | Base64Decode }}`, `Ym9i bob x`},
		{`{{ toJson (lookup "data.app.small") }} {{ toJson "<\"" }} {{ toJson (lookup "data.app.list") }} {{ lookup "data.app.zero" | toJson }}`,
			`{"a":"<","b":1e2} "<\"" ["a",2,3.0] 0.0`},
		{`run {{ quote (lookup "data.user") }} {{ quote 5 }} {{ quote "" }}`, `run 'bob o'\''hara' '5' ''`},
		{`{{ print "a" 1 }} {{ println "b" -}}`, "a1 b\n"},
		{`{{ html "<" }} {{ js "'" }} {{ urlquery "a b" }}`, `&lt; \' a+b`},

		// the language
		{`{{ range lookup "data.app.list" }}[{{ . }}]{{ end }}{{ range $i, $x := lookup "data.app.list" }}{{ $i }}{{ end }}`, `[a][2][3.0]012`},
		{`{{ range 3 }}{{ . }}{{ end }}{{ range lookup "data.nobody" "" | len }}x{{ else }}none{{ end }}`, `012none`},
		{`{{ range 5 }}{{ if eq . 1 }}{{ continue }}{{ end }}{{ if eq . 3 }}{{ break }}{{ end }}{{ . }}{{ end }}`, `02`},
		{`{{ define "x" }}<{{ . }}>{{ end }}{{ template "x" 1 }}{{ block "y" 2 }}({{ . }}){{ end }}`, `<1>(2)`},
	} {
		parsed, err := Parse(test.text)
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		if got, err := parsed.Expand(scope); err != nil || got != test.want {
			t.Errorf("%s\n got %q, %v\nwant %q", test.text, got, err, test.want)
		}
		if parsed.String() != test.text {
			t.Errorf("String is %q, want %q", parsed.String(), test.text)
		}
		if parsed.IsZero() != (test.text == "") || parsed.Static() == strings.Contains(test.text, "{{") {
			t.Errorf("%s: IsZero %v, Static %v", test.text, parsed.IsZero(), parsed.Static())
		}
	}
}

func TestTemplateIsBrokenAtLoad(t *testing.T) {
	for text, want := range map[string]string{
		"a\n{{ lookup }":       `template line 2: unexpected "}" in operand`,
		`{{ nothing }}`:        `template line 1: function "nothing" not defined`,
		`{{ if 1 }}`:           `template line 1: unexpected EOF`,
		"\n\n{{ end }}":        `template line 3: unexpected {{end}}`,
		"{{" + manyBytes(1e6):  `template: larger than 65536 bytes`,
		"{{" + manyParens(3e4): `template line 1: max expression depth exceeded`,
	} {
		var properties struct{ Command Template }
		doc, _ := json.Marshal(map[string]string{"command": text})
		err := json.Unmarshal(doc, &properties)
		if err == nil || err.Error() != want {
			t.Errorf("%.40s: %v, want %s", text, err, want)
		}
	}
}

func manyBytes(n int) string  { return strings.Repeat("x", n) }
func manyParens(n int) string { return strings.Repeat("(", n) }

func TestTemplateInProperties(t *testing.T) {
	type properties struct {
		Command     Template
		Environment []Template
	}
	text := `{"Command":"echo {{ lookup \"data.user\" }}","Environment":["A=b"]}`
	var p properties
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		t.Fatal(err)
	}
	if got, err := p.Command.Expand(testScope(t)); err != nil || got != "echo bob o'hara" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := json.Marshal(p); err != nil || string(got) != text {
		t.Errorf("as JSON again: %s, %v", got, err)
	}
}

func TestTemplateFails(t *testing.T) {
	scope := testScope(t)
	for text, want := range map[string]string{
		`{{ lookup "data.nobody" }}`:                 `template line 1, lookup "data.nobody": there is nothing, and no default`,
		"\n{{ lookup \"facts.nothing\" | ToUpper }}": `template line 2, lookup "facts.nothing": there is nothing, and no default`,
		`{{ lookup "user" "x" }}`:                    `template line 1, lookup "user" "x": a path begins with data. or facts.`,
		`{{ lookup "data.a" 1 2 }}`:                  `template line 1, lookup "data.a" 1 2: takes a path and one default`,
		`{{ lookup }}`:                               `template line 1, lookup: wrong number of args for lookup: want at least 1 got 0`,
		`{{ gt (lookup "data.secret") 5 }}`:          `template line 1, gt (lookup "data.secret") 5: these cannot be compared`,
		`{{ range lookup "data.secret" }}{{ end }}`:  `template line 1, "data.secret": does not fit the values there are`,
		`{{ lookup "data.secrets" | ToUpper }}`:      `template line 1, ToUpper: needs a text, a number or a boolean`,
		`{{ lookup "data.secrets" | lookup }}`:       `template line 1, lookup: wrong type for value; expected string; got []interface {}`,
		`{{ lookup (lookup "data.secret") }}`:        `template line 1, lookup (lookup "data.secret"): a path begins with data. or facts.`,
		`{{ (lookup "data.app").list.x }}`:           `template line 1, "data.app": does not fit the values there are`,
		`{{ index (lookup "data.secrets") 5 }}`:      `template line 1, index (lookup "data.secrets") 5: does not fit the values there are`,
		`{{ Base64Decode (lookup "data.secret") }}`:  `template line 1, Base64Decode (lookup "data.secret"): this is not base64`,
		`{{ quote "\x00" }}`:                         `template line 1, quote "\x00": a word of a command cannot hold a zero byte`,
		`{{ lookup "data.app.@dig:a.@dig:b" "x" }}`:  `template line 1, lookup "data.app.@dig:a.@dig:b" "x": path with too many modifiers or selections`,
		`{{ call (lookup "data.secret") }}`:          `template line 1, call (lookup "data.secret"): does not fit the values there are`,
		`{{ template "x" }}`:                         `template line 1, {{template "x"}}: does not fit the values there are`,
	} {
		parsed, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got, err := parsed.Expand(scope)
		if err == nil || err.Error() != want || got != "" {
			t.Errorf("%s\n got %q, %v\nwant %s", text, got, err, want)
		}
	}
}

func TestTemplateOverBrokenFacts(t *testing.T) {
	parsed, err := Parse(`{{ lookup "facts.a.b" "x" }}`)
	if err != nil {
		t.Fatal(err)
	}
	deep := `{"a":{"b":` + strings.Repeat("[", 1_000_000)
	for _, facts := range []string{``, deep, `{`, `{"a":{"b":`, `{"a":{"b":hunter2}}`, `hunter2`, "{\"a\":{\"b\":\"hunter2\xff\"}}"} {
		got, err := parsed.Expand(Scope{Facts: []byte(facts)})
		if strings.Contains(got, "hunter2") || err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("facts %q: got %q, %v", facts, got, err)
		}
	}
}

// TestTemplateIsBounded holds what would not end, or end the process, to a few
// seconds and megabytes.
func TestTemplateIsBounded(t *testing.T) {
	doubling := `{{ define "0" }}{{ end }}`
	for i := range 40 {
		doubling += fmt.Sprintf(`{{ define "%d" }}{{ template "%d" }}{{ template "%d" }}{{ end }}`, i+1, i, i)
	}
	long := strings.Repeat("x", 1000)
	for name, text := range map[string]string{
		"endless loop":       `{{ range 1000000000000 }}{{ end }}`,
		"loop in loop":       `{{ range 100000 }}{{ range 100000 }}{{ end }}{{ end }}`,
		"continue":           `{{ range 1000000000000 }}{{ continue }}{{ end }}`,
		"loop in branch":     `{{ if 1 }}{{ with 1 }}{{ range 1000000000000 }}{{ end }}{{ end }}{{ end }}`,
		"loop in else":       `{{ if 0 }}{{ else }}{{ range 0 }}{{ else }}{{ range 1000000000000 }}{{ end }}{{ end }}{{ end }}`,
		"loop in block":      `{{ block "x" . }}{{ range 1000000000000 }}{{ end }}{{ end }}`,
		"recursion":          `{{ define "x" }}{{ template "x" }}{{ end }}{{ template "x" }}`,
		"recursion of all":   `{{ template "t" }}`,
		"doubling templates": doubling + `{{ template "40" }}`,
		"much output":        `{{ range 90000 }}` + long + `{{ end }}`,
		"doubling text":      `{{ $x := "x" }}{{ range 60 }}{{ $x = print $x $x }}{{ end }}`,
		"doubling by printf": `{{ $x := "x" }}{{ range 60 }}{{ $x = printf "%s%s" $x $x }}{{ end }}`,
		"doubling by index":  `{{ $x := "x" }}{{ range 60 }}{{ $x = printf "%[1]s%[1]s" $x }}{{ end }}`,
		"doubling by html":   `{{ $x := "<" }}{{ range 60 }}{{ $x = html $x $x }}{{ end }}`,
		"doubling by js":     `{{ $x := "<" }}{{ range 60 }}{{ $x = js $x }}{{ end }}`,
		"doubling by quote":  `{{ $x := "'" }}{{ range 60 }}{{ $x = quote $x }}{{ end }}`,
		"doubling by json":   `{{ $x := "\"" }}{{ range 60 }}{{ $x = toJson $x }}{{ end }}`,
		"doubling by base64": `{{ $x := "x" }}{{ range 600 }}{{ $x = Base64Encode $x }}{{ end }}`,
		"wide":               `{{ printf "%1000000000d" 1 }}`,
		"wide by argument":   `{{ printf "%*d" 1000000000 1 }}`,
		"precise":            `{{ printf "%.1000000f" 1.5 }}`,
		"wide with index":    `{{ printf "%[1]999999d" 1 }}`,
		"many wide":          `{{ printf "` + strings.Repeat("%999d", 5000) + `" 1 }}`,
		"many of one":        `{{ $x := printf "%999d" 1 }}{{ printf "` + strings.Repeat("%[1]s", 5000) + `" $x }}`,
		"many by print":      `{{ $x := "xxxxxxxxxxxx" }}{{ range 16 }}{{ $x = print $x $x }}{{ end }}{{ print` + strings.Repeat(" $x", 5000) + ` }}`,
		"join by much":       `{{ $x := "xxxxxxxxxxxx" }}{{ range 16 }}{{ $x = print $x $x }}{{ end }}{{ StringsJoin (lookup "data.many") $x }}`,
		"join":               `{{ $x := lookup "data.many" }}{{ StringsJoin $x "` + long + `" }}`,
		"lookups":            `{{ range 90000 }}{{ $x := lookup "data.many" }}{{ $y := lookup "data.many" }}{{ end }}`,
		"multiplying path":   `{{ lookup "data.many` + strings.Repeat(".[@this,@this]", 40) + `" }}`,
		"escaping path":      `{{ lookup "data.many` + strings.Repeat(".@tostr", 40) + `" }}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, filepath.Join(t.TempDir(), "machine_data.json"))
			commit(t, s, set("many", `["`+strings.Repeat(`","`, 5000)+`"]`), true)
			parsed, err := Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			if got, err := parsed.Expand(Scope{Data: s.View()}); err == nil {
				t.Errorf("it expands to %d bytes", len(got))
			}
			if took := time.Since(start); took > 3*maxTime {
				t.Errorf("it takes %v", took)
			}
			runtime.ReadMemStats(&after)
			// Of all that was ever allocated, not only what was live at once.
			if used := after.TotalAlloc - before.TotalAlloc; name != "lookups" && used > 300<<20 {
				t.Errorf("it allocates %d MiB", used>>20)
			}
		})
	}
}

func TestQuoteIsOneWord(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := Parse(`{{ quote (lookup "data.x") }} {{ quote "second" }}`)
	if err != nil {
		t.Fatal(err)
	}
	words := shellwords.NewParser()
	evil := shellwords.NewParser() // what a careless caller may have switched on
	evil.ParseEnv, evil.ParseBacktick, evil.ParseComment = true, true, true
	for _, word := range []string{
		``, ` `, `a b`, `'`, `''`, `'"'`, `a'b'c`, `"`, `\`, `\\`, `\'`, `it's \n`, `$HOME`, `$(id)`, "`id`", `;id`, `&`, `|`, `<x>`, `#x`, `~`, `*`,
		`!x`, `a=b`, `-x`, "a\nb", "a\r\nb", "\t", "é\u2028\u00a0 x", `%s`, `{a,b}`, `[x]`, `(x)`, `\x41`, "\x01\x7f", `'; touch /tmp/x; '`,
	} {
		view, _, err := (&View{}).with(Commit{Set: []Item{{"x", encodeText([]byte(word))}}})
		if err != nil {
			t.Fatal(err)
		}
		line, err := parsed.Expand(Scope{Data: view})
		if err != nil {
			t.Errorf("%q: %v", word, err)
			continue
		}
		for _, parser := range []*shellwords.Parser{words, evil} {
			if got, err := parser.Parse(line); err != nil || len(got) != 2 || got[0] != word || got[1] != "second" {
				t.Errorf("%q: shellwords makes %q of %s, %v", word, got, line, err)
			}
		}
		got, err := exec.Command(sh, "-c", `printf '%s\0' `+line).Output()
		if want := word + "\x00second\x00"; err != nil || string(got) != want {
			t.Errorf("%q: sh makes %q of %s, %v", word, got, line, err)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{
		`{{ lookup "data.user" }}`, `{{ lookup "data.app.list.#(>1)#" "x" | toJson }}`, `{{ range $i, $x := lookup "data.app.list" }}{{ $x }}{{ end }}`,
		`{{ printf "%[1]*d" 5 6 }}`, `{{ define "x" }}{{ template "x" }}{{ end }}{{ template "x" }}`, `{{ if gt (lookup "facts.os.cores" 1) 4 }}{{ break }}{{ end }}`,
		`{{ with $x := 1.5 }}{{ Title $x | quote | Base64Encode | html | js | urlquery | print | ToUpper }}{{ end }}`, `{{ index (lookup "data") "user" }}`,
	} {
		f.Add(seed)
	}
	scope := testScope(f)
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := Parse(text)
		if err != nil {
			return
		}
		got, err := parsed.Expand(scope)
		if len(got) > maxOutput && strings.Contains(text, "{{") {
			t.Errorf("%q expands to %d bytes", text, len(got))
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") && !strings.Contains(text, "hunter2") || strings.Contains(err.Error(), "panic")) {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func BenchmarkTemplateWithoutMarkup(b *testing.B) {
	parsed, err := Parse("/usr/bin/deploy --now")
	if err != nil {
		b.Fatal(err)
	}
	scope := testScope(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parsed.Expand(scope); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTemplate(b *testing.B) {
	parsed, err := Parse(`deploy --user {{ lookup "data.user" | quote }} --version {{ lookup "data.app.version" 1 }}`)
	if err != nil {
		b.Fatal(err)
	}
	scope := testScope(b)
	b.ReportAllocs()
	for b.Loop() {
		if text, err := parsed.Expand(scope); err != nil || !bytes.ContainsRune([]byte(text), '1') {
			b.Fatal(text, err)
		}
	}
}
