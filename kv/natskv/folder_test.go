package natskv_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn-io/keyturn/kv/natskv"
)

// TestBackupSweeps has folders of other backups where a bucket is backed up to: those of one
// that was killed go, and that of one that runs stays.
func TestBackupSweeps(t *testing.T) {
	srv := startBroker(t)
	c := newClient(t, srv.connect(), quick)
	fill(t, newBucket(t, c, natskv.Config{Bucket: "B"}))
	dir := filepath.Join(t.TempDir(), "backup")
	left := filepath.Join(dir, "unfinished-1", "stream.tar.s2")
	check(t, os.MkdirAll(filepath.Dir(left), 0o700))
	check(t, os.WriteFile(left, []byte("some"), 0o600))

	other, begun := newClient(t, srv.connect(), quick), false
	_, err := c.Backup(t.Context(), "B", dir, natskv.BackupOptions{Progress: func(uint64, uint64) {
		if begun {
			return
		}
		begun = true
		if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what a backup has left that was killed is still there: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, err := other.Backup(ctx, "B", dir, natskv.BackupOptions{Progress: func(uint64, uint64) { cancel() }})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the second backup: %v", err)
		}
	}})
	check(t, err)
	var names []string
	entries, err := os.ReadDir(dir)
	check(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"backup.json", "stream.tar.s2"}; !slices.Equal(names, want) {
		t.Errorf("the folder has %q, want %q", names, want)
	}
}

// TestBackupFolderLocked backs up into a folder that somebody has locked, as flock(1) does.
func TestBackupFolderLocked(t *testing.T) {
	srv := startBroker(t)
	c := newClient(t, srv.connect(), quick)
	fill(t, newBucket(t, c, natskv.Config{Bucket: "B"}))
	dir := t.TempDir()
	file, err := os.Open(dir)
	check(t, err)
	defer file.Close()
	check(t, syscall.Flock(int(file.Fd()), syscall.LOCK_EX))
	done := make(chan error, 1)
	go func() {
		_, err := c.Backup(t.Context(), "B", dir, natskv.BackupOptions{})
		done <- err
	}()
	select {
	case err := <-done:
		check(t, err)
	case <-time.After(10 * time.Second):
		check(t, syscall.Flock(int(file.Fd()), syscall.LOCK_UN))
		t.Errorf("the backup waits for the lock: %v", <-done)
	}
}

// TestBackupsMeet makes two backups in one folder at the same time. The one that is
// finished first stays.
func TestBackupsMeet(t *testing.T) {
	srv := startBroker(t)
	c := newClient(t, srv.connect(), quick)
	b := newBucket(t, c, natskv.Config{Bucket: "B"})
	fill(t, b)
	dir := filepath.Join(t.TempDir(), "backup")
	var first natskv.Backup
	_, err := c.Backup(t.Context(), "B", dir, natskv.BackupOptions{Progress: func(done, total uint64) {
		if done < total {
			return
		}
		put(t, b, "meanwhile", "1")
		var err error
		first, err = newClient(t, srv.connect(), quick).Backup(t.Context(), "B", dir, natskv.BackupOptions{})
		check(t, err)
	}})
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("the second backup: %v", err)
	}
	has, err := c.Restore(t.Context(), dir, natskv.RestoreOptions{As: "C", DryRun: true})
	has.Bucket = first.Bucket
	check(t, err)
	if diff := cmp.Diff(first, has); diff != "" {
		t.Errorf("the folder has: -first +has\n%s", diff)
	}
}
