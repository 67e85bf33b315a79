package kv

import (
	"fmt"
	"strings"
)

// maxKey is the longest key in bytes. Far longer ones make the server close the
// whole connection, so they are refused before they are sent.
const maxKey = 512

// CheckBucket returns an error that is ErrInvalidBucket unless name may name a bucket:
// 1 to 255 letters, digits, - and _.
func CheckBucket(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: it is empty", ErrInvalidBucket)
	case len(name) > 255:
		return fmt.Errorf("%w: %d bytes, at most 255 are allowed", ErrInvalidBucket, len(name))
	}
	for _, r := range name {
		if !letterOrDigit(r) && r != '-' && r != '_' {
			return fmt.Errorf("%w %q: only letters, digits, - and _ are allowed", ErrInvalidBucket, name)
		}
	}
	return nil
}

// CheckKey returns an error that is ErrInvalidKey unless key may be a key: at most
// 512 bytes of letters, digits and -_=/ in tokens that are joined by single dots.
func CheckKey(key string) error { return check(key, false) }

// CheckFilter is CheckKey for a filter, in which a token may be * (any one
// token) and the last one > (one or more tokens).
func CheckFilter(filter string) error { return check(filter, true) }

// CheckFilters returns what CheckFilter says of the first filter that it refuses.
func CheckFilters(filters []string) error {
	for _, filter := range filters {
		if err := CheckFilter(filter); err != nil {
			return err
		}
	}
	return nil
}

func check(key string, wild bool) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: it is empty", ErrInvalidKey)
	case len(key) > maxKey:
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrInvalidKey, len(key), maxKey)
	}
	for rest, more := key, true; more; {
		var token string
		token, rest, more = strings.Cut(rest, ".")
		if token == "" {
			return fmt.Errorf("%w %q: a dot must stand between two tokens", ErrInvalidKey, key)
		}
		if wild && (token == "*" || token == ">" && !more) {
			continue
		}
		for _, r := range token {
			if !letterOrDigit(r) && !strings.ContainsRune("-_=/", r) {
				return fmt.Errorf("%w %q: only letters, digits and -_=/. are allowed", ErrInvalidKey, key)
			}
		}
	}
	return nil
}

func letterOrDigit(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// IsFilter says whether a valid filter can match more than one key.
func IsFilter(filter string) bool { return strings.ContainsAny(filter, "*>") }

// Match says whether a valid filter matches a key.
func Match(filter, key string) bool {
	for {
		f, frest, fmore := strings.Cut(filter, ".")
		k, krest, kmore := strings.Cut(key, ".")
		switch {
		case f == ">":
			return true
		case f != "*" && f != k, fmore != kmore:
			return false
		case !fmore:
			return true
		}
		filter, key = frest, krest
	}
}

// MatchAny says whether one of the valid filters matches a key. No filter means all keys.
func MatchAny(filters []string, key string) bool {
	if len(filters) == 0 {
		return true
	}
	for _, filter := range filters {
		if Match(filter, key) {
			return true
		}
	}
	return false
}
