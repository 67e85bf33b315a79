package kvtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/keyturn-io/keyturn/kv"
)

// watchTests are about Watch, in fair weather and in foul.
var watchTests = []test{
	{"WatchFromTheStart", testWatchFromTheStart},
	{"WatchEmpty", testWatchEmpty},
	{"WatchMarkers", testWatchMarkers},
	{"WatchFilters", testWatchFilters},
	{"WatchInvalidFilter", testWatchInvalidFilter},
	{"WatchLeave", testWatchLeave},
	{"WatchContext", testWatchContext},
	{"WatchFresh", testWatchFresh},
	{"WatchMany", testWatchMany},
	{"WatchSlowReader", testWatchSlowReader},
	{"WatchNoBucket", testWatchNoBucket},
	{"WatchRecreated", testWatchRecreated},
	{"WatchRecreatedSame", testWatchRecreatedSame},
	{"WatchPurgedAll", testWatchPurgedAll},
	{"WatchVanished", testWatchVanished},
	{"WatchVanishedFiltered", testWatchVanishedFiltered},
	{"WatchRestored", testWatchRestored},
	{"WatchRestoredOlder", testWatchRestoredOlder},
	{"WatchUnavailable", testWatchUnavailable},
	{"WatchTwoReasons", testWatchTwoReasons},
}

// wantLog waits for as many events as there are lines and compares them.
func wantLog(t *testing.T, r *Recorder, skip int, lines ...string) {
	t.Helper()
	want := strings.Join(lines, "\n")
	r.Wait("these events:\n"+want, skip, func(events []kv.Event) bool { return len(events) >= len(lines) })
	if got := r.Log(skip); got != want {
		t.Errorf("told:\n%s\nwant:\n%s", got, want)
	}
}

func testWatchFromTheStart(t *testing.T, h Harness) {
	b := h.Open(t, Config{History: 3})
	put(t, b, "b", "1")
	put(t, b, "a", "2")
	put(t, b, "c", "3")
	put(t, b, "b", "4")
	r := Record(t, b, kv.WatchOptions{})
	wantLog(t, r, 0, `put a="2" @2`, `put c="3" @3`, `put b="4" @4`, "synced")
	put(t, b, "a", "5")
	wantLog(t, r, 4, `put a="5" @5`)
	must(t, b.Delete(t.Context(), "a", 0))
	wantLog(t, r, 5, "delete a @6")
	must(t, b.Purge(t.Context(), "b", 0))
	wantLog(t, r, 6, "purge b @7")
	put(t, b, "a", "5")
	wantLog(t, r, 7, `put a="5" @8`)

	st, err := b.Status(t.Context())
	must(t, err)
	for _, e := range r.Events() {
		if e.Epoch != st.Epoch {
			t.Errorf("the epoch of %s is %q, the bucket's is %q", Describe(e), e.Epoch, st.Epoch)
		}
	}
	e, err := b.Get(t.Context(), "a")
	must(t, err)
	told := r.Events()[7].Entry
	wantEntry(t, "what was told", told, e)
	if !told.Created.Equal(e.Created) {
		t.Errorf("it was told as created %s, and got as created %s", told.Created, e.Created)
	}
}

func testWatchEmpty(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	r := Record(t, b, kv.WatchOptions{})
	wantLog(t, r, 0, "synced")
	put(t, b, "a", "1")
	wantLog(t, r, 1, `put a="1" @1`)
}

func testWatchMarkers(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	for _, key := range []string{"a", "b", "c"} {
		put(t, b, key, "x")
	}
	must(t, b.Delete(t.Context(), "a", 0))
	must(t, b.Purge(t.Context(), "b", 0))
	r := Record(t, b, kv.WatchOptions{})
	wantLog(t, r, 0, `put c="x" @3`, "delete a @4", "purge b @5", "synced")
}

