package datalayer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
	"unicode/utf8"
)

// View is all items of a store as they were after one commit. It never changes,
// so any goroutine may use it at any time. A nil View has no items.
type View struct {
	entries []*entry // sorted by name
	size    int      // bytes of all parts
}

// entry is an item as it stands in the file.
type entry struct {
	name  string
	part  []byte          // "name": value
	value json.RawMessage // the end of part
}

func newEntry(item Item) (*entry, error) {
	if !utf8.ValidString(item.Name) {
		return nil, fmt.Errorf("item: its name is %w", errNotUTF8)
	}
	if err := checkJSON(item.Value, MaxDepth); err != nil {
		return nil, fmt.Errorf("item %q: its value is %w", item.Name, err)
	}
	b := bytes.NewBuffer(encodeText([]byte(item.Name)))
	b.WriteString(": ")
	start := b.Len()
	if err := json.Compact(b, item.Value); err != nil {
		return nil, fmt.Errorf("item %q: its value is %w", item.Name, errNotJSON)
	}
	part := slices.Clip(b.Bytes())
	return &entry{name: item.Name, part: part, value: json.RawMessage(part[start:])}, nil
}

// Len is the number of items.
func (v *View) Len() int {
	if v == nil {
		return 0
	}
	return len(v.entries)
}

// Get returns the value of an item, which the caller must not change.
func (v *View) Get(name string) (json.RawMessage, bool) {
	if v == nil {
		return nil, false
	}
	i, found := search(v.entries, name)
	if !found {
		return nil, false
	}
	return v.entries[i].value, true
}

// only returns the view of one item, or of none when there is no such item.
func (v *View) only(name string) *View {
	if _, found := v.Get(name); !found {
		return nil
	}
	i, _ := search(v.entries, name)
	return &View{entries: v.entries[i : i+1], size: len(v.entries[i].part)}
}

// All tells all items in the order of their names. The values must not be changed.
func (v *View) All() iter.Seq2[string, json.RawMessage] {
	return func(yield func(string, json.RawMessage) bool) {
		if v == nil {
			return
		}
		for _, e := range v.entries {
			if !yield(e.name, e.value) {
				return
			}
		}
	}
}

// JSON returns all items as one JSON object, one item on a line.
func (v *View) JSON() []byte {
	if v.Len() == 0 {
		return []byte("{}\n")
	}
	doc := make([]byte, 0, v.jsonSize())
	for i, e := range v.entries {
		doc = append(doc, separator(i)...)
		doc = append(doc, e.part...)
	}
	return append(doc, "\n}\n"...)
}

func separator(i int) string {
	if i == 0 {
		return "{\n  "
	}
	return ",\n  "
}

// jsonSize is the size of what JSON returns.
func (v *View) jsonSize() int { return v.size + 4*len(v.entries) + len("\n}\n") }

// WriteTo writes what JSON returns.
func (v *View) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(v.JSON())
	return int64(n), err
}

// Export writes the items as JSON to a new file that only its owner can read.
// It is meant for a command that is about to run: it is not synced to the disk.
func (v *View) Export(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("export data: %w", err)
	}
	_, err = v.WriteTo(f)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("export data: %w", err)
	}
	return nil
}

// with returns the view that a commit leads to, and whether that is another one.
// It costs what the commit changes and one copy of the pointers to all items.
func (v *View) with(c Commit) (*View, bool, error) {
	edits, err := editsOf(c)
	if err != nil {
		return nil, false, err
	}
	next := &View{entries: make([]*entry, 0, len(v.entries)+len(edits)), size: v.size}
	changed := false
	rest := v.entries
	for _, edit := range edits {
		i, found := search(rest, edit.name)
		next.entries = append(next.entries, rest[:i]...)
		rest = rest[i:]
		if found {
			old := rest[0]
			rest = rest[1:]
			if bytes.Equal(old.part, edit.part) {
				next.entries = append(next.entries, old)
				continue
			}
			next.size -= len(old.part)
		}
		if edit.part != nil {
			next.entries = append(next.entries, edit)
			next.size += len(edit.part)
		}
		changed = changed || found || edit.part != nil
	}
	next.entries = append(next.entries, rest...)
	if size := next.jsonSize(); size > MaxSize {
		return nil, false, fmt.Errorf("all items: %w", errTooLarge)
	}
	return next, changed, nil
}

// editsOf returns the entries that a commit sets, and one without a part for
// each that it deletes, sorted and each name once.
func editsOf(c Commit) ([]*entry, error) {
	edits := make([]*entry, 0, len(c.Delete)+len(c.Set))
	for _, name := range c.Delete {
		edits = append(edits, &entry{name: name})
	}
	for _, item := range c.Set {
		e, err := newEntry(item)
		if err != nil {
			return nil, err
		}
		edits = append(edits, e)
	}
	// The last one counts: reversed, a stable sort has it first.
	slices.Reverse(edits)
	slices.SortStableFunc(edits, func(a, b *entry) int { return strings.Compare(a.name, b.name) })
	return slices.CompactFunc(edits, func(a, b *entry) bool { return a.name == b.name }), nil
}

func search(sorted []*entry, name string) (int, bool) {
	return slices.BinarySearchFunc(sorted, name, func(e *entry, name string) int {
		return strings.Compare(e.name, name)
	})
}
