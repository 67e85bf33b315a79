package watchertest

import "time"

// SetPatience is for tests that want a watcher to be found hanging.
func SetPatience(d time.Duration) { patience = d }
