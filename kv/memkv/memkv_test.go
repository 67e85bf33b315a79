package memkv_test

import (
	"testing"

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
