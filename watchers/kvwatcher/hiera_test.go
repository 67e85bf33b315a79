package kvwatcher

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/keyturn-io/keyturn/kv/memkv"
	"github.com/keyturn-io/keyturn/watchers"
	"github.com/keyturn-io/keyturn/watchers/watchertest"
)

const hieraDocument = `
hierarchy:
  order: ["env:{{ lookup('facts.env') }}", "os:{{ Facts.os }}"]
  merge: deep
data:
  port: 80
  id: 1234567
  on: yes
  host: "{{ lookup('facts.name', 'nobody') }}.example.net"
overrides:
  env:prod: {port: 443}
  os:linux: {user: {name: www}}
`

func TestHiera(t *testing.T) {
	for facts, want := range map[string]string{
		`{}`: `{"host":"nobody.example.net","id":1234567,"on":true,"port":80}`,
		`{"env": "prod", "os": "linux", "name": "a"}`: `{"host":"a.example.net","id":1234567,"on":true,"port":443,"user":{"name":"www"}}`,
	} {
		got, err := resolveHiera([]byte(hieraDocument), []byte(facts))
		if err != nil || string(got) != want && string(got) != strings.Replace(want, `"on":true`, `"on":"yes"`, 1) {
			t.Errorf("%s: got %s, %v\nwant %s", facts, got, err, want)
		}
	}
}

// TestHostileHiera feeds documents that a careless resolver would hang on, run, take
// all memory for or panic with.
func TestHostileHiera(t *testing.T) {
	for name, document := range map[string]string{
		"not a mapping":   `[1, 2]`,
		"nothing":         ``,
		"overrides":       `{"data": {"a": 1}, "overrides": 3}`,
		"hierarchy":       `{"data": {"a": 1}, "hierarchy": "x"}`,
		"brackets":        strings.Repeat("[", 200<<10),
		"large":           strings.Repeat("a", 300<<10),
		"aliases":         "data: {a: &a [1], b: [*a, *a]}",
		"a loop":          `{"data": {"a": "{{ let r = 1..900000; count(r, count(r, true) > 0) }}"}}`,
		"a dollar loop":   `{"data": {"a": "${ count(1..900000, true) }"}}`,
		"a method":        `{"data": {"a": "{{ GoFunctions() }}"}}`,
		"a hidden end":    `{"data": {"a": "{{ \"}}\" + string(count(1..9, true)) }}"}}`,
		"a hidden key":    `{"data": {"{{ count(1..9, true) }}": 1}}`,
		"in an order":     `{"data": {}, "hierarchy": {"order": ["{{ count(1..9, true) }}"]}}`,
		"a gjson path":    `{"data": {"a": "{{ lookup('facts.@tostr|@tostr|@tostr') }}"}}`,
		"not closed":      `{"data": {"a": "{{ lookup('facts.a')"}}`,
		"a key of no one": "data: {1: 2}",
		"a long order":    `{"data": {}, "hierarchy": {"order": [` + strings.Repeat(`"a", `, 1000) + `"a"]}}`,
		"much work":       `{"data": {"l": [` + strings.Repeat(`"{{ Facts.a }}", `, 200) + `1]}, "hierarchy": {"merge": "deep", "order": [` + strings.Repeat(`"a", `, 40) + `"a"]}}`,
		"expressions":     `{"data": {"l": [` + strings.Repeat(`"{{ Facts.a }}", `, 6000) + `1]}}`,
	} {
		got, err := resolveHiera([]byte(document), []byte(`{"list": [1, 2, 3]}`))
		if err == nil {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

func FuzzHiera(f *testing.F) {
	f.Add(hieraDocument)
	f.Add(`{"data": {"a": "{{ lookup('facts.a', 1) }}"}, "overrides": {"x": {}}}`)
	f.Fuzz(func(t *testing.T, document string) {
		got, err := resolveHiera([]byte(document), []byte(`{"a": 1}`))
		if err == nil && !json.Valid(got) {
			t.Errorf("got %s", got)
		}
	})
}

// TestUnusableValue keeps what the data has, says so once, and goes on.
func TestUnusableValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memkv.New()
		if err := store.Create("CFG", memkv.Config{}); err != nil {
			t.Fatal(err)
		}
		bucket, err := store.Bucket("CFG")
		if err != nil {
			t.Fatal(err)
		}
		m := watchertest.NewMachine(t)
		m.Env.Bucket = store.Bucket
		leave := m.Enter(m.Watcher(Kind, `{"bucket": "CFG", "key": "a", "mode": "watch", "hiera_config": true, "query": "port"}`))
		for _, c := range []struct{ value, state, data string }{
			{hieraDocument, stateChanged, "80"},
			{"{{{", stateError, "80"},
			{strings.Replace(hieraDocument, "80", "81", 1), stateChanged, "81"},
		} {
			if _, err := bucket.Put(t.Context(), "a", []byte(c.value)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			seen := m.Observations()
			if last := seen[len(seen)-1]; last.State != c.state || c.state == stateError && last.Outcome != watchers.None {
				t.Errorf("%.5s: %+v, want state %s", c.value, last, c.state)
			}
			if data, _ := m.Env.Data().Get("CFG_a"); string(data) != c.data {
				t.Errorf("%.5s: the data is %s, want %s", c.value, data, c.data)
			}
		}
		if err := leave(); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(m.Log.String(), "cannot be used"); n != 1 {
			t.Errorf("it is said %d times", n)
		}
	})
}
