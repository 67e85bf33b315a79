package kvwatcher

import (
	"encoding/json"
	"testing"
	"testing/synctest"

	"github.com/keyturn-io/keyturn/kv/memkv"
	"github.com/keyturn-io/keyturn/watchers"
	"github.com/keyturn-io/keyturn/watchers/watchertest"
)

// FuzzMark begins with any bytes as the mark and as what is pending: the data becomes
// what the bucket holds, and the mark one that can be read.
func FuzzMark(f *testing.F) {
	const mark = `{"bucket":"CFG","filter":"\u003e","epoch":"2026-11-22T15:05:33.006835841Z","keys":{"a":{"revision":1,"sum":"hNkGuaVoFZG1Zx2vZIUb3g"},"gone":{"revision":2,"sum":""}}}`
	const interrupted = `{"bucket":"CFG","filter":"\u003e","keys":["a","b"]}`
	f.Add([]byte(mark), []byte(interrupted))
	f.Add([]byte(mark), []byte(nil))
	f.Add([]byte(watchers.TakenOver), []byte(interrupted))
	for _, text := range []string{"", "null", "[]", "{", `{"keys":null}`, `{"bucket":"CFG","filter":">","keys":{"a":null,"a b":{"revision":-1}}}`} {
		f.Add([]byte(text), []byte(text))
	}

	f.Fuzz(func(t *testing.T, mark, interrupted []byte) {
		synctest.Test(t, func(t *testing.T) {
			store := memkv.New()
			if err := store.Create("CFG", memkv.Config{}); err != nil {
				t.Fatal(err)
			}
			bucket, err := store.Bucket("CFG")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := bucket.Put(t.Context(), "a", []byte("1")); err != nil {
				t.Fatal(err)
			}
			m := watchertest.NewMachine(t)
			m.Env.Bucket = store.Bucket
			m.SetMark(mark)
			told := m.Env.Pending
			m.Env.Pending = func() json.RawMessage {
				if now := told(); now != nil {
					return now
				}
				return interrupted
			}
			leave := m.Enter(m.Watcher(Kind, `{"bucket": "CFG", "mode": "watch"}`))
			synctest.Wait()
			if err := leave(); err != nil {
				t.Fatal(err)
			}
			if value, _ := m.Env.Data().Get("CFG_a"); string(value) != `"1"` {
				t.Errorf("the data has %s", value)
			}
			after := readMark(m.Env.Mark(), target{bucket: "CFG", filter: ">"})
			if got := after.Keys["a"]; got.Sum != sum(json.RawMessage(`"1"`)) {
				t.Errorf("the mark has %+v", got)
			}
		})
	})
}
