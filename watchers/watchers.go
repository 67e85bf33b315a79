// Package watchers says what a watcher is: something that observes one thing
// and reports. A watcher does not know what a state is, when it is wanted or
// what its reports cause; all of that is the machine's.
//
// # From manifest to reports
//
//  1. A [Kind] stands for the manifest's `type`. Its New returns an empty
//     [Properties], a struct whose fields are the manifest's `properties`.
//  2. The loader decodes each property into the field with its json tag. A type
//     of field checks its own values (see [Duration]); an unknown property, or one
//     that does not decode, is an error with its line and column.
//  3. Properties.Check says what is wrong with the properties together.
//  4. Properties.Watcher makes the watcher, which starts nothing.
//  5. The machine calls [Watcher.Run] when a visit begins to a state that names
//     the watcher, and cancels its context when the visit ends.
//
// A kind imports this package, datalayer and kv; never package machine, another
// kind or nats.go. It is added to the binary by a line in watchers/builtin.
package watchers

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/kv"
)

// Watcher observes one thing.
type Watcher interface {
	// Run observes until ctx is done and then returns nil, calling report for
	// every observation the machine should hear of. The machine calls Run when a
	// visit begins to a state in which the watcher is active, and cancels ctx when
	// the visit ends. Calls never overlap, so state kept between them needs no lock.
	//
	// A nil return before ctx is done means that nothing more will be observed in
	// this visit. A non-nil error means that Run gave up; it is called again after
	// a pause that grows. A panic counts as an error.
	//
	// Work that must outlive the visit may go on before Run returns, but what it
	// reports is dropped, and when Env.Stopping is closed it must end.
	Run(ctx context.Context, report Report) error
}

// Report hands an observation to the machine and blocks until the machine has
// taken it (data committed to disk, event fired). It returns nil, or
//   - ErrVisitOver when the visit is over: nothing was taken, and the watcher must
//     behave as if it had not seen it;
//   - ErrRefused when the data was committed but the state has no transition for the
//     event: the change is not settled, and the next Run finds the mark as it was;
//   - another error when the data can never be kept, because it is too large say:
//     nothing was taken, and to report the same again would not help.
//
// It may be called from one goroutine at a time.
type Report func(Observation) error

var (
	// ErrVisitOver is returned by a Report that comes after its visit.
	ErrVisitOver = errors.New("the visit is over")

	// ErrRefused is returned by a Report whose event the current state refuses.
	ErrRefused = errors.New("the state has no transition for the event")
)

// Outcome says which of a watcher's two events an observation fires.
type Outcome int

// The outcomes.
const (
	None    Outcome = iota // no event
	Success                // the manifest's success_transition, if it has one
	Failure                // the manifest's fail_transition, if it has one
)

// String returns the outcome as logs show it.
func (o Outcome) String() string {
	switch o {
	case Success:
		return "success"
	case Failure:
		return "failure"
	default:
		return "none"
	}
}

// Observation is what a watcher has to say.
type Observation struct {
	Outcome Outcome

	// Set and Delete change the machine's data in one commit, before the event.
	Set    []datalayer.Item
	Delete []string

	// Changes says what of the outside world has changed, for the commands of the
	// visit that the event begins. They hold values.
	Changes []Change

	// Mark is kept by the machine once the change is settled, and is what Env.Mark
	// returns from then on, also after a restart. Nil leaves the mark as it is.
	Mark json.RawMessage

	// Pending is kept at once, before anything else that the observation asks for, and
	// forgotten when a mark is next settled. A watcher says by it what a crash must not
	// make it forget although neither the data nor the mark would tell.
	Pending json.RawMessage

	// State is the watcher's state from now on, in one word ("changed", "error").
	// Empty leaves it as it is.
	State string

	// Detail is for people, in logs and status. It never holds a value of a bucket,
	// of data or of facts.
	Detail string
}

