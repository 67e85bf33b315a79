package kvtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn-io/keyturn/kv"
)

// entryTests are about everything but watching.
var entryTests = []test{
	{"PutGet", testPutGet},
	{"Values", testValues},
	{"Deleted", testDeleted},
	{"Create", testCreate},
	{"Update", testUpdate},
	{"LastRevision", testLastRevision},
	{"History", testHistory},
	{"Keys", testKeys},
	{"Status", testStatus},
	{"InvalidKeys", testInvalidKeys},
	{"Limits", testLimits},
	{"NoBucket", testNoBucket},
	{"Unavailable", testUnavailable},
	{"Contexts", testContexts},
	{"Race", testRace},
	{"SharedValues", testSharedValues},
}

func testPutGet(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	_, err := b.Get(t.Context(), "a")
	wantErr(t, "get what is not there", err, kv.ErrKeyNotFound)
	if errors.Is(err, kv.ErrKeyDeleted) {
		t.Errorf("a key that never was is said to be deleted: %v", err)
	}
	for i, value := range []string{"one", "two", ""} {
		rev := put(t, b, "a", value)
		if rev != kv.Revision(i+1) {
			t.Errorf("revision of put %d is %d", i+1, rev)
		}
		e, err := b.Get(t.Context(), "a")
		must(t, err)
		want := kv.Entry{Bucket: b.Name(), Key: "a", Value: []byte(value), Revision: rev, Operation: kv.OpPut}
		if value == "" {
			want.Value = nil
		}
		wantEntry(t, "get", e, want)
	}
}

func testValues(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	values := map[string]string{
		"nul":     "a\x00b",
		"newline": "a\r\nb\n",
		"utf8":    "grüße, 世界",
		"notutf8": "\xff\xfe",
		"shell":   "$(id) `id` ; rm -rf",
		"nats":    "NATS/1.0\r\nStatus: 100\r\n\r\n",
		"large":   strings.Repeat("0123456789abcdef", 1<<20/16-64), // with its subject it fits in 1 MiB
	}
	rec := Record(t, b, kv.WatchOptions{})
	for key, value := range values {
		put(t, b, key, value)
		e, err := b.Get(t.Context(), key)
		must(t, err)
		if string(e.Value) != value {
			t.Errorf("%s: the value that was got differs from the one that was put", key)
		}
	}
	rec.WaitState(values)
}

func testDeleted(t *testing.T, h Harness) {
	for name, end := range map[kv.Operation]func(kv.Bucket, context.Context, string, kv.Revision) error{
		kv.OpDelete: kv.Bucket.Delete,
		kv.OpPurge:  kv.Bucket.Purge,
	} {
		b := h.Open(t, Config{History: 5})
		put(t, b, "a", "1")
		put(t, b, "a", "2")
		must(t, end(b.Bucket, t.Context(), "a", 0))
		e, err := b.Get(t.Context(), "a")
		wantErr(t, string(name), err, kv.ErrKeyDeleted)
		wantErr(t, string(name), err, kv.ErrKeyNotFound)
		wantEntry(t, "marker", e, kv.Entry{Bucket: b.Name(), Key: "a", Revision: 3, Operation: name})

		// What is not there can be deleted too.
		must(t, end(b.Bucket, t.Context(), "b", 0))
		must(t, end(b.Bucket, t.Context(), "a", 0))
	}
}

func testCreate(t *testing.T, h Harness) {
	b := h.Open(t, Config{History: 5})
	create := func(value string) error {
		_, err := b.Create(t.Context(), "a", []byte(value))
		return err
	}
	must(t, create("1"))
	wantErr(t, "create what is there", create("2"), kv.ErrKeyExists)
	must(t, b.Delete(t.Context(), "a", 0))
	must(t, create("3"))
	must(t, b.Purge(t.Context(), "a", 0))
	must(t, create("4"))
	wantErr(t, "create what is there", create("5"), kv.ErrKeyExists)
	e, err := b.Get(t.Context(), "a")
	must(t, err)
	if string(e.Value) != "4" {
		t.Errorf("value is %q", e.Value)
	}
}