func testWatchFilters(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	put(t, b, "a.b", "1")
	put(t, b, "a.b.c", "2")
	put(t, b, "x.b", "3")
	put(t, b, "z", "4")
	one := Record(t, b, kv.WatchOptions{Filters: []string{"z"}})
	wantLog(t, one, 0, `put z="4" @4`, "synced")
	star := Record(t, b, kv.WatchOptions{Filters: []string{"a.*"}})
	wantLog(t, star, 0, `put a.b="1" @1`, "synced")
	tail := Record(t, b, kv.WatchOptions{Filters: []string{"a.>", "a.b.c"}})
	wantLog(t, tail, 0, `put a.b="1" @1`, `put a.b.c="2" @2`, "synced")
	cross := Record(t, b, kv.WatchOptions{Filters: []string{"a.*", "*.b"}})
	wantLog(t, cross, 0, `put a.b="1" @1`, `put x.b="3" @3`, "synced")
	nothing := Record(t, b, kv.WatchOptions{Filters: []string{"q"}})
	wantLog(t, nothing, 0, "synced")

	put(t, b, "z", "5")
	put(t, b, "a.b", "6")
	put(t, b, "x.b", "7")
	put(t, b, "a.b.c", "8")
	wantLog(t, one, 2, `put z="5" @5`)
	wantLog(t, star, 2, `put a.b="6" @6`)
	tail.WaitState(map[string]string{"a.b": "6", "a.b.c": "8"})
	cross.WaitState(map[string]string{"a.b": "6", "x.b": "7"})
	if n := nothing.Len(); n != 1 {
		t.Errorf("%d events for a key that is not there", n)
	}
}

func testWatchInvalidFilter(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	for _, filter := range []string{"", "a..b", "a.>.b", "a b", strings.Repeat("k", 513)} {
		n := 0
		for _, err := range b.Watch(t.Context(), kv.WatchOptions{Filters: []string{"a", filter}}) {
			wantErr(t, fmt.Sprintf("watch %.20q", filter), err, kv.ErrInvalidKey)
			n++
		}
		if n != 1 {
			t.Errorf("%d pairs for the filter %.20q", n, filter)
		}
	}
}

// testWatchLeave leaves the loop at each of its first events, again and again.
func testWatchLeave(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	put(t, b, "a", "1")
	put(t, b, "b", "2")
	for round := range 20 {
		n := 0
		for _, err := range b.Watch(t.Context(), kv.WatchOptions{}) {
			must(t, err)
			if n++; n > round%3 {
				break
			}
		}
	}
}

func testWatchContext(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	put(t, b, "a", "1")
	r := Record(t, b, kv.WatchOptions{})
	r.WaitKind(kv.Synced, 0)
	wantErr(t, "watch", r.Stop(), context.Canceled)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var last error
	for _, err := range b.Watch(ctx, kv.WatchOptions{}) {
		last = err
	}
	wantErr(t, "watch with a context that is done", last, context.Canceled)
}

// testWatchFresh puts and then watches: what was acknowledged is told before Synced.
func testWatchFresh(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	for i := range 200 {
		value := fmt.Sprint(i)
		put(t, b, "noise", value)
		put(t, b, "a.b", value)
		filters := [][]string{nil, {"a.b"}, {"a.*"}, {"a.b", "noise"}}[i%4]
		told := ""
		for event, err := range b.Watch(t.Context(), kv.WatchOptions{Filters: filters}) {
			must(t, err)
			if event.Kind == kv.Synced {
				break
			}
			if event.Entry.Key == "a.b" {
				told = string(event.Entry.Value)
			}
		}
		if told != value {
			t.Fatalf("a watch on %v that began after %s was acknowledged was told %q before it was synced", filters, value, told)
		}
	}
}

