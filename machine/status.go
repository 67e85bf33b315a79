package machine

import "time"

// Status is a machine as it was after its last change.
type Status struct {
	Machine  string `json:"machine"`
	Version  string `json:"version"`
	Instance string `json:"instance"` // tells one start of the machine from the next

	State    string    `json:"state"` // empty before the machine has started
	Since    time.Time `json:"since"` // when the visit began
	Event    string    `json:"event,omitempty"`
	Previous string    `json:"previous,omitempty"`
	Accepts  []string  `json:"accepts"` // the events that the state accepts, sorted

	Steps   uint64 `json:"steps"`   // taken since the start
	Refused uint64 `json:"refused"` // events that the current state had no transition for
	Dropped uint64 `json:"dropped"` // reports that came after their visit
	Storm   bool   `json:"storm"`   // so many steps that the next ones pause
	Error   string `json:"error,omitempty"`

	Watchers []WatcherStatus `json:"watchers"` // in the order of the manifest
}

// WatcherStatus is a watcher as it was after its last change.
type WatcherStatus struct {
	Name    string    `json:"name"`
	Type    string    `json:"type"`
	Active  bool      `json:"active"`          // the current state names it
	State   string    `json:"state,omitempty"` // what it last said of itself: "changed", "error"
	Since   time.Time `json:"since,omitzero"`  // when it said so
	Outcome string    `json:"outcome,omitempty"`
	Detail  string    `json:"detail,omitempty"`

	// Announced tells that nothing has changed: it is the manifest's
	// announce_interval that makes the watcher speak.
	Announced bool `json:"-"`
}

// Step is one transition taken.
type Step struct {
	Time    time.Time `json:"time"`
	Machine string    `json:"machine"`
	Event   string    `json:"event"`
	From    string    `json:"from"`
	To      string    `json:"to"`
	Watcher string    `json:"watcher,omitempty"` // whose report caused it; empty for an operator
	Detail  string    `json:"detail,omitempty"`
}

// Status returns the machine as it was after its last change. It never waits.
func (m *Machine) Status() *Status { return m.status.Load() }
