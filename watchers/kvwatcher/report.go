package kvwatcher

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/watchers"
)

// report reports the changes in one commit, with the mark that they will leave.
func (b *book) report(o watchers.Observation, report watchers.Report) error {
	keys := map[string]*seen{}
	for key := range b.matched {
		if s, ok := b.told[key]; ok {
			keys[key] = &s
		}
	}
	for key, c := range b.changes {
		keys[key] = c.seen
	}
	after := b.settled.with(b.epoch, keys)
	var err error
	if o.Set, o.Delete, err = b.items(); err != nil {
		return err
	}
	o.Changes = b.forCommands()
	o.Mark = encode(after)

	o.Pending = b.pending()

	err = report(o)
	if err != nil && !errors.Is(err, watchers.ErrRefused) {
		return err
	}
	for key, c := range b.changes {
		if c.seen == nil {
			delete(b.told, key)
			delete(b.object, key)
			continue
		}
		b.told[key] = *c.seen
		if b.object != nil {
			b.object[key] = c.value
		}
	}
	if err == nil {
		b.settled = after
		clear(b.doubt)
	} else {
		for key := range b.changes {
			b.refused[key] = true
		}
	}
	clear(b.changes)
	clear(b.matched)
	b.since = time.Time{}

	return nil
}

// pending returns what must be kept before the data is changed: the keys of which the
// data will be what the mark says although it is something else now, which a command may
// have had. A crash would leave no trace of that.
func (b *book) pending() json.RawMessage {
	keys := maps.Clone(b.doubt)
	for key, c := range b.changes {
		before, known := b.settled.Keys[key]
		stored, inData := b.stored(key)
		back := known == (c.seen != nil) && (!known || before.Sum == c.seen.Sum)
		same := known == inData && (!known || before.Sum == sum(stored))
		// A key that is new leaves no trace either when it vanishes again: of which items
		// are its own, a filter can only say by its mark.
		fresh := b.object == nil && kv.IsFilter(b.target.filter) && !known && !inData && c.seen != nil
		if back && !same || fresh {
			keys[key] = true
		}
	}
	if len(keys) == len(b.doubt) {
		return nil
	}

	return encode(pending{Bucket: b.target.bucket, Filter: b.target.filter, Keys: slices.Sorted(maps.Keys(keys))})
}

// maxOld is how many bytes of old values a report holds at most. They are kept beside
// the marks while a command runs.
const maxOld = 64 << 10

// forCommands returns the changes for the commands of the visit.
func (b *book) forCommands() (changes []watchers.Change) {
	room := maxOld
	for _, key := range slices.Sorted(maps.Keys(b.changes)) {
		c := b.changes[key]
		if room -= len(c.old); room < 0 {
			c.old = nil
		}
		changes = append(changes, watchers.Change{
			Bucket: b.target.bucket, Key: key, Operation: c.operation, Revision: c.revision, Old: c.old,
		})
	}

	return changes
}

// matchedDetail names keys that have a new revision, for people.
func (b *book) matchedDetail() string {
	for key := range b.matched {
		if len(b.matched) == 1 {
			return fmt.Sprintf("%s.%s has a new revision with the same value", b.target.bucket, key)
		}
	}

	return fmt.Sprintf("%d keys of %s have new revisions with the same values", len(b.matched), b.target.bucket)
}

// detail names what has changed, for people.
func (b *book) detail() string {
	keys := slices.Sorted(maps.Keys(b.changes))
	switch {
	case len(keys) > 1:
		return fmt.Sprintf("%d keys of %s changed", len(keys), b.target.bucket)
	case b.changes[keys[0]].seen == nil:
		return fmt.Sprintf("%s.%s is gone", b.target.bucket, keys[0])
	case b.changes[keys[0]].seen.Revision == 0:
		return fmt.Sprintf("%s.%s vanished before its last value was acted on", b.target.bucket, keys[0])
	default:
		return fmt.Sprintf("%s.%s changed at revision %d", b.target.bucket, keys[0], b.changes[keys[0]].seen.Revision)
	}
}

// items returns what the changes make of the data.
func (b *book) items() (set []datalayer.Item, remove []string, err error) {
	for _, key := range slices.Sorted(maps.Keys(b.changes)) {
		name, _ := b.item(b.target, key)
		if c := b.changes[key]; c.seen == nil {
			remove = append(remove, name)
		} else {
			set = append(set, datalayer.Item{Name: name, Value: c.value})
		}
	}
	if b.object == nil || len(b.changes) == 0 {
		return set, remove, nil
	}

	after := maps.Clone(b.object)
	for key, c := range b.changes {
		if c.seen == nil {
			delete(after, key)
		} else {
			after[key] = c.value
		}
	}
	name, _ := b.item(b.target, "")
	value, err := datalayer.Encode(after)
	if err != nil {
		return nil, nil, fmt.Errorf("the values of all keys do not fit into one item: %w", err)
	}

	return []datalayer.Item{{Name: name, Value: value}}, nil, nil
}
