package memkv_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/kvtest"
	"github.com/keyturn-io/keyturn/kv/memkv"
)

func TestContract(t *testing.T) {
	kvtest.Run(t, kvtest.Harness{Open: func(t *testing.T, cfg kvtest.Config) kvtest.Subject {
		const name = "TEST"
		s := memkv.New()
		create := func() {
			if err := s.Create(name, memkv.Config(cfg)); err != nil {
				t.Fatal(err)
			}
		}
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		create()
		b, err := s.Bucket(name)
		must(err)
		return kvtest.Subject{
			Bucket:   b,
			Recreate: create,
			Remove:   func() { must(s.Remove(name)) },
			PurgeAll: func() { must(s.PurgeAll(name)) },
			Vanish:   func(key string) { must(s.Vanish(name, key)) },
			Backup: func() func() {
				backup, err := s.Backup(name)
				must(err)
				return func() { s.Restore(backup) }
			},
			Down: func() { s.Down(name) },
			Up:   func() { s.Up(name) },
		}
	}})
}

// TestInBubble has a bucket break and heal in time that stands still, as the tests
// of machines do.
func TestInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memkv.New()
		b, err := s.Bucket("B")
		if err != nil {
			t.Fatal(err)
		}
		r := kvtest.Record(t, b, kv.WatchOptions{})
		told := 0
		want := func(log string) {
			t.Helper()
			synctest.Wait()
			if got := r.Log(told); got != log {
				t.Errorf("told:\n%s\nwant:\n%s", got, log)
			}
			told = r.Len()
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		put := func(key string) {
			t.Helper()
			_, err := b.Put(t.Context(), key, []byte("x"))
			must(err)
		}
		want("lost: bucket not found")
		must(s.Create("B", memkv.Config{}))
		want("found\nsynced")
		put("a")
		want("put a=\"x\" @1")
		s.Down()
		want("lost: store unavailable")
		time.Sleep(time.Hour)
		s.Up()
		want("found\nsynced")
		backup, err := s.Backup("B")
		must(err)
		put("b")
		want("put b=\"x\" @2")
		s.Restore(backup)
		want("reset\nmissing b\nsynced")
		must(s.Vanish("B", "a"))
		want("missing a")
		must(s.Remove("B"))
		must(s.Create("B", memkv.Config{}))
		put("a") // at the same time, with the same revision
		want("lost: bucket not found\nfound\nreset\nput a=\"x\" @1\nsynced")
		if err := s.Create("B", memkv.Config{History: 2}); !errors.Is(err, kv.ErrBucketExists) {
			t.Errorf("create with other settings: %v", err)
		}
	})
}
