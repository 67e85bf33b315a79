package datalayer

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"text/template"
	"text/template/parse"
	"time"
)

// The limits of a template. They are far above what a property needs; they make
// sure that no template, however it was written, stops a machine.
const (
	maxText   = 64 << 10 // bytes of the template
	maxOutput = 1 << 20  // bytes that it expands to, and that each function returns
	maxSteps  = 100_000  // rounds of its loops and calls of lookup
	maxTime   = 2 * time.Second
)

// Template is a text in which data and facts are looked up when it is expanded.
// The zero value is the empty text. Any goroutine may use it at any time.
//
// The language is that of text/template, without a value for the dot, with these
// functions, in which numbers are printed as they were written:
//
//	lookup "data.name.path" default   the part of an item that a gjson path leads to, or the default;
//	lookup "facts.path" default       without a default, finding nothing is an error
//	Title s, Capitalize s             each word with a capital letter, the others small
//	ToLower s, ToUpper s
//	StringsJoin list separator        separator is ", " when left out
//	Base64Encode s, Base64Decode s
//	toJson v                          v as JSON
//	quote s                           s as one word of a command line, whatever it holds
//
// Numbers compare with numbers, whole or not.
type Template struct {
	text   string
	parsed *template.Template // nil when the text stands for itself
}

// Scope is where a template looks things up. Facts are a JSON object; both may be nil.
type Scope struct {
	Data  *View
	Facts []byte
}

// Parse compiles a template. The error says in which of its lines it is broken.
func Parse(text string) (Template, error) {
	if !strings.Contains(text, "{{") {
		return Template{text: text}, nil
	}
	if len(text) > maxText {
		return Template{}, fmt.Errorf("template: larger than %d bytes", maxText)
	}
	parsed, err := template.New("t").Funcs((&expansion{}).functions()).Parse(text)
	if err != nil {
		return Template{}, fmt.Errorf("template line %s", strings.TrimPrefix(err.Error(), "template: t:"))
	}
	for _, t := range parsed.Templates() {
		if t.Tree != nil {
			countSteps(t.Tree.Root)
			// One template within another is ten steps, because the stack grows.
			prependStep(t.Tree.Root, 10)
		}
	}
	return Template{text: text, parsed: parsed}, nil
}

// String returns the text of the template.
func (t Template) String() string { return t.text }

// IsZero says whether the text is empty.
func (t Template) IsZero() bool { return t.text == "" }

// Static says whether the text stands for itself, because it looks nothing up.
func (t Template) Static() bool { return t.parsed == nil }

// UnmarshalText parses a template where it stands in a manifest.
func (t *Template) UnmarshalText(text []byte) error {
	parsed, err := Parse(string(text))
	if err == nil {
		*t = parsed
	}
	return err
}

// MarshalText returns the text of the template.
func (t Template) MarshalText() ([]byte, error) { return []byte(t.text), nil }

// Expand returns the text with everything looked up. The error says where in the
// template and why it cannot be done, without any value of the scope.
func (t Template) Expand(scope Scope) (text string, err error) {
	if t.parsed == nil {
		return t.text, nil
	}
	defer func() {
		if r := recover(); r != nil {
			text, err = "", fmt.Errorf("template: panic (%T)", r)
		}
	}()
	run, err := t.parsed.Clone()
	if err != nil {
		return "", fmt.Errorf("template: %w", err)
	}
	x := &expansion{scope: scope, text: t.text, deadline: time.Now().Add(maxTime)}
	var out limitedBuffer
	if err := run.Funcs(x.functions()).Execute(&out, nil); err != nil {
		return "", explain(err)
	}
	return out.String(), nil
}

// countSteps makes each round of each loop in a list call step.
func countSteps(list *parse.ListNode) {
	if list == nil {
		return
	}
	for _, node := range list.Nodes {
		switch node := node.(type) {
		case *parse.IfNode:
			countSteps(node.List)
			countSteps(node.ElseList)
		case *parse.WithNode:
			countSteps(node.List)
			countSteps(node.ElseList)
		case *parse.RangeNode:
			countSteps(node.List)
			countSteps(node.ElseList)
			prependStep(node.List, 1)
		}
	}
}

// prependStep puts {{_step n}} in front of a list.
func prependStep(list *parse.ListNode, n int) {
	t := template.Must(template.New("t").Funcs((&expansion{}).functions()).Parse(fmt.Sprintf("{{_step %d}}", n)))
	list.Nodes = append([]parse.Node{t.Root.Nodes[0]}, list.Nodes...)
}

// limitedBuffer refuses what is beyond maxOutput.
type limitedBuffer struct{ strings.Builder }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxOutput {
		return 0, errOutput
	}
	return b.Builder.Write(p)
}

// reason is an error of ours, which holds no value of a scope. What text/template
// says may hold one.
type reason string

func (r reason) Error() string { return string(r) }

const (
	errOutput = reason("expands to more than 1 MiB")
	errSteps  = reason("takes too many steps")
)

var (
	execError = regexp.MustCompile(`(?s)^template: t:(\d+):(?:\d+:)? executing ".*?" at <(.*?)>: (.*)$`)
	// What text/template says of types and counts is worth repeating.
	valueFree = regexp.MustCompile(`^(wrong number of args|wrong type for value; expected|exceeded maximum template depth|error calling \w+: (incompatible types|index of |can't index item of type|cannot index slice/array with))`)
)

// explain says what was wrong, in the words of the template's text.
func explain(err error) error {
	why := reason("does not fit the values there are")
	ours := errors.As(err, &why)
	place := execError.FindStringSubmatch(err.Error())
	if place == nil {
		return fmt.Errorf("template: %w", why)
	}
	line, source, said := place[1], place[2], place[3]
	if !ours && valueFree.MatchString(said) {
		why = reason(said)
	}
	return fmt.Errorf("template line %s, %s: %w", line, source, why)
}
