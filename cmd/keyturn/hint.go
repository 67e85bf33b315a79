package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/kballard/go-shellquote"

	"github.com/keyturn-io/keyturn/kv/natskv"
	"github.com/keyturn-io/keyturn/machine"
	"github.com/keyturn-io/keyturn/watchers/kvwatcher"
)

// again returns a command line for somebody to type: a command for the store that
// this one uses.
func (a *app) again(args ...string) string {
	words := append(program(), args...)
	for _, flag := range []struct{ name, value string }{
		{"server", natskv.Redacted(a.server)},
		{"creds", a.creds},
		{"nkey", a.nkey},
		{"tls-ca", a.tlsCA},
		{"tls-cert", a.tlsCert},
		{"tls-key", a.tlsKey},
		{"store", a.store},
	} {
		if a.given(flag.name) {
			words = append(words, "--"+flag.name, flag.value)
		}
	}
	return shellquote.Join(words...)
}

// goRun matches the path of a program that go run has made, in its cache or, the
// first time, in a temporary folder.
var goRun = regexp.MustCompile(`/go-build[0-9]*/|/[0-9a-f]{64}-d/`)

// program returns the words with which this program was called.
func program() []string {
	self, err := os.Executable()
	if err != nil {
		return []string{"keyturn"}
	}
	if goRun.MatchString(self) {
		return []string{"go", "run", "./cmd/keyturn"}
	}
	if found, err := exec.LookPath(filepath.Base(self)); err == nil {
		if found, err = filepath.Abs(found); err == nil && found == self {
			return []string{filepath.Base(self)}
		}
	}
	return []string{os.Args[0]}
}

// buckets returns the buckets that the kv watchers of a machine name, each once.
func buckets(m *machine.Manifest) []string {
	var names []string
	seen := map[string]bool{}
	for _, w := range m.Watchers {
		p, ok := w.Properties.(*kvwatcher.Properties)
		if !ok || !p.Bucket.Static() || seen[p.Bucket.String()] {
			continue
		}
		seen[p.Bucket.String()] = true
		names = append(names, p.Bucket.String())
	}
	return names
}

// exampleValues are what the hint puts into keys whose names tell what they take.
var exampleValues = []struct{ in, value string }{
	{"version", "1.0"}, {"port", "8080"}, {"host", "web1"}, {"name", "bob"}, {"user", "bob"},
}

// exampleValue is a value for somebody to type, or stands for one.
func exampleValue(key string) string {
	for _, e := range exampleValues {
		if strings.Contains(strings.ToLower(key), e.in) {
			return e.value
		}
	}
	return "VALUE"
}

// put returns the command that turns a machine, or nothing: a put to what the
// first kv watcher watches that says so.
func (a *app) put(m *machine.Manifest) []string {
	for _, w := range m.Watchers {
		p, ok := w.Properties.(*kvwatcher.Properties)
		if !ok || !p.Bucket.Static() || !p.Key.Static() {
			continue
		}
		key := strings.NewReplacer("*", "example", ">", "example").Replace(p.Key.String())
		if key == "" {
			key = "example"
		}
		if p.HieraConfig || p.Query != "" {
			return []string{a.again("kv", "put", p.Bucket.String(), key) + " < value.json"}
		}
		return []string{a.again("kv", "put", p.Bucket.String(), key, exampleValue(key))}
	}
	return nil
}
