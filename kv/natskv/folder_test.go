package natskv_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

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
