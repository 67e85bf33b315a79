package natskv_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// dump is all that a bucket tells of its entries.
func dump(t testing.TB, b kv.Bucket) map[string][]kv.Entry {
	t.Helper()
	all := map[string][]kv.Entry{}
	for event, err := range b.Watch(t.Context(), kv.WatchOptions{}) {
		check(t, err)
		if event.Kind == kv.Synced {
			break
		}
		if event.Entry.Key == "" {
			continue // it was lost or found: who watched it last saw it deleted
		}
		h, err := b.History(t.Context(), event.Entry.Key)
		check(t, err)
		for i := range h {
			h[i].Bucket = ""
			h[i].Created = h[i].Created.UTC()
			if len(h[i].Value) > 1000 { // cmp would take seconds
				sum := sha256.Sum256(h[i].Value)
				h[i].Value = sum[:]
			}
		}
		all[event.Entry.Key] = h
	}
	return all
}

// fill puts some of everything into a bucket.
func fill(t testing.TB, b kv.Bucket) {
	t.Helper()
	for i := range 30 {
		put(t, b, fmt.Sprint("k.", i%10), fmt.Sprint("value ", i))
	}
	put(t, b, "odd", "\x00\r\n\r\nNATS/1.0 grüße \xff")
	// More than the server reads at once, and nothing that can be compressed: so it
	// begins to restore before it has all.
	random := rand.NewChaCha8([32]byte{1})
	for i := range 6 {
		large := make([]byte, 900_000)
		_, _ = random.Read(large)
		put(t, b, fmt.Sprint("large.", i), string(large))
	}
	check(t, b.Delete(t.Context(), "k.1", 0))
	check(t, b.Purge(t.Context(), "k.2", 0))
	_, err := b.Create(t.Context(), "k.2", []byte("again"))
	check(t, err)
	check(t, b.Delete(t.Context(), "k.3", 0))
}

func backup(t testing.TB, c *natskv.Client, bucket string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "backup")
	_, err := c.Backup(t.Context(), bucket, dir, natskv.BackupOptions{})
	check(t, err)
	return dir
}

// buckets returns the names of the buckets, and of all streams that are there besides.
func buckets(t testing.TB, c *natskv.Client, js jetstream.JetStream) (names []string) {
	t.Helper()
	names, err := c.Buckets(t.Context())
	check(t, err)
	list := js.StreamNames(t.Context())
	for name := range list.Name() {
		found := false
		for _, bucket := range names {
			found = found || "KV_"+bucket == name
		}
		if !found {
			names = append(names, "stream "+name)
		}
	}
	check(t, list.Err())
	return names
}

