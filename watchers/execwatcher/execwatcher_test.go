package execwatcher_test

import (
	"testing"

	"github.com/keyturn-io/keyturn/watchers/execwatcher"
	"github.com/keyturn-io/keyturn/watchers/watchertest"
)

func TestContract(t *testing.T) {
	watchertest.Run(t, watchertest.Harness{
		Kind:       execwatcher.Kind,
		Properties: `{"command": "cat /dev/null"}`,
	})
}
