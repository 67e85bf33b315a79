package natskv_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/kvtest"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// someBackup is a backup of a bucket B with some of everything, the size of its data
// and what the bucket held.
func someBackup(t *testing.T) (dir string, size int, want map[string][]kv.Entry) {
	t.Helper()
	srv := startBroker(t)
	c := newClient(t, srv.connect(), quick)
	b := newBucket(t, c, natskv.Config{Bucket: "B", History: 3})
	fill(t, b)
	dir = backup(t, c, "B")
	st, err := os.Stat(filepath.Join(dir, "stream.tar.s2"))
	check(t, err)
	return dir, int(st.Size()), dump(t, b)
}

// TestRestoreCut gives up after so many bytes have come to the server. No bucket and
// no stream is left, and the next attempt succeeds.
func TestRestoreCut(t *testing.T) {
	dir, size, want := someBackup(t)
	srv := startBroker(t)
	nc := srv.connect()
	c := newClient(t, nc, quick)
	js := jetStream(t, nc)
	cuts := []int{1, 9, 10, 11, size - 2, size - 1, size}
	for n := 20; n < size; n += size / 25 {
		cuts = append(cuts, n)
	}
	partial := 0
	for _, n := range cuts {
		chunks := 1 + n/900_000 // a message has less than a megabyte
		natskv.SetChunkSize(t, n/chunks)
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		_, err := c.Restore(ctx, dir, natskv.RestoreOptions{Progress: func(uint64, uint64) {
			if calls++; calls == chunks+1 { // or before the end if nothing is left
				if info, err := js.Stream(ctx, "KV_B"); err == nil && info.CachedInfo().State.Msgs > 0 {
					partial++
				}
				cancel()
			}
		}})
		cancel()
		if err == nil && n == size {
			check(t, c.DeleteBucket(t.Context(), "B"))
			continue
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cut at byte %d of %d: %v", n, size, err)
		}
		if left := buckets(t, c, js); len(left) > 0 {
			t.Fatalf("cut at byte %d of %d: left behind: %q", n, size, left)
		}
	}
	if partial < 10 {
		t.Errorf("the server has begun to restore in %d of %d cases", partial, len(cuts))
	}
	_, err := c.Restore(t.Context(), dir, natskv.RestoreOptions{})
	check(t, err)
	b, err := c.Bucket("B")
	check(t, err)
	if diff := cmp.Diff(want, dump(t, b)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestRestoreBroken breaks the connection in the middle.
func TestRestoreBroken(t *testing.T) {
	dir, size, _ := someBackup(t)
	srv := startBroker(t)
	link := startLink(t, srv.srv.Addr().String())
	nc, err := nats.Connect("nats://"+link.addr(), natskv.ConnOptions()...)
	check(t, err)
	t.Cleanup(nc.Close)
	c := newClient(t, nc, quick)
	natskv.SetChunkSize(t, size/3)
	calls := 0
	var done sync.WaitGroup
	defer done.Wait()
	_, err = c.Restore(t.Context(), dir, natskv.RestoreOptions{Progress: func(uint64, uint64) {
		if calls++; calls == 3 {
			link.swallow()
			done.Go(func() {
				<-link.swallowed
				link.cut()
			})
		}
	}})
	if !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("restore on a broken link: %v", err)
	}
	js := jetStream(t, srv.connect())
	if left := buckets(t, c, js); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	_, err = c.Restore(t.Context(), dir, natskv.RestoreOptions{})
	check(t, err)
}

// TestRestoreKilled leaves the server alone with a part of a backup, as the end of a
// process does. There is no bucket, for nobody, and the next restore makes it.
func TestRestoreKilled(t *testing.T) {
	dir, size, want := someBackup(t)
	srv := startBroker(t)
	c := newClient(t, srv.connect(), quick)
	b, err := c.Bucket("B")
	check(t, err)
	nc := srv.connect()
	killed := newClient(t, nc, quick)
	natskv.SetChunkSize(t, size/3)
	calls := 0
	_, err = killed.Restore(t.Context(), dir, natskv.RestoreOptions{Progress: func(uint64, uint64) {
		if calls++; calls == 3 {
			nc.Close()
		}
	}})
	if !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("restore on a closed connection: %v", err)
	}
	if left := buckets(t, c, jetStream(t, srv.connect())); !cmp.Equal(left, []string{"stream KV_B"}) {
		t.Fatalf("left behind: %q, so this tests nothing", left)
	}
	ctx := t.Context()
	for what, call := range map[string]func() error{
		"get":  func() error { _, err := b.Get(ctx, "odd"); return err },
		"put":  func() error { _, err := b.Put(ctx, "odd", nil); return err },
		"keys": func() error { _, err := b.Keys(ctx); return err },
		"info": func() error { _, err := c.BucketInfo(ctx, "B"); return err },
		"edit": func() error { return c.EditBucket(ctx, "B", func(*natskv.Config) {}) },
		"back": func() error { _, err := c.Backup(ctx, "B", t.TempDir(), natskv.BackupOptions{}); return err },
	} {
		wantErr(t, what, kv.ErrBucketNotFound, call)
	}
	wantErr(t, "create", kv.ErrBucketExists, func() error { return c.CreateBucket(ctx, natskv.Config{Bucket: "B"}) })
	r := kvtest.Record(t, b, kv.WatchOptions{})
	r.WaitKind(kv.Lost, 0)
	_, err = c.Restore(ctx, dir, natskv.RestoreOptions{})
	check(t, err)
	if diff := cmp.Diff(want, dump(t, b)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	r.WaitKind(kv.Synced, 0)
}

// TestRestoreOnCluster carries a bucket from a cluster that has lost a server to another.
func TestRestoreOnCluster(t *testing.T) {
	opts := natskv.Options{Timeout: 20 * time.Second}
	from, to := startCluster(t, "from", 3), startCluster(t, "to", 3)
	c := newClient(t, from[0].connect(), opts)
	b := newBucket(t, c, natskv.Config{Bucket: "B", History: 3, Replicas: 3, Placement: &natskv.Placement{Cluster: "from"}})
	fill(t, b)
	from[1].stop()
	eventually(t, "two servers have a leader", func() bool { _, err := b.Put(t.Context(), "down", nil); return err == nil })
	want := dump(t, b)
	dir := backup(t, c, "B")

	nc := to[0].connect()
	c = newClient(t, nc, opts)
	js := jetStream(t, nc)
	if _, err := c.Restore(t.Context(), dir, natskv.RestoreOptions{}); !errors.Is(err, kv.ErrReplicas) {
		t.Errorf("restore where the cluster has another name: %v", err)
	}
	st, err := os.Stat(filepath.Join(dir, "stream.tar.s2"))
	check(t, err)
	natskv.SetChunkSize(t, int(st.Size())/3)
	anywhere := natskv.RestoreOptions{Placement: &natskv.Placement{}}
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		cut := anywhere
		cut.Progress = func(uint64, uint64) {
			if calls++; calls == 3 {
				cancel()
			}
		}
		_, err := c.Restore(ctx, dir, cut)
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cut: %v", err)
		}
		if left := buckets(t, c, js); len(left) > 0 {
			t.Fatalf("left behind: %q", left)
		}
	}
	_, err = c.Restore(t.Context(), dir, anywhere)
	check(t, err)
	restored, err := c.Bucket("B")
	check(t, err)
	if diff := cmp.Diff(want, dump(t, restored)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if got := info(t, c, "B"); got.Replicas != 3 || got.Config.Placement != nil {
		t.Errorf("restored %+v", got.Config)
	}
}

// TestLateReplica reads a bucket of which only one server has all, as after a restore.
// What is listed and told is whole all the same.
func TestLateReplica(t *testing.T) {
	dir, _, want := someBackup(t)
	servers := startCluster(t, "late", 3)
	for range 3 {
		c := newClient(t, servers[0].connect(), natskv.Options{Timeout: 20 * time.Second})
		_, err := c.Restore(t.Context(), dir, natskv.RestoreOptions{Replicas: 3})
		check(t, err)
		b, err := c.Bucket("B")
		check(t, err)
		keys, err := b.Keys(t.Context())
		check(t, err)
		if len(keys) != len(want)-2 { // two are deleted
			t.Errorf("%d keys are listed of %d", len(keys), len(want)-2)
		}
		told := len(dump(t, b))
		if told != len(want) {
			t.Errorf("%d keys are told of %d", told, len(want))
		}
		check(t, c.DeleteBucket(t.Context(), "B"))
	}
}
