package watchers_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/keyturn-io/keyturn/watchers"
)

func TestDuration(t *testing.T) {
	day := 24 * time.Hour
	for text, want := range map[string]time.Duration{
		`"10s"`:   10 * time.Second,
		`"1h30m"`: 90 * time.Minute,
		`"1.5h"`:  90 * time.Minute,
		`"250ms"`: 250 * time.Millisecond,
		`"0"`:     0,
		`0`:       0,
		`"1d12h"`: 36 * time.Hour,
		`"2w"`:    14 * day,
		`"1M"`:    30 * day,
		`"1y"`:    365 * day,
	} {
		var d watchers.Duration
		if err := json.Unmarshal([]byte(text), &d); err != nil || time.Duration(d) != want {
			t.Errorf("%s: got %v, %v, want %v", text, d, err, want)
		}
	}
}

func TestDurationErrors(t *testing.T) {
	for text, want := range map[string]string{
		`10`:     "10 has no unit: write 10s for seconds or 10m for minutes",
		`"10"`:   "10 has no unit: write 10s for seconds or 10m for minutes",
		`1.5`:    "1.5 has no unit: write 1.5s for seconds or 1.5m for minutes",
		`true`:   "must be a duration such as 10s, 5m or 1h30m",
		`""`:     "an empty duration: write something like 10s, 5m or 1h30m",
		`"-5s"`:  `"-5s" is not a duration: write something like 10s, 5m or 1h30m (units ms, s, m, h, d, w, M, y)`,
		`"soon"`: `"soon" is not a duration: write something like 10s, 5m or 1h30m (units ms, s, m, h, d, w, M, y)`,
		`"999y"`: `"999y" is too long a duration`,
	} {
		var d watchers.Duration
		if err := json.Unmarshal([]byte(text), &d); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

func FuzzDuration(f *testing.F) {
	for _, seed := range []string{"10s", "1d", "-1s", "1e9s", "999999999999y", "0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := watchers.ParseDuration(s); err == nil && d < 0 {
			t.Errorf("%q is %v", s, d)
		}
	})
}
