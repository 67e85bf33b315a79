package view

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyturn-io/keyturn/kv"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func entry(key string, rev int, ops ...kv.Operation) kv.Entry {
	e := kv.Entry{Key: key, Revision: kv.Revision(rev), Created: start.Add(time.Duration(rev)), Operation: kv.OpPut}
	if len(ops) > 0 {
		e.Operation = ops[0]
	}
	return e
}

func entries(list ...kv.Entry) map[string]*kv.Entry {
	m := map[string]*kv.Entry{}
	for _, e := range list {
		m[e.Key] = &e
	}
	return m
}

// told takes what there is and shows it in one line.
func told(t *testing.T, s *Subscriber) string {
	t.Helper()
	news, err := s.take()
	if err != nil {
		return err.Error()
	}
	var words []string
	for e := range news.events {
		switch {
		case e.Entry.Key != "":
			words = append(words, fmt.Sprintf("%s:%s@%d", e.Kind, e.Entry.Key, e.Entry.Revision))
		case e.Err != nil:
			words = append(words, fmt.Sprintf("%s(%v)", e.Kind, e.Err))
		default:
			words = append(words, fmt.Sprintf("%s/%s", e.Kind, e.Epoch))
		}
	}
	return strings.Join(words, " ")
}

func want(t *testing.T, s *Subscriber, want string) {
	t.Helper()
	if got := told(t, s); got != want {
		t.Errorf("told: %s\nwant: %s", got, want)
	}
}

func TestTold(t *testing.T) {
	v := New("B")
	s := v.Subscribe(nil)
	part := v.Subscribe([]string{"b"})
	v.Change(entry("early", 1)) // before anybody is ready
	want(t, s, "")
	v.Replace("e1", entries(entry("a", 3), entry("b", 2), entry("d", 4, kv.OpDelete)), false, v.Newest())
	want(t, s, "put:b@2 put:a@3 delete:d@4 synced/e1")
	want(t, part, "put:b@2 synced/e1")
	want(t, s, "")

	v.Change(entry("a", 5))
	v.Change(entry("a", 5)) // again
	v.Change(entry("a", 6))
	v.Change(entry("p", 7, kv.OpPurge))
	want(t, s, "put:a@6 purge:p@7")
	want(t, part, "")

	// A comparison without a difference has nothing to say.
	v.Replace("e1", entries(entry("a", 6), entry("b", 2), entry("d", 4, kv.OpDelete), entry("p", 7, kv.OpPurge)), false, v.Newest())
	want(t, s, "")

	// Missing is what was there, not what was deleted.
	v.Replace("e1", entries(entry("a", 6), entry("c", 8)), false, v.Newest())
	want(t, s, "put:c@8 missing:b@2")
	want(t, part, "missing:b@2")
	v.Replace("e1", entries(entry("a", 6), entry("b", 2), entry("c", 8)), false, v.Newest())
	want(t, s, "put:b@2")
}

func TestWhatComesAndGoesIsNotTold(t *testing.T) {
	v := New("B")
	s := v.Subscribe(nil)
	v.Replace("e1", entries(entry("a", 1)), false, v.Newest())
	want(t, s, "put:a@1 synced/e1")
	v.Change(entry("new", 2))
	v.Replace("e1", entries(entry("a", 1)), false, v.Newest()) // it came and went
	want(t, s, "")
	v.Replace("e1", entries(), false, v.Newest()) // it went and came
	v.Replace("e1", entries(entry("a", 1)), false, v.Newest())
	want(t, s, "")
}

func TestReset(t *testing.T) {
	another := entry("b", 2)
	another.Created = start.Add(-time.Hour)
	tests := []struct {
		name   string
		epoch  kv.Epoch
		before kv.Entry
		reset  bool
		want   string
	}{
		{"another epoch", "e1", entry("b", 2), false, "reset/e2 synced/e2"},
		{"the caller says so", "e2", entry("b", 2), true, "reset/e2 synced/e2"},
		{"a revision went back", "e2", entry("b", 3), false, "reset/e2 put:b@2 synced/e2"},
		{"a revision is another one", "e2", another, false, "reset/e2 put:b@2 synced/e2"},
		{"nothing", "e2", entry("b", 2), false, ""},
		{"a newer revision", "e2", entry("b", 1), false, "put:b@2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v := New("B")
			s := v.Subscribe(nil)
			v.Replace(test.epoch, entries(entry("a", 1), test.before), false, v.Newest())
			told(t, s)
			v.Replace("e2", entries(entry("a", 1), entry("b", 2)), test.reset, v.Newest())
			want(t, s, test.want)
			late := v.Subscribe(nil)
			v.Admit(late)
			want(t, late, "put:a@1 put:b@2 synced/e2")
		})
	}
}