func testUpdate(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	update := func(last kv.Revision) error {
		_, err := b.Update(t.Context(), "a", []byte("x"), last)
		return err
	}
	wantErr(t, "update what is not there", update(1), kv.ErrWrongRevision)
	must(t, update(0))
	wantErr(t, "update from nothing again", update(0), kv.ErrWrongRevision)
	put(t, b, "b", "another key")
	must(t, update(1))
	wantErr(t, "update from an old revision", update(1), kv.ErrWrongRevision)
	must(t, b.Delete(t.Context(), "a", 0))
	wantErr(t, "update a deleted key from nothing", update(0), kv.ErrWrongRevision)
	must(t, update(4))
}

func testLastRevision(t *testing.T, h Harness) {
	b := h.Open(t, Config{History: 5})
	put(t, b, "a", "1")
	put(t, b, "a", "2")
	wantErr(t, "delete", b.Delete(t.Context(), "a", 1), kv.ErrWrongRevision)
	wantErr(t, "purge", b.Purge(t.Context(), "a", 1), kv.ErrWrongRevision)
	must(t, b.Delete(t.Context(), "a", 2))
	must(t, b.Purge(t.Context(), "a", 3))
}

func testHistory(t *testing.T, h Harness) {
	b := h.Open(t, Config{History: 3})
	history := func() (got string) {
		t.Helper()
		entries, err := b.History(t.Context(), "a")
		must(t, err)
		for _, e := range entries {
			got += fmt.Sprintf("%d:%s:%s ", e.Revision, e.Operation, e.Value)
		}
		return got
	}
	check := func(want string) {
		t.Helper()
		if got := history(); got != want {
			t.Errorf("history is %q, want %q", got, want)
		}
	}
	_, err := b.History(t.Context(), "a")
	wantErr(t, "history of nothing", err, kv.ErrKeyNotFound)
	_, err = b.GetRevision(t.Context(), "a", 1)
	wantErr(t, "revision of nothing", err, kv.ErrKeyNotFound)
	for _, value := range []string{"one", "two", "three", "four"} {
		put(t, b, "a", value)
	}
	put(t, b, "b", "five")
	check("2:PUT:two 3:PUT:three 4:PUT:four ")
	must(t, b.Delete(t.Context(), "a", 0))
	check("3:PUT:three 4:PUT:four 6:DEL: ")

	for _, rev := range []kv.Revision{0, 1, 5, 99} {
		_, err := b.GetRevision(t.Context(), "a", rev)
		wantErr(t, fmt.Sprintf("revision %d, which is not the key's", rev), err, kv.ErrKeyNotFound)
	}
	e, err := b.GetRevision(t.Context(), "a", 3)
	must(t, err)
	wantEntry(t, "revision 3", e, kv.Entry{Bucket: b.Name(), Key: "a", Value: []byte("three"), Revision: 3, Operation: kv.OpPut})
	e, err = b.GetRevision(t.Context(), "a", 6)
	must(t, err)
	wantEntry(t, "revision 6", e, kv.Entry{Bucket: b.Name(), Key: "a", Revision: 6, Operation: kv.OpDelete})

	must(t, b.Purge(t.Context(), "a", 0))
	check("7:PURGE: ")
}

