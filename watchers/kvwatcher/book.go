package kvwatcher

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/watchers"
)

// book compares what a bucket tells with what the machine knows, in one run.
type book struct {
	*watcher
	target target

	settled mark            // what the machine has acted on
	adopt   bool            // there are no marks yet: what equals the data counts as settled
	told    map[string]seen // settled, and what was reported in this run besides
	doubt   map[string]bool // keys whose last change was interrupted: they are a change in any case
	epoch   kv.Epoch        // that told is about

	object   map[string]json.RawMessage // the item that holds all keys, if that is how they are stored
	present  map[string]bool            // keys that the session told while it told all; nil after that
	complete bool                       // all was told: what follows is reported as it comes
	absent   map[string]bool            // keys that went without a marker
	changes  map[string]change          // to be reported
	before   map[string]change          // what was to be reported when the session began
	matched  map[string]bool            // keys that have a new revision with an equal value, if that counts

	lostRefused bool            // the machine has refused to hear in this run that the bucket is away
	refused     map[string]bool // keys that the machine has refused to hear of in this run

	since, last time.Time // when the first and the last of what is to be reported was noted
}

// change is what a key has become: a value, or nothing.
type change struct {
	seen      *seen
	value     json.RawMessage
	operation string
	revision  kv.Revision     // 0 for a key that is missing
	old       json.RawMessage // the value that was acted on before, if it is known
}

func newBook(w *watcher, t target) *book {
	raw := w.env.Mark()
	settled := readMark(raw, t)

	return &book{
		watcher: w,
		target:  t,
		settled: settled,
		adopt:   bytes.Equal(raw, watchers.TakenOver),
		told:    maps.Clone(settled.Keys),
		doubt:   readPending(w.env.Pending(), t),
		epoch:   settled.Epoch,
		absent:  map[string]bool{},
		changes: map[string]change{},
		matched: map[string]bool{},
		refused: map[string]bool{},
	}
}

// begin begins a session, which tells all that the bucket holds.
func (b *book) begin() {
	b.complete, b.present = false, map[string]bool{}
	b.before, b.changes = b.changes, map[string]change{}

	if name, object := b.item(b.target, ""); object {
		b.object = nil
		if value, ok := b.env.Data().Get(name); ok {
			_ = json.Unmarshal(value, &b.object) // anything but an object is replaced by one
		}
		if b.object == nil {
			b.object = map[string]json.RawMessage{}
		}
	}
}

// put notes an entry, if it is not what is known of its key.
func (b *book) put(entry kv.Entry, epoch kv.Epoch) {
	key := entry.Key
	if b.present != nil {
		b.present[key] = true
	}
	value := datalayer.FromBytes(entry.Value)
	if b.HieraConfig {
		resolved, err := resolveHiera(entry.Value, b.env.Facts())
		if err != nil {
			b.unusable(entry, err)
			return
		}
		value = resolved
	}
	if b.Query != "" {
		part, ok := datalayer.Query(value, string(b.Query))
		if !ok {
			b.gone(entry)
			return
		}
		value = part
	}
	stored, inData := b.stored(key)
	if b.object != nil && !bytes.Equal(value, stored) && !storable(key, value) {
		b.unusable(entry, errors.New("it is nested too deep to stand in an object"))
		return
	}
	delete(b.absent, key)
	delete(b.warned, key)
	delete(b.bad, key)

	now := seen{Revision: entry.Revision, Sum: sum(value)}
	before, known := b.told[key]
	switch {
	case known && now.Sum == before.Sum && inData && bytes.Equal(value, stored) && !b.doubtful(key):
		delete(b.changes, key)
		if b.OnMatchingUpdate && now.Revision > before.Revision && epoch == b.epoch {
			b.matched[key] = true
			b.noted()
		}
		b.told[key] = now
	case b.adopt && !known && inData && equal(value, stored):
		b.told[key], b.settled.Keys[key] = now, now
	default:
		b.change(key, change{seen: &now, value: value, operation: "put", revision: now.Revision, old: b.old(key)})
	}
}

// storable says whether a value can stand under its key in an object.
func storable(key string, value json.RawMessage) bool {
	_, err := datalayer.Encode(map[string]json.RawMessage{key: value})
	return err == nil
}

// change notes a change. One that was to be reported already is not a new one.
func (b *book) change(key string, c change) {
	before, known := b.before[key]
	if !known || before.revision != c.revision || (before.seen == nil) != (c.seen == nil) {
		b.noted()
	}
	b.changes[key] = c
}

// doubtful says whether the last change of a key was interrupted, and the machine has
// not refused to hear of it in this run.
func (b *book) doubtful(key string) bool { return b.doubt[key] && !b.refused[key] }

