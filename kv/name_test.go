package kv_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/keyturn-io/keyturn/kv"
)

func TestCheckBucket(t *testing.T) {
	for _, name := range []string{"a", "CFG", "a-b_c9", strings.Repeat("b", 255)} {
		if err := kv.CheckBucket(name); err != nil {
			t.Errorf("%q is refused: %v", name, err)
		}
	}
	for _, name := range []string{"", "a.b", "a b", "é", "a*", ">", "a/b", "a=b", "a\n", strings.Repeat("b", 256)} {
		if err := kv.CheckBucket(name); !errors.Is(err, kv.ErrInvalidBucket) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestCheckKey(t *testing.T) {
	for _, key := range []string{"a", "a.b", "a/b=c_d-e", "A.9", "_kv", "=", strings.Repeat("k", 512)} {
		if err := kv.CheckKey(key); err != nil {
			t.Errorf("%q is refused: %v", key, err)
		}
		if err := kv.CheckFilter(key); err != nil {
			t.Errorf("%q is refused as a filter: %v", key, err)
		}
	}
	for _, key := range []string{"", ".", ".a", "a.", "a..b", "a b", "é", "$(id)", `a"b`, "a\x00", "*", "a.*", ">", "a*b", "*a", ">a", strings.Repeat("k", 513)} {
		if err := kv.CheckKey(key); !errors.Is(err, kv.ErrInvalidKey) {
			t.Errorf("%q: %v", key, err)
		}
	}
}

func TestCheckFilter(t *testing.T) {
	for _, filter := range []string{"*", ">", "a.*", "*.b", "a.*.c", "a.>", "*.>", "*.*"} {
		if err := kv.CheckFilter(filter); err != nil {
			t.Errorf("%q is refused: %v", filter, err)
		}
	}
	for _, filter := range []string{"", "a*", "*a", "a.b*", "a.>.b", ">.a", ">>", "**", "a>", "a.*.", ".>"} {
		if err := kv.CheckFilter(filter); !errors.Is(err, kv.ErrInvalidKey) {
			t.Errorf("%q: %v", filter, err)
		}
	}
	if err := kv.CheckFilters(nil); err != nil {
		t.Errorf("no filter is refused: %v", err)
	}
	if err := kv.CheckFilters([]string{"a", "b c"}); !errors.Is(err, kv.ErrInvalidKey) {
		t.Errorf("the second of two filters: %v", err)
	}
}

func TestMatch(t *testing.T) {
	tests := []struct {
		filter, yes, no string // keys
	}{
		{"a", "a", "b aa a.b"},
		{"a.b", "a.b", "a b a.bb a.b.c"},
		{"*", "a b", "a.b"},
		{"a.*", "a.b a.c", "a b.b a.b.c"},
		{"*.b", "a.b x.b", "b a.c a.a.b"},
		{"a.*.c", "a.b.c", "a.c a.b.b.c a.b.c.d"},
		{">", "a a.b a.b.c", ""},
		{"a.>", "a.b a.b.c", "a b.a ab.c"},
		{"*.b.>", "a.b.c x.b.c.d", "a.b b.c.d"},
	}
	for _, test := range tests {
		for _, key := range strings.Fields(test.yes) {
			if !kv.Match(test.filter, key) {
				t.Errorf("%s does not match %s", test.filter, key)
			}
		}
		for _, key := range strings.Fields(test.no) {
			if kv.Match(test.filter, key) {
				t.Errorf("%s matches %s", test.filter, key)
			}
		}
		if kv.IsFilter(test.filter) != strings.ContainsAny(test.filter, "*>") {
			t.Errorf("IsFilter(%s)", test.filter)
		}
	}
	if !kv.MatchAny(nil, "a") || !kv.MatchAny([]string{"b", "a"}, "a") || kv.MatchAny([]string{"b"}, "a") {
		t.Error("MatchAny")
	}
}

func TestEventKindString(t *testing.T) {
	for kind := kv.Put; kind <= kv.Found; kind++ {
		if s := kind.String(); s == "unknown" || s != strings.ToLower(s) {
			t.Errorf("kind %d is %q", kind, s)
		}
	}
	if s := kv.EventKind(0).String(); s != "unknown" {
		t.Errorf("kind 0 is %q", s)
	}
}

// FuzzNames compares the checks and Match with regular expressions that say the same.
func FuzzNames(f *testing.F) {
	for _, seed := range [][2]string{{"a", "a"}, {"a.*", "a.b"}, {"*.b.>", "a.b.c"}, {">", "x"}, {"a..b", ".a"}, {"é", "a\x00"}, {"a.>.b", "a."}} {
		f.Add(seed[0], seed[1])
	}
	key := regexp.MustCompile(`\A[-_=/A-Za-z0-9]+(\.[-_=/A-Za-z0-9]+)*\z`)
	filter := regexp.MustCompile(`\A(([-_=/A-Za-z0-9]+|\*)\.)*([-_=/A-Za-z0-9]+|\*|>)\z`)
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, s := range []string{a, b} {
			if got, want := kv.CheckKey(s) == nil, len(s) <= 512 && key.MatchString(s); got != want {
				t.Errorf("CheckKey(%q) is %v", s, kv.CheckKey(s))
			}
			if got, want := kv.CheckFilter(s) == nil, len(s) <= 512 && filter.MatchString(s); got != want {
				t.Errorf("CheckFilter(%q) is %v", s, kv.CheckFilter(s))
			}
		}
		if kv.CheckFilter(a) != nil || kv.CheckKey(b) != nil {
			return
		}
		pattern := regexp.QuoteMeta(a)
		pattern = strings.ReplaceAll(pattern, `\*`, `[^.]+`)
		pattern = strings.ReplaceAll(pattern, `>`, `.+`)
		if got, want := kv.Match(a, b), regexp.MustCompile(`\A`+pattern+`\z`).MatchString(b); got != want {
			t.Errorf("Match(%q, %q) is %t", a, b, got)
		}
	})
}
