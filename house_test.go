// Package keyturn is a test alone: it says who may import whom. ARCHITECTURE.md says
// what stands where.
package keyturn

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/keyturn-io/keyturn"

// rules say what a package may import of this module, besides its own internal
// packages. A package without a rule fails the test: give it a place.
var rules = map[string][]string{
	"kv":                   {},
	"kv/memkv":             {"kv"},
	"kv/natskv":            {"kv"},
	"kv/cached":            {"kv"},
	"kv/kvtest":            {"kv"},
	"datalayer":            {},
	"watchers":             {"kv", "datalayer"},
	"watchers/kvwatcher":   {"kv", "datalayer", "watchers"},
	"watchers/execwatcher": {"kv", "datalayer", "watchers"},
	"watchers/watchertest": {"kv", "datalayer", "watchers", "kv/memkv"},
	"watchers/builtin":     {"watchers", "watchers/kvwatcher", "watchers/execwatcher"},
	"machine":              {"kv", "datalayer", "watchers"},
	"broker":               {},
	"cmd/keyturn":          {"kv", "kv/natskv", "kv/cached", "broker", "datalayer", "machine", "watchers", "watchers/builtin", "watchers/kvwatcher"},
}

// borders are the modules that only some packages may import, so that everything
// else can be tested without them and they can be replaced in one place.
var borders = map[string][]string{
	"github.com/nats-io/nats.go":     {"kv/natskv", "broker", "node"},
	"github.com/nats-io/nats-server": {"broker"},
	"github.com/looplab/fsm":         {"machine"},
	"github.com/choria-io/go-choria": {"choria"},
	"github.com/ghodss/yaml":         {"machine"},
	"go.yaml.in/yaml":                {"machine", "watchers/kvwatcher"},
	"github.com/choria-io/ccm":       {"watchers/kvwatcher"},
	"github.com/jedib0t/go-pretty":   {"cmd/keyturn"},
	"github.com/schollz/progressbar": {"cmd/keyturn"},
	"github.com/spf13/cobra":         {"cmd/keyturn"},
	"github.com/tidwall/gjson":       {"datalayer"},
}

type listed struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
}

// packages lists the packages of the module that have code.
func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []listed
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 {
			all = append(all, p)
		}
	}
}

// TestImports holds the arrows of ARCHITECTURE.md.
func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		checkPackage(t, p)
	}
}

func checkPackage(t *testing.T, p listed) {
	name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
	allowed, known := rules[owner(name)]
	if !known {
		t.Errorf("package %s has no rule in this test: say what it may import", name)
	}
	for _, path := range p.Imports {
		switch imported, ours := strings.CutPrefix(path, module+"/"); {
		case ours && owner(imported) != owner(name) && !slices.Contains(allowed, owner(imported)):
			t.Errorf("%s imports %s: arrows point down only, it may know %v", name, imported, allowed)
		case !ours && strings.Contains(path, ".") && owner(name) == "kv":
			t.Errorf("kv imports %s: it is a contract, and imports the standard library only", path)
		}
		for border, may := range borders {
			if (path == border || strings.HasPrefix(path, border+"/")) && !slices.Contains(may, owner(name)) {
				t.Errorf("%s imports %s: only %v may, so that it can be replaced in one place", name, path, may)
			}
		}
	}
}

// owner is the package that an internal package belongs to, else the package itself.
func owner(name string) string {
	owner, _, _ := strings.Cut(name, "/internal")
	return owner
}

// TestFSMStaysInOneFile keeps the traps of looplab/fsm behind one door.
func TestFSMStaysInOneFile(t *testing.T) {
	files, err := filepath.Glob("machine/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal("no files in machine", err)
	}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imported := range parsed.Imports {
			if strings.Contains(imported.Path.Value, "looplab/fsm") && filepath.Base(file) != "fsm.go" {
				t.Errorf("%s imports looplab/fsm: only machine/fsm.go does", file)
			}
		}
	}
}

// TestPackageComments holds every package to one comment, in the file named like it.
func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		home := filepath.Base(p.Dir) + ".go"
		if slices.Contains(p.GoFiles, "main.go") {
			home = "main.go"
		}
		for _, file := range p.GoFiles {
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if has := parsed.Doc != nil; has != (file == home) {
				t.Errorf("%s: a package has one comment, in %s", filepath.Join(p.ImportPath, file), home)
			}
		}
	}
}
