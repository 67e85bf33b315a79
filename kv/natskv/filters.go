package natskv

import (
	"slices"
	"strings"
)

// all is the filter that matches every key.
const all = ">"

// maxFilters is how many filters a consumer gets; where more are wanted it gets all.
const maxFilters = 32

// cover returns filters that together match all that the given ones match, and
// little more. No two of them overlap, because the server refuses such a consumer.
func cover(filters []string) []string {
	var out []string
	for _, f := range slices.Sorted(slices.Values(filters)) {
		for {
			i := slices.IndexFunc(out, func(o string) bool { return overlap(o, f) })
			if i < 0 {
				out = append(out, f)
				break
			}
			f = join(out[i], f)
			out = slices.Delete(out, i, i+1)
		}
	}
	if len(out) > maxFilters {
		return []string{all}
	}
	return out
}

// overlap says whether there is a key that both filters match.
func overlap(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		switch {
		case as[i] == all || bs[i] == all:
			return true
		case as[i] != bs[i] && as[i] != "*" && bs[i] != "*":
			return false
		}
	}
	return len(as) == len(bs)
}

// join returns the narrowest filter that matches all that two overlapping ones match.
func join(a, b string) string {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	var tokens []string
	for i := range min(len(as), len(bs)) {
		switch {
		case as[i] == all || bs[i] == all:
			return strings.Join(append(tokens, all), ".")
		case as[i] == bs[i]:
			tokens = append(tokens, as[i])
		default:
			tokens = append(tokens, "*")
		}
	}
	return strings.Join(tokens, ".")
}

// covered says whether the cover matches all that the filter matches.
func covered(cover []string, filter string) bool {
	return slices.ContainsFunc(cover, func(c string) bool { return overlap(c, filter) && join(c, filter) == c })
}
