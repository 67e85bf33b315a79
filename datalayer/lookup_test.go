package datalayer

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// oddItems have names and values that a path could misunderstand.
func oddItems(t testing.TB) *View {
	t.Helper()
	s := open(t, filepath.Join(t.TempDir(), "machine_data.json"))
	commit(t, s, set(
		"a", `{"b":{"c":[1,{"d":"x"},"y"],"@this":1,"a.b":2,"":3},"list":[{"n":"one","v":1},{"n":"two","v":2.50}],"*":4}`,
		"a.b", `{"c":"dotted"}`,
		"ab", `[[1,2],[3,[4]]]`,
		"text", `"{\"b\":\"inside\"}"`,
		"list text", `"[1,2]"`,
		"number", `12345678901234567890`,
		"nothing", `null`,
		"*", `"star"`,
		"?", `"question"`,
		"#", `"hash"`,
		"@this", `{"x":"at"}`,
		"@x", `"at x"`,
		"!x", `"bang"`,
		"[a]", `"bracket"`,
		"{a}", `"brace"`,
		"a|b", `"pipe"`,
		`a\b`, `"backslash"`,
		"", `{"b":"empty"}`,
		".", `"dot"`,
		"0", `"zero"`,
		"é\n\"<", `{"é":"odd"}`,
	), true)
	return s.View()
}

func TestLookup(t *testing.T) {
	view := oddItems(t)
	for path, want := range map[string]string{
		`a.b.c.0`:                     `1`,
		`a.list.#.v`:                  `[1,2.50]`,
		`a.list.#`:                    `2`,
		`a.list.#(n=="two").v`:        `2.50`,
		`a.list|1|v`:                  `2.50`,
		`a.b.@this.c.2`:               `"y"`,
		`a.list.@reverse.0.n`:         `"two"`,
		`a.{b.c.0,list.#}`:            `{"0":1,"_":2}`,
		`a.b.a\.b`:                    `2`,
		`a\.b.c`:                      `"dotted"`,
		`a\.b`:                        `{"c":"dotted"}`,
		`ab.1.1.0`:                    `4`,
		`text`:                        `"{\"b\":\"inside\"}"`,
		`text.b`:                      ``,
		`list text.0`:                 ``,
		`number`:                      `12345678901234567890`,
		`nothing`:                     `null`,
		`\*`:                          `"star"`,
		`numb*`:                       `12345678901234567890`,
		`\@this.x`:                    `"at"`,
		`\[a\]`:                       `"bracket"`,
		`a\|b`:                        `"pipe"`,
		`a\\b`:                        `"backslash"`,
		`\.`:                          `"dot"`,
		"é\n\"<.é":                    `"odd"`,
		`nobody`:                      ``,
		`nobody.b`:                    ``,
		`[number,nothing]`:            `[12345678901234567890,null]`,
		`{number}`:                    `{"number":12345678901234567890}`,
		strings.Repeat("a.@this.", 5): ``,
	} {
		got, found := view.Lookup(path)
		if string(got) != want || found != (want != "") {
			t.Errorf("Lookup(%q) = %s, %v, want %s", path, got, found, want)
		}
	}
}

func TestQuery(t *testing.T) {
	deep := strings.Repeat("[", 1_000_000)
	for _, test := range []struct{ doc, path, want string }{
		{` {"a":{"b":[1.50]}}`, `a.b.0`, `1.50`},
		{`[1,{"a":2}]`, `1.a`, `2`},
		{`[1,2]`, `#`, `2`},
		{`[1,2]`, `@reverse`, `[2,1]`},
		{`{"a":1}`, `b`, ``},
		{`"{\"a\":1}"`, `a`, ``},
		{`"[1]"`, `0`, ``},
		{`1`, `@this`, ``},
		{``, `a`, ``},
		{deep, `0.0.0`, deep[3:]},
		{deep, `@dig:a`, ``},
		{strings.Repeat("]", len(deep)) + deep, `@dig:a`, ``},
		{`[` + strings.Repeat("]", len(deep)) + deep, `@dig:a`, ``},
		{`[1]`, strings.Repeat("[@this,@this].", 3), ``},
	} {
		got, found := Query([]byte(test.doc), test.path)
		if string(got) != test.want || found != (test.want != "") {
			t.Errorf("Query(%.40q, %q) = %.40q, %v, want %.40q", test.doc, test.path, got, found, test.want)
		}
	}
}

// FuzzLookup holds Lookup, which looks into one item where it can, to what gjson
// says of all items.
func FuzzLookup(f *testing.F) {
	for _, seed := range []string{
		`a.b.c.0`, `a\.b.c`, `text.b`, `a.list.#(v>1)#.n`, `a.@this`, `a|b`, `a\|b`, `@this`, `@this.x`, `@x`, `!x`, `..0`, `.b`, `a..b`, `a...b`, `a.`, `\`, `a\`,
		`*`, `\*`, `a*.c`, `[a,ab]`, `{a}`, `[a]`, `#`, `ab.#.1`, `ab.0.#`, `\0`, `0`, `a.list.0|@pretty`, `a.[b,list]`, `a.!"x"`, `a|!"x"`, `text|b`, `text.@fromstr.b`, `number.@tostr`, `a.list.@flatten`, `nothing|@valid`,
	} {
		f.Add(seed)
	}
	view := oddItems(f)
	doc := view.JSON()
	f.Fuzz(func(t *testing.T, path string) {
		got, found := view.Lookup(path)
		if CheckPath(path) != nil {
			if found {
				t.Errorf("Lookup(%q) found %s although the path is refused", path, got)
			}
			return
		}
		result := gjson.GetBytes(doc, path)
		if found != result.Exists() {
			t.Fatalf("Lookup(%q) = %s, %v, gjson says %v", path, got, found, result)
		}
		if found && meaning(gjson.ParseBytes(got)) != meaning(result) {
			t.Errorf("Lookup(%q) = %s, gjson says %v", path, got, result.Raw)
		}
	})
}

// meaning is a result without the space between its parts, which differs.
func meaning(r gjson.Result) string {
	if raw, err := json.Marshal(json.RawMessage(r.Raw)); err == nil && r.Raw != "" {
		return string(raw)
	}
	return r.String()
}

func manyItems(t testing.TB, n int) *Store {
	t.Helper()
	s := open(t, filepath.Join(t.TempDir(), "machine_data.json"))
	var c Commit
	for i := range n {
		c.Set = append(c.Set, Item{fmt.Sprintf("item-%05d", i), json.RawMessage(fmt.Sprintf(`{"host":"host-%d","port":%d}`, i, i))})
	}
	commit(t, s, c, true)
	return s
}

func BenchmarkLookupAmong10000(b *testing.B) {
	view := manyItems(b, 10_000).View()
	b.ReportAllocs()
	for b.Loop() {
		if port, found := view.Lookup("item-09000.port"); !found || string(port) != "9000" {
			b.Fatal(port, found)
		}
	}
}
