package datalayer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
)

// number is a JSON number in a template: it is printed as it was written.
//
// It is a slice because that is what text/template calls true or false by its
// length, and {{if}} must find zero false however it is written. So the text is
// not in the slice but in its capacity, and the slice is empty for zero.
type number []byte

func newNumber(text string) number {
	n := []byte(text)
	n = n[:len(n):len(n)]
	if f, err := strconv.ParseFloat(text, 64); err == nil && f == 0 {
		n = n[:0]
	}
	return n
}

func (n number) text() string { return string(n[:cap(n)]) }

// Format prints the digits for %v and %s, and lets the other verbs of printf
// find the kind of number that they need.
func (n number) Format(f fmt.State, verb rune) {
	format := fmt.FormatString(f, verb)
	switch verb {
	case 'v', 's', 'q':
		fmt.Fprintf(f, format, n.text())
	case 'e', 'E', 'f', 'F', 'g', 'G':
		fmt.Fprintf(f, format, n.float())
	default:
		if i, whole := n.whole(); whole {
			fmt.Fprintf(f, format, i)
			return
		}
		fmt.Fprintf(f, format, n.float())
	}
}

// MarshalJSON returns the number as it was written.
func (n number) MarshalJSON() ([]byte, error) { return []byte(n.text()), nil }

func (n number) float() float64 {
	f, _ := strconv.ParseFloat(n.text(), 64) // out of range is infinite
	return f
}

func (n number) whole() (int64, bool) {
	i, err := strconv.ParseInt(n.text(), 10, 64)
	return i, err == nil
}

// withNumbers replaces the numbers in a decoded value, or in the literal of a template.
func withNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		return newNumber(v.String())
	case float64:
		return newNumber(strconv.FormatFloat(v, 'f', -1, 64))
	case []any:
		for i := range v {
			v[i] = withNumbers(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = withNumbers(v[key])
		}
	}
	return v
}

// asNumber is a value of a template as a number, if it is one.
func asNumber(v any) (number, bool) {
	switch v := v.(type) {
	case number:
		return v, true
	case int:
		return newNumber(strconv.Itoa(v)), true
	case float64:
		return newNumber(strconv.FormatFloat(v, 'g', -1, 64)), true
	}
	return nil, false
}

const errCompare = reason("these cannot be compared")

// compare orders two numbers or two texts. Whole numbers of up to 64 bits are
// compared exactly, others as float64.
func compare(a, b any) (int, error) {
	if s, ok := a.(string); ok {
		if t, ok := b.(string); ok {
			return cmp.Compare(s, t), nil
		}
		return 0, errCompare
	}
	m, ok := asNumber(a)
	n, also := asNumber(b)
	if !ok || !also {
		return 0, errCompare
	}
	i, whole := m.whole()
	j, alsoWhole := n.whole()
	if whole && alsoWhole {
		return cmp.Compare(i, j), nil
	}
	return cmp.Compare(m.float(), n.float()), nil
}

// eq says whether the first equals one of the others. Nothing equals only nothing.
func eq(a any, others ...any) (bool, error) {
	if len(others) == 0 {
		return false, reason("needs two values")
	}
	for _, b := range others {
		p, ok := a.(bool)
		q, also := b.(bool)
		switch {
		case a == nil || b == nil:
			if a == nil && b == nil {
				return true, nil
			}
		case ok && also:
			if p == q {
				return true, nil
			}
		default:
			c, err := compare(a, b)
			if err != nil {
				return false, err
			}
			if c == 0 {
				return true, nil
			}
		}
	}
	return false, nil
}
