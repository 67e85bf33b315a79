package machine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/looplab/fsm"
)

// table is a manifest's transitions and the state that the machine is in. It
// stands between the machine and looplab/fsm, whose callbacks it does not use.
// Owned by the goroutine in Run.
type table struct {
	fsm      *fsm.FSM
	reenter  map[[2]string]bool
	accepted map[string][]string // the events of each state, sorted
}

func newTable(m *Manifest, state string) *table {
	t := &table{reenter: map[[2]string]bool{}, accepted: map[string][]string{}}
	var rows fsm.Events
	states := m.states()
	for _, row := range m.Transitions {
		from := expand(row.From, states)
		rows = append(rows, fsm.EventDesc{Name: row.Event, Src: from, Dst: row.Destination})
		for _, state := range from {
			t.reenter[[2]string{row.Event, state}] = row.Reenter
			t.accepted[state] = append(t.accepted[state], row.Event)
		}
	}
	for _, events := range t.accepted {
		slices.Sort(events)
	}
	t.fsm = fsm.NewFSM(state, rows, nil)

	return t
}

// state is where the machine is.
func (t *table) state() string { return t.fsm.Current() }

// accepts says whether the state has a transition for an event.
func (t *table) accepts(event string) bool { return t.fsm.Can(event) }

// events returns the events that the state accepts, sorted. Nobody may change them.
func (t *table) events() []string { return t.accepted[t.state()] }

// take makes a transition and says whether it begins a new visit.
func (t *table) take(event string) (newVisit bool, err error) {
	from := t.state()
	// A context that is done would wedge the FSM for good.
	err = t.fsm.Event(context.Background(), event)
	var same fsm.NoTransitionError
	if errors.As(err, &same) && same.Err == nil {
		return t.reenter[[2]string{event, from}], nil
	}
	if err != nil {
		return false, fmt.Errorf("event %s in state %s: %w", quoted(event), quoted(from), err)
	}

	return true, nil
}
