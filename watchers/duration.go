package watchers

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"time"
)

// Duration is a duration in a manifest: Go's form ("90s", "1h30m") and the units
// d, w, M (30 days) and y (365 days) besides.
type Duration time.Duration

var longUnits = map[string]time.Duration{
	"d": 24 * time.Hour,
	"w": 7 * 24 * time.Hour,
	"M": 30 * 24 * time.Hour,
	"y": 365 * 24 * time.Hour,
}

var bareNumber = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)

var durationPart = regexp.MustCompile(`^([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h|d|w|M|y)`)

// ParseDuration reads a duration that is not negative.
func ParseDuration(s string) (Duration, error) {
	if s == "" {
		return 0, fmt.Errorf("an empty duration: write something like 10s, 5m or 1h30m")
	}
	if s == "0" {
		return 0, nil
	}
	if bareNumber.MatchString(s) {
		return 0, missingUnit(s)
	}

	var total float64
	for rest := s; rest != ""; {
		part := durationPart.FindStringSubmatch(rest)
		if part == nil {
			return 0, fmt.Errorf("%q is not a duration: write something like 10s, 5m or 1h30m (units ms, s, m, h, d, w, M, y)", s)
		}
		d, err := parsePart(part[1], part[2])
		if err != nil {
			return 0, fmt.Errorf("%q is not a duration: %w", s, err)
		}
		total += d
		rest = rest[len(part[0]):]
	}
	if total > math.MaxInt64/2 {
		return 0, fmt.Errorf("%q is too long a duration", s)
	}

	return Duration(total), nil
}

func parsePart(number, unit string) (float64, error) {
	if long, ok := longUnits[unit]; ok {
		n, err := strconv.ParseFloat(number, 64)
		return n * float64(long), err
	}
	d, err := time.ParseDuration(number + unit)
	return float64(d), err
}

// UnmarshalJSON takes a string that ParseDuration takes. A bare number is an
// error that says which unit to add.
func (d *Duration) UnmarshalJSON(raw []byte) error {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	text, ok := v.(string)
	if !ok {
		if _, isNumber := v.(float64); isNumber {
			if string(raw) == "0" {
				*d = 0
				return nil
			}
			return missingUnit(string(raw))
		}
		return fmt.Errorf("must be a duration such as 10s, 5m or 1h30m")
	}
	parsed, err := ParseDuration(text)
	if err != nil {
		return err
	}
	*d = parsed

	return nil
}

func missingUnit(number string) error {
	return fmt.Errorf("%s has no unit: write %ss for seconds or %sm for minutes", number, number, number)
}

// String returns the duration in Go's form.
func (d Duration) String() string { return time.Duration(d).String() }