func testWatchMany(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	want := map[string]string{}
	var recorders []*Recorder
	for i := range 8 {
		opts := kv.WatchOptions{}
		if i%2 == 1 {
			opts.Filters = []string{">"}
		}
		recorders = append(recorders, Record(t, b, opts))
	}
	var wg sync.WaitGroup
	for w := range 4 {
		for i := range 50 {
			want[fmt.Sprintf("w%d.k%d", w, i%10)] = fmt.Sprint(i)
		}
		wg.Go(func() {
			for i := range 50 {
				if _, err := b.Put(t.Context(), fmt.Sprintf("w%d.k%d", w, i%10), []byte(fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	late := Record(t, b, kv.WatchOptions{Filters: []string{"w1.*"}})
	wg.Wait()
	for _, r := range recorders {
		r.WaitState(want)
	}
	for key := range want {
		if !strings.HasPrefix(key, "w1.") {
			delete(want, key)
		}
	}
	late.WaitState(want)
}

// testWatchSlowReader puts 100 000 times (10 000 with -short) while the reader
// stands still. It is told what there is in the end, and not all that has been.
func testWatchSlowReader(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	const keys, writers = 100, 8
	puts := 100_000
	if testing.Short() {
		puts = 10_000
	}
	put(t, b, "start", "x")
	want := map[string]string{"start": "x"}
	for i := range puts {
		want[fmt.Sprint("k", i%keys)] = fmt.Sprint(i)
	}
	state := map[string]string{}
	told := 0
	for event, err := range b.Watch(t.Context(), kv.WatchOptions{}) {
		must(t, err)
		if event.Kind == kv.Put {
			state[event.Entry.Key] = string(event.Entry.Value)
			told++
		}
		if event.Kind == kv.Synced && want["end"] == "" { // on a slow machine it may be lost and found
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					for i := range puts {
						if i%keys%writers != w {
							continue // each key has one writer
						}
						if _, err := b.Put(t.Context(), fmt.Sprint("k", i%keys), []byte(fmt.Sprint(i))); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			put(t, b, "end", "x")
			want["end"] = "x"
		}
		if event.Entry.Key == "end" {
			break
		}
	}
	if len(state) != len(want) {
		t.Errorf("%d keys were told, want %d", len(state), len(want))
	}
	for key, value := range want {
		if state[key] != value {
			t.Errorf("the last value told of %s is %q, want %q", key, state[key], value)
		}
	}
	if told > puts/2 {
		t.Errorf("%d of %d puts were told to a reader that stood still", told, puts)
	}
}

func testWatchNoBucket(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	need(t, "remove a bucket and create it again", b.Remove != nil && b.Recreate != nil)
	b.Remove()
	r := Record(t, b, kv.WatchOptions{})
	wantLog(t, r, 0, "lost: bucket not found")
	b.Recreate()
	put(t, b, "a", "1")
	r.WaitState(map[string]string{"a": "1"})
	n := r.WaitKind(kv.Synced, 0)
	if got := r.Log(0); !strings.HasPrefix(got, "lost: bucket not found\nfound\n") || strings.Contains(got, "reset") {
		t.Errorf("told:\n%s", got)
	}
	put(t, b, "b", "2")
	r.WaitState(map[string]string{"a": "1", "b": "2"})
	b.Remove()
	r.WaitKind(kv.Lost, n)
}

func testWatchRecreated(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	need(t, "remove a bucket and create it again", b.Remove != nil && b.Recreate != nil)
	for _, key := range []string{"a", "b", "c", "d"} {
		put(t, b, key, "old")
	}
	must(t, b.Delete(t.Context(), "d", 0))
	r := Record(t, b, kv.WatchOptions{})
	part := Record(t, b, kv.WatchOptions{Filters: []string{"a", "b"}})
	n := r.WaitKind(kv.Synced, 0)
	part.WaitKind(kv.Synced, 0)
	b.Remove()
	b.Recreate()
	put(t, b, "a", "new")
	r.WaitState(map[string]string{"a": "new"})
	part.WaitState(map[string]string{"a": "new"})
	reset := r.WaitKind(kv.Reset, n)
	r.WaitKind(kv.Synced, reset)
	if before, after := r.Events()[0].Epoch, r.Events()[reset-1].Epoch; before == after {
		t.Errorf("two lives of a bucket have the epoch %q", before)
	}
	put(t, b, "b", "new")
	r.WaitState(map[string]string{"a": "new", "b": "new"})
	part.WaitState(map[string]string{"a": "new", "b": "new"})
}

// testWatchRecreatedSame re-creates a bucket so that keys have their old
// revisions and other values.
func testWatchRecreatedSame(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	need(t, "remove a bucket and create it again", b.Remove != nil && b.Recreate != nil)
	put(t, b, "a", "1")
	put(t, b, "b", "2")
	r := Record(t, b, kv.WatchOptions{})
	r.WaitKind(kv.Synced, 0)
	b.Remove()
	b.Recreate()
	put(t, b, "a", "3")
	put(t, b, "b", "2")
	r.WaitState(map[string]string{"a": "3", "b": "2"})
	r.Wait("the new revisions", 3, func(events []kv.Event) bool {
		return len(events) > 0 && events[len(events)-1].Entry.Key == "b" || len(events) > 3
	})
}

func testWatchPurgedAll(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	need(t, "purge a bucket", b.PurgeAll != nil)
	put(t, b, "a", "1")
	put(t, b, "b", "2")
	put(t, b, "c", "3")
	must(t, b.Delete(t.Context(), "c", 0))
	r := Record(t, b, kv.WatchOptions{})
	wantLog(t, r, 0, `put a="1" @1`, `put b="2" @2`, `delete c @4`, "synced")
	b.PurgeAll()
	wantLog(t, r, 4, "missing a", "missing b")
	put(t, b, "a", "4")
	wantLog(t, r, 6, `put a="4" @5`)
}

func testWatchVanished(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	need(t, "make a key vanish", b.Vanish != nil)
	put(t, b, "a", "1")
	put(t, b, "b", "2")
	r := Record(t, b, kv.WatchOptions{})
	r.WaitKind(kv.Synced, 0)
	b.Vanish("a")
	wantLog(t, r, 3, "missing a")
	put(t, b, "a", "3")
	wantLog(t, r, 4, `put a="3" @3`)
}

// testWatchVanishedFiltered is about a key that vanishes from a bucket of which
// only that key is watched, while others are written.
func testWatchVanishedFiltered(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	need(t, "make a key vanish", b.Vanish != nil)
	put(t, b, "a", "1")
	put(t, b, "b", "2")
	r := Record(t, b, kv.WatchOptions{Filters: []string{"a"}})
	r.WaitKind(kv.Synced, 0)
	put(t, b, "b", "3")
	b.Vanish("a")
	put(t, b, "b", "4")
	wantLog(t, r, 2, "missing a")
}

func testWatchRestored(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	need(t, "restore a backup", b.Backup != nil)
	put(t, b, "a", "1")
	put(t, b, "b", "2")
	put(t, b, "same", "3")
	restore := b.Backup()
	put(t, b, "a", "4")
	put(t, b, "c", "5")
	must(t, b.Delete(t.Context(), "b", 0))
	r := Record(t, b, kv.WatchOptions{})
	r.WaitKind(kv.Synced, 0)
	restore()
	r.WaitState(map[string]string{"a": "1", "b": "2", "same": "3"})
	reset := r.WaitKind(kv.Reset, 0)
	r.WaitKind(kv.Synced, reset)
	put(t, b, "c", "6")
	r.WaitState(map[string]string{"a": "1", "b": "2", "same": "3", "c": "6"})
	for _, e := range r.Events()[reset:] {
		if e.Entry.Key == "same" {
			t.Errorf("told %s after the reset, which did not change it", Describe(e))
		}
	}
}

// testWatchRestoredOlder takes away what came after a backup. No key goes back to what it
// was, and still the bucket does.
func testWatchRestoredOlder(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	need(t, "restore a backup", b.Backup != nil)
	put(t, b, "a", "1")
	restore := b.Backup()
	put(t, b, "b", "2")
	r := Record(t, b, kv.WatchOptions{})
	r.WaitKind(kv.Synced, 0)
	restore()
	r.WaitState(map[string]string{"a": "1"})
	reset := r.WaitKind(kv.Reset, 0)
	r.WaitKind(kv.Synced, reset)
	for _, e := range r.Events()[reset:] {
		if e.Entry.Key == "a" {
			t.Errorf("told %s after the reset, which did not change it", Describe(e))
		}
	}
}

func testWatchUnavailable(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	need(t, "go down", b.Down != nil && b.Up != nil)
	put(t, b, "a", "1")
	put(t, b, "b", "2")
	r := Record(t, b, kv.WatchOptions{})
	n := r.WaitKind(kv.Synced, 0)
	b.Down()
	wantLog(t, r, n, "lost: store unavailable")
	if err := r.Events()[n].Err; !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("lost because of %v", err)
	}
	late := Record(t, b, kv.WatchOptions{})
	wantLog(t, late, 0, "lost: store unavailable")
	b.Up()
	put(t, b, "b", "3")
	wantLate := map[string]string{"a": "1", "b": "3"}
	r.WaitState(wantLate)
	late.WaitState(wantLate)
	found := r.WaitKind(kv.Found, n)
	r.WaitKind(kv.Synced, found)
	late.WaitKind(kv.Synced, late.WaitKind(kv.Found, 0))
	for _, e := range r.Events()[found:] {
		if e.Entry.Key == "a" {
			t.Errorf("told %s again", Describe(e))
		}
	}
}

func testWatchTwoReasons(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	need(t, "remove a bucket and create it again, and go down", b.Remove != nil && b.Recreate != nil && b.Down != nil && b.Up != nil)
	put(t, b, "a", "1")
	r := Record(t, b, kv.WatchOptions{})
	n := r.WaitKind(kv.Synced, 0)
	b.Remove()
	wantLog(t, r, n, "lost: bucket not found")
	b.Down()
	wantLog(t, r, n+1, "lost: store unavailable")
	b.Up()
	wantLog(t, r, n+2, "lost: bucket not found")
	b.Recreate()
	wantLog(t, r, n+3, "found", "reset", "missing a", "synced")
}
