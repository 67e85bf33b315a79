package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/keyturn-io/keyturn/watchers"
)

// ManifestFile is the name of the file that describes a machine, in the machine's folder.
const ManifestFile = "machine.yaml"

// Manifest describes a machine, as docs/manifest.md explains. It is valid when it
// comes from Load or Parse, and is not changed after that.
type Manifest struct {
	Name         string       `json:"name"`
	Version      string       `json:"version"`
	InitialState string       `json:"initial_state"`
	SplayStart   Splay        `json:"splay_start"`
	Resume       bool         `json:"resume"`
	Transitions  []Transition `json:"transitions"`
	Watchers     []Watcher    `json:"watchers"`

	// Warnings are what Load found questionable, in the order of the file.
	Warnings []*ManifestError `json:"-"`
}

// Transition is a row of the machine's table.
type Transition struct {
	Event       string   `json:"name"`
	From        []string `json:"from"` // "*" is every state
	Destination string   `json:"destination"`
	Description string   `json:"description"`
	Reenter     bool     `json:"reenter"`
	Subscribe   needNode `json:"subscribe"`
}

// Watcher is what the manifest says about one watcher.
type Watcher struct {
	Name              string              `json:"name"`
	Type              string              `json:"type"`
	StateMatch        []string            `json:"state_match"` // none is every state
	SuccessTransition string              `json:"success_transition"`
	FailTransition    string              `json:"fail_transition"`
	Interval          watchers.Duration   `json:"interval"`
	AnnounceInterval  watchers.Duration   `json:"announce_interval"`
	Properties        watchers.Properties `json:"properties"`

	ForeignStateRequired needNode `json:"foreign_state_required"`
}

// needNode stands for what only a host of several machines can do.
type needNode struct{}

// UnmarshalJSON refuses whatever is written there.
func (needNode) UnmarshalJSON([]byte) error {
	return errors.New("machines cannot hear of one another yet: take it out, and let them meet in a bucket")
}

// event returns the event that an outcome fires, or the empty string.
func (w *Watcher) event(o watchers.Outcome) string {
	switch o {
	case watchers.Success:
		return w.SuccessTransition
	case watchers.Failure:
		return w.FailTransition
	default:
		return ""
	}
}

// activeIn says whether the watcher runs in a state.
func (w *Watcher) activeIn(state string) bool {
	return len(w.StateMatch) == 0 || slices.Contains(w.StateMatch, state)
}

// Splay is a span of time that a manifest gives in seconds or as a duration.
type Splay time.Duration

// UnmarshalJSON takes a number of seconds or a duration such as "1m".
func (s *Splay) UnmarshalJSON(raw []byte) error {
	if n, err := strconv.ParseFloat(string(raw), 64); err == nil {
		if n < 0 || n > math.MaxInt32 {
			return fmt.Errorf("%s is not a number of seconds from 0 to %d", raw, math.MaxInt32)
		}
		*s = Splay(n * float64(time.Second))
		return nil
	}

	return (*watchers.Duration)(s).UnmarshalJSON(raw)
}

// ManifestError is one thing that is wrong with a manifest. Line and Column are
// counted from 1; they are 0 for the file as a whole.
type ManifestError struct {
	File    string
	Line    int
	Column  int
	Message string
}

// Error returns the message behind its place, as compilers write it.
func (e *ManifestError) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Message
	}

	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Load reads the manifest of the machine in a folder. It returns an error that
// joins all that is wrong with it, each a *ManifestError, in the order of the file.
func Load(dir string, kinds watchers.Kinds) (*Manifest, error) {
	file := filepath.Join(dir, ManifestFile)
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no machine in %s: there is no file %s", dir, file)
	}
	if err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	defer f.Close()

	text, err := readAtMost(f, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("read the manifest %s: %w", file, err)
	}

	return Parse(file, text, kinds)
}

// Parse is Load for a text; file is only its name in errors.
func Parse(file string, text []byte, kinds watchers.Kinds) (*Manifest, error) {
	root, err := readYAML(text)
	if err != nil {
		var at *ManifestError
		if errors.As(err, &at) {
			at.File = file
		}
		return nil, err
	}
	raw, err := toJSON(root)
	if err != nil {
		return nil, &ManifestError{File: file, Message: err.Error()}
	}

	d := &decoder{file: file, kinds: kinds, at: map[string]position{}, broken: map[string]bool{}}
	m := &Manifest{}
	d.document(root, raw, m)
	check(m, d)

	m.Warnings = inOrder(d.warnings)
	if len(d.problems) > 0 {
		var all []error
		for _, p := range inOrder(d.problems) {
			all = append(all, p)
		}
		return nil, errors.Join(all...)
	}

	return m, nil
}

func inOrder(problems []*ManifestError) []*ManifestError {
	slices.SortStableFunc(problems, func(a, b *ManifestError) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})

	return problems
}

// quoted is a name as an error shows it.
func quoted(name string) string {
	text, _ := json.Marshal(name)
	return string(text)
}
