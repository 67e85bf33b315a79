package cached_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/cached"
	"github.com/keyturn-io/keyturn/kv/memkv"
)

func TestAnswersFromMemory(t *testing.T) {
	bubble(t, func(t *testing.T, _ *memkv.Store, below *spy) {
		put(t, below, "a", "1")
		put(t, below, "deleted", "x")
		must(t, below.Delete(t.Context(), "deleted", 0))
		put(t, below, "purged", "x")
		must(t, below.Purge(t.Context(), "purged", 0))
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()

		for _, key := range []string{"a", "deleted", "purged", "never"} {
			want, wantErr := below.Bucket.Get(t.Context(), key)
			got, err := c.Get(t.Context(), key)
			if got.Bucket != want.Bucket || got.Key != want.Key || !bytes.Equal(got.Value, want.Value) || got.Revision != want.Revision ||
				!got.Created.Equal(want.Created) || got.Operation != want.Operation {
				t.Errorf("got %+v, the bucket has %+v", got, want)
			}
			if fmt.Sprint(err) != fmt.Sprint(wantErr) || errors.Is(err, kv.ErrKeyDeleted) != errors.Is(wantErr, kv.ErrKeyDeleted) {
				t.Errorf("get %s: %v, the bucket says %v", key, err, wantErr)
			}
		}
		wantGet(t, c, "a..b", kv.ErrInvalidKey)
		put(t, below, "a", "2") // by somebody else
		put(t, below, "b", "3")
		synctest.Wait()
		wantGet(t, c, "a", "2")
		keys, err := c.Keys(t.Context())
		must(t, err)
		if !slices.Equal(keys, []string{"a", "b"}) {
			t.Errorf("keys are %v", keys)
		}
		wantCount(t, "gets from the bucket", below.gets(), 0)
		wantCount(t, "lists from the bucket", below.lists(), 0)
		st := c.Stats()
		if !st.Ready || st.Lost != nil || st.Keys != 2 || st.Bytes != 2 || st.Revision != 7 || st.Epoch == "" || st.Hits != 6 || st.Misses != 0 {
			t.Errorf("stats are %+v", st)
		}
	})
}

func TestMissing(t *testing.T) {
	bubble(t, func(t *testing.T, s *memkv.Store, below *spy) {
		put(t, below, "a", "1")
		put(t, below, "b", "2")
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()
		must(t, s.Vanish(name, "a"))
		synctest.Wait()
		wantGet(t, c, "a", kv.ErrKeyNotFound)
		must(t, s.PurgeAll(name))
		synctest.Wait()
		wantGet(t, c, "b", kv.ErrKeyNotFound)
		if st := c.Stats(); st.Keys != 0 || st.Bytes != 0 {
			t.Errorf("stats are %+v", st)
		}
		wantCount(t, "gets from the bucket", below.gets(), 0)
	})
}

// TestMarkersThatVanish deletes key after key and has the markers go without a word.
func TestMarkersThatVanish(t *testing.T) {
	bubble(t, func(t *testing.T, s *memkv.Store, below *spy) {
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()
		for i := range 5000 {
			key := fmt.Sprint("k", i)
			must(t, below.Delete(t.Context(), key, 0))
			synctest.Wait()
			must(t, s.Vanish(name, key))
		}
		if below.watches() < 4 || below.watches() > 6 {
			t.Errorf("memory was filled %d times, want about once for 1000 markers", below.watches())
		}
	})
}

