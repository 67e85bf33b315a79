package natskv

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keyturn-io/keyturn/kv"
)

func TestCover(t *testing.T) {
	tests := []struct{ filters, want string }{
		{"", ""},
		{"a", "a"},
		{"b a b", "a b"},
		{"a.* a.b a.c", "a.*"},
		{"a.> a.b.c a", "a a.>"},
		{"a.* *.b", "*.*"},
		{"a.> *.b.c", "*.>"},
		{"a.b > c", ">"},
	}
	for _, test := range tests {
		if got := strings.Join(cover(strings.Fields(test.filters)), " "); got != test.want {
			t.Errorf("cover(%s) is %q, want %q", test.filters, got, test.want)
		}
	}
	var many []string
	for i := range maxFilters + 1 {
		if len(many) > 0 && len(cover(many)) != i {
			t.Errorf("%d filters are covered by %d", i, len(cover(many)))
		}
		many = append(many, fmt.Sprint("k", i))
	}
	if got := cover(many); !slices.Equal(got, []string{all}) {
		t.Errorf("%d filters are covered by %v", len(many), got)
	}
}

// TestCoverAlways: what a filter matches its cover matches, and the server gets no
// two filters that overlap.
func TestCoverAlways(t *testing.T) {
	token := rapid.SampledFrom([]string{"a", "b", "*"})
	filter := rapid.Custom(func(t *rapid.T) string {
		tokens := rapid.SliceOfN(token, 1, 4).Draw(t, "tokens")
		if rapid.Bool().Draw(t, "tail") {
			tokens[len(tokens)-1] = all
		}
		return strings.Join(tokens, ".")
	})
	key := rapid.StringMatching(`[ab](\.[ab]){0,4}`)
	rapid.Check(t, func(t *rapid.T) {
		filters := rapid.SliceOfN(filter, 1, 6).Draw(t, "filters")
		out := cover(filters)
		k := key.Draw(t, "key")
		if kv.MatchAny(filters, k) && !kv.MatchAny(out, k) {
			t.Errorf("%v matches %s, its cover %v does not", filters, k, out)
		}
		for i, a := range out {
			if err := kv.CheckFilter(a); err != nil {
				t.Error(err)
			}
			for _, b := range out[i+1:] {
				if overlap(a, b) || kv.Match(a, k) && kv.Match(b, k) {
					t.Errorf("%s and %s overlap", a, b)
				}
			}
		}
		for _, f := range filters {
			if !covered(out, f) {
				t.Errorf("%v covers %v but not %s", out, filters, f)
			}
		}
		other := filter.Draw(t, "other")
		if covered(out, other) && kv.Match(other, k) && !kv.MatchAny(out, k) {
			t.Errorf("%v is said to cover %s, but %s it does not", out, other, k)
		}
	})
}
