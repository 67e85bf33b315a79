package machine

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/keyturn-io/keyturn/watchers"
)

// FuzzMemory reads any bytes as machine_state.json: they are what a machine remembers,
// and what it writes again, or they are set aside as they are.
func FuzzMemory(f *testing.F) {
	mark := json.RawMessage(`{"bucket":"CFG","filter":"username","epoch":"2026-11-22T15:05:33.006835841Z","keys":{"username":{"revision":7,"sum":"hNkGuaVoFZG1Zx2vZIUb3g"}}}`)
	full := memory{
		State: "DEPLOY", Event: "update", Previous: "WAIT",
		Changes:   []watchers.Change{{Bucket: "CFG", Key: "username", Operation: "put", Revision: 7, Old: json.RawMessage(`"bob"`)}},
		Marks:     map[string]json.RawMessage{"kv_watch": mark},
		Pending:   map[string]json.RawMessage{"kv_watch": json.RawMessage(`{"bucket":"CFG","filter":"username","keys":["username"]}`)},
		Unsettled: map[string]json.RawMessage{"kv_watch": mark},
	}
	for _, m := range []memory{emptyMemory(), full} {
		dir := f.TempDir()
		if err := m.save(dir); err != nil {
			f.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, stateFile))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
		f.Add(text[:len(text)/2])
	}
	for _, text := range []string{"", "null", "[]", `{"marks": null}`, `{"marks": {"w": null}}`, `{"changes": [null]}`, `{"unsettled": {"w": 1e999}}`} {
		f.Add([]byte(text))
	}

	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, stateFile), text, 0o600); err != nil {
			t.Fatal(err)
		}
		m, found, aside, err := loadMemory(dir)
		if err != nil || !found {
			t.Fatalf("found %v, %v", found, err)
		}
		if m.Marks == nil || m.Pending == nil || m.Unsettled == nil {
			t.Fatalf("a map is missing: %+v", m)
		}
		if aside != nil {
			kept, _ := filepath.Glob(filepath.Join(dir, stateFile+".unreadable-*"))
			if len(kept) != 1 || !reflect.DeepEqual(m, emptyMemory()) {
				t.Fatalf("%v are set aside, and it remembers %+v", kept, m)
			}
			if now, err := os.ReadFile(kept[0]); err != nil || !bytes.Equal(now, text) {
				t.Fatalf("what is set aside is not what was there: %v", err)
			}
			return
		}
		if err := m.save(dir); err != nil {
			t.Fatal(err)
		}
		again, found, aside, err := loadMemory(dir)
		if err != nil || !found || aside != nil {
			t.Fatalf("what it has written it cannot read: %v, %v", aside, err)
		}
		if a, b := encoded(t, m), encoded(t, again); !bytes.Equal(a, b) {
			t.Fatalf("it remembers\n%s\nafter\n%s", b, a)
		}
	})
}

func encoded(t *testing.T, m memory) []byte {
	t.Helper()
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}

	return text
}
