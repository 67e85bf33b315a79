package machine_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/keyturn-io/keyturn/machine"
	"github.com/keyturn-io/keyturn/watchers/execwatcher"
	"github.com/keyturn-io/keyturn/watchers/kvwatcher"
)

// TestReference compares docs/manifest.md with what the loader takes: every key is
// there, no other is, and the defaults are the ones that are written there.
func TestReference(t *testing.T) {
	text, err := os.ReadFile("../docs/manifest.md")
	if err != nil {
		t.Fatal(err)
	}
	for heading, value := range map[string]any{
		"Top level":   machine.Manifest{},
		"transitions": machine.Transition{},
		"watchers":    machine.Watcher{},
		"kv":          *kvwatcher.Kind.New().(*kvwatcher.Properties),
		"exec":        *execwatcher.Kind.New().(*execwatcher.Properties),
	} {
		documented := table(string(text), heading)
		v := reflect.ValueOf(value)
		for i := range v.NumField() {
			key, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			if key == "" || key == "-" {
				continue
			}
			def, ok := documented[key]
			if !ok {
				t.Errorf("%s: %s is not in docs/manifest.md", heading, key)
			}
			delete(documented, key)
			if want := inDocs(v.Field(i)); want != "" && def != want {
				t.Errorf("%s: the default of %s is %s, docs/manifest.md says %q", heading, key, want, def)
			}
		}
		for key := range documented {
			t.Errorf("%s: docs/manifest.md knows %s, the loader does not", heading, key)
		}
	}
}

var row = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|([^|]*)\\|([^|]*)\\|")

// table returns the keys of the first table under a heading, with their defaults.
func table(text, heading string) map[string]string {
	_, section, _ := strings.Cut(text, "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	keys := map[string]string{}
	for _, match := range row.FindAllStringSubmatch(section, -1) {
		keys[match[1]] = strings.TrimSpace(match[3])
	}

	return keys
}

// inDocs is a default as the reference writes it; empty when words say it better.
func inDocs(v reflect.Value) string {
	if v.Kind() == reflect.Bool || !v.IsZero() {
		if s, ok := v.Interface().(fmt.Stringer); ok {
			return "`" + s.String() + "`"
		}
		raw, err := json.Marshal(v.Interface())
		if err != nil {
			panic(err)
		}
		return "`" + string(bytes.Trim(raw, `"`)) + "`"
	}

	return ""
}
