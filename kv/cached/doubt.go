package cached

import (
	"hash/maphash"
	"slices"

	"github.com/keyturn-io/keyturn/kv"
)

// doubt says of a key that callers may know more of it than memory does: they have
// written it, or have seen something that memory did not hold. While there is a
// doubt, the bucket is asked. So nothing but the watch ever changes what memory
// says, and still no caller sees a key go back.
//
// A doubt ends in one of three ways, none of which takes a revision of one life of
// the bucket for newer than one of another:
//
//   - The watch tells the very thing that the doubt is about.
//   - The bucket, asked after the doubt arose, says the same as memory.
//   - A watch that began after the doubt arose has told all there is.
type doubt struct {
	number uint64 // doubts are numbered as they arise
	claim  claim
}

// claim is what a key is claimed to hold. Two entries with the same claim look the
// same to a reader, whatever lives of the bucket they are of. The zero claim is none.
type claim struct {
	revision  kv.Revision
	operation kv.Operation
	sum       uint64 // of the value
}

var seed = maphash.MakeSeed()

func claimOf(e kv.Entry) claim {
	if e.Revision == 0 {
		return claim{}
	}
	return claim{e.Revision, e.Operation, maphash.Bytes(seed, e.Value)}
}

// meets says whether the entry is what is claimed.
func (c claim) meets(e kv.Entry) bool {
	return c.revision != 0 && c.revision == e.Revision && c == claimOf(e)
}

// newestDoubt is the number of the newest doubt.
func (b *Bucket) newestDoubt() uint64 {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.number
}

// doubted says whether there is a doubt about a key.
func (b *Bucket) doubted(key string) bool {
	if b.doubtful.Load() == 0 {
		return false
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	_, ok := b.doubts[key]
	return ok
}

// wrote notes that a write made an entry of which the revision is known, or not, in
// a call that began when before was the newest doubt.
func (b *Bucket) wrote(key string, c claim, before uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m := b.memory.Load(); m == nil || !m.meets(key, c) {
		b.raise(key, c, before)
		return
	}
	// The watch was faster.
	if old, ok := b.doubts[key]; ok && (old.number <= before || old.claim == c) {
		b.settled(key)
	}
}

// saw notes what a caller has seen of a key, the zero Entry for nothing, in a call
// to the bucket that began when before was the newest doubt.
func (b *Bucket) saw(key string, e kv.Entry, before uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.memory.Load()
	if m == nil || !m.says(key, e) {
		b.raise(key, claimOf(e), before)
		return
	}
	if old, ok := b.doubts[key]; ok && old.number <= before {
		b.settled(key)
	}
	if r := m.get(key); r != nil && !r.held && m.fits(e, b.opts.MaxBytes) {
		e.Value = slices.Clip(e.Value) // so that appending copies
		m.put(e, b.opts.MaxBytes)
	}
}

// raise raises a doubt about a key, of which a call that began when before was the
// newest doubt claims something. It needs b.mu.
func (b *Bucket) raise(key string, c claim, before uint64) {
	if b.memory.Load() == nil && b.lost != nil {
		return // memory answers nothing before a watch that has yet to begin
	}
	if old, ok := b.doubts[key]; ok && old.number > before && old.claim != c {
		c = claim{} // of two claims at the same time nobody knows which is the newer one
	}
	b.number++
	b.doubts[key] = doubt{b.number, c}
	b.doubtful.Store(int64(len(b.doubts)))
}

// settled ends the doubt about a key. It needs b.mu.
func (b *Bucket) settled(key string) {
	delete(b.doubts, key)
	b.doubtful.Store(int64(len(b.doubts)))
}
