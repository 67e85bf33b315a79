package kvwatcher_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/kv/memkv"
	"github.com/keyturn-io/keyturn/watchers"
	"github.com/keyturn-io/keyturn/watchers/kvwatcher"
	"github.com/keyturn-io/keyturn/watchers/watchertest"
)

// TestContract holds the kind to package watchers, in both modes.
func TestContract(t *testing.T) {
	for mode, properties := range map[string]string{
		"poll":  `{"bucket": "CFG", "key": "a"}`,
		"watch": `{"bucket": "CFG", "key": "a", "mode": "watch"}`,
	} {
		t.Run(mode, func(t *testing.T) {
			watchertest.Run(t, watchertest.Harness{
				Kind:       kvwatcher.Kind,
				Properties: properties,
				Interval:   time.Second,
				Prepare: func(t *testing.T, m *watchertest.Machine) {
					m.Env.Bucket = newStore(t).Bucket
				},
			})
		})
	}
}

// newStore returns a store whose bucket CFG has a key a.
func newStore(t *testing.T) *memkv.Store {
	t.Helper()
	store := memkv.New()
	if err := store.Create("CFG", memkv.Config{}); err != nil {
		t.Fatal(err)
	}
	put(t, store, "a", "1")

	return store
}

func put(t *testing.T, store *memkv.Store, key, value string) {
	t.Helper()
	bucket, err := store.Bucket("CFG")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bucket.Put(t.Context(), key, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

func TestCheck(t *testing.T) {
	const second = time.Second
	for name, c := range map[string]struct {
		properties string
		interval   time.Duration
		want       string // part of a problem; empty for none
	}{
		"poll":                {`{"bucket": "B", "key": "k"}`, second, ""},
		"watch":               {`{"bucket": "B", "key": "k", "mode": "watch"}`, 0, ""},
		"watch all":           {`{"bucket": "B", "mode": "watch"}`, 0, ""},
		"watch a filter":      {`{"bucket": "B", "key": "a.*.>", "mode": "watch"}`, 0, ""},
		"templates":           {`{"bucket": "{{ lookup \"facts.b\" }}", "key": "{{ lookup \"facts.k\" }}"}`, second, ""},
		"no bucket":           {`{"key": "k"}`, second, "bucket: a kv watcher needs a bucket"},
		"bad bucket":          {`{"bucket": "a.b", "key": "k"}`, second, "bucket: invalid bucket name"},
		"bad key":             {`{"bucket": "B", "key": "a b"}`, second, "key: invalid key"},
		"poll without key":    {`{"bucket": "B"}`, second, "key: mode poll wants one plain key"},
		"poll a filter":       {`{"bucket": "B", "key": "a.>"}`, second, "key: mode poll wants one plain key"},
		"poll never":          {`{"bucket": "B", "key": "k"}`, 0, ": mode poll wants an interval"},
		"poll too often":      {`{"bucket": "B", "key": "k"}`, second / 2, ": mode poll wants an interval"},
		"reconcile too often": {`{"bucket": "B", "mode": "watch"}`, second / 2, ": the interval is shorter than 1s"},
		"debounce_max":        {`{"bucket": "B", "mode": "watch", "debounce": "5s", "debounce_max": "1s"}`, 0, "debounce_max: "},
	} {
		properties, err := watchertest.Decode(kvwatcher.Kind, c.properties)
		if err != nil {
			t.Errorf("%s: %s", name, err)
			continue
		}
		var got []string
		for _, p := range properties.Check(watchers.Settings{Interval: c.interval}) {
			got = append(got, p.Property+": "+p.Message)
		}
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], c.want)) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// TestBadProperties lists what does not even decode.
func TestBadProperties(t *testing.T) {
	for _, properties := range []string{
		`{"mode": "wait"}`, `{"on_missing": "forget"}`, `{"bucket": "{{ lookup"}`, `{"debounce": 5}`,
		`{"query": "` + strings.Repeat("@ugly|", 100) + `"}`, `{"bucket_prefix": "yes"}`,
	} {
		if _, err := watchertest.Decode(kvwatcher.Kind, properties); err == nil {
			t.Errorf("%s is accepted", properties)
		}
	}
}

// TestTemplateThatFails gives up with an error, and so is tried again by the machine.
func TestTemplateThatFails(t *testing.T) {
	m := watchertest.NewMachine(t)
	m.Env.Bucket = memkv.New().Bucket
	w := m.Watcher(kvwatcher.Kind, `{"bucket": "{{ lookup \"facts.bucket\" }}", "mode": "watch"}`)
	if err := m.Run(t.Context(), w); err == nil || !strings.Contains(err.Error(), "property bucket") {
		t.Error(err)
	}
	m.SetFacts(`{"bucket": "s3cr3t bucket"}`)
	if err := m.Run(t.Context(), w); err == nil || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("a template that makes an invalid name: %v", err)
	}
}