func TestBackup(t *testing.T) {
	srv, other := startBroker(t), startBroker(t)
	nc := srv.connect()
	c := newClient(t, nc, quick)
	b := newBucket(t, c, natskv.Config{
		Bucket: "B", Description: "d", History: 4, MaxValueSize: 1 << 20, MaxBytes: 10 << 20, Metadata: map[string]string{"a": "b"},
		RePublish: &natskv.RePublish{Source: "$KV.B.>", Destination: "hint.>"}, Sources: []natskv.Origin{{Bucket: "SRC"}},
	})
	fill(t, b)
	check(t, nc.Publish("$KV.B.é", []byte("an invalid key is no reason to leave it out")))
	want := dump(t, b)
	// A limit that is lower than what is there.
	check(t, c.EditBucket(t.Context(), "B", func(c *natskv.Config) { c.MaxValueSize = 1000 }))
	config := info(t, c, "B").Config
	dir := filepath.Join(t.TempDir(), "a", "b")
	var done, total uint64
	made, err := c.Backup(t.Context(), "B", dir, natskv.BackupOptions{Progress: func(d, n uint64) { done, total = d, n }})
	check(t, err)
	if made.Bucket != "B" || made.Keys != 16 || made.Entries != 39 || made.LastRevision != 42 || made.Bytes == 0 || made.Taken.IsZero() || done != 39 || total != 39 {
		t.Errorf("made %+v, %d of %d", made, done, total)
	}
	if files := list(t, dir); cmp.Diff([]string{"backup.json", "stream.tar.s2"}, files) != "" {
		t.Errorf("files are %q", files)
	}
	if _, err := c.Backup(t.Context(), "B", dir, natskv.BackupOptions{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a backup over another: %v", err)
	}

	js := jetStream(t, nc)
	for _, x := range []struct {
		what string
		c    *natskv.Client
		opts natskv.RestoreOptions
	}{
		{"on another server", newClient(t, other.connect(), quick), natskv.RestoreOptions{}},
		{"under another name", c, natskv.RestoreOptions{As: "C"}},
	} {
		var done, total uint64
		x.opts.Progress = func(d, n uint64) { done, total = d, n }
		dry := x.opts
		dry.DryRun = true
		got, err := x.c.Restore(t.Context(), dir, dry)
		check(t, err)
		name := got.Bucket
		got.Bucket = "B"
		if diff := cmp.Diff(made, got); diff != "" || x.c == c && name != "C" {
			t.Errorf("%s: a rehearsal returns %+v", x.what, got)
		}
		wantErr(t, "nothing was restored by a rehearsal", kv.ErrBucketNotFound, func() error { _, err := x.c.BucketInfo(t.Context(), name); return err })
		_, err = x.c.Restore(t.Context(), dir, x.opts)
		check(t, err)
		if done != total || total == 0 {
			t.Errorf("%s: progress is %d of %d", x.what, done, total)
		}
		restored, err := x.c.Bucket(name)
		check(t, err)
		if diff := cmp.Diff(want, dump(t, restored)); diff != "" {
			t.Errorf("%s: -want +got\n%s", x.what, diff)
		}
		wanted := config
		wanted.Bucket = name
		if name == "C" {
			wanted.RePublish = &natskv.RePublish{Source: "$KV.C.>", Destination: "hint.>"}
		}
		if diff := cmp.Diff(wanted, info(t, x.c, name).Config); diff != "" {
			t.Errorf("%s: -want +got\n%s", x.what, diff)
		}
		rev, err := restored.Put(t.Context(), "new", nil)
		check(t, err)
		if rev != 43 {
			t.Errorf("%s: the next revision is %d", x.what, rev)
		}
		wantErr(t, "restore over a bucket", kv.ErrBucketExists, func() error { _, err := x.c.Restore(t.Context(), dir, x.opts); return err })
	}
	stream, err := js.Stream(t.Context(), "KV_C")
	check(t, err)
	if m, err := stream.GetLastMsgForSubject(t.Context(), "$KV.C.é"); err != nil || len(m.Data) == 0 {
		t.Errorf("the invalid key: %v", err)
	}

	wantErr(t, "back up nothing", kv.ErrBucketNotFound, func() error {
		_, err := c.Backup(t.Context(), "NONE", filepath.Join(t.TempDir(), "x"), natskv.BackupOptions{})
		return err
	})
	wantErr(t, "restore nothing", fs.ErrNotExist, func() error {
		_, err := c.Restore(t.Context(), t.TempDir(), natskv.RestoreOptions{})
		return err
	})
	if _, err := c.Restore(t.Context(), dir, natskv.RestoreOptions{As: "R", Replicas: 3}); !errors.Is(err, kv.ErrReplicas) {
		t.Errorf("three replicas on a single server: %v", err)
	}
	check(t, c.CreateBucket(t.Context(), natskv.Config{Bucket: "EMPTY"}))
	_, err = c.Restore(t.Context(), backup(t, c, "EMPTY"), natskv.RestoreOptions{As: "EMPTY2"})
	check(t, err)
	check(t, c.CreateBucket(t.Context(), natskv.Config{Bucket: "M", Mirror: &natskv.Origin{Bucket: "B"}}))
	m, err := c.Bucket("M")
	check(t, err)
	eventually(t, "the mirror has all", func() bool { st, err := m.Status(t.Context()); return err == nil && st.LastRevision == 42 })
	mirrored := backup(t, c, "M")
	put(t, b, "later", "1")
	for _, as := range []string{"", "M2"} {
		if as == "" {
			check(t, c.DeleteBucket(t.Context(), "M"))
		}
		got, err := c.Restore(t.Context(), mirrored, natskv.RestoreOptions{As: as})
		check(t, err)
		m, err := c.Bucket(got.Bucket)
		check(t, err)
		eventually(t, "the mirror goes on", func() bool { e, err := m.Get(t.Context(), "later"); return err == nil && string(e.Value) == "1" })
		if e, err := m.Get(t.Context(), "odd"); err != nil || e.Revision != 31 {
			t.Errorf("a restored mirror: %+v, %v", e, err)
		}
	}
}

func list(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	check(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestServersBackup restores what the server has written, and has it restore ours.
func TestServersBackup(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	js := jetStream(t, nc)
	c := newClient(t, nc, quick)
	b := newBucket(t, c, natskv.Config{Bucket: "B", History: 4})
	fill(t, b)
	want := dump(t, b)

	theirs := backUp(t, nc, "KV_B")
	ours := backup(t, c, "B")
	for _, name := range []string{"stream.tar.s2", "stream.arc.s2"} {
		dir := t.TempDir()
		meta, err := json.Marshal(theirs.about)
		check(t, err)
		check(t, os.WriteFile(filepath.Join(dir, "backup.json"), meta, 0o600))
		check(t, os.WriteFile(filepath.Join(dir, name), bytes.Join(theirs.chunks, nil), 0o600))
		check(t, c.DeleteBucket(t.Context(), "B"))
		got, err := c.Restore(t.Context(), dir, natskv.RestoreOptions{})
		check(t, err)
		if !got.Taken.IsZero() || got.Entries != 38 {
			t.Errorf("restored %+v", got)
		}
		if diff := cmp.Diff(want, dump(t, b)); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}

	data, err := os.ReadFile(filepath.Join(ours, "stream.tar.s2"))
	check(t, err)
	meta, err := os.ReadFile(filepath.Join(ours, "backup.json"))
	check(t, err)
	s := saved{name: "KV_B", chunks: slices.Collect(slices.Chunk(data, 500_000))}
	check(t, json.Unmarshal(meta, &s.about))
	s.restore(t, js)
	if diff := cmp.Diff(want, dump(t, b)); diff != "" {
		t.Errorf("ours: -want +got\n%s", diff)
	}
}

// TestOldArchive restores what a server before 2.15 has backed up: the files of the stream.
func TestOldArchive(t *testing.T) {
	old, srv := startBroker(t), startBroker(t)
	nc := old.connect()
	c := newClient(t, nc, quick)
	b := newBucket(t, c, natskv.Config{Bucket: "B", History: 4})
	fill(t, b)
	want := dump(t, b)
	meta, err := json.Marshal(backUp(t, nc, "KV_B").about)
	check(t, err)
	old.stop()
	var data bytes.Buffer
	compressed := s2.NewWriter(&data)
	archive := tar.NewWriter(compressed)
	root := filepath.Join(old.opts.StoreDir, "jetstream", "$G", "streams", "KV_B")
	blocks, err := filepath.Glob(filepath.Join(root, "msgs", "*.blk"))
	check(t, err)
	names := []string{"meta.inf", "meta.sum"}
	for _, path := range blocks {
		names = append(names, "msgs/"+filepath.Base(path))
	}
	for _, name := range names {
		file, err := os.ReadFile(filepath.Join(root, name))
		check(t, err)
		check(t, archive.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(file)), Typeflag: tar.TypeReg}))
		_, err = archive.Write(file)
		check(t, err)
		check(t, archive.Flush())
		check(t, compressed.Flush())
	}
	noEnd := data.Len()
	check(t, archive.Close())
	check(t, compressed.Close())

	c = newClient(t, srv.connect(), quick)
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "backup.json"), meta, 0o600))
	write := func(data []byte) { check(t, os.WriteFile(filepath.Join(dir, "stream.tar.s2"), data, 0o600)) }
	restore := func(opts natskv.RestoreOptions) error { _, err := c.Restore(t.Context(), dir, opts); return err }
	for _, n := range []int{0, 5, 100, data.Len() / 2, noEnd - 1, noEnd, data.Len() - 1} {
		write(data.Bytes()[:n])
		wantErr(t, fmt.Sprint("cut at byte ", n), kv.ErrBackup, func() error { return restore(natskv.RestoreOptions{}) })
	}
	write(data.Bytes())
	wantErr(t, "under another name", kv.ErrUnsupported, func() error { return restore(natskv.RestoreOptions{As: "C"}) })
	check(t, restore(natskv.RestoreOptions{}))
	b, err = c.Bucket("B")
	check(t, err)
	if diff := cmp.Diff(want, dump(t, b)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestProof finds what a backup lacks, and does not miss what was deleted meanwhile.
func TestProof(t *testing.T) {
	srv := startBroker(t)
	c := newClient(t, srv.connect(), quick)
	b := newBucket(t, c, natskv.Config{Bucket: "B"})
	put(t, b, "there", "1")
	put(t, b, "deleted", "2")
	check(t, b.Delete(t.Context(), "deleted", 0))
	live := map[string]kv.Revision{"there": 1, "deleted": 2, "vanished": 9}
	for _, has := range []map[string]uint64{{"$KV.B.there": 1}, {"$KV.B.there": 4}} {
		check(t, c.Prove(t.Context(), "B", has, live))
	}
	put(t, b, "there", "2")
	live["there"] = 4
	for _, has := range []map[string]uint64{{}, {"$KV.B.there": 1}, {"$KV.C.there": 4}} {
		wantErr(t, "a backup that lacks a key", kv.ErrBackup, func() error { return c.Prove(t.Context(), "B", has, live) })
	}
}

// backups is how often TestBackupWhileWriting makes a backup.
func backups(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("KEYTURN_BACKUPS"))
	if err != nil {
		return 2
	}
	return n
}