func TestFilters(t *testing.T) {
	bubble(t, func(t *testing.T, _ *memkv.Store, below *spy) {
		for _, key := range []string{"a.b", "a.b.c", "x.y.z", "one", "other"} {
			put(t, below, key, key)
		}
		c := open(t, below, cached.Options{Filters: []string{"a.*", "x.>", "one"}})
		run(t, c)
		<-c.Ready()
		for key, gets := range map[string]int{"a.b": 0, "x.y.z": 0, "one": 0, "a.b.c": 1, "other": 1} {
			before := below.gets()
			wantGet(t, c, key, key)
			wantCount(t, "gets from the bucket of "+key, below.gets()-before, gets)
		}
		for filters, lists := range map[string]int{
			"": 1, ">": 1, "*": 1, "a.*": 0, "a.b": 0, "a.>": 1, "x.>": 0, "x.y.*": 0, "x.*.>": 0, "*.>": 1, "one": 0, "other": 1,
			"a.* one x.q": 0, "a.* other": 1, "one.>": 1,
		} {
			before := below.lists()
			got, err := c.Keys(t.Context(), strings.Fields(filters)...)
			must(t, err)
			want, err := below.Bucket.Keys(t.Context(), strings.Fields(filters)...)
			must(t, err)
			if !slices.Equal(got, want) {
				t.Errorf("keys of %q are %v, want %v", filters, got, want)
			}
			wantCount(t, fmt.Sprintf("lists of %q from the bucket", filters), below.lists()-before, lists)
		}
		put(t, c, "other", "2") // no doubt about what is not cached
		wantCount(t, "keys held", c.Stats().Keys, 3)
		before := below.lists()
		_, err := c.Keys(t.Context(), "one")
		must(t, err)
		wantCount(t, "lists from the bucket", below.lists()-before, 0)
	})
}

func TestMaxBytes(t *testing.T) {
	bubble(t, func(t *testing.T, s *memkv.Store, below *spy) {
		value := strings.Repeat("v", 40)
		for _, key := range []string{"a", "b", "c"} {
			put(t, below, key, value)
		}
		c := open(t, below, cached.Options{MaxBytes: 100})
		run(t, c)
		<-c.Ready()
		check := func(key, value string, gets int) {
			t.Helper()
			before := below.gets()
			wantGet(t, c, key, value)
			wantCount(t, "gets from the bucket of "+key, below.gets()-before, gets)
			if n := c.Stats().Bytes; n > 100 {
				t.Errorf("%d bytes are held", n)
			}
		}
		check("a", value, 0)
		check("b", value, 0)
		check("c", value, 1)
		check("c", value, 1)
		put(t, below, "a", "short")
		synctest.Wait()
		check("c", value, 1)
		check("c", value, 0) // there was room when it was got
		put(t, below, "a", value)
		synctest.Wait()
		check("a", value, 1)
		must(t, below.Delete(t.Context(), "b", 0))
		synctest.Wait()
		check("a", value, 1)
		check("a", value, 0)
		wantCount(t, "bytes", int(c.Stats().Bytes), 80)

		// Beginning anew holds no more.
		s.Down()
		synctest.Wait()
		s.Up()
		synctest.Wait()
		wantCount(t, "watches", below.watches(), 2)
		wantCount(t, "bytes", int(c.Stats().Bytes), 80)
		check("a", value, 0)
		check("c", value, 0)
	})
}

func TestRunTwice(t *testing.T) {
	bubble(t, func(t *testing.T, _ *memkv.Store, below *spy) {
		c := open(t, below, cached.Options{})
		run(t, c)
		<-c.Ready()
		if err := c.Run(t.Context()); err == nil {
			t.Error("Run ran twice at the same time")
		}
		if !c.Stats().Ready {
			t.Error("the second one took memory away from the first")
		}
	})
}

func TestNewRefuses(t *testing.T) {
	b, err := memkv.New().Bucket(name)
	must(t, err)
	for _, opts := range []cached.Options{
		{Filters: []string{"a", "a..b"}}, {MaxStale: -1}, {MaxStale: time.Millisecond}, {OnStale: 2}, {MaxBytes: -1},
	} {
		if _, err := cached.New(b, opts); err == nil {
			t.Errorf("%+v was taken", opts)
		}
	}
	if _, err := cached.New(nil, cached.Options{}); err == nil {
		t.Error("no bucket was taken")
	}
}
