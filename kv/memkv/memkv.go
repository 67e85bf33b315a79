// Package memkv keeps buckets in memory, for tests and rehearsals. It holds to
// the contract of kv.Bucket like a real store, starts no goroutine and takes its
// time from package time, so it works inside a bubble of testing/synctest. And it
// breaks on demand: a [Store] can go down, lose buckets and keys, and go back to
// what it was before.
package memkv

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/internal/view"
)

// Store holds buckets by name. Its methods may be called at the same time from
// several goroutines.
type Store struct {
	mu      sync.Mutex
	buckets map[string]*bucket
	down    bool      // all of it
	epochs  int       // lives that buckets have begun
	last    time.Time // the newest Created given out

	listeners map[*listener]bool
}

// Config is how a bucket behaves. The zero value keeps one entry for each key
// and has no limits.
type Config struct {
	History      int   // entries kept for each key; 0 is 1
	MaxValueSize int   // bytes; 0 is no limit
	MaxBytes     int64 // keys and values together; 0 is no limit
}

// Backup is what a bucket held at some moment; see Store.Backup.
type Backup struct {
	bucket string
	life   *life
}

// New returns a store without buckets.
func New() *Store { return &Store{buckets: map[string]*bucket{}} }

// Bucket returns the bucket of that name, which need not exist. It returns
// kv.ErrInvalidBucket for a name that kv.CheckBucket refuses.
func (s *Store) Bucket(name string) (kv.Bucket, error) {
	if err := kv.CheckBucket(name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bucket(name), nil
}

// bucket needs s.mu.
func (s *Store) bucket(name string) *bucket {
	b, ok := s.buckets[name]
	if !ok {
		b = &bucket{store: s, name: name, view: view.New(name)}
		s.buckets[name] = b
	}
	return b
}

// Create creates an empty bucket. It returns kv.ErrInvalidBucket, and
// kv.ErrBucketExists when there is one with other settings.
func (s *Store) Create(name string, cfg Config) error {
	if err := kv.CheckBucket(name); err != nil {
		return err
	}
	cfg.History = max(cfg.History, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.bucket(name)
	switch {
	case b.life != nil && b.life.cfg == cfg:
		return nil
	case b.life != nil:
		return fmt.Errorf("create bucket %s: %w", name, kv.ErrBucketExists)
	}
	b.begin(&life{cfg: cfg, entries: map[string][]kv.Entry{}})
	return nil
}

// Remove removes a bucket with all it holds, or returns kv.ErrBucketNotFound.
func (s *Store) Remove(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.bucket(name)
	if b.life == nil {
		return fmt.Errorf("remove bucket %s: %w", name, kv.ErrBucketNotFound)
	}
	b.life = nil
	b.tell()
	return nil
}

// Down makes buckets unavailable, or the whole store when none is named: all
// they are asked fails with kv.ErrUnavailable.
func (s *Store) Down(buckets ...string) { s.setDown(true, buckets) }

// Up ends what Down with the same names began.
func (s *Store) Up(buckets ...string) { s.setDown(false, buckets) }

func (s *Store) setDown(down bool, names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(names) == 0 {
		s.down = down
		names = slices.Sorted(maps.Keys(s.buckets))
	} else {
		for _, name := range names {
			s.bucket(name).down = down
		}
	}
	for _, name := range names {
		s.buckets[name].tell()
	}
}

// PurgeAll removes all entries of a bucket and leaves no markers.
func (s *Store) PurgeAll(bucket string) error {
	return s.tamper(bucket, func(l *life) { clear(l.entries) })
}

// Vanish removes all entries of a key and leaves no marker, as an expiry does.
func (s *Store) Vanish(bucket, key string) error {
	return s.tamper(bucket, func(l *life) { delete(l.entries, key) })
}

func (s *Store) tamper(bucket string, change func(*life)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.bucket(bucket)
	if b.life == nil {
		return fmt.Errorf("bucket %s: %w", bucket, kv.ErrBucketNotFound)
	}
	change(b.life)
	b.tell()
	return nil
}

// Backup returns what a bucket holds now, for Restore.
func (s *Store) Backup(bucket string) (Backup, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.bucket(bucket)
	if b.life == nil {
		return Backup{}, fmt.Errorf("back up bucket %s: %w", bucket, kv.ErrBucketNotFound)
	}
	return Backup{bucket, b.life.clone()}, nil
}

// Restore makes a bucket what it was at the time of the backup, revisions
// included, whether it exists or not.
func (s *Store) Restore(backup Backup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bucket(backup.bucket).begin(backup.life.clone())
}

// now returns the time, later than any it returned before: revisions of two
// lives of a bucket are told apart by it, also where time stands still.
// It needs s.mu.
func (s *Store) now() time.Time {
	now := time.Now()
	if !now.After(s.last) {
		now = s.last.Add(1)
	}
	s.last = now
	return now
}