// TestBackupWhileWriting has 8 writers overwrite 20 000 keys. Every key is in every
// backup, with a value that is not older than the backup. KEYTURN_BACKUPS says how many.
func TestBackupWhileWriting(t *testing.T) {
	const keys, writers = 20_000, 8
	srv := startBroker(t)
	c := newClient(t, srv.connect(), natskv.Options{})
	b := newBucket(t, c, natskv.Config{Bucket: "B"})
	js := jetStream(t, srv.connect())
	for i := range keys {
		_, err := js.PublishMsgAsync(&nats.Msg{Subject: fmt.Sprint("$KV.B.k", i), Data: []byte("0")})
		check(t, err)
		if i%1000 == 999 { // it does not wait for long
			<-js.PublishAsyncComplete()
		}
	}
	latest := make([]atomic.Int64, keys) // what was acknowledged last of each key
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for w := range writers {
		wg.Go(func() {
			for n := int64(1); ctx.Err() == nil; n++ {
				for i := w; i < keys; i += writers {
					if _, err := b.Put(ctx, fmt.Sprint("k", i), []byte(fmt.Sprint(n))); err != nil {
						if ctx.Err() == nil {
							t.Error(err)
						}
						return
					}
					latest[i].Store(n)
				}
			}
		})
	}
	for i := range backups(t) {
		began := make([]int64, keys)
		for k := range began {
			began[k] = latest[k].Load()
		}
		first, err := b.Status(t.Context())
		check(t, err)
		start := time.Now()
		dir := backup(t, c, "B")
		took := time.Since(start)
		last, err := b.Status(t.Context())
		check(t, err)
		_, err = c.Restore(t.Context(), dir, natskv.RestoreOptions{As: "R"})
		check(t, err)
		restored, err := c.Bucket("R")
		check(t, err)
		missing, old := keys, 0
		for event, err := range restored.Watch(t.Context(), kv.WatchOptions{}) {
			check(t, err)
			if event.Kind != kv.Put {
				break
			}
			missing--
			var k int
			_, err := fmt.Sscanf(event.Entry.Key, "k%d", &k)
			check(t, err)
			if n, err := strconv.ParseInt(string(event.Entry.Value), 10, 64); err != nil || n < began[k] {
				old++
			}
		}
		t.Logf("backup %d took %s, with %d puts meanwhile", i+1, took.Round(time.Millisecond), last.LastRevision-first.LastRevision)
		if missing != 0 || old != 0 {
			t.Errorf("backup %d: %d of %d keys are missing and %d are older than the backup", i+1, missing, keys, old)
		}
		check(t, c.DeleteBucket(t.Context(), "R"))
	}
}

