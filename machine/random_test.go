package machine_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyturn-io/keyturn/kv/memkv"
	"github.com/keyturn-io/keyturn/machine"
	"github.com/keyturn-io/keyturn/watchers"
)

// randomManifests are the machines that random schedules are played to. "deploy" takes
// a random time and fails at random; "retry" begins it again until it has failed often.
// "stay" keeps watching while it deploys, and "supersede" begins again with what is newer.
var randomManifests = map[string]string{
	"watch":     strings.NewReplacer("KV", "key: app.a, mode: watch").Replace(randomManifest),
	"poll":      strings.NewReplacer("KV", "key: app.a", "#interval", "interval: 1s").Replace(randomManifest),
	"republish": strings.NewReplacer("KV", "key: app.a, republish_trigger: changes.>", "#interval", "interval: 5m").Replace(randomManifest),
	"filter":    strings.NewReplacer("KV", "key: app.>, mode: watch").Replace(randomManifest),
	"object":    strings.NewReplacer("KV", "mode: watch, store_key: all", "#interval", "interval: 5s").Replace(randomManifest),
	"part":      strings.NewReplacer("KV", "key: app.*, mode: watch, store_key: all, on_missing: delete").Replace(randomManifest),
	"delete":    strings.NewReplacer("KV", "mode: watch, on_missing: delete").Replace(randomManifest),
	"debounce":  strings.NewReplacer("KV", "mode: watch, debounce: 300ms").Replace(randomManifest),
	"retry":     strings.NewReplacer("KV", "key: app.>, mode: watch", "type: job", "type: retried").Replace(randomManifest),
	"resume":    strings.NewReplacer("KV", "mode: watch", "#resume", "resume: true").Replace(randomManifest),
	"stay":      strings.NewReplacer("KV", "mode: watch", "[WAIT] # kv", "[WAIT, DEPLOY]").Replace(randomManifest),
	"supersede": strings.NewReplacer("KV", "mode: watch", "[WAIT] # kv", "[WAIT, DEPLOY]", "#resume", "resume: true", "#again",
		"- {name: update, from: [DEPLOY], destination: DEPLOY, reenter: true}", "type: job", "type: killed").Replace(randomManifest),
}

const randomManifest = `name: random
version: 1.0.0
initial_state: WAIT
#resume
transitions:
- {name: update, from: [WAIT], destination: DEPLOY}
#again
- {name: deployed, from: [DEPLOY], destination: WAIT}
- {name: failed, from: [DEPLOY], destination: WAIT}
- {name: halt, from: [WAIT, DEPLOY], destination: HALT}
- {name: go, from: [HALT], destination: WAIT}
watchers:
- name: kv_watch
  type: kv
  state_match: [WAIT] # kv
  success_transition: update
  #interval
  properties: {bucket: CFG, KV}
- {name: deploy, type: job, state_match: [DEPLOY], success_transition: deployed, fail_transition: failed}
`

// TestRandomSchedules plays random schedules of puts, deletes, faults, steps, stops and
// crashes, and holds what the machine did against an oracle for promises 1 to 5. It
// prints the seed of a schedule that fails; KEYTURN_SEED plays that one alone, and
// KEYTURN_SCHEDULES says how many to play.
func TestRandomSchedules(t *testing.T) {
	first, count := rand.Uint64N(1<<40), uint64(2000)
	if n, err := strconv.ParseUint(os.Getenv("KEYTURN_SCHEDULES"), 10, 64); err == nil {
		count = n
	}
	if seed, err := strconv.ParseUint(os.Getenv("KEYTURN_SEED"), 10, 64); err == nil {
		first, count = seed, 1
	}
	names := slices.Sorted(maps.Keys(randomManifests))
	t.Logf("seeds from %d", first)
	for seed := first; seed < first+count; seed++ {
		name := names[seed%uint64(len(names))]
		synctest.Test(t, func(t *testing.T) {
			s := newSchedule(t, seed, name)
			defer os.RemoveAll(s.dir)
			if complaint := s.play(); complaint != "" {
				t.Fatalf("%s: KEYTURN_SEED=%d go test ./machine -run RandomSchedules\n%s\n%s", name, seed, complaint, strings.Join(s.log, "\n"))
			}
		})
		if t.Failed() {
			return
		}
	}
}

