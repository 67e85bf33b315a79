// Package kv is a key-value store with history and watching, in the vocabulary
// of NATS JetStream: buckets hold keys, keys hold entries, and every change of
// a bucket has a revision.
//
// The package itself is the contract and imports the standard library only.
// natskv keeps a Bucket on JetStream, memkv one in memory, and kvtest holds
// any implementation to what is written here.
//
// # Watching
//
// [Bucket.Watch] is loud: where the store falls silent, the watch says what
// happened. It tells the difference between what it told before and what the
// bucket holds, in the order of revisions as far as the store keeps them, and
// however often the connection, the server or the bucket goes away and comes
// back, what it has told is in the end what the bucket holds.
package kv

import (
	"context"
	"iter"
	"time"
)

// Revision numbers the changes of a bucket, from 1 upward; 0 is no revision.
// Revisions of two epochs of a bucket say nothing about each other.
type Revision uint64

// Epoch tells one life of a bucket from the next: it differs after a bucket
// was deleted and created again. A backup that is restored may bring its epoch
// back with it; then revisions go back, which a watch tells as Reset. It is
// compared for equality only. The empty Epoch is unknown.
type Epoch string

// Operation is what an entry did to its key.
type Operation string

// The operations.
const (
	OpPut    Operation = "PUT"
	OpDelete Operation = "DEL"   // a marker: the history stays
	OpPurge  Operation = "PURGE" // a marker: the history is gone
)

// Entry is one revision of a key. Its Value is shared by all who get the entry or are
// told it, so it must not be changed in place. Appending to it makes a copy.
type Entry struct {
	Bucket    string
	Key       string
	Value     []byte // empty for markers
	Revision  Revision
	Created   time.Time // when the store took it
	Operation Operation
}

// Bucket is what a reader and writer of keys needs. Its methods may be called
// at the same time from several goroutines. A Bucket is a name and a way to the
// store, not a promise that the bucket exists: each method that finds none
// returns ErrBucketNotFound, and ErrUnavailable (with the cause wrapped) when
// the store cannot be reached or does not answer in time.
//
// Every method that takes a key returns ErrInvalidKey for one that CheckKey refuses.
type Bucket interface {
	// Name is the bucket's name.
	Name() string

	// Get returns the newest entry of a key. It returns ErrKeyNotFound when there
	// is none, and ErrKeyDeleted (which is an ErrKeyNotFound) together with the
	// marker when the newest entry is a delete or a purge.
	Get(ctx context.Context, key string) (Entry, error)

	// GetRevision returns the entry that a key had at exactly that revision,
	// markers included, or ErrKeyNotFound when the revision is not the key's or
	// is no longer kept.
	GetRevision(ctx context.Context, key string, rev Revision) (Entry, error)

	// Put sets a key, whatever it was before. It returns ErrValueTooLarge or
	// ErrBucketFull when the bucket's limits forbid it.
	Put(ctx context.Context, key string, value []byte) (Revision, error)

	// Create sets a key that does not exist, was deleted or was purged; else
	// it returns ErrKeyExists.
	Create(ctx context.Context, key string, value []byte) (Revision, error)

	// Update sets a key whose newest revision is last; else it returns
	// ErrWrongRevision. A last of 0 means that the key has no entry at all.
	Update(ctx context.Context, key string, value []byte, last Revision) (Revision, error)

	// Delete puts a delete marker on a key and keeps its history. Deleting what
	// is not there succeeds. With a last above 0 it returns ErrWrongRevision
	// when that is not the key's newest revision.
	Delete(ctx context.Context, key string, last Revision) error

	// Purge puts a purge marker on a key and removes its history. For last see Delete.
	Purge(ctx context.Context, key string, last Revision) error

	// History returns the entries that are kept of a key, markers included,
	// oldest first, or ErrKeyNotFound when there are none.
	History(ctx context.Context, key string) ([]Entry, error)

	// Keys returns the keys that hold a value, sorted. Each filter is a key in
	// which a token may be * and the last one >; no filter means all keys. One
	// that CheckFilter refuses is an ErrInvalidKey.
	Keys(ctx context.Context, filters ...string) ([]string, error)

	// Watch tells what the bucket holds and then how that changes, until ctx is
	// done, the loop over it is left, or it cannot go on; see Event for what is
	// told. Leaving the loop ends the subscription; nothing is left behind.
	//
	// A missing bucket, a lost server and a refused permission do not end a
	// watch: it says Lost and goes on trying. An error ends it and is its last
	// pair: ErrInvalidKey, ctx.Err() when ctx is done, or ErrUnavailable when the
	// program itself has closed the way to the store.
	Watch(ctx context.Context, opts WatchOptions) iter.Seq2[Event, error]

	// Status describes the bucket as it is now.
	Status(ctx context.Context) (Status, error)
}

