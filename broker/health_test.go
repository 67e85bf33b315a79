//go:build linux

package broker

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"
)

// A full disk stops the server for good. When there is space again it is started anew.
func TestFullDisk(t *testing.T) {
	verifyNoLeak(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m,mode=0700"); err != nil {
		t.Skipf("SKIPPED: a full disk needs a small file system, and mounting one is not allowed: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	server, client := connect(t, dir), connect(t, dir)
	kvs := []jetstream.KeyValue{bucket(t, server), bucket(t, client)}

	var acknowledged []string
	tryPut := func(i int) bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		key := fmt.Sprint("k", i)
		if _, err := kvs[i%2].PutString(ctx, key, key); err != nil {
			return false
		}
		acknowledged = append(acknowledged, key)
		return true
	}
	i := 0
	for ; i < 10; i++ {
		if !tryPut(i) {
			t.Fatal("a put failed on a disk with space")
		}
	}
	filler := filepath.Join(dir, "filler")
	fillDisk(t, filler)
	eventually(t, "puts fail", func() bool { i++; return !tryPut(i) && !tryPut(i+1) })
	i += 2

	// A store that is opened on a full disk can be read, and mends as well.
	client.Close()
	server.Close()
	server, client = connect(t, dir), connect(t, dir)
	kvs[0], kvs[1] = openBucket(t, server.Conn()), openBucket(t, client.Conn())
	for _, key := range acknowledged {
		wantValue(t, openBucket(t, client.Conn()), key, key)
	}
	eventually(t, "puts fail", func() bool { i += 2; return !tryPut(i) && !tryPut(i+1) })

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, "puts work again", func() bool { i += 2; return tryPut(i) && tryPut(i+1) })
	t.Logf("puts work again after %v, %d were acknowledged", took, len(acknowledged))

	kv := bucket(t, client)
	for _, key := range acknowledged {
		wantValue(t, kv, key, key)
	}
	if _, err := os.Stat(filepath.Join(dir, "canary")); !os.IsNotExist(err) {
		t.Errorf("the canary is still there: %v", err)
	}
}

// fillDisk writes a file that takes the last byte of its disk.
func fillDisk(t *testing.T, path string) {
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for size := 1 << 20; size > 0; {
		if _, err := file.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}
