package machine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/machine"
	"github.com/keyturn-io/keyturn/watchers"
)

// knows is what the oracle knows.
type knows struct {
	settled  map[string]string          // the keys whose last change is settled, with their values
	acted    map[string]string          // those that a command had since, which settle together
	steps    int                        // that began a command since
	owed     bool                       // a change led to a step and has not been settled since
	acting   bool                       // there was ever a step that begins a command
	refused  uint64                     // events before the last one, since the machine was started
	agitated bool                       // some were since the last one, before the machine was started
	calm     bool                       // none was refused between the last two: no data changed without a step
	has, had map[string]json.RawMessage // the data on disk at the last one, and at the one before
}

func (k knows) clone() knows {
	k.settled, k.acted = maps.Clone(k.settled), maps.Clone(k.acted)
	return k
}

// kept returns what is to be called when keys have vanished that the bucket holds now: what
// the data had of them it still has then, unless the manifest wants that they go.
func (s *schedule) kept(keys ...string) func() {
	if s.stop == nil || s.says("on_missing: delete") {
		return func() {}
	}
	bucket, err := s.store.Bucket("CFG")
	if err != nil {
		s.t.Fatal(err)
	}
	held := s.data()
	for _, key := range keys {
		if _, err := bucket.Get(s.t.Context(), key); err != nil {
			delete(held, key) // it may have been deleted, and that be reported yet
		}
	}
	return func() {
		now := s.data()
		for _, key := range keys {
			if held[key] != nil && now[key] == nil {
				s.complain("promise 1: %s vanished, and its value was not kept", key)
			}
		}
	}
}

// hinted returns what is to be called when a hint was given: a machine that watches has
// looked at the bucket then.
func (s *schedule) hinted() func() {
	if s.stop == nil || s.m.Status().State != "WAIT" {
		return func() {}
	}
	return func() {
		time.Sleep(100 * time.Millisecond)
		bucket, err := s.store.Bucket("CFG")
		if err != nil {
			s.t.Fatal(err)
		}
		entry, err := bucket.Get(s.t.Context(), s.filter)
		if err != nil {
			return // it is not there, or the bucket cannot be had
		}
		if got, want := s.data()[s.filter], datalayer.FromBytes(entry.Value); !bytes.Equal(got, want) {
			s.complain("promise 1: after a hint %s is %s in the bucket and %s in the data", s.filter, want, got)
		}
	}
}

// step follows the machine.
func (s *schedule) step(step machine.Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("  %s --%s--> %s", step.From, step.Event, step.To)
	switch step.To {
	case "DEPLOY":
		s.steps++
		s.had, s.has = s.has, s.data()
		refused := s.m.Status().Refused
		s.acting, s.calm = true, refused == s.refused && !s.agitated
		s.refused, s.agitated = refused, false
		// What is watched in the state that it leads to is settled by the step.
		s.owed = !s.says("[WAIT, DEPLOY]") || s.says("resume: true")
		s.instant() // the step was taken, and nothing but its data is saved
	case "WAIT":
		s.instant() // what was begun is settled, and that is not saved
		maps.Copy(s.settled, s.acted)
		clear(s.acted)
		s.steps, s.owed = 0, false
	}
}

// check holds the end against the oracle.
func (s *schedule) check() {
	bucket, err := s.store.Bucket("CFG")
	if err != nil {
		s.t.Fatal(err)
	}
	data := s.data()
	keys, err := bucket.Keys(s.t.Context(), s.filter)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, key := range keys {
		entry, err := bucket.Get(s.t.Context(), key)
		if err != nil {
			s.t.Fatal(err)
		}
		want := datalayer.FromBytes(entry.Value)
		if !bytes.Equal(data[key], want) {
			s.complain("promise 1: %s is %s in the bucket and %s in the data", key, want, data[key])
		}
		delete(data, key)
	}
	for key := range data {
		_, err := bucket.Get(s.t.Context(), key)
		if deleted := err != nil && strings.Contains(err.Error(), "deleted"); deleted || s.says("on_missing: delete") {
			s.complain("promise 1: %s is still in the data", key)
		}
		if !kv.Match(s.filter, key) {
			s.complain("promise 1: %s is in the data, and is not watched", key)
		}
	}
	if now, last := s.text(s.data()), s.text(s.has); s.acting && now != last {
		s.complain("promise 2: the data is %s, the last step had %s", now, last)
	} else if !s.acting && now != "{}" {
		s.complain("promise 2: the data is %s, and there was no step", now)
	}
	if s.owed {
		s.complain("promise 2: a change that was interrupted was not repeated")
	}
}

