// Package builtin lists the kinds of watchers that are part of our binary.
package builtin

import (
	"github.com/keyturn-io/keyturn/watchers"
	"github.com/keyturn-io/keyturn/watchers/execwatcher"
	"github.com/keyturn-io/keyturn/watchers/kvwatcher"
)

// Kinds returns all kinds, sorted by name.
func Kinds() watchers.Kinds {
	return watchers.Kinds{
		execwatcher.Kind,
		kvwatcher.Kind,
	}
}
