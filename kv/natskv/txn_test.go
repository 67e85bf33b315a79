package natskv_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/kvtest"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

func TestTxn(t *testing.T) {
	srv := startBroker(t)
	c := newClient(t, srv.connect(), quick)
	b := newBucket(t, c, natskv.Config{Bucket: "B", History: 5, KeyTTL: true})
	ctx := t.Context()
	put(t, b, "gone", "x")
	put(t, b, "purged", "x")
	r := kvtest.Record(t, b, kv.WatchOptions{})
	none, first := kv.Revision(0), kv.Revision(1)
	revs, err := c.Txn(ctx, "B", []natskv.Op{
		{Key: "new", Value: []byte("1"), Last: &none},
		{Key: "any", Value: []byte("2")},
		{Key: "gone", Operation: kv.OpDelete, Last: &first},
		{Key: "purged", Operation: kv.OpPurge},
		{Key: "short", Value: []byte("3"), TTL: time.Hour},
	})
	check(t, err)
	if diff := cmp.Diff([]kv.Revision{3, 4, 5, 6, 7}, revs); diff != "" {
		t.Errorf("revisions: -want +got\n%s", diff)
	}
	r.WaitState(map[string]string{"new": "1", "any": "2", "short": "3"})
	e, err := b.Get(ctx, "new")
	check(t, err)
	if string(e.Value) != "1" || e.Revision != 3 {
		t.Errorf("got %+v", e)
	}
	if h, err := b.History(ctx, "purged"); err != nil || len(h) != 1 || h[0].Operation != kv.OpPurge {
		t.Errorf("history of what was purged: %v, %v", h, err)
	}

	before, err := b.Status(ctx)
	check(t, err)
	wrong := kv.Revision(99)
	for what, x := range map[string]struct {
		ops  []natskv.Op
		want error
	}{
		"a condition that does not hold": {[]natskv.Op{{Key: "a"}, {Key: "new", Last: &wrong}, {Key: "b"}}, kv.ErrWrongRevision},
		"the first does not hold":        {[]natskv.Op{{Key: "new", Last: &none}, {Key: "b"}}, kv.ErrWrongRevision},
		"the only one does not hold":     {[]natskv.Op{{Key: "new", Last: &none}}, kv.ErrWrongRevision},
		"the same key twice":             {[]natskv.Op{{Key: "a"}, {Key: "a"}}, kv.ErrUnsupported},
		"nothing":                        {nil, kv.ErrUnsupported},
		"too much":                       {make([]natskv.Op, 1001), kv.ErrUnsupported},
		"an invalid key":                 {[]natskv.Op{{Key: "a"}, {Key: "b c"}}, kv.ErrInvalidKey},
		"an operation that is none":      {[]natskv.Op{{Key: "a", Operation: "X"}}, kv.ErrUnsupported},
		"a TTL too short":                {[]natskv.Op{{Key: "a", TTL: time.Millisecond}}, kv.ErrInvalidConfig},
	} {
		wantErr(t, what, x.want, func() error { _, err := c.Txn(ctx, "B", x.ops); return err })
	}
	after, err := b.Status(ctx)
	check(t, err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("what failed has changed the bucket:\n%s", diff)
	}

	var most []natskv.Op
	for i := range 1000 {
		most = append(most, natskv.Op{Key: fmt.Sprint("k", i), Value: []byte("x")})
	}
	revs, err = c.Txn(ctx, "B", most)
	check(t, err)
	if len(revs) != 1000 || revs[0] != 8 || revs[999] != 1007 {
		t.Errorf("1000 changes have the revisions %d to %d", revs[0], revs[len(revs)-1])
	}

	wantErr(t, "no bucket", kv.ErrBucketNotFound, func() error { _, err := c.Txn(ctx, "NONE", most[:1]); return err })
	check(t, c.CreateBucket(ctx, natskv.Config{Bucket: "OLD", NoTxn: true}))
	wantErr(t, "a bucket without", kv.ErrUnsupported, func() error { _, err := c.Txn(ctx, "OLD", most[:2]); return err })
	check(t, c.EditBucket(ctx, "OLD", func(c *natskv.Config) { c.NoTxn = false }))
	_, err = c.Txn(ctx, "OLD", most[:2])
	check(t, err)
	check(t, c.CreateBucket(ctx, natskv.Config{Bucket: "MIRROR", Mirror: &natskv.Origin{Bucket: "B"}}))
	wantErr(t, "a mirror", kv.ErrReadOnly, func() error { _, err := c.Txn(ctx, "MIRROR", most[:1]); return err })
	check(t, c.CreateBucket(ctx, natskv.Config{Bucket: "SMALL", MaxBytes: 10_000}))
	big := []natskv.Op{{Key: "a", Value: make([]byte, 6000)}, {Key: "b", Value: make([]byte, 6000)}}
	wantErr(t, "a full bucket", kv.ErrBucketFull, func() error { _, err := c.Txn(ctx, "SMALL", big); return err })
	check(t, c.CreateBucket(ctx, natskv.Config{Bucket: "NARROW", MaxValueSize: 1000}))
	wantErr(t, "a value too large", kv.ErrValueTooLarge, func() error { _, err := c.Txn(ctx, "NARROW", big); return err })
}