// TestBackupInterrupted leaves nothing that could be taken for a backup.
func TestBackupInterrupted(t *testing.T) {
	srv := startBroker(t)
	c := newClient(t, srv.connect(), quick)
	b := newBucket(t, c, natskv.Config{Bucket: "B"})
	for i := range 2000 {
		put(t, b, fmt.Sprint("k", i), strings.Repeat("x", 100))
	}
	parent := t.TempDir()
	dir := filepath.Join(parent, "backup")
	for at := range 4 {
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		_, err := c.Backup(ctx, "B", dir, natskv.BackupOptions{Progress: func(uint64, uint64) {
			if calls++; calls > at*2 {
				cancel()
			}
		}})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("interrupted: %v", err)
		}
		if files := list(t, parent); len(files) > 0 {
			t.Errorf("left behind: %q, %q", files, list(t, dir))
		}
	}
	_, err := c.Backup(t.Context(), "B", dir, natskv.BackupOptions{})
	check(t, err)
}

// TestDamagedBackup cuts and changes a backup. Nothing of it is restored.
func TestDamagedBackup(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	js := jetStream(t, nc)
	c := newClient(t, nc, quick)
	b := newBucket(t, c, natskv.Config{Bucket: "B", History: 3})
	fill(t, b)
	good := map[string][]byte{}
	dir := backup(t, c, "B")
	for _, name := range list(t, dir) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		check(t, err)
		good[name] = data
	}
	check(t, c.DeleteBucket(t.Context(), "B"))
	var meta map[string]json.RawMessage
	check(t, json.Unmarshal(good["backup.json"], &meta))
	delete(meta, "keyturn") // and so are those of other tools
	unproved, err := json.Marshal(meta)
	check(t, err)

	try := func(what string, files map[string][]byte) {
		t.Helper()
		dir := t.TempDir()
		for name, data := range files {
			check(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
		}
		if _, err := c.Restore(t.Context(), dir, natskv.RestoreOptions{}); !errors.Is(err, kv.ErrBackup) && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}
	change := func(name string, data []byte) map[string][]byte {
		files := maps.Clone(good)
		files[name] = data
		return files
	}
	data := good["stream.tar.s2"]
	for n := 0; n < len(data); n += 1 + len(data)/40 {
		files := change("stream.tar.s2", data[:n])
		try(fmt.Sprint("cut at byte ", n), files)
		files["backup.json"] = unproved
		try(fmt.Sprint("of another tool, cut at byte ", n), files)
		flipped := bytes.Clone(data)
		flipped[n] ^= 1
		try(fmt.Sprint("a bit flipped in byte ", n), change("stream.tar.s2", flipped))
	}
	for n := 0; n < len(good["backup.json"]); n += 1 + len(good["backup.json"])/40 {
		try(fmt.Sprint("backup.json cut at byte ", n), change("backup.json", good["backup.json"][:n]))
	}
	try("two archives", change("stream.arc.s2", data))
	try("of no bucket", change("backup.json", bytes.ReplaceAll(good["backup.json"], []byte(`"KV_B"`), []byte(`"ORDERS"`))))
	try("of another bucket", change("backup.json", bytes.ReplaceAll(unproved, []byte(`"KV_B"`), []byte(`"KV_C"`))))
	try("no data", map[string][]byte{"backup.json": good["backup.json"]})
	try("no backup.json", map[string][]byte{"stream.tar.s2": data})
	if left := buckets(t, c, js); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	_, err = c.Restore(t.Context(), dir, natskv.RestoreOptions{})
	check(t, err)
}

