package cached

import (
	"sync"

	"github.com/keyturn-io/keyturn/kv"
)

// memory is what one watch has told: the newest entry of each key, markers
// included. It changes under Bucket.mu, and is read by key without.
type memory struct {
	epoch   kv.Epoch
	records sync.Map    // of *record by key
	size    int         // of records
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

// get returns the record of a key, or nil.
func (m *memory) get(key string) *record {
	if r, ok := m.records.Load(key); ok {
		return r.(*record)
	}
	return nil
}

// put remembers an entry, without its value if with it more than limit bytes would
// be held; 0 is no limit.
func (m *memory) put(e kv.Entry, limit int64) {
	m.discount(m.get(e.Key))
	r := &record{entry: e, held: m.fits(e, limit)}
	if !r.held {
		r.entry.Value = nil
	}
	m.records.Store(e.Key, r)
	m.size++
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
	m.discount(m.get(key))
	m.records.Delete(key)
}

// discount counts a record, if there is one, no more.
func (m *memory) discount(r *record) {
	if r == nil {
		return
	}
	m.size--
	m.bytes -= int64(len(r.entry.Value))
	if r.entry.Operation == kv.OpPut {
		m.values--
	}
}

// says whether e is what memory has of the key; the zero Entry is nothing. The
// revision alone would not say so: another life of the bucket may give one again.
func (m *memory) says(key string, e kv.Entry) bool {
	r := m.get(key)
	if r == nil {
		return e.Revision == 0
	}
	return r.entry.Revision == e.Revision && r.entry.Operation == e.Operation && r.entry.Created.Equal(e.Created)
}

// meets says whether what memory has of the key is what is claimed.
func (m *memory) meets(key string, c claim) bool {
	r := m.get(key)
	return r != nil && r.held && c.meets(r.entry)
}

// keys returns the keys that hold a value and that one of the filters matches, in no order.
func (m *memory) keys(filters []string) []string {
	var keys []string
	for key, r := range m.records.Range {
		if r.(*record).entry.Operation == kv.OpPut && kv.MatchAny(filters, key.(string)) {
			keys = append(keys, key.(string))
		}
	}
	return keys
}

// overgrown says whether there are far more markers than there were in the
// beginning. The watch does not tell when a marker goes, so most may be gone.
func (m *memory) overgrown() bool { return m.size-m.values > 2*m.markers+1000 }