// unusable notes a value that cannot be resolved: what the data has stays.
func (b *book) unusable(entry kv.Entry, err error) {
	delete(b.absent, entry.Key)
	delete(b.changes, entry.Key)
	if b.bad[entry.Key] != entry.Revision {
		b.env.Log.Warn("a value cannot be used: the one before stays", "bucket", b.target.bucket, "key", entry.Key,
			"revision", entry.Revision, "error", err)
		b.bad[entry.Key] = entry.Revision
	}
}

// gone notes that a key holds no value any more, if it did. Its entry is a marker, or
// has no part that the query wants.
func (b *book) gone(entry kv.Entry) {
	key := entry.Key
	delete(b.absent, key)
	delete(b.bad, key)
	_, known := b.told[key]
	_, inData := b.stored(key)
	if known || inData || b.doubtful(key) {
		operation := "delete"
		if entry.Revision == 0 {
			operation = "missing"
		}
		b.change(key, change{operation: operation, revision: entry.Revision, old: b.old(key)})
	} else {
		delete(b.changes, key)
	}
}

// old returns the value of a key that was acted on last, if the data still has it.
func (b *book) old(key string) json.RawMessage {
	value, _ := b.stored(key)
	if before, known := b.settled.Keys[key]; !known || sum(value) != before.Sum {
		return nil
	}

	return value
}

// missing notes that a key vanished without a marker. If its value is kept, a change that
// was interrupted before it was settled is still one.
func (b *book) missing(key string) {
	if b.OnMissing == Delete {
		b.gone(kv.Entry{Key: key})
		return
	}
	if !b.warned[key] {
		b.env.Log.Warn("a key vanished without being deleted: the data stays as it is", "bucket", b.target.bucket, "key", key)
		b.warned[key] = true
	}
	b.absent[key] = true
	delete(b.bad, key)
	delete(b.changes, key)

	before, known := b.told[key]
	stored, inData := b.stored(key)
	now := seen{Sum: sum(stored)}
	switch {
	case inData && b.adopt:
		b.told[key], b.settled.Keys[key] = now, now
	case inData && (!known || before.Sum != now.Sum || b.doubtful(key)):
		b.change(key, change{seen: &now, value: stored, operation: "put"})
	case !inData && (known || b.doubtful(key)):
		b.change(key, change{operation: "delete"})
	}
}

// synced notes that all has been told: a known key that was not is missing.
func (b *book) synced(epoch kv.Epoch) {
	if b.present != nil {
		for _, key := range b.known() {
			if _, gone := b.changes[key]; !gone && !b.present[key] {
				b.missing(key)
			}
		}
	}
	b.complete, b.present, b.epoch = true, nil, epoch
}

// known returns the keys that were told, and those that were not settled when the
// machine was interrupted, sorted.
func (b *book) known() []string {
	known := maps.Clone(b.told)
	for key := range b.doubt {
		known[key] = seen{}
	}
	for key := range b.object {
		if kv.Match(b.target.filter, key) {
			known[key] = seen{}
		}
	}
	if key := b.target.filter; !kv.IsFilter(key) {
		if _, inData := b.stored(key); inData {
			known[key] = seen{}
		}
	}

	return slices.Sorted(maps.Keys(known))
}

// noted remembers when a change was.
func (b *book) noted() {
	b.last = time.Now()
	if b.since.IsZero() {
		b.since = b.last
	}
}

// quiet says whether there is anything to report, and how much longer the bucket has
// to be quiet first.
func (b *book) quiet() (wait time.Duration, pending bool) {
	if len(b.changes) == 0 && len(b.matched) == 0 {
		if b.complete {
			b.since = time.Time{}
		}
		return 0, false
	}
	longest := b.DebounceMax
	if longest == 0 {
		longest = 10 * b.Debounce
	}
	now := time.Now()

	return min(b.last.Add(time.Duration(b.Debounce)).Sub(now), b.since.Add(time.Duration(longest)).Sub(now)), true
}

// held says whether any key holds a value.
func (b *book) held() bool { return len(b.told) > 0 }

// stored returns a key's value as it stands in the data.
func (b *book) stored(key string) (json.RawMessage, bool) {
	if b.object != nil {
		value, ok := b.object[key]
		return value, ok
	}
	name, _ := b.item(b.target, key)

	return b.env.Data().Get(name)
}

// equal says whether two values are the same although other software may have
// written one of them, with other spaces and escapes.
func equal(a, b []byte) bool {
	x, errX := datalayer.Decode(a)
	y, errY := datalayer.Decode(b)

	return errX == nil && errY == nil && reflect.DeepEqual(x, y)
}