// schedule is a random schedule and what came of it.
type schedule struct {
	t        *testing.T
	seed     uint64
	random   *rand.Rand // of the test's own goroutine
	manifest string
	filter   string // what the kv watcher watches
	dir      string
	store    *memkv.Store
	backup   memkv.Backup
	created  bool
	m        *machine.Machine
	stop     func()

	mu       sync.Mutex // guards what follows: the machine's goroutines tell it, too
	log      []string
	commands uint64
	knows
	complaint string
	images    int    // instants until an image is taken; 0 for none
	image     *image // the last one that was taken
}

// image is the machine at an instant, as a crash then would leave it.
type image struct {
	folder string
	knows  knows
	log    []string
}

func newSchedule(t *testing.T, seed uint64, name string) *schedule {
	parent := "/dev/shm" // a sync of the disk costs more than all the rest
	if info, err := os.Stat(parent); err != nil || !info.IsDir() {
		parent = ""
	}
	dir, err := os.MkdirTemp(parent, "keyturn-random-")
	if err != nil {
		t.Fatal(err)
	}

	s := &schedule{
		t: t, seed: seed, random: rand.New(rand.NewPCG(seed, 1)), manifest: randomManifests[name], filter: ">", dir: dir, store: memkv.New(),
		knows: knows{settled: map[string]string{}, acted: map[string]string{}},
	}
	if _, rest, found := strings.Cut(s.manifest, ", key: "); found {
		s.filter = rest[:strings.IndexAny(rest, ",}")]
	}

	return s
}

// says says whether the manifest has a text.
func (s *schedule) says(text string) bool { return strings.Contains(s.manifest, text) }

func (s *schedule) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note(format, args...)
}

func (s *schedule) complain(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.object(format, args...)
}

// note and object are say and complain for those who have the lock.
func (s *schedule) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

func (s *schedule) object(format string, args ...any) {
	s.note(format, args...)
	if s.complaint == "" {
		s.complaint = fmt.Sprintf(format, args...)
	}
}

// play plays the schedule and returns what the oracle complains about.
func (s *schedule) play() string {
	s.start()
	for range 10 + s.random.IntN(40) {
		s.line()
		synctest.Wait()
		if s.complaint != "" {
			break
		}
	}

	// Writers stop, all is well again, and the machine is where it watches.
	s.store.Up()
	s.create()
	if s.stop == nil {
		s.start()
	}
	time.Sleep(time.Minute)
	_ = s.m.Fire(s.t.Context(), "go")
	time.Sleep(10 * time.Minute)
	s.check()
	s.stop()

	return s.complaint
}

// line does one thing at random, and then lets a random time pass.
func (s *schedule) line() {
	bucket, err := s.store.Bucket("CFG")
	if err != nil {
		s.t.Fatal(err)
	}
	ctx := s.t.Context()
	key := []string{"app.a", "app.a", "app.b", "app.b", "app.c", "app.d.e", "other"}[s.random.IntN(7)]
	after := func() {}
	value := []string{"1", "2", "3", `{"n": 1}`}[s.random.IntN(4)]
	switch n := s.random.IntN(100); {
	case n < 40:
		_, err := bucket.Put(ctx, key, []byte(value))
		s.say("put %s %s: %v", key, value, err)
		if s.says("republish_trigger") && s.random.IntN(2) == 0 {
			after = s.hinted()
			s.store.Hint("changes." + key)
			s.say("hint")
		}
	case n < 47:
		s.say("del %s: %v", key, bucket.Delete(ctx, key, 0))
	case n < 50:
		after = s.kept(key)
		s.say("vanish %s: %v", key, s.store.Vanish("CFG", key))
	case n < 52:
		after = s.kept("app.a", "app.b", "app.c")
		s.say("clear: %v", s.store.PurgeAll("CFG"))
	case n < 53:
		s.store.Hint("changes." + key)
		s.say("hint")
	case n < 56:
		s.say("remove: %v", s.store.Remove("CFG"))
	case n < 62:
		s.create()
	case n < 65:
		if backup, err := s.store.Backup("CFG"); err == nil {
			s.backup, s.created = backup, true
			s.say("backup")
		}
	case n < 68:
		if s.created {
			s.store.Restore(s.backup)
			s.say("restore")
		}
	case n < 71:
		s.store.Down()
		s.say("down")
	case n < 77:
		s.store.Up()
		s.say("up")
	case n < 81:
		s.crash()
	case n < 85:
		s.crashSoon()
	case n < 88 && s.stop != nil:
		s.stop()
		s.stop = nil
		s.say("stop")
	case n < 94 && s.stop == nil:
		s.start()
	case n < 97 && s.stop != nil:
		s.say("halt: %v", s.m.Fire(ctx, "halt"))
	case s.stop != nil:
		s.say("go: %v", s.m.Fire(ctx, "go"))
	}
	time.Sleep([]time.Duration{0, 0, time.Millisecond, 100 * time.Millisecond, time.Second, 10 * time.Second}[s.random.IntN(6)])
	synctest.Wait()
	after()
}

