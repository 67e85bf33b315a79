package builtin

import (
	"slices"
	"testing"
)

func TestKindsAreSortedAndDistinct(t *testing.T) {
	names := Kinds().Names()
	if sorted := slices.Compact(slices.Sorted(slices.Values(names))); !slices.Equal(names, sorted) {
		t.Errorf("the kinds are %q, want %q", names, sorted)
	}
}
