package natskv_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// wantFindings wants findings with these words, one line each, and no others. The notes
// that every bucket gets are left out.
func wantFindings(t *testing.T, c *natskv.Client, bucket string, want ...string) {
	t.Helper()
	findings, err := c.Doctor(t.Context(), bucket)
	check(t, err)
	var got []string
	for i, f := range findings {
		if i > 0 && findings[i-1].Level == natskv.Note && f.Level != natskv.Note {
			t.Errorf("%s is behind a note", f.What)
		}
		line := fmt.Sprintf("%s: %s", f.Level, f.What)
		if slices.ContainsFunc([]string{"Nats-Rollup", "sync to disk"}, func(s string) bool { return strings.Contains(line, s) }) {
			continue
		}
		got = append(got, line)
	}
	ok := len(got) == len(want)
	for i := range min(len(got), len(want)) {
		level, words, _ := strings.Cut(want[i], ": ")
		ok = ok && strings.HasPrefix(got[i], level) && strings.Contains(got[i], words)
	}
	if !ok {
		t.Errorf("bucket %s:\n%s\nwant:\n%s", bucket, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestDoctor(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	js := jetStream(t, nc)
	c := newClient(t, nc, quick)
	ctx := t.Context()
	create := func(sc jetstream.StreamConfig) {
		t.Helper()
		_, err := js.CreateStream(ctx, sc)
		check(t, err)
	}
	wantErr(t, "nothing", kv.ErrBucketNotFound, func() error { _, err := c.Doctor(ctx, "NONE"); return err })
	wantErr(t, "a bad name", kv.ErrInvalidBucket, func() error { _, err := c.Doctor(ctx, "a.b"); return err })

	good := newBucket(t, c, natskv.Config{Bucket: "GOOD", MaxBytes: 1 << 20})
	wantFindings(t, c, "GOOD")
	check(t, c.CreateBucket(ctx, natskv.Config{Bucket: "PLAIN", Memory: true, TTL: time.Hour}))
	wantFindings(t, c, "PLAIN", "warning: in the memory", "note: no limit", "note: leaves no marker")
	create(jetstream.StreamConfig{Name: "KV_ODD", Subjects: []string{"$KV.ODD.>"}, MaxBytes: 1 << 20, Discard: jetstream.DiscardOld,
		Duplicates: time.Hour, PersistMode: jetstream.AsyncPersistMode})
	wantFindings(t, c, "ODD", "warning: has not written", "warning: cannot be purged", "warning: oldest keys vanish", "note: find duplicates", "note: only one server")

	full := newBucket(t, c, natskv.Config{Bucket: "FULL", MaxBytes: 1000})
	put(t, full, "a", strings.Repeat("x", 900))
	wantFindings(t, c, "FULL", "warning: nearly full")

	// Mirrors, seen from them and from their origin.
	put(t, good, "a", "1")
	check(t, c.CreateBucket(ctx, natskv.Config{Bucket: "MIRROR", MaxBytes: 1 << 20, Mirror: &natskv.Origin{Bucket: "GOOD"}}))
	eventually(t, "the mirror has all", func() bool { i := info(t, c, "MIRROR"); return i.LastRevision == 1 && i.Mirror.Seen >= 0 })
	wantFindings(t, c, "MIRROR")
	wantFindings(t, c, "GOOD")
	create(jetstream.StreamConfig{Name: "KV_SOME", MaxBytes: 1 << 20, MaxAge: time.Hour, AllowDirect: true, Discard: jetstream.DiscardNew,
		Mirror: &jetstream.StreamSource{Name: "KV_GOOD", FilterSubject: "$KV.GOOD.b"}})
	eventually(t, "the mirror has begun", func() bool { return info(t, c, "SOME").Mirror.Seen >= 0 })
	for _, bucket := range []string{"SOME", "GOOD"} {
		wantFindings(t, c, bucket, "problem: some keys only", "warning: has a TTL of 1h0m0s")
	}
	check(t, c.DeleteBucket(ctx, "SOME"))
	check(t, c.DeleteBucket(ctx, "GOOD"))
	eventually(t, "it is known that the origin is gone", func() bool {
		findings, err := c.Doctor(ctx, "MIRROR")
		check(t, err)
		return slices.ContainsFunc(findings, func(f natskv.Finding) bool {
			return f.Level == natskv.Problem && strings.Contains(f.What, "origin GOOD of mirror MIRROR is not there")
		})
	})
	check(t, c.CreateBucket(ctx, natskv.Config{Bucket: "GOOD", MaxBytes: 1 << 20}))
	for _, bucket := range []string{"MIRROR", "GOOD"} {
		findings, err := c.Doctor(ctx, bucket)
		check(t, err)
		if !slices.ContainsFunc(findings, func(f natskv.Finding) bool {
			return f.Level == natskv.Problem && strings.Contains(f.What, "an earlier life of its origin GOOD")
		}) {
			t.Errorf("%s: a mirror that has lost its origin is not found: %+v", bucket, findings)
		}
	}
}

func TestDoctorOnCluster(t *testing.T) {
	servers := startCluster(t, "clinic", 3)
	c := newClient(t, servers[0].connect(), natskv.Options{Timeout: 20 * time.Second})
	check(t, c.CreateBucket(t.Context(), natskv.Config{Bucket: "ONE", MaxBytes: 1 << 20}))
	check(t, c.CreateBucket(t.Context(), natskv.Config{Bucket: "THREE", MaxBytes: 1 << 20, Replicas: 3}))
	wantFindings(t, c, "ONE", "warning: one copy in a cluster")
	eventually(t, "all copies are whole", func() bool {
		return !slices.ContainsFunc(info(t, c, "THREE").Cluster.Followers, func(f natskv.Follower) bool { return !f.Current })
	})
	wantFindings(t, c, "THREE")
	servers[2].stop()
	eventually(t, "the lost server is told", func() bool {
		findings, err := c.Doctor(t.Context(), "THREE")
		return err == nil && slices.ContainsFunc(findings, func(f natskv.Finding) bool { return strings.Contains(f.What, "server clinic-2") })
	})
}
