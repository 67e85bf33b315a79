package machine_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/keyturn-io/keyturn/machine"
	"github.com/keyturn-io/keyturn/watchers"
	"github.com/keyturn-io/keyturn/watchers/execwatcher"
	"github.com/keyturn-io/keyturn/watchers/kvwatcher"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// golden compares got with a file of an archive, or writes it there with -update.
func golden(t *testing.T, path string, archive *txtar.Archive, name, got string) {
	t.Helper()
	for i, f := range archive.Files {
		if f.Name != name {
			continue
		}
		if *update {
			archive.Files[i].Data = []byte(got)
			if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		if diff := cmp.Diff(string(f.Data), got); diff != "" {
			t.Errorf("%s differs from what is written there (-want +got):\n%s", name, diff)
		}
		return
	}
	t.Fatalf("%s has no file %s", path, name)
}

func file(archive *txtar.Archive, name string) []byte {
	for _, f := range archive.Files {
		if f.Name == name {
			return f.Data
		}
	}

	return nil
}

// TestManifestErrors parses the manifests of testdata/manifests, each of which
// stands beside the errors that it must give.
func TestManifestErrors(t *testing.T) {
	paths, err := filepath.Glob("testdata/manifests/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no manifests in testdata", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			m, err := machine.Parse("machine.yaml", file(archive, "machine.yaml"), testKinds)
			var out strings.Builder
			if err != nil {
				fmt.Fprintln(&out, err)
			} else {
				for _, w := range m.Warnings {
					fmt.Fprintln(&out, "warning:", w)
				}
			}
			golden(t, path, archive, "errors", out.String())
		})
	}
}

const small = `name: small
version: 1.0.0
initial_state: "off"
transitions:
- {name: switch, from: ["off"], destination: "on"}
- {name: switch, from: ["on"], destination: "off"}
watchers:
- {name: w, type: command, success_transition: switch}
`

func TestParse(t *testing.T) {
	m, err := machine.Parse("machine.yaml", []byte(strings.NewReplacer(
		`"off"`, "off", `"on"`, "on", // YAML 1.1 has booleans of that name
		"1.0.0", "1.10",
		"watchers:", "splay_start: 90\nresume: true\nwatchers:\n- name: no\n  type: kv\n  interval: 1d\n  properties: {bucket: 2024, mode: watch, bucket_prefix: false}",
	).Replace(small)), testKinds)
	if err != nil {
		t.Fatal(err)
	}

	if m.InitialState != "off" || m.Transitions[0].From[0] != "off" || m.Transitions[0].Destination != "on" || m.Watchers[0].Name != "no" {
		t.Errorf("names that look like booleans are not what they look like: %+v", m)
	}
	if m.Version != "1.10" || !m.Resume || time.Duration(m.SplayStart) != 90*time.Second {
		t.Errorf("version %q, resume %v, splay_start %v", m.Version, m.Resume, m.SplayStart)
	}
	kv := m.Watchers[0].Properties.(*kvwatcher.Properties)
	if kv.Bucket.String() != "2024" || kv.Mode != kvwatcher.Watch || kv.BucketPrefix {
		t.Errorf("properties: %+v", kv)
	}
	if time.Duration(m.Watchers[0].Interval) != 24*time.Hour {
		t.Errorf("interval %v", m.Watchers[0].Interval)
	}
}

func TestLoadWithoutManifest(t *testing.T) {
	dir := t.TempDir()
	_, err := machine.Load(dir, testKinds)
	if err == nil || !strings.Contains(err.Error(), "no machine in "+dir) {
		t.Error(err)
	}
}

func TestManifestErrorsAreTyped(t *testing.T) {
	_, err := machine.Parse("machine.yaml", []byte("name: x\nnaem: y\n"), testKinds)
	var at *machine.ManifestError
	if !errors.As(err, &at) || at.File != "machine.yaml" || at.Line == 0 && at.Message == "" {
		t.Errorf("got %v", err)
	}
}

// TestManifestLimits feeds what makes careless parsers take all memory.
func TestManifestLimits(t *testing.T) {
	for name, text := range map[string]string{
		"brackets":  strings.Repeat("[", 200<<10),
		"braces":    strings.Repeat("{a: ", 50<<10),
		"indented":  nested(2000),
		"many":      "a: [" + strings.Repeat("1,", 30_000) + "1]",
		"large":     strings.Repeat("a", 300<<10),
		"aliases":   "a: &a [1,2,3]\nb: [*a,*a,*a]\n",
		"merge":     "<<: {name: x}\n",
		"two":       small + "---\n" + small,
		"NUL":       small + "\x00",
		"not UTF-8": small + "# \xff\n",
		"tag":       "name: !!binary aGFsbG8=\n",
		"object":    "name: !go/object x\n",
		"stars":     stars(300),
		"empty":     "",
		"comment":   "# nothing\n",
		"scalar":    "hello",
		"list":      "- name: x",
	} {
		if _, err := machine.Parse("machine.yaml", []byte(text), testKinds); err == nil {
			t.Errorf("%s is accepted", name)
		} else if len(err.Error()) > 4096 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
	}
}

// stars is a manifest in which every state accepts every event.
func stars(rows int) string {
	b := strings.Builder{}
	b.WriteString("name: x\nversion: 1.0.0\ninitial_state: S0\ntransitions:\n")
	for i := range rows {
		fmt.Fprintf(&b, "- {name: e%d, from: ['*'], destination: S%d}\n", i, i)
	}

	return b.String() + "watchers:\n- {name: w, type: command}\n"
}

func nested(depth int) string {
	var b strings.Builder
	for i := range depth {
		fmt.Fprintf(&b, "%s- \n", strings.Repeat(" ", i))
	}

	return b.String()[:min(b.Len(), 200<<10)]
}

func FuzzManifest(f *testing.F) {
	f.Add(small)
	paths, _ := filepath.Glob("testdata/*/*.txtar")
	more, _ := filepath.Glob("testdata/*.txtar")
	for _, path := range append(paths, more...) {
		if archive, err := txtar.ParseFile(path); err == nil {
			f.Add(string(file(archive, "machine.yaml")))
		}
	}
	examples, _ := filepath.Glob("../examples/machines/*/machine.yaml")
	for _, path := range examples {
		if text, err := os.ReadFile(path); err == nil {
			f.Add(string(text))
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := machine.Parse("machine.yaml", []byte(text), testKinds)
		if (m == nil) == (err == nil) {
			t.Errorf("got %v and %v", m, err)
		}
		if err != nil && err.Error() == "" {
			t.Error("an error without a word")
		}
	})
}

// testKinds are the real ones, and command, whose commands a test can follow, or not if
// they are quiet.
var testKinds = watchers.Kinds{
	kvwatcher.Kind,
	execwatcher.Kind,
	{Name: "command", New: func() watchers.Properties { return &command{} }},
	{Name: "quiet", New: func() watchers.Properties { return &command{quiet: true} }},
}
