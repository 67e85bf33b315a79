// Package watchertest holds every kind of watcher to the contract of package
// watchers, by [Run], and has the [Machine] that a kind's own tests need.
package watchertest

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/keyturn-io/keyturn/watchers"
)

// Harness says how to bring a watcher of a kind to report.
type Harness struct {
	Kind watchers.Kind

	// Properties are valid ones, a JSON object.
	Properties string

	// Interval is the manifest's interval, for a kind that does not do without.
	Interval time.Duration

	// Prepare readies the machine before the watcher is made, its buckets say.
	Prepare func(t *testing.T, m *Machine)

	// Provoke makes the watcher report once more. It is nil for a kind that
	// reports in each visit by itself. The first visit is not provoked.
	Provoke func(t *testing.T, m *Machine)
}

// Run holds a kind to what package watchers says of Properties and Watcher.
func Run(t *testing.T, h Harness) {
	t.Run("Properties", h.properties)
	t.Run("StartsNothing", func(t *testing.T) {
		before := goleak.IgnoreCurrent()
		m, _ := h.machine(t)
		if err := goleak.Find(before); err != nil {
			t.Errorf("making a watcher starts something: %v", err)
		}
		m.checkFolders(t)
	})
	t.Run("EndsWithTheVisit", func(t *testing.T) {
		m, w := h.machine(t)
		leave := m.Enter(w)
		m.Await(1)
		mustBeNil(t, leave())
	})
	t.Run("VisitIsOverAtOnce", func(t *testing.T) {
		m, w := h.machine(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		mustBeNil(t, m.enter(ctx, w)())
		if seen := m.Observations(); len(seen) > 0 {
			t.Errorf("reports in a visit that is over: %+v", seen[0])
		}
	})
	t.Run("ReportsAgainWhatCameTooLate", func(t *testing.T) {
		h.reportsAgain(t, watchers.ErrVisitOver)
	})
	t.Run("ReportsAgainWhatWasRefused", func(t *testing.T) {
		h.reportsAgain(t, watchers.ErrRefused)
	})
	t.Run("AgainAndAgain", func(t *testing.T) {
		m, w := h.machine(t)
		for visit := range 20 {
			if visit > 0 && h.Provoke != nil {
				h.Provoke(t, m)
			}
			leave := m.Enter(w)
			m.Await(visit + 1)
			mustBeNil(t, leave())
		}
	})
	t.Run("Stops", func(t *testing.T) {
		m, w := h.machine(t)
		leave := m.Enter(w)
		m.Stop()
		mustBeNil(t, leave())
	})
}

// machine makes a machine and a watcher for it, and sees to it that neither leaves
// anything behind.
func (h Harness) machine(t *testing.T) (*Machine, watchers.Watcher) {
	t.Helper()
	// Cleanups run in reverse: first the watcher ends, then the leaks are looked for.
	before := goleak.IgnoreCurrent()
	m := NewMachine(t)
	t.Cleanup(func() {
		if err := goleak.Find(before); err != nil {
			t.Errorf("the watcher leaves something running: %v", err)
		}
		m.checkFolders(t)
	})
	m.Env.Interval = h.Interval
	if h.Prepare != nil {
		h.Prepare(t, m)
	}
	m.folder = files(t, m.Env.Dir)
	return m, m.Watcher(h.Kind, h.Properties)
}

// reportsAgain has the first report answered with an error and wants the next visit
// to report the same, although nothing new has happened.
func (h Harness) reportsAgain(t *testing.T, answer error) {
	m, w := h.machine(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	m.Answer = func(watchers.Observation) error {
		cancel()
		return answer
	}
	leave := m.enter(ctx, w)
	first := m.Await(1)[0]
	mustBeNil(t, leave())
	// A watcher may try once more before it sees the end of the visit.
	before := len(m.Observations())

	m.Answer = nil
	leave = m.Enter(w)
	again := m.Await(before + 1)[before]
	mustBeNil(t, leave())
	if again.Outcome != first.Outcome || !reflect.DeepEqual(again.Set, first.Set) || !slices.Equal(again.Delete, first.Delete) {
		t.Errorf("reports %+v in the next visit, after %+v came to nothing (%v)", again, first, answer)
	}
}

func (h Harness) properties(t *testing.T) {
	if h.Kind.Name == "" {
		t.Error("the kind has no name")
	}
	if h.Kind.New() == h.Kind.New() {
		t.Error("New returns the same Properties twice")
	}
	p, err := Decode(h.Kind, h.Properties)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range p.Check(watchers.Settings{Interval: h.Interval}) {
		if !problem.Warning {
			t.Errorf("Check finds a problem with the harness's properties: %+v", problem)
		}
	}
	if again, _ := Decode(h.Kind, h.Properties); !reflect.DeepEqual(p, again) {
		t.Error("decoding the same properties twice makes different ones")
	}
	if _, err := Decode(h.Kind, `{"surely_no_property": 1}`); !errors.Is(err, ErrUnknownProperty) {
		t.Errorf("an unknown property: got %v", err)
	}

	zero := reflect.New(reflect.TypeOf(p).Elem()).Interface().(watchers.Properties)
	fields := fieldsOf(p)
	for _, candidate := range []watchers.Properties{zero, h.Kind.New(), p} {
		for _, problem := range candidate.Check(watchers.Settings{}) {
			if _, ok := fields[problem.Property]; problem.Property != "" && !ok {
				t.Errorf("Check speaks of a property %q, which there is none of: %s", problem.Property, problem.Message)
			}
			if problem.Message == "" {
				t.Errorf("Check finds a problem with %q and does not say which", problem.Property)
			}
		}
	}
	for name, field := range fields {
		for _, wrong := range []string{`null`, `{"a":{"b":[1]}}`, `[[]]`, `-1e999`, `"\u0000{{"`, `""`} {
			fresh := reflect.New(field.Type()).Interface()
			// Right or wrong is the kind's to say, but it must not panic.
			if err := json.Unmarshal([]byte(wrong), fresh); err != nil && err.Error() == "" {
				t.Errorf("%s: %s is refused without a word", name, wrong)
			}
		}
	}
}

// checkFolders wants the folder for runs empty and the machine's as it was.
func (m *Machine) checkFolders(t *testing.T) {
	t.Helper()
	if left := files(t, m.Env.RunDir); len(left) > 0 {
		t.Errorf("the watcher leaves files behind: %v", left)
	}
	if diff := cmp.Diff(m.folder, files(t, m.Env.Dir)); diff != "" {
		t.Errorf("the watcher changes the machine's folder (-before +after):\n%s", diff)
	}
}

func files(t *testing.T, folder string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if path != folder {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return names
}

func mustBeNil(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("Run returned an error: %v", err)
	}
}