func testKeys(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	check := func(want string, filters ...string) {
		t.Helper()
		keys, err := b.Keys(t.Context(), filters...)
		must(t, err)
		if got := strings.Join(keys, " "); got != want {
			t.Errorf("keys of %v are %q, want %q", filters, got, want)
		}
	}
	check("")
	check("", "a.*")
	for _, key := range []string{"z", "a.b", "a.c", "a.b.c", "deleted", "purged", "b.b"} {
		put(t, b, key, "x")
	}
	must(t, b.Delete(t.Context(), "deleted", 0))
	must(t, b.Purge(t.Context(), "purged", 0))
	check("a.b a.b.c a.c b.b z")
	check("z", "z")
	check("", "deleted")
	check("a.b a.c", "a.*")
	check("a.b a.b.c a.c", "a.>")
	check("a.b a.b.c a.c", "a.>", "a.b", "a.*")
	check("a.b a.c b.b", "a.*", "*.b") // filters that overlap
	_, err := b.Keys(t.Context(), "z", "a..b")
	wantErr(t, "keys", err, kv.ErrInvalidKey)
}

func testStatus(t *testing.T, h Harness) {
	b := h.Open(t, Config{History: 4, MaxValueSize: 1000, MaxBytes: 1 << 20})
	put(t, b, "a", "1")
	put(t, b, "a", "2")
	must(t, b.Delete(t.Context(), "a", 0))
	st, err := b.Status(t.Context())
	must(t, err)
	if st.Epoch == "" || st.Bytes == 0 {
		t.Errorf("epoch is %q and bytes are %d", st.Epoch, st.Bytes)
	}
	st.Epoch, st.Bytes = "", 0
	want := kv.Status{Bucket: b.Name(), Values: 3, History: 4, MaxValueSize: 1000, MaxBytes: 1 << 20, Replicas: 1, LastRevision: 3}
	if diff := cmp.Diff(want, st); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func testInvalidKeys(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	for _, key := range []string{"", ".", "a.", ".a", "a..b", "*", "a.>", "é", "a b", "$(id)", `a"b`, strings.Repeat("k", 513), strings.Repeat("k", 5000)} {
		calls := map[string]func() error{
			"get":     func() error { _, err := b.Get(t.Context(), key); return err },
			"getrev":  func() error { _, err := b.GetRevision(t.Context(), key, 1); return err },
			"put":     func() error { _, err := b.Put(t.Context(), key, nil); return err },
			"create":  func() error { _, err := b.Create(t.Context(), key, nil); return err },
			"update":  func() error { _, err := b.Update(t.Context(), key, nil, 0); return err },
			"delete":  func() error { return b.Delete(t.Context(), key, 0) },
			"purge":   func() error { return b.Purge(t.Context(), key, 0) },
			"history": func() error { _, err := b.History(t.Context(), key); return err },
		}
		for name, call := range calls {
			wantErr(t, fmt.Sprintf("%s %.20q", name, key), call(), kv.ErrInvalidKey)
		}
	}
	put(t, b, strings.Repeat("k", 512), "the longest")
}

func testLimits(t *testing.T, h Harness) {
	b := h.Open(t, Config{MaxValueSize: 1000, MaxBytes: 10_000})
	_, err := b.Put(t.Context(), "a", make([]byte, 1001))
	wantErr(t, "put 1001 bytes", err, kv.ErrValueTooLarge)
	_, err = b.Get(t.Context(), "a")
	wantErr(t, "get what was refused", err, kv.ErrKeyNotFound)
	put(t, b, "a", strings.Repeat("x", 1000))
	for i := 0; err == nil || !errors.Is(err, kv.ErrBucketFull); i++ {
		if _, err = b.Put(t.Context(), fmt.Sprint("k", i), make([]byte, 900)); i > 20 {
			t.Fatalf("18 000 bytes fit into a bucket of 10 000: %v", err)
		}
	}
}

func testNoBucket(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	need(t, "remove a bucket", b.Remove != nil)
	put(t, b, "a", "1")
	b.Remove()
	everyCall(t, b, kv.ErrBucketNotFound)
	need(t, "create it again", b.Recreate != nil)
	b.Recreate()
	if rev := put(t, b, "a", "2"); rev != 1 {
		t.Errorf("the first revision of a new bucket is %d", rev)
	}
}

func testUnavailable(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	need(t, "go down", b.Down != nil && b.Up != nil)
	put(t, b, "a", "1")
	b.Down()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := b.Get(ctx, "a")
	wantErr(t, "get", err, kv.ErrUnavailable)
	_, err = b.Put(ctx, "a", nil)
	wantErr(t, "put", err, kv.ErrUnavailable)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("calls with a context of 200 ms took %s", took)
	}
	b.Up()
	e, err := b.Get(t.Context(), "a")
	must(t, err)
	if string(e.Value) != "1" {
		t.Errorf("value is %q: a put that failed has happened", e.Value)
	}
}