// data is what the machine's data has of the keys, read from a copy: the machine may run.
func (s *schedule) data() map[string]json.RawMessage {
	folder, err := os.MkdirTemp(filepath.Dir(s.dir), "keyturn-copy-")
	if err != nil {
		s.t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	if err := os.CopyFS(folder, os.DirFS(s.dir)); err != nil {
		s.t.Fatal(err)
	}
	store, err := datalayer.Open(filepath.Join(folder, "machine_data.json"))
	if err != nil {
		s.t.Fatal(err)
	}

	return keysOf(store.View())
}

func keysOf(view *datalayer.View) map[string]json.RawMessage {
	keys := map[string]json.RawMessage{}
	for name, value := range view.All() {
		if name == "all" {
			if err := json.Unmarshal(value, &keys); err != nil {
				panic(err)
			}
			continue
		}
		keys[strings.TrimPrefix(name, "CFG_")] = value
	}

	return keys
}

func (s *schedule) text(keys map[string]json.RawMessage) string {
	text, err := json.Marshal(keys)
	if err != nil {
		panic(err)
	}

	return string(text)
}

// job is a kind of watcher that runs a command for each visit that a step began. One
// that is retried begins it again when it fails, and one that is killed ends with its visit.
type job struct {
	s    *schedule
	name string
}

func (j *job) Check(watchers.Settings) []watchers.Problem { return nil }

func (j *job) Watcher(env watchers.Env) (watchers.Watcher, error) { return &jobWatcher{*j, env}, nil }

type jobWatcher struct {
	job
	env watchers.Env
}

func (j *jobWatcher) Run(ctx context.Context, report watchers.Report) error {
	visit := j.env.Visit()
	if visit.Cause == watchers.Started {
		return nil
	}
	time.Sleep(time.Microsecond) // so that the step is told first
	for attempt := 1; ctx.Err() == nil; attempt++ {
		takes, outcome := j.s.command(visit, keysOf(j.env.Data()), attempt)
		again := j.name == "retried" && outcome == watchers.Failure && attempt < 5
		if again {
			takes += time.Duration(attempt) * time.Second
		}
		var leave <-chan struct{}
		if j.name == "killed" || again {
			leave = ctx.Done()
		}
		select {
		case <-time.After(takes):
		case <-leave:
			return nil
		case <-j.env.Stopping:
			return nil
		}
		if !again {
			_ = report(watchers.Observation{Outcome: outcome})
			return nil
		}
	}

	return nil
}

// command holds what a command has against the oracle, and returns what it does.
func (s *schedule) command(visit watchers.Visit, data map[string]json.RawMessage, attempt int) (time.Duration, watchers.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.text(data)
	s.note("    command: %s, %s", now, visit.Cause)
	s.instant()
	// Only where the bucket is watched meanwhile may the data be newer than the step's. So
	// it may be for a command that is resumed, if the machine was killed in a commit.
	if step := s.text(s.has); now != step && visit.Cause == watchers.Stepped && !s.says("[WAIT, DEPLOY]") {
		s.object("promise 5: the step had %s, the command has %s", step, now)
	}
	if visit.Cause == watchers.Stepped {
		s.judge(visit.Changes, attempt)
	}

	s.commands++
	random := rand.New(rand.NewPCG(s.seed, 1+s.commands))
	takes := []time.Duration{0, time.Millisecond, 500 * time.Millisecond, 3 * time.Second}[random.IntN(4)]

	return takes, []watchers.Outcome{watchers.Success, watchers.Failure}[random.IntN(2)]
}

// judge holds a step that began a command against the oracle. The caller has s.mu.
func (s *schedule) judge(changes []watchers.Change, attempt int) {
	news := false
	for _, change := range changes {
		value, has := s.has[change.Key]
		if has != (change.Operation == "put") {
			s.object("promise 5: after a %s of %s the step has %s", change.Operation, change.Key, s.text(s.has))
		}
		settled, known := s.settled[change.Key]
		news = news || !known || settled != string(value) || string(s.had[change.Key]) != string(value)
		s.acted[change.Key] = string(value)
	}
	if !news && s.calm && s.steps == 1 && attempt == 1 {
		s.object("promise 3: a command begins with %s for %v, which is settled", s.text(s.has), changes)
	}
}
