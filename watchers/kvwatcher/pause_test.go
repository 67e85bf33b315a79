package kvwatcher

import (
	"testing"
	"time"

	"github.com/keyturn-io/keyturn/watchers"
)

// TestPauseOfLongInterval has intervals that need no back-off, the longest that there is
// among them.
func TestPauseOfLongInterval(t *testing.T) {
	for _, interval := range []time.Duration{longestPause, time.Hour, 1<<63 - 1} {
		w := &watcher{env: watchers.Env{Interval: interval}, misses: 100}
		if got := w.pause(); got != interval {
			t.Errorf("with an interval of %s a bucket that is away is left alone for %s", interval, got)
		}
	}
}
