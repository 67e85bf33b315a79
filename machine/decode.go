package machine

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	yamlnode "go.yaml.in/yaml/v4"

	"github.com/keyturn-io/keyturn/watchers"
)

// position is a place in a manifest, counted from 1.
type position struct{ line, column int }

// decoder fills a Manifest from JSON. It goes through the YAML nodes at the same
// time, so that whatever is wrong is told with its place, all of it at once.
type decoder struct {
	file  string
	kinds watchers.Kinds
	at    map[string]position // of each value, by its path ("watchers[0].type")

	broken             map[string]bool // paths that have a problem
	problems, warnings []*ManifestError
}

// problem notes what is wrong with the value at a path, or, when there is none,
// with the closest one that contains it.
func (d *decoder) problem(path, format string, args ...any) {
	if d.broken[path] {
		return // more about it would only follow from what was said
	}
	d.broken[path] = true
	d.problems = append(d.problems, d.atPath(path, fmt.Sprintf(format, args...)))
}

// brokenIn says whether anything below a path has a problem.
func (d *decoder) brokenIn(path string) bool {
	for broken := range d.broken {
		if strings.HasPrefix(broken, path+".") {
			return true
		}
	}

	return false
}

// warning notes what is questionable at a path.
func (d *decoder) warning(path, format string, args ...any) {
	d.warnings = append(d.warnings, d.atPath(path, fmt.Sprintf(format, args...)))
}

func (d *decoder) atPath(path, message string) *ManifestError {
	for {
		if at, ok := d.at[path]; ok {
			return &ManifestError{File: d.file, Line: at.line, Column: at.column, Message: message}
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return &ManifestError{File: d.file, Message: message}
		}
		path = path[:cut]
	}
}

// document decodes a whole manifest.
func (d *decoder) document(root *yamlnode.Node, raw json.RawMessage, m *Manifest) {
	d.value("", root, raw, reflect.ValueOf(m).Elem())
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// value decodes the value at a path into v.
func (d *decoder) value(path string, node *yamlnode.Node, raw json.RawMessage, v reflect.Value) {
	d.at[path] = position{node.Line, node.Column}
	pointer := v.Addr().Type()
	switch {
	case string(raw) == "null":
		d.problem(path, "%s has no value: give it one, or take the line out", last(path))
	case pointer.Implements(jsonUnmarshaler) || pointer.Implements(textUnmarshaler):
		d.leaf(path, node, raw, v)
	case v.Kind() == reflect.Interface && !v.IsNil():
		d.value(path, node, raw, v.Elem().Elem())
	case v.Kind() == reflect.Struct:
		d.mapping(path, node, raw, v)
	case v.Kind() == reflect.Slice:
		d.sequence(path, node, raw, v)
	default:
		d.leaf(path, node, raw, v)
	}
}

// mapping decodes a mapping into a struct, by its json tags.
func (d *decoder) mapping(path string, node *yamlnode.Node, raw json.RawMessage, v reflect.Value) {
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(raw, &parts); err != nil || node.Kind != yamlnode.MappingNode {
		d.problem(path, "%s must be a mapping of names to values", last(path))
		return
	}
	if w, ok := v.Addr().Interface().(*Watcher); ok {
		d.kind(path, node, w)
	}

	fields := map[string]reflect.Value{}
	var names []string
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			fields[name] = v.Field(i)
			names = append(names, name)
		}
	}

	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		at := join(path, key.Value)
		field, known := fields[key.Value]
		switch {
		case !known:
			d.at[at] = position{key.Line, key.Column}
			d.problem(at, "unknown key %s%s", quoted(key.Value), hint(key.Value, names))
		case field.Kind() == reflect.Interface && field.IsNil():
			// The properties of a watcher whose type is unknown, which is a problem already.
		default:
			d.value(at, value, parts[key.Value], field)
		}
	}
}

// kind gives a watcher the empty properties of its type.
func (d *decoder) kind(path string, node *yamlnode.Node, w *Watcher) {
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Value != "type" || value.Kind != yamlnode.ScalarNode {
			continue
		}
		kind, ok := d.kinds.Find(value.Value)
		if !ok {
			at := join(path, "type")
			d.at[at] = position{value.Line, value.Column}
			d.problem(at, "unknown watcher type %s%s", quoted(value.Value), hint(value.Value, d.kinds.Names()))
			return
		}
		w.Properties = kind.New()
	}
}

// sequence decodes a list into a slice.
func (d *decoder) sequence(path string, node *yamlnode.Node, raw json.RawMessage, v reflect.Value) {
	var parts []json.RawMessage
	if err := json.Unmarshal(raw, &parts); err != nil || node.Kind != yamlnode.SequenceNode || len(parts) != len(node.Content) {
		d.problem(path, "%s must be a list", last(path))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(parts), len(parts)))
	for i, part := range parts {
		d.value(fmt.Sprintf("%s[%d]", path, i), node.Content[i], part, v.Index(i))
	}
}

// leaf decodes what has no parts of its own, or decodes them itself.
func (d *decoder) leaf(path string, node *yamlnode.Node, raw json.RawMessage, v reflect.Value) {
	pointer := v.Addr().Interface()
	_, text := pointer.(encoding.TextUnmarshaler)
	if (text || v.Kind() == reflect.String) && node.Kind == yamlnode.ScalarNode {
		// A version 1.10 or a bucket 2024 is the text that stands there.
		raw, _ = json.Marshal(node.Value)
	}
	err := json.Unmarshal(raw, pointer)
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong):
		d.problem(path, "%s must be %s, not %s", last(path), sort(wrong.Type), wrong.Value)
	case err != nil:
		d.problem(path, "%s: %s", last(path), err)
	}
}

// sort names a type as somebody who writes YAML would.
func sort(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "a mapping"
	default:
		return "a whole number"
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}

	return path + "." + key
}

// last is the name at the end of a path, as a person would say it.
func last(path string) string {
	if path == "" {
		return "the manifest"
	}
	list, _, item := strings.Cut(path[strings.LastIndex(path, ".")+1:], "[")
	if item {
		return "an entry of " + list
	}

	return list
}

// hint is the end of an error about an unknown name: the nearest known one, or all of them.
func hint(name string, known []string) string {
	best, distance := "", max(2, len(name)/3)+1
	for _, k := range known {
		if n := edits(strings.ToLower(name), strings.ToLower(k)); n < distance {
			best, distance = k, n
		}
	}
	if best != "" {
		return fmt.Sprintf(": did you mean %s?", quoted(best))
	}

	return ": known are " + strings.Join(known, ", ")
}

// edits counts the letters to insert, delete or change to make b of a.
func edits(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}

	return row[len(b)]
}
