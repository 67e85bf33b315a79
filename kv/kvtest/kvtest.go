// Package kvtest holds implementations of kv.Bucket to their contract.
package kvtest

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn-io/keyturn/kv"
)

// Harness is what Run needs of an implementation.
type Harness struct {
	// Open returns a new empty bucket and the ways to break it. What it
	// opens it closes with t.Cleanup.
	Open func(t *testing.T, cfg Config) Subject
}

// Config is the bucket that a test wants. The zero value of a field is the
// implementation's default, which for limits must be none.
type Config struct {
	History      int // 0 is 1
	MaxValueSize int
	MaxBytes     int64
}

// Subject is a bucket under test and what can happen to it behind its back. A
// func that is nil cannot be had: what needs it is skipped, and says so.
type Subject struct {
	kv.Bucket

	Remove   func()                  // removes the bucket
	Recreate func()                  // creates it again, empty
	PurgeAll func()                  // removes all entries and leaves no marker
	Vanish   func(key string)        // removes all entries of a key and leaves no marker
	Backup   func() (restore func()) // restore makes the bucket what it was at the time of Backup
	Down, Up func()                  // makes the bucket's store unavailable, and available again
}

// deadline bounds every wait for something that must happen.
const deadline = 20 * time.Second

// Run holds the implementation to everything that package kv says.
func Run(t *testing.T, h Harness) {
	for _, test := range slices.Concat(entryTests, watchTests) {
		t.Run(test.name, func(t *testing.T) { test.run(t, h) })
	}
}

type test struct {
	name string
	run  func(t *testing.T, h Harness)
}

// need skips a test that needs a fault that the implementation cannot have.
func need(t *testing.T, what string, has bool) {
	t.Helper()
	if !has {
		t.Skipf("the implementation has no way to %s", what)
	}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: error is %v, want %v", what, got, want)
	}
}

func put(t *testing.T, b kv.Bucket, key, value string) kv.Revision {
	t.Helper()
	rev, err := b.Put(t.Context(), key, []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantEntry compares all of an entry but its time, which it holds to be recent.
func wantEntry(t *testing.T, what string, got, want kv.Entry) {
	t.Helper()
	if age := time.Since(got.Created); age < -time.Minute || age > time.Hour {
		t.Errorf("%s: created %s, which is %s ago", what, got.Created, age)
	}
	if !bytes.Equal(got.Value, want.Value) && len(want.Value) > 1000 {
		t.Errorf("%s: the value differs", what)
		return
	}
	got.Created, want.Created = time.Time{}, time.Time{}
	if len(got.Value) == 0 {
		got.Value = nil
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: -want +got\n%s", what, diff)
	}
}