// TestMarks tells what is a change for each mark that a restart may find.
func TestMarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The mark of a machine that has acted on a = 1.
		first := watchertest.NewMachine(t)
		first.Env.Bucket = newStore(t).Bucket
		const properties = `{"bucket": "CFG", "key": "a", "mode": "watch"}`
		leave := first.Enter(first.Watcher(kvwatcher.Kind, properties))
		settled := first.Await(1)[0].Mark
		if err := leave(); err != nil {
			t.Fatal(err)
		}

		for name, c := range map[string]struct {
			mark, data, value string
			changed           bool
		}{
			"nothing known":                    {"", "", "1", true},
			"settled":                          {string(settled), "1", "1", false},
			"settled, another value now":       {string(settled), "1", "2", true},
			"settled, the data is another one": {string(settled), "2", "1", true},
			"settled, the data is lost":        {string(settled), "", "1", true},
			"not settled":                      {"", "1", "1", true},
			"not settled, acted on another":    {string(settled), "2", "2", true},
			"taken over":                       {string(watchers.TakenOver), "1", "1", false},
			"taken over, another value now":    {string(watchers.TakenOver), "1", "2", true},
			"taken over, nothing":              {string(watchers.TakenOver), "", "1", true},
			"the mark of another key":          {strings.Replace(string(settled), `"filter":"a"`, `"filter":"b"`, 1), "1", "1", true},
			"not a mark":                       {`[1, 2]`, "1", "1", true},
		} {
			m := watchertest.NewMachine(t)
			store := newStore(t)
			put(t, store, "a", c.value)
			m.Env.Bucket = store.Bucket
			if c.mark != "" {
				m.SetMark(json.RawMessage(c.mark))
			}
			if c.data != "" {
				m.Set(item("CFG_a", c.data))
			}
			leave := m.Enter(m.Watcher(kvwatcher.Kind, properties))
			synctest.Wait()
			if err := leave(); err != nil {
				t.Error(name, err)
			}
			changed := false
			for _, o := range m.Observations() {
				changed = changed || o.Outcome == watchers.Success
			}
			if changed != c.changed {
				t.Errorf("%s: changed is %v, want %v", name, changed, c.changed)
			}
			if value, _ := m.Env.Data().Get("CFG_a"); string(value) != `"`+c.value+`"` {
				t.Errorf("%s: the data has %s, the bucket %s", name, value, c.value)
			}
		}
	})
}

// TestNoValueIsTold puts a secret, and looks for it wherever people look.
func TestNoValueIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const secret = "s3cr3t"
		m := watchertest.NewMachine(t)
		store := newStore(t)
		m.Env.Bucket = store.Bucket
		m.Env.Interval = time.Second
		leave := m.Enter(m.Watcher(kvwatcher.Kind, `{"bucket": "CFG", "mode": "watch", "on_matching_update": true, "on_successful_get": true}`))
		for _, value := range []string{secret, `{"password": "` + secret + `"}`, secret} {
			put(t, store, "a", value)
			time.Sleep(3 * time.Second)
		}
		store.Down()
		time.Sleep(time.Second)
		store.Up()
		if err := store.PurgeAll("CFG"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if err := leave(); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(m.Log.String(), secret) {
			t.Errorf("the log has it: %s", &m.Log)
		}
		for _, o := range m.Observations() {
			if strings.Contains(o.Detail+o.State+string(o.Mark), secret) {
				t.Errorf("an observation has it: %+v", o)
			}
		}
	})
}

// TestHostileValues keeps whatever a bucket holds, and the machine's data stays JSON.
func TestHostileValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, value := range []string{
			"", "\x00", "\xff\xfe", "{", `{"a":`, strings.Repeat("[", 100_000), `{"__proto__": 1}`, "</script>\u2028",
			strings.Repeat("x", 1<<20), `"quoted"`, "null", "1e999999999", `{"a": 1e999999999}`,
		} {
			m := watchertest.NewMachine(t)
			store := newStore(t)
			put(t, store, "a", value)
			m.Env.Bucket = store.Bucket
			leave := m.Enter(m.Watcher(kvwatcher.Kind, `{"bucket": "CFG", "key": "a", "mode": "watch"}`))
			synctest.Wait()
			if err := leave(); err != nil {
				t.Errorf("%.20q: %s", value, err)
			}
			if _, ok := m.Env.Data().Get("CFG_a"); !ok || !json.Valid(m.Env.Data().JSON()) {
				t.Errorf("%.20q: the data is %.100s", value, m.Env.Data().JSON())
			}
		}
	})
}

// TestManyKeys tells what a thousand keys cost: one commit at the start, one for each
// change after that.
func TestManyKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore(t)
		for i := range 1000 {
			put(t, store, fmt.Sprintf("app.%d", i), "1")
		}
		m := watchertest.NewMachine(t)
		m.Env.Bucket = store.Bucket
		leave := m.Enter(m.Watcher(kvwatcher.Kind, `{"bucket": "CFG", "key": "app.>", "mode": "watch", "store_key": "apps"}`))
		synctest.Wait()
		if seen := m.Observations(); len(seen) != 1 || len(seen[0].Changes) != 1000 {
			t.Errorf("%d observations at the start, want one of 1000 changes", len(seen))
		}
		put(t, store, "app.7", "2")
		synctest.Wait()
		seen := m.Observations()
		if last := seen[len(seen)-1]; len(seen) != 2 || len(last.Changes) != 1 || string(last.Changes[0].Old) != `"1"` {
			t.Errorf("%d observations after a put, the last of %+v", len(seen), last.Changes)
		}
		if err := leave(); err != nil {
			t.Error(err)
		}
		if len(seen[1].Changes) == 1 && seen[1].Changes[0].Operation != "put" {
			t.Errorf("%+v", seen[1].Changes[0])
		}
	})
}

func item(name, value string) datalayer.Item {
	return datalayer.Item{Name: name, Value: datalayer.FromBytes([]byte(value))}
}
