package datalayer

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
	"text/template"
	"time"
	"unicode"
)

// expansion is one expansion of a template.
type expansion struct {
	scope    Scope
	text     string
	steps    int
	deadline time.Time
}

func (x *expansion) functions() template.FuncMap {
	return template.FuncMap{
		"lookup": x.lookup,
		"_step":  x.step,

		"Title":        onText(title),
		"Capitalize":   onText(title),
		"ToLower":      onText(strings.ToLower),
		"ToUpper":      onText(strings.ToUpper),
		"Base64Encode": onText(func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }),
		"Base64Decode": base64Decode,
		"StringsJoin":  stringsJoin,
		"toJson":       toJSON,
		"quote":        quote,

		// Those of text/template, with a limit to what they make.
		"print":    limited(fmt.Sprint),
		"println":  limited(fmt.Sprintln),
		"html":     limited(template.HTMLEscaper),
		"js":       limited(template.JSEscaper),
		"urlquery": limited(template.URLQueryEscaper),
		"printf":   printf,

		// And with numbers of any kind.
		"eq": eq,
		"ne": func(a, b any) (bool, error) { equal, err := eq(a, b); return !equal, err },
		"lt": func(a, b any) (bool, error) { c, err := compare(a, b); return c < 0, err },
		"le": func(a, b any) (bool, error) { c, err := compare(a, b); return c <= 0, err },
		"gt": func(a, b any) (bool, error) { c, err := compare(a, b); return c > 0, err },
		"ge": func(a, b any) (bool, error) { c, err := compare(a, b); return c >= 0, err },
	}
}

// step counts what a template does. It prints nothing.
func (x *expansion) step(n int) (string, error) {
	x.steps += n
	if x.steps > maxSteps || time.Now().After(x.deadline) {
		return "", errSteps
	}
	return "", nil
}

func (x *expansion) lookup(path string, defaults ...any) (any, error) {
	if _, err := x.step(1); err != nil {
		return nil, err
	}
	if err := CheckPath(path); err != nil {
		return nil, reason(err.Error())
	}
	if len(defaults) > 1 {
		return nil, reason("takes a path and one default")
	}
	raw, found, err := x.find(path)
	switch {
	case err != nil:
		return nil, err
	case found:
		v, err := Decode(raw)
		if err != nil { // of facts; items have been checked
			return nil, reason("leads to what is not JSON")
		}
		return withNumbers(v), nil
	case len(defaults) == 0:
		return nil, reason("there is nothing, and no default")
	}
	return withNumbers(defaults[0]), nil
}

func (x *expansion) find(path string) (raw []byte, found bool, err error) {
	scope, rest := path, ""
	if end := strings.IndexAny(path, ".|"); end >= 0 {
		scope, rest = path[:end], path[end+1:]
	}
	switch {
	case scope == "data" && rest == "":
		return x.scope.Data.JSON(), true, nil
	case scope == "data":
		raw, found = x.scope.Data.Lookup(rest)
		return raw, found, nil
	case scope == "facts" && rest == "":
		return x.scope.Facts, len(x.scope.Facts) > 0, nil
	case scope == "facts":
		raw, found = Query(x.scope.Facts, rest)
		return raw, found, nil
	}
	return nil, false, reason("a path begins with data. or facts.")
}

// textOf is a value that is one word to people, as text.
func textOf(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case bool, int, number:
		return fmt.Sprint(v), nil
	case float64:
		return fmt.Sprint(withNumbers(v)), nil
	}
	return "", reason("needs a text, a number or a boolean")
}

func onText(f func(string) string) func(any) (string, error) {
	return func(v any) (string, error) {
		s, err := textOf(v)
		if err != nil {
			return "", err
		}
		return limit(f(s))
	}
}

func limit(s string) (string, error) {
	if len(s) > maxOutput {
		return "", errOutput
	}
	return s, nil
}

// limited limits what a function prints, before it prints it.
func limited(f func(...any) string) func(...any) (string, error) {
	return func(args ...any) (string, error) {
		if _, _, err := sizes(args); err != nil {
			return "", err
		}
		return limit(f(args...))
	}
}

// sizes returns the length of the longest and of all arguments when they are
// printed, and an error when that is too long.
func sizes(args []any) (longest, total int, err error) {
	for _, arg := range args {
		size := len(fmt.Sprint(arg))
		longest = max(longest, size)
		if total += size; total > maxOutput {
			return 0, 0, errOutput
		}
	}
	return longest, total, nil
}

var wide = regexp.MustCompile(`%[^a-zA-Z%]*(\*|[0-9]{4})`)

// printf refuses widths above 999, and formats in which the number of verbs
// times the longest argument is beyond all reason.
func printf(format string, args ...any) (string, error) {
	longest, _, err := sizes(args)
	if err != nil {
		return "", err
	}
	if wide.MatchString(format) {
		return "", reason("a width or precision has at most three digits")
	}
	if strings.Count(format, "%")*(longest+1000) > 4*maxOutput {
		return "", errOutput
	}
	return limit(fmt.Sprintf(format, args...))
}

func base64Decode(v any) (string, error) {
	s, err := textOf(v)
	if err != nil {
		return "", err
	}
	decoded, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return "", reason("this is not base64")
	}
	return string(decoded), nil
}

func stringsJoin(list any, separator ...string) (string, error) {
	elements, ok := list.([]any)
	if !ok {
		return "", reason("needs a list")
	}
	var parts []string
	for _, element := range elements {
		s, err := textOf(element)
		if err != nil {
			return "", err
		}
		parts = append(parts, s)
	}
	between := ", "
	if len(separator) > 0 {
		between = separator[0]
	}
	if len(between)*len(parts) > maxOutput {
		return "", errOutput
	}
	return limit(strings.Join(parts, between))
}

func toJSON(v any) (string, error) {
	encoded, err := Encode(v)
	if err != nil {
		return "", reason("has no form in JSON")
	}
	return limit(string(encoded))
}

// quote makes one word of a command line: for sh, and for what splits words like
// sh does. Between single quotes nothing is special, so a single quote leaves them.
func quote(v any) (string, error) {
	s, err := textOf(v)
	if err != nil {
		return "", err
	}
	if strings.ContainsRune(s, 0) {
		return "", reason("a word of a command cannot hold a zero byte")
	}
	return limit("'" + strings.ReplaceAll(s, "'", `'\''`) + "'")
}

// title makes the first letter of each word a capital and the others small. What
// may stand within a word (a digit, it's, a.b, a:b, a_b) does not begin another one.
func title(s string) string {
	inWord := false
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsLetter(r) && !inWord:
			inWord = true
			return unicode.ToTitle(r)
		case unicode.IsLetter(r):
			return unicode.ToLower(r)
		case !unicode.IsMark(r) && !unicode.IsDigit(r) && !strings.ContainsRune("'’._:", r):
			inWord = false
		}
		return r
	}, s)
}
