// Package kvwatcher watches keys of a bucket: it keeps their values in the
// machine's data and reports when they change.
//
// A Run compares what the bucket tells with what is settled, which it reads from
// the watcher's mark, and reports the difference. It keeps no other memory, so a
// crash at any instant repeats a change at most, and a change that was acted on is
// not acted on twice. In poll mode the bucket is asked at each interval, in watch
// mode it tells by itself; what follows is the same code.
package kvwatcher

import (
	"errors"
	"fmt"
	"time"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/watchers"
)

// Kind is the type of watcher that a manifest calls kv.
var Kind = watchers.Kind{
	Name:  "kv",
	Marks: true,
	New:   func() watchers.Properties { return &Properties{Mode: Poll, BucketPrefix: true, OnMissing: Keep} },
}

// Properties are the properties of a kv watcher in a manifest.
type Properties struct {
	Bucket           datalayer.Template `json:"bucket"`
	Key              datalayer.Template `json:"key"` // a key or a filter; empty is the whole bucket
	Mode             Mode               `json:"mode"`
	BucketPrefix     bool               `json:"bucket_prefix"`
	StoreKey         datalayer.Template `json:"store_key"`
	Debounce         watchers.Duration  `json:"debounce"`
	DebounceMax      watchers.Duration  `json:"debounce_max"` // 0 is 10 times debounce
	OnSuccessfulGet  bool               `json:"on_successful_get"`
	OnMatchingUpdate bool               `json:"on_matching_update"`
	Query            Query              `json:"query"`
	HieraConfig      bool               `json:"hiera_config"`
	RepublishTrigger datalayer.Template `json:"republish_trigger"`
	OnMissing        OnMissing          `json:"on_missing"`
}

// Mode says how news comes from the bucket.
type Mode string

// The modes.
const (
	Poll  Mode = "poll"  // the bucket is asked for one key at each interval
	Watch Mode = "watch" // the bucket tells; the interval, if any, is a reconcile
)

// UnmarshalText takes the name of a mode.
func (m *Mode) UnmarshalText(text []byte) error {
	return oneOf(m, Mode(text), Poll, Watch)
}

// OnMissing says what to do about a key that vanished without a marker.
type OnMissing string

// What can be done about it.
const (
	Keep   OnMissing = "keep"   // the item stays as it is
	Delete OnMissing = "delete" // as if the key had been deleted
)

// UnmarshalText takes keep or delete.
func (o *OnMissing) UnmarshalText(text []byte) error {
	return oneOf(o, OnMissing(text), Keep, Delete)
}

func oneOf[T ~string](target *T, value T, known ...T) error {
	for _, k := range known {
		if value == k {
			*target = value
			return nil
		}
	}

	return fmt.Errorf("%q is neither %s nor %s", string(value), known[0], known[1])
}

// Query is the gjson path of the part of a JSON value that is kept. Empty keeps all.
type Query string

// UnmarshalText takes a path that is not absurd.
func (q *Query) UnmarshalText(text []byte) error {
	*q = Query(text)
	return datalayer.CheckPath(string(text))
}

const leastInterval = time.Second

// Check reports what is wrong with the properties together.
func (p *Properties) Check(s watchers.Settings) []watchers.Problem {
	var problems []watchers.Problem
	problem := func(property, format string, args ...any) {
		problems = append(problems, watchers.Problem{Property: property, Message: fmt.Sprintf(format, args...)})
	}

	if p.Bucket.IsZero() {
		problem("bucket", "a kv watcher needs a bucket: add bucket: NAME to its properties")
	} else if p.Bucket.Static() {
		if err := kv.CheckBucket(p.Bucket.String()); err != nil {
			problem("bucket", "%s", err)
		}
	}
	if p.Key.Static() && !p.Key.IsZero() {
		if err := kv.CheckFilter(p.Key.String()); err != nil {
			problem("key", "%s", err)
		}
	}
	if p.Mode == Poll {
		switch {
		case p.Key.IsZero() || p.Key.Static() && kv.IsFilter(p.Key.String()):
			problem("key", "mode poll wants one plain key: name it, or set mode: watch")
		case s.Interval < leastInterval:
			problem("", "mode poll wants an interval of 1s or more: add interval: 10s to the watcher, or set mode: watch")
		}
	}
	if p.Mode == Watch && !p.RepublishTrigger.IsZero() {
		problem("republish_trigger", "republish_trigger is for mode poll: in mode watch the bucket tells by itself")
	}
	if p.DebounceMax != 0 && p.DebounceMax < p.Debounce {
		problem("debounce_max", "debounce_max is shorter than debounce")
	}
	if s.Interval != 0 && s.Interval < leastInterval && p.Mode == Watch {
		problem("", "the interval is shorter than 1s")
	}

	return problems
}

// Watcher makes a kv watcher.
func (p *Properties) Watcher(env watchers.Env) (watchers.Watcher, error) {
	return &watcher{Properties: *p, env: env, warned: map[string]bool{}, bad: map[string]kv.Revision{}}, nil
}

// target is what the properties mean with the data and facts of the moment.
type target struct {
	bucket string
	filter string // a key, a filter, or > for the whole bucket
	store  string // the item of store_key
}

func (p *Properties) target(scope datalayer.Scope) (target, error) {
	var t target
	for _, part := range []struct {
		name     string
		template datalayer.Template
		value    *string
	}{
		{"bucket", p.Bucket, &t.bucket},
		{"key", p.Key, &t.filter},
		{"store_key", p.StoreKey, &t.store},
	} {
		text, err := part.template.Expand(scope)
		if err != nil {
			return t, fmt.Errorf("property %s: %w", part.name, err)
		}
		*part.value = text
	}
	if t.filter == "" && p.Key.IsZero() {
		t.filter = ">"
	}
	// What a template makes may hold a value, which no error may tell.
	switch {
	case kv.CheckBucket(t.bucket) != nil:
		return t, errors.New("property bucket: its template does not make the name of a bucket")
	case kv.CheckFilter(t.filter) != nil:
		return t, errors.New("property key: its template does not make a key or a filter")
	case p.Mode == Poll && kv.IsFilter(t.filter):
		return t, errors.New("property key: mode poll wants one plain key")
	}

	return t, nil
}

// item names the data item in which a key's value stands, and says whether that is
// one object that holds all keys.
func (p *Properties) item(t target, key string) (name string, object bool) {
	switch {
	case t.store != "":
		return t.store, kv.IsFilter(t.filter)
	case p.BucketPrefix:
		return t.bucket + "_" + key, false
	default:
		return key, false
	}
}
