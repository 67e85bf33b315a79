package datalayer

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkCommit sets a small item, and writes the file afterwards as a machine
// does. In the same run it does what nothing on the disk can do without, one write
// and one sync of as many bytes, and what a store without a journal does.
func BenchmarkCommit(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "machine_data.json"))
	bare, err := os.OpenFile(filepath.Join(b.TempDir(), "bare"), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer bare.Close()
	if _, err := bare.Write(make([]byte, journalSize)); err != nil {
		b.Fatal(err)
	}
	if err := bare.Sync(); err != nil {
		b.Fatal(err)
	}
	whole := filepath.Join(b.TempDir(), "whole.json")

	var committing, writing, replacing, checkpointing time.Duration
	timed := func(total *time.Duration, f func() error) {
		start := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		*total += time.Since(start)
	}
	content := bytes.Repeat([]byte("x"), 200)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		value := json.RawMessage(`"` + strings.Repeat("x", 180) + strconv.Itoa(n) + `"`)
		timed(&writing, func() error {
			content[0] = byte(n)
			_, err := bare.WriteAt(content, 0)
			return errors.Join(err, syncData(bare))
		})
		timed(&committing, func() error {
			_, err := s.Commit(Commit{Set: []Item{{"a", value}}})
			return err
		})
		timed(&checkpointing, s.Checkpoint)
		timed(&replacing, func() error { return WriteFile(whole, s.View().JSON()) })
	}
	b.ReportMetric(float64(committing.Microseconds())/float64(b.N), "us/commit")
	b.ReportMetric(float64(writing.Microseconds())/float64(b.N), "us/bare")
	b.ReportMetric(float64(replacing.Microseconds())/float64(b.N), "us/whole")
	b.ReportMetric(float64(checkpointing.Microseconds())/float64(b.N), "us/checkpoint")
	b.ReportMetric(float64(committing)/float64(writing), "commit/bare")
	b.ReportMetric(float64(committing)/float64(replacing), "commit/whole")
}

// BenchmarkCommitOneOf10000 sets one of many items. In the same run it writes all
// of them to a new file and syncs that, which is what a store without a journal
// cannot avoid.
func BenchmarkCommitOneOf10000(b *testing.B) {
	s := manyItems(b, 10_000)
	folder := b.TempDir()
	var committing, writing time.Duration
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		start := time.Now()
		commit(b, s, set("item-05000", strconv.Itoa(n)), true)
		committing += time.Since(start)

		doc := s.View().JSON()
		start = time.Now()
		plain, err := os.Create(filepath.Join(folder, strconv.Itoa(n)))
		if err != nil {
			b.Fatal(err)
		}
		_, err = plain.Write(doc)
		if err := errors.Join(err, plain.Sync(), plain.Close()); err != nil {
			b.Fatal(err)
		}
		writing += time.Since(start)
		if err := os.Remove(plain.Name()); err != nil {
			b.Fatal(err)
		}
		checkpoint(b, s)
	}
	b.ReportMetric(float64(committing.Microseconds())/float64(b.N), "us/commit")
	b.ReportMetric(float64(writing.Microseconds())/float64(b.N), "us/plain")
	b.ReportMetric(float64(committing)/float64(writing), "commit/plain")
}