func TestLostAndFound(t *testing.T) {
	v := New("B")
	s := v.Subscribe(nil)
	lost := func(reason error) { v.Lose(fmt.Errorf("try %d: %w", time.Now().UnixNano(), reason)) }
	v.Lose(kv.ErrUnavailable)
	want(t, s, "lost(store unavailable)")
	lost(kv.ErrUnavailable)
	want(t, s, "")
	v.Lose(kv.ErrBucketNotFound)
	want(t, s, "lost(bucket not found)")
	v.Replace("e1", entries(entry("a", 1)), false, v.Newest())
	want(t, s, "found/e1 put:a@1 synced/e1")

	// To a slow reader all of it at once.
	v.Change(entry("a", 2))
	v.Lose(kv.ErrPermission)
	want(t, s, "put:a@2 lost(permission denied)")
	v.Replace("e1", entries(entry("a", 2)), false, v.Newest())
	v.Lose(kv.ErrPermission)
	want(t, s, "lost(permission denied)")
	v.Replace("e1", entries(entry("a", 3)), false, v.Newest())
	want(t, s, "found/e1 put:a@3 synced/e1")
	v.Lose(kv.ErrPermission)
	v.Replace("e1", entries(entry("a", 3)), false, v.Newest())
	want(t, s, "lost(permission denied) found/e1 synced/e1")

	// Who comes while the bucket is away hears of it when it was tried again.
	v.Lose(kv.ErrUnavailable)
	late := v.Subscribe(nil)
	want(t, late, "")
	lost(kv.ErrUnavailable)
	if got := told(t, late); !strings.HasPrefix(got, "lost(") {
		t.Errorf("told: %s", got)
	}
}

func TestReady(t *testing.T) {
	v := New("B")
	first := v.Subscribe(nil)
	newest := v.Newest()
	second := v.Subscribe(nil)
	v.Replace("e1", entries(entry("a", 1)), false, newest)
	want(t, first, "put:a@1 synced/e1")
	want(t, second, "") // the snapshot may be older than its start
	if n := len(v.Waiting()); n != 1 {
		t.Errorf("%d are waiting", n)
	}
	if !v.Has(entry("a", 1)) || v.Has(entry("a", 2)) || v.Has(entry("b", 1)) || !v.Any("*") || v.Any("b") || v.Len() != 1 {
		t.Error("what is known is not what was said")
	}
	for _, after := range []time.Duration{time.Hour, -time.Hour} { // the clock may be set back
		another := entry("a", 1)
		another.Created = another.Created.Add(after)
		if v.Has(another) {
			t.Errorf("revision 1 of another life is known, %s after this one's", after)
		}
	}
	v.Admit(v.Waiting()...)
	want(t, second, "put:a@1 synced/e1")
	second.Leave()
	v.Change(entry("a", 3))
	another := entry("a", 2)
	another.Created = another.Created.Add(time.Hour)
	if !v.Has(entry("a", 2)) || v.Has(another) {
		t.Error("what is newer is known, if it is of the same life")
	}
	v.Change(entry("a", 4))
	want(t, second, "")
	v.End(kv.ErrUnavailable)
	want(t, first, "store unavailable")
}

func TestTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := New("B")
		s := v.Subscribe(nil)
		v.Admit(s)
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		var last error
		go s.Tell(ctx, func(e kv.Event, err error) bool {
			if last = err; err == nil {
				got = append(got, e.Kind.String()+e.Entry.Key)
			}
			return true
		})
		synctest.Wait()
		v.Change(entry("a", 1))
		synctest.Wait()
		v.Change(entry("c", 2))
		v.Change(entry("b", 3))
		synctest.Wait()
		if s := strings.Join(got, " "); s != "synced puta putc putb" {
			t.Errorf("told %s", s)
		}
		cancel()
		synctest.Wait()
		if last != context.Canceled {
			t.Errorf("ended with %v", last)
		}
	})
}

// TestManyKeys holds that a slow reader costs what the keys cost, not what was written.
func TestManyKeys(t *testing.T) {
	v := New("B")
	s := v.Subscribe(nil)
	v.Admit(s)
	for i := range 100_000 {
		v.Change(entry(fmt.Sprint("k", i%2000), i+1))
	}
	news, _ := s.take()
	var last kv.Revision
	for _, e := range news.changed {
		if e.Revision <= last {
			t.Fatalf("revision %d after %d", e.Revision, last)
		}
		last = e.Revision
	}
	if len(news.changed) != 2000 {
		t.Errorf("%d events for 2000 keys", len(news.changed))
	}
	if len(s.pending) != 0 {
		t.Errorf("%d keys are still to tell", len(s.pending))
	}
}