// everyCall makes every call but Watch with a valid key and wants an error.
func everyCall(t *testing.T, b kv.Bucket, want error) {
	t.Helper()
	ctx := t.Context()
	_, err := b.Get(ctx, "a")
	wantErr(t, "get", err, want)
	_, err = b.GetRevision(ctx, "a", 1)
	wantErr(t, "get revision", err, want)
	_, err = b.Put(ctx, "a", nil)
	wantErr(t, "put", err, want)
	_, err = b.Create(ctx, "a", nil)
	wantErr(t, "create", err, want)
	_, err = b.Update(ctx, "a", nil, 0)
	wantErr(t, "update", err, want)
	wantErr(t, "delete", b.Delete(ctx, "a", 0), want)
	wantErr(t, "purge", b.Purge(ctx, "a", 0), want)
	_, err = b.History(ctx, "a")
	wantErr(t, "history", err, want)
	_, err = b.Keys(ctx)
	wantErr(t, "keys", err, want)
	_, err = b.Status(ctx)
	wantErr(t, "status", err, want)
}

func testContexts(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Get(ctx, "a")
	wantErr(t, "get", err, context.Canceled)
	_, err = b.Put(ctx, "a", nil)
	wantErr(t, "put", err, context.Canceled)
	_, err = b.Keys(ctx)
	wantErr(t, "keys", err, context.Canceled)
}

// testRace has several goroutines update one counter: each revision has one winner.
func testRace(t *testing.T, h Harness) {
	b := h.Open(t, Config{History: 50})
	put(t, b, "n", "")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for done := 0; done < 10; {
				e, err := b.Get(t.Context(), "n")
				if err != nil {
					t.Error(err)
					return
				}
				_, err = b.Update(t.Context(), "n", append(e.Value, 'x'), e.Revision)
				switch {
				case err == nil:
					done++
				case !errors.Is(err, kv.ErrWrongRevision):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	e, err := b.Get(t.Context(), "n")
	must(t, err)
	if len(e.Value) != 40 {
		t.Errorf("%d of 40 updates are in the value", len(e.Value))
	}
}

// testSharedValues changes what it gave, which the bucket must not notice, and appends to
// what it got, which nobody else must notice who got the same.
func testSharedValues(t *testing.T, h Harness) {
	b := h.Open(t, Config{})
	value := []byte("abc")
	_, err := b.Put(t.Context(), "a", value)
	must(t, err)
	value[0] = 'X'
	get := func() kv.Entry {
		e, err := b.Get(t.Context(), "a")
		must(t, err)
		return e
	}
	watch := func() kv.Entry {
		for event, err := range b.Watch(t.Context(), kv.WatchOptions{}) {
			must(t, err)
			if event.Kind == kv.Put {
				return event.Entry
			}
		}
		return kv.Entry{}
	}
	var longer [][]byte
	want := []string{"abc0", "abc1", "abc2", "abc3"}
	for i, e := range []kv.Entry{get(), get(), watch(), watch()} {
		longer = append(longer, append(e.Value, byte('0'+i)))
	}
	for i := range want {
		if string(longer[i]) != want[i] {
			t.Errorf("value %d with something appended is %q, want %q", i, longer[i], want[i])
		}
	}
}
