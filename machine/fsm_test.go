package machine

import (
	"slices"
	"testing"
)

// TestTable holds the table to what looplab/fsm does not say by itself: a step into
// the same state is no error, events come sorted, "*" is every state.
func TestTable(t *testing.T) {
	table := newTable(&Manifest{InitialState: "A", Transitions: []Transition{
		{Event: "stay", From: []string{"A"}, Destination: "A"},
		{Event: "again", From: []string{"A"}, Destination: "A", Reenter: true},
		{Event: "go", From: []string{"A"}, Destination: "B"},
		{Event: "home", From: []string{"*"}, Destination: "A"},
	}}, "A")

	if got, want := table.events(), []string{"again", "go", "home", "stay"}; !slices.Equal(got, want) {
		t.Errorf("events of A: %v, want %v", got, want)
	}
	for _, step := range []struct {
		event    string
		newVisit bool
		state    string
	}{
		{"stay", false, "A"}, {"again", true, "A"}, {"home", false, "A"}, {"go", true, "B"}, {"home", true, "A"},
	} {
		newVisit, err := table.take(step.event)
		if err != nil || newVisit != step.newVisit || table.state() != step.state {
			t.Errorf("%s: new visit %v in %s, %v; want %v in %s", step.event, newVisit, table.state(), err, step.newVisit, step.state)
		}
	}
	if table.accepts("nothing") {
		t.Error("an unknown event is accepted")
	}
	if _, err := table.take("nothing"); err == nil {
		t.Error("an unknown event is taken")
	}
	if !table.accepts("go") {
		t.Error("the table is stuck after an error")
	}
}