// Change is a key of a bucket that has changed.
type Change struct {
	Bucket    string      `json:"bucket"`
	Key       string      `json:"key"`
	Operation string      `json:"operation"` // put, delete or missing
	Revision  kv.Revision `json:"revision,omitempty"`

	// Old is the value that was acted on before, as it stood in the data. It is nil
	// when there was none, or when it is no longer known because a crash came between.
	Old json.RawMessage `json:"old,omitempty"`
}

// Visit is the time between two steps, as a Run sees it.
type Visit struct {
	State    string
	Cause    Cause
	Event    string // that began the visit; empty for Started
	Previous string // the state before; empty for Started

	Changes []Change // that made the watcher report which began the visit
}

// Cause says what began a visit.
type Cause int

// The causes.
const (
	Started Cause = iota // the machine started in its initial state
	Stepped              // a step led here
	Resumed              // the machine was interrupted in this visit and goes on with it
)

// String returns the cause as logs show it.
func (c Cause) String() string {
	switch c {
	case Stepped:
		return "stepped"
	case Resumed:
		return "resumed"
	default:
		return "started"
	}
}

// TakenOver is the mark of a watcher whose machine has data but has never kept
// marks: it was written by other software. What equals the data counts as settled.
var TakenOver = json.RawMessage(`"taken-over"`)

// Env is what a watcher may use. Its functions may be called from any goroutine
// during a Run.
type Env struct {
	Machine  string // the machine's name
	Instance string // tells one start of a machine from the next
	Identity string // the node's name
	Watcher  string // the watcher's name

	Dir    string // the machine's folder
	RunDir string // a private folder (0700) for files that live no longer than a Run

	Interval time.Duration // the manifest's interval; 0 is none
	Log      *slog.Logger  // says which machine and watcher by itself

	// Stdout and Stderr take what commands print.
	Stdout, Stderr io.Writer

	// Bucket is a handle on a bucket, which need not exist.
	Bucket func(name string) (kv.Bucket, error)

	Data  func() *datalayer.View // the machine's data as last committed
	Facts func() []byte          // what is known of the node, a JSON object

	Visit   func() Visit           // the visit of the current Run
	Mark    func() json.RawMessage // the last settled mark; nil when there is none
	Pending func() json.RawMessage // what was last reported as such and not settled since

	// Stopping is closed when the machine stops.
	Stopping <-chan struct{}
}

// Scope is what templates see at this moment.
func (e Env) Scope() datalayer.Scope {
	return datalayer.Scope{Data: e.Data(), Facts: e.Facts()}
}

// Kind is a type of watcher.
type Kind struct {
	Name string // the manifest's `type`

	// Marks says that its watchers report changes with marks, which where the machine
	// goes next settles. Watchers of other kinds do the work that a change leads to.
	Marks bool

	// New returns Properties with their defaults, a pointer to a struct.
	New func() Properties
}

// Properties is what a manifest says about one watcher of a kind. It is a pointer
// to a struct with json tags.
type Properties interface {
	// Check reports what is wrong with properties that decoded well one by one.
	Check(Settings) []Problem

	// Watcher makes a watcher and starts nothing. It is called once.
	Watcher(Env) (Watcher, error)
}

// Settings are the keys that watchers of all kinds have and that Check may need.
type Settings struct {
	Interval time.Duration // 0 is none
}

// Problem is what Check has found.
type Problem struct {
	Property string // its name; empty for the watcher as a whole
	Message  string
	Warning  bool // the manifest is valid all the same
}

// Kinds are the types of watchers that a machine may use.
type Kinds []Kind

// Find returns the kind with that name.
func (k Kinds) Find(name string) (Kind, bool) {
	for _, kind := range k {
		if kind.Name == name {
			return kind, true
		}
	}
	return Kind{}, false
}

// Names returns the names of all kinds in their order.
func (k Kinds) Names() []string {
	names := make([]string, len(k))
	for i, kind := range k {
		names[i] = kind.Name
	}
	return names
}