// TestTxnMoves has several move an amount between two keys: the sum is always the same.
func TestTxnMoves(t *testing.T) {
	srv := startBroker(t)
	c := newClient(t, srv.connect(), natskv.Options{})
	b := newBucket(t, c, natskv.Config{Bucket: "B"})
	put(t, b, "a", strings.Repeat("x", 100))
	put(t, b, "b", "")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for moved := 0; moved < 10; {
				from, err := b.Get(t.Context(), "a")
				if err != nil {
					t.Error(err)
					return
				}
				to, err := b.Get(t.Context(), "b")
				if err != nil {
					t.Error(err)
					return
				}
				_, err = c.Txn(t.Context(), "B", []natskv.Op{
					{Key: "a", Value: from.Value[1:], Last: &from.Revision},
					{Key: "b", Value: append(to.Value, 'x'), Last: &to.Revision},
				})
				switch {
				case err == nil:
					moved++
				case !errors.Is(err, kv.ErrWrongRevision):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for key, want := range map[string]int{"a": 60, "b": 40} {
		e, err := b.Get(t.Context(), key)
		check(t, err)
		if len(e.Value) != want {
			t.Errorf("%s has %d, want %d", key, len(e.Value), want)
		}
	}
}

func TestKeyTTL(t *testing.T) {
	srv := startBroker(t)
	c := newClient(t, srv.connect(), quick)
	b := newBucket(t, c, natskv.Config{Bucket: "B", MarkerTTL: time.Minute}).(kv.Expirer)
	ctx := t.Context()
	put(t, b, "stays", "1")
	_, err := b.CreateTTL(ctx, "created", []byte("2"), 3*time.Second)
	check(t, err)
	const ttl = 2500 * time.Millisecond
	rev, err := b.PutTTL(ctx, "put", []byte("3"), ttl)
	check(t, err)
	was, err := b.GetRevision(ctx, "put", rev)
	check(t, err)
	_, err = b.PutTTL(ctx, "long", []byte("4"), time.Hour)
	check(t, err)
	wantErr(t, "create what is there", kv.ErrKeyExists, func() error { _, err := b.CreateTTL(ctx, "put", nil, time.Hour); return err })
	for _, short := range []time.Duration{time.Millisecond, 0, -time.Hour} {
		wantErr(t, "too short", kv.ErrInvalidConfig, func() error { _, err := b.PutTTL(ctx, "a", nil, short); return err })
		wantErr(t, "too short", kv.ErrInvalidConfig, func() error { _, err := b.CreateTTL(ctx, "a", nil, short); return err })
	}
	r := kvtest.Record(t, b, kv.WatchOptions{})
	r.WaitState(map[string]string{"stays": "1", "created": "2", "put": "3", "long": "4"})
	r.WaitState(map[string]string{"stays": "1", "long": "4"})
	marker, err := b.Get(ctx, "put")
	if lived := marker.Created.Sub(was.Created); !errors.Is(err, kv.ErrKeyDeleted) || lived < ttl {
		t.Errorf("get what has expired after %s of %s: %v", lived, ttl, err)
	}
	_, err = b.CreateTTL(ctx, "put", nil, time.Hour) // over the marker
	check(t, err)

	old := newBucket(t, c, natskv.Config{Bucket: "OLD"}).(kv.Expirer)
	wantErr(t, "a bucket without", kv.ErrUnsupported, func() error { _, err := old.PutTTL(ctx, "a", nil, time.Hour); return err })
	check(t, c.EditBucket(ctx, "OLD", func(c *natskv.Config) { c.KeyTTL = true }))
	_, err = old.PutTTL(ctx, "a", nil, time.Hour)
	check(t, err)
}

// TestKeyTTLOfOrigin: what expires in a bucket expires in its replica, and in what gets
// its keys from there, although their settings do not ask for it.
func TestKeyTTLOfOrigin(t *testing.T) {
	srv := startBroker(t)
	c := newClient(t, srv.connect(), quick)
	origin := newBucket(t, c, natskv.Config{Bucket: "B", KeyTTL: true}).(kv.Expirer)
	heirs := []kv.Bucket{
		newBucket(t, c, natskv.Config{Bucket: "MIRROR", Mirror: &natskv.Origin{Bucket: "B"}}),
		newBucket(t, c, natskv.Config{Bucket: "SOURCED", Sources: []natskv.Origin{{Bucket: "B"}}}),
	}
	_, err := origin.PutTTL(t.Context(), "a", nil, time.Second)
	check(t, err)
	for _, b := range heirs {
		// It may have expired before anybody could get it.
		eventually(t, b.Name()+" gets it", func() bool { return info(t, c, b.Name()).LastRevision == 1 })
	}
	for _, b := range heirs {
		eventually(t, b.Name()+" lets it expire", func() bool { _, err := b.Get(t.Context(), "a"); return errors.Is(err, kv.ErrKeyNotFound) })
	}
}

func TestCompact(t *testing.T) {
	srv := startBroker(t)
	c := newClient(t, srv.connect(), quick)
	b := newBucket(t, c, natskv.Config{Bucket: "B", History: 5})
	ctx := t.Context()
	fill := func() {
		for _, key := range []string{"kept", "deleted", "purged", "again"} {
			put(t, b, key, "1")
			put(t, b, key, "2")
		}
		check(t, b.Delete(ctx, "deleted", 0))
		check(t, b.Purge(ctx, "purged", 0))
		check(t, b.Delete(ctx, "again", 0))
		put(t, b, "again", "3")
	}
	counts := func() (got string) {
		t.Helper()
		for _, key := range []string{"kept", "deleted", "purged", "again"} {
			h, err := b.History(ctx, key)
			if !errors.Is(err, kv.ErrKeyNotFound) {
				check(t, err)
			}
			got += fmt.Sprint(len(h), " ")
		}
		return got
	}
	for _, x := range []struct {
		age     time.Duration
		removed int
		left    string
	}{{time.Hour, 0, "2 1 1 4 "}, {0, 2, "2 0 0 4 "}} {
		check(t, c.PurgeAll(ctx, "B"))
		fill()
		if got := counts(); got != "2 3 1 4 " {
			t.Fatalf("before: %s", got)
		}
		treated := uint64(0)
		removed, err := c.Compact(ctx, "B", natskv.CompactOptions{Age: x.age, Progress: func(done, total uint64) {
			if treated++; done != treated-1 || total != 2 {
				t.Errorf("%d of %d markers at call %d", done, total, treated)
			}
		}})
		check(t, err)
		if treated != 2 {
			t.Errorf("it told of %d markers", treated)
		}
		if got := counts(); removed != x.removed || got != x.left {
			t.Errorf("markers older than %s: %d removed, want %d; %sare left, want %s", x.age, removed, x.removed, got, x.left)
		}
	}

	r := kvtest.Record(t, b, kv.WatchOptions{})
	r.WaitState(map[string]string{"kept": "2", "again": "3"})
	check(t, c.PurgeAll(ctx, "B"))
	r.WaitState(map[string]string{})
	st, err := b.Status(ctx)
	check(t, err)
	if st.Values != 0 {
		t.Errorf("%d entries are left", st.Values)
	}
	check(t, c.CreateBucket(ctx, natskv.Config{Bucket: "M", Mirror: &natskv.Origin{Bucket: "B"}}))
	wantErr(t, "purge a mirror", kv.ErrReadOnly, func() error { return c.PurgeAll(ctx, "M") })
	wantErr(t, "compact a mirror", kv.ErrReadOnly, func() error { _, err := c.Compact(ctx, "M", natskv.CompactOptions{}); return err })
	wantErr(t, "purge nothing", kv.ErrBucketNotFound, func() error { return c.PurgeAll(ctx, "NONE") })
}

// TestHistories reads what is kept of many keys at once.
func TestHistories(t *testing.T) {
	srv := startBroker(t)
	c := newClient(t, srv.connect(), quick)
	b := newBucket(t, c, natskv.Config{Bucket: "B", History: 2})
	ctx := t.Context()
	for _, value := range []string{"1", "2", "3"} {
		put(t, b, "app.a", value)
		put(t, b, "app.b", value)
		put(t, b, "c", value)
	}
	check(t, b.Delete(ctx, "c", 0))
	_, err := jetStream(t, srv.connect()).Publish(ctx, "$KV.B.é", nil) // no client's key
	check(t, err)
	check(t, c.CreateBucket(ctx, natskv.Config{Bucket: "M", Mirror: &natskv.Origin{Bucket: "B"}}))
	eventually(t, "the mirror has all", func() bool { return info(t, c, "M").LastRevision == info(t, c, "B").LastRevision })

	all := "app.a=2@4 app.b=2@5 app.a=3@7 app.b=3@8 c=3@9 c=@10"
	for _, x := range []struct {
		bucket  string
		filters []string
		want    string
	}{
		{"B", nil, all},
		{"M", nil, all},
		{"B", []string{"app.*"}, "app.a=2@4 app.b=2@5 app.a=3@7 app.b=3@8"},
		{"B", []string{"app.>", "app.a"}, "app.a=2@4 app.b=2@5 app.a=3@7 app.b=3@8"},
		{"B", []string{"app.a", "c"}, "app.a=2@4 app.a=3@7 c=3@9 c=@10"},
		{"B", []string{"none"}, ""},
	} {
		entries, err := c.Histories(ctx, x.bucket, x.filters...)
		check(t, err)
		var got []string
		for _, e := range entries {
			got = append(got, fmt.Sprintf("%s=%s@%d", e.Key, e.Value, e.Revision))
			if e.Bucket != x.bucket || e.Created.IsZero() || (e.Operation == kv.OpDelete) != (e.Revision == 10) {
				t.Errorf("got %+v", e)
			}
		}
		if diff := cmp.Diff(x.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%s %v: -want +got\n%s", x.bucket, x.filters, diff)
		}
	}
	wantErr(t, "no bucket", kv.ErrBucketNotFound, func() error { _, err := c.Histories(ctx, "NONE"); return err })
	wantErr(t, "a bad name", kv.ErrInvalidBucket, func() error { _, err := c.Histories(ctx, "a.b"); return err })
	wantErr(t, "a bad filter", kv.ErrInvalidKey, func() error { _, err := c.Histories(ctx, "B", ">.a"); return err })
}