// Expirer is a Bucket in which a single value can have an end. Both methods take a
// ttl of a second or more, which counts in whole seconds, rounded up. For less they
// return ErrInvalidConfig, and ErrUnsupported when the bucket is not set to do so. What
// has expired is gone without a marker, unless the bucket is set to leave one.
type Expirer interface {
	Bucket

	// PutTTL is Put of a value that expires.
	PutTTL(ctx context.Context, key string, value []byte, ttl time.Duration) (Revision, error)

	// CreateTTL is Create of a value that expires.
	CreateTTL(ctx context.Context, key string, value []byte, ttl time.Duration) (Revision, error)
}

// WatchOptions says what to watch. The zero value is the newest entry of every
// key and all that follows.
type WatchOptions struct {
	// Filters are the keys to watch, as in Bucket.Keys. None means all keys.
	Filters []string
}

// EventKind says what happened.
type EventKind int

// The kinds of events. A watch begins by telling a Put, Delete or Purge for the
// newest entry of each key, in order of revision, then Synced; from there on it
// tells changes as they come. If the bucket cannot be had at the start, Lost comes first.
const (
	// Put, Delete and Purge tell the Entry that is now the key's newest. A key
	// that is written faster than it is read may be told less often than it was
	// written; the last one is always told.
	Put EventKind = iota + 1
	Delete
	Purge

	// Missing tells that Entry.Key, told before by a Put, is no longer in the
	// bucket although nobody put a marker on it: the bucket was purged, the value
	// expired, or the bucket is another or an older one. Entry.Value is empty.
	Missing

	// Synced tells that all that was in the bucket has been told.
	Synced

	// Reset tells that the bucket is not the one it was: deleted and created
	// again, restored, or set back. What differs follows, then Synced.
	Reset

	// Lost tells that the bucket or its server is away or refuses, with the
	// reason in Err; it is told once when that begins, and again when the reason
	// becomes another one (errors.Is on this package's errors). A server that is back
	// within a moment need not be told as lost.
	Lost

	// Found tells that it is back after Lost. What differs follows, then Synced.
	Found
)

// Event is one thing that a watch has to tell.
type Event struct {
	Kind  EventKind
	Entry Entry // of Put, Delete, Purge and Missing; the zero Entry else
	Epoch Epoch // the life of the bucket that this is about; empty for Lost
	Err   error // of Lost
}

// Status describes a bucket.
type Status struct {
	Bucket       string
	Epoch        Epoch
	Values       uint64        // entries kept, history and markers included
	Bytes        uint64        // what they take in the store
	History      int           // entries kept for each key
	TTL          time.Duration // entries older than this expire; 0 is never
	MaxValueSize int           // bytes; 0 is no limit
	MaxBytes     int64         // bytes; 0 is no limit
	Replicas     int
	LastRevision Revision
}

var kindNames = map[EventKind]string{
	Put: "put", Delete: "delete", Purge: "purge", Missing: "missing",
	Synced: "synced", Reset: "reset", Lost: "lost", Found: "found",
}

// String returns the kind's name in lower case, as logs show it.
func (k EventKind) String() string {
	if s, ok := kindNames[k]; ok {
		return s
	}
	return "unknown"
}