func (s *schedule) create() {
	s.say("create: %v", s.store.Create("CFG", memkv.Config{History: 2}))
}

func (s *schedule) start() {
	s.say("start")
	s.mu.Lock()
	if !s.says("resume: true") {
		clear(s.acted) // what was not settled will be repeated
	}
	s.agitated = s.agitated || s.m != nil && s.m.Status().Refused != s.refused
	s.refused = 0
	s.mu.Unlock()
	kinds := slices.Clone(testKinds)
	for _, j := range []job{{s: s, name: "job"}, {s: s, name: "retried"}, {s: s, name: "killed"}} {
		kinds = append(kinds, watchers.Kind{Name: j.name, New: func() watchers.Properties { return &j }})
	}
	m, err := machine.Parse("machine.yaml", []byte(s.manifest), kinds)
	if err != nil {
		s.t.Fatal(err)
	}
	s.m, err = machine.New(m, machine.Options{
		Dir:    s.dir,
		Bucket: s.store.Bucket,
		OnStep: s.step,
		OnWatcher: func(w machine.WatcherStatus) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if w.State != "changed" { // whose step is told next
				s.instant()
			}
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	stop := running(s.m)
	s.stop = func() {
		if err := stop(); err != nil {
			s.complain("the machine ends with an error: %v", err)
		}
	}
	synctest.Wait()
}

// instant takes an image, if its time has come. The caller has s.mu.
func (s *schedule) instant() {
	if s.images == 0 {
		return
	}
	if s.images--; s.images == 0 {
		s.image = &image{copyFolder(s.t, s.dir), s.clone(), slices.Clone(s.log)}
	}
}

// crash ends the machine and puts its folder back as it was the moment before.
func (s *schedule) crash() {
	if s.stop == nil {
		return
	}
	synctest.Wait()
	s.mu.Lock()
	s.images = 1
	s.instant()
	s.mu.Unlock()
	s.crashed()
}

// crashSoon puts something, and crashes the machine in the middle of what that causes.
func (s *schedule) crashSoon() {
	if s.stop == nil {
		return
	}
	s.mu.Lock()
	s.images = 1 + s.random.IntN(6)
	s.mu.Unlock()
	bucket, err := s.store.Bucket("CFG")
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = bucket.Put(s.t.Context(), "app.a", []byte(strconv.Itoa(s.random.IntN(4))))
	s.say("put app.a, and crash soon: %v", err)
	time.Sleep(5 * time.Second)
	synctest.Wait()
	s.mu.Lock()
	s.images = 0
	taken := s.image != nil
	s.mu.Unlock()
	if taken {
		s.crashed()
	}
}

// crashed ends the machine, and makes all as it was when the image was taken.
func (s *schedule) crashed() {
	s.stop()
	was := s.image
	s.image, s.knows, s.log = nil, was.knows, was.log
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(was.folder, s.dir); err != nil {
		s.t.Fatal(err)
	}
	s.say("crash")
	s.stop = nil
	if s.random.IntN(2) == 0 {
		s.start()
	}
}

func copyFolder(t *testing.T, dir string) string {
	t.Helper()
	kept := dir + ".kept"
	if err := os.CopyFS(kept, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}

	return kept
}
