package cached

import (
	"slices"

	"github.com/keyturn-io/keyturn/kv"
)

// memory is what one watch has told: the newest entry of each key, markers
// included. A memory that answers is guarded by Bucket.mu; until then it is
// owned by the session that fills it.
type memory struct {
	epoch   kv.Epoch
	records map[string]*record
	values  int         // keys that hold a value
	bytes   int64       // of the values that are held
	last    kv.Revision // the highest told
	markers int         // there were when all had been told
}

// record is an entry as it is remembered. It never changes; another takes its place.
type record struct {
	entry kv.Entry // without its value if that is not held
	held  bool
}

// is says whether the record is of that entry. Revisions alone do not say so:
// another life of the bucket may give one again.
func (r *record) is(e kv.Entry) bool {
	return r.entry.Revision == e.Revision && r.entry.Operation == e.Operation && r.entry.Created.Equal(e.Created)
}

// put remembers an entry, without its value if that would be more than limit
// bytes in all; 0 is no limit.
func (m *memory) put(e kv.Entry, limit int64) {
	m.remove(e.Key)
	r := &record{entry: e, held: m.fits(e, limit)}
	if !r.held {
		r.entry.Value = nil
	}
	m.records[e.Key] = r
	m.bytes += int64(len(r.entry.Value))
	m.last = max(m.last, e.Revision)
	if e.Operation == kv.OpPut {
		m.values++
	}
}

// fits says whether there is room for the value of an entry.
func (m *memory) fits(e kv.Entry, limit int64) bool {
	return limit == 0 || m.bytes+int64(len(e.Value)) <= limit
}

func (m *memory) remove(key string) {
	r, ok := m.records[key]
	if !ok {
		return
	}
	delete(m.records, key)
	m.bytes -= int64(len(r.entry.Value))
	if r.entry.Operation == kv.OpPut {
		m.values--
	}
}

// says whether e is what memory has of the key; the zero Entry is nothing.
func (m *memory) says(key string, e kv.Entry) bool {
	r, ok := m.records[key]
	return ok && r.is(e) || !ok && e.Revision == 0
}

// meets says whether what memory has of the key is what is claimed.
func (m *memory) meets(key string, c claim) bool {
	r, ok := m.records[key]
	return ok && r.held && c.meets(r.entry)
}

// keys returns the keys that hold a value and that one of the filters matches, sorted.
func (m *memory) keys(filters []string) []string {
	var keys []string
	for key, r := range m.records {
		if r.entry.Operation == kv.OpPut && kv.MatchAny(filters, key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// overgrown says whether there are far more markers than there were in the
// beginning. The watch does not tell when a marker goes, so most may be gone.
func (m *memory) overgrown() bool { return len(m.records)-m.values > 2*m.markers+1000 }

// newMemory returns a memory of nothing.
func newMemory() *memory { return &memory{records: map[string]*record{}} }