// TestNatsCommand has the nats command restore what we have backed up, and the other way
// round. NATS_CLI says where it is, if not in PATH.
func TestNatsCommand(t *testing.T) {
	name := os.Getenv("NATS_CLI")
	if name == "" {
		name = "nats"
	}
	command, err := exec.LookPath(name)
	if err != nil {
		t.Skip("SKIPPED, backups are not tested with the nats command: ", err)
	}
	srv := startBroker(t)
	run := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), command, append([]string{"--server", srv.srv.ClientURL(), "--no-context"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	c := newClient(t, srv.connect(), quick)
	b := newBucket(t, c, natskv.Config{Bucket: "B", History: 4, Metadata: map[string]string{"a": "b"}})
	fill(t, b)
	want, config := dump(t, b), info(t, c, "B").Config
	ours, theirs := backup(t, c, "B"), filepath.Join(t.TempDir(), "theirs")
	run("stream", "backup", "KV_B", theirs, "--no-progress")
	for what, restore := range map[string]func() error{
		"theirs by us": func() error { _, err := c.Restore(t.Context(), theirs, natskv.RestoreOptions{}); return err },
		"ours by them": func() error { run("stream", "restore", ours, "--no-progress"); return nil },
	} {
		check(t, c.DeleteBucket(t.Context(), "B"))
		check(t, restore())
		if diff := cmp.Diff(want, dump(t, b)); diff != "" {
			t.Errorf("%s: -want +got\n%s", what, diff)
		}
		if diff := cmp.Diff(config, info(t, c, "B").Config); diff != "" {
			t.Errorf("%s: -want +got\n%s", what, diff)
		}
	}
}
