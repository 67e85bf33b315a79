package machine

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/Masterminds/semver/v3"

	"github.com/keyturn-io/keyturn/watchers"
)

// anyState is the `from` that stands for every state.
const anyState = "*"

var machineName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]*$`)

// check tells d what is wrong with a manifest whose parts decoded well, as far as
// they did.
func check(m *Manifest, d *decoder) {
	switch {
	case m.Name == "":
		d.problem("name", "a machine needs a name")
	case !machineName.MatchString(m.Name):
		d.problem("name", "the name %s is not allowed: a letter, then letters, digits, _ and -", quoted(m.Name))
	}
	switch _, err := semver.NewVersion(m.Version); {
	case m.Version == "":
		d.problem("version", "a machine needs a version, such as 1.0.0")
	case err != nil:
		d.problem("version", "the version %s is not a semantic version such as 1.0.0", quoted(m.Version))
	}

	if checkTransitions(m, d) {
		checkWatchers(m, d)
	}
}

// maxRows is how many events all states of a machine may accept together. "*" makes
// a row for each state.
const maxRows = 10_000

// checkTransitions checks the table, and says whether it is of a sane size.
func checkTransitions(m *Manifest, d *decoder) bool {
	if len(m.Transitions) == 0 {
		d.problem("transitions", "a machine needs at least one transition")
		return true
	}

	states, count := m.states(), 0
	for i, t := range m.Transitions {
		if count += len(expand(t.From, states)); count > maxRows {
			d.problem(fmt.Sprintf("transitions[%d]", i), "the states of a machine accept more than %d events", maxRows)
			return false
		}
	}
	rows := map[[2]string]int{}
	for i, t := range m.Transitions {
		at := fmt.Sprintf("transitions[%d]", i)
		d.name(at, "name", "a transition", t.Event)
		d.name(at, "destination", "a transition", t.Destination)
		if len(t.From) == 0 {
			d.problem(join(at, "from"), "a transition needs at least one state in from")
		}
		for j, from := range t.From {
			d.name(at, fmt.Sprintf("from[%d]", j), "a transition", from)
		}
		for _, from := range expand(t.From, states) {
			row := [2]string{t.Event, from}
			if first, twice := rows[row]; twice {
				where := d.at[fmt.Sprintf("transitions[%d]", first)]
				d.problem(at, "a second transition for event %s from state %s: the first is in line %d", quoted(t.Event), quoted(from), where.line)
				continue
			}
			rows[row] = i
		}
	}

	switch {
	case m.InitialState == "":
		d.problem("initial_state", "a machine needs an initial_state")
	case m.InitialState == anyState:
		d.problem("initial_state", `initial_state cannot be "*"`)
	case !slices.Contains(m.tableStates(), m.InitialState):
		d.problem("initial_state", "no transition knows the initial_state %s%s", quoted(m.InitialState), hint(m.InitialState, m.tableStates()))
	}

	return true
}

func checkWatchers(m *Manifest, d *decoder) {
	if len(m.Watchers) == 0 {
		d.problem("watchers", "a machine needs at least one watcher")
		return
	}

	states, events := m.states(), m.events()
	names := map[string]bool{}
	for i := range m.Watchers {
		w := &m.Watchers[i]
		at := fmt.Sprintf("watchers[%d]", i)
		d.name(at, "name", "a watcher", w.Name)
		if names[w.Name] && w.Name != "" {
			d.problem(join(at, "name"), "a second watcher %s", quoted(w.Name))
		}
		names[w.Name] = true
		for j, state := range w.StateMatch {
			if !slices.Contains(states, state) {
				d.problem(fmt.Sprintf("%s.state_match[%d]", at, j), "unknown state %s%s", quoted(state), hint(state, states))
			}
		}
		d.event(m, w, at, "success_transition", w.SuccessTransition, states, events)
		d.event(m, w, at, "fail_transition", w.FailTransition, states, events)
		if w.AnnounceInterval != 0 && w.AnnounceInterval < watchers.Duration(time.Minute) {
			d.problem(join(at, "announce_interval"), "announce_interval must be at least 1m")
		}
		d.properties(w, at)
		if !m.Resume {
			d.settledEarly(m, w, at, states)
		}
	}
}

// settledEarly warns of a change that is settled when its work begins, not when it
// is done, since the watcher that reports it runs in the state of that work, too.
func (d *decoder) settledEarly(m *Manifest, w *Watcher, at string, states []string) {
	if !d.marks(w) {
		return
	}
	for _, t := range m.Transitions {
		work := func(other Watcher) bool { return other.activeIn(t.Destination) && !d.marks(&other) }
		begins := func(from string) bool { return w.activeIn(from) && (t.Reenter || from != t.Destination) }
		if t.Event == w.SuccessTransition && w.activeIn(t.Destination) &&
			slices.ContainsFunc(m.Watchers, work) && slices.ContainsFunc(expand(t.From, states), begins) {
			state := quoted(t.Destination)
			d.warning(join(at, "state_match"), "the watcher runs in state %s, too, so its change is settled as soon as it leads there, "+
				"and what a crash interrupts there is not repeated: write a state_match without %s, or resume: true at the top", state, state)
			return
		}
	}
}

// marks says whether the kind of a watcher reports changes with marks.
func (d *decoder) marks(w *Watcher) bool {
	kind, _ := d.kinds.Find(w.Type)
	return kind.Marks
}

// event checks an event that a watcher fires.
func (d *decoder) event(m *Manifest, w *Watcher, at, key, event string, states, events []string) {
	if event == "" {
		return
	}
	if !slices.Contains(events, event) {
		d.problem(join(at, key), "unknown event %s%s", quoted(event), hint(event, events))
		return
	}
	for _, t := range m.Transitions {
		if t.Event == event && slices.ContainsFunc(expand(t.From, states), w.activeIn) {
			return
		}
	}
	d.warning(join(at, key), "every state in which the watcher runs refuses the event %s", quoted(event))
}

// properties checks what only the watcher's kind knows.
func (d *decoder) properties(w *Watcher, at string) {
	if w.Type == "" {
		d.problem(join(at, "type"), "a watcher needs a type: known are %s", strings.Join(d.kinds.Names(), ", "))
	}
	if w.Properties == nil {
		return
	}
	for _, p := range w.Properties.Check(watchers.Settings{Interval: time.Duration(w.Interval)}) {
		path := at
		if p.Property != "" {
			path = join(join(at, "properties"), p.Property)
		}
		if p.Property == "" && d.brokenIn(at) {
			continue // that may follow from a problem that is told already
		}
		if p.Warning {
			d.warning(path, "%s", p.Message)
		} else {
			d.problem(path, "%s", p.Message)
		}
	}
}

// name checks the name of a state, an event or a watcher. They come out in logs,
// on terminals and in environments, so anything that does not print is refused.
func (d *decoder) name(at, key, owner, name string) {
	path := join(at, key)
	switch {
	case name == "":
		d.problem(path, "%s needs a %s", owner, last(key))
	case len(name) > 128:
		d.problem(path, "%s is longer than 128 bytes", last(path))
	case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		d.problem(path, "%s %s has a character that does not print", last(path), quoted(name))
	case name == anyState && !strings.HasPrefix(key, "from"):
		d.problem(path, `%s cannot be "*"`, last(path))
	}
}

// expand returns the states that a `from` names.
func expand(from, states []string) []string {
	if slices.Contains(from, anyState) {
		return states
	}

	return from
}

// states returns what initial_state, from and destination name, sorted.
func (m *Manifest) states() []string {
	return sorted(append(m.tableStates(), m.InitialState))
}

// tableStates returns what from and destination name, sorted.
func (m *Manifest) tableStates() []string {
	var states []string
	for _, t := range m.Transitions {
		states = append(states, t.From...)
		states = append(states, t.Destination)
	}

	return sorted(states)
}

// events returns the names of all transitions, sorted.
func (m *Manifest) events() []string {
	var events []string
	for _, t := range m.Transitions {
		events = append(events, t.Event)
	}

	return sorted(events)
}

// sorted returns the names that are there, each once.
func sorted(names []string) []string {
	names = slices.DeleteFunc(names, func(n string) bool { return n == "" || n == anyState })
	slices.Sort(names)

	return slices.Compact(names)
}
