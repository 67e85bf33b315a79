// Package datalayer keeps what a machine has learned: named items, on disk.
//
// A [Store] holds the items of one machine. Its owner changes them by a
// [Commit], which is on disk completely or not at all, and anybody may read
// them through a [View], which never changes. Each value is encoded to JSON
// once, when it is set; saving and exporting join the encoded parts.
//
// A command waits for a commit, so a commit is one small write and one sync, in a
// journal. The file that people read, a JSON object of all items, is written by
// [Store.Checkpoint], when nobody waits. The file and the journal together hold the
// items at any instant, and after [Store.Close] the file alone.
//
// A [Template] is a property text of a manifest that may look up items and the
// node's facts.
//
// No error of this package holds a value, of an item or of a fact.
package datalayer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// The limits of what is taken for JSON. A store neither writes nor reads what
// is beyond them, so that what it wrote it can read.
const (
	MaxSize  = 64 << 20 // bytes of the file of a store
	MaxDepth = 128      // arrays and objects within one another, in one value
)

// space is what JSON allows between its parts.
const space = " \t\r\n"

// Item is a named value. The name is any UTF-8 text; the value is JSON, made by
// Encode or FromBytes, that nobody changes any more.
type Item struct {
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
}

// Commit is a change of a store: all of it happens or nothing. A name that is
// both deleted and set is set; of two values for one name the last counts.
type Commit struct {
	Set    []Item   `json:"set,omitempty"`
	Delete []string `json:"delete,omitempty"`
}

// Encode makes the value of an item: JSON without needless space or escapes,
// in which numbers keep their digits. A string or []byte becomes a JSON string,
// or what FromBytes makes of it when it is not UTF-8; a json.RawMessage stays
// the JSON that it is; anything else becomes what encoding/json makes of it.
func Encode(v any) (json.RawMessage, error) {
	switch v := v.(type) {
	case string:
		return encodeText([]byte(v)), nil
	case []byte:
		return encodeText(v), nil
	}
	encoded, err := marshal(v)
	if err != nil {
		// The error of encoding/json may quote the value.
		return nil, fmt.Errorf("encode %T: it has no form in JSON", v)
	}
	if err := checkJSON(encoded, MaxDepth); err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return encoded, nil
}

// Decode is the opposite of Encode: nil, bool, string, []any, map[string]any,
// and json.Number, which keeps the digits.
func Decode(raw []byte) (any, error) {
	if err := checkJSON(raw, MaxDepth); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("decode: %w", errNotJSON)
	}
	return v, nil
}

// FromBytes makes the value of an item from what a bucket holds. A JSON object
// or array is kept as such, with the order of its keys and the digits of its
// numbers; anything else is the string that it is, also what only begins like
// an object, or is nested deeper than MaxDepth. What is not UTF-8 becomes an
// object that says so: {"base64": "..."}.
func FromBytes(value []byte) json.RawMessage {
	text := bytes.TrimLeft(value, space)
	if hasParts(text) && checkJSON(text, MaxDepth) == nil {
		compact := bytes.NewBuffer(make([]byte, 0, len(text)))
		if json.Compact(compact, text) == nil {
			return compact.Bytes()
		}
	}
	return encodeText(value)
}

func encodeText(text []byte) json.RawMessage {
	var v any = string(text)
	if !utf8.Valid(text) {
		v = map[string]string{"base64": base64.StdEncoding.EncodeToString(text)}
	}
	encoded, err := marshal(v)
	if err != nil {
		panic(err) // cannot happen: a string has a form in JSON
	}
	return encoded
}

// marshal is json.Marshal that leaves <, > and & as they are.
func marshal(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

var (
	errNotJSON  = errors.New("not JSON")
	errNotUTF8  = errors.New("not UTF-8")
	errTooDeep  = fmt.Errorf("nested deeper than %d", MaxDepth)
	errTooLarge = fmt.Errorf("larger than %d bytes", MaxSize)
)

// checkJSON says why raw is not JSON that we take.
func checkJSON(raw []byte, maxDepth int) error {
	switch {
	case len(raw) > MaxSize:
		return errTooLarge
	case !utf8.Valid(raw):
		return errNotUTF8
	case depth(raw) > maxDepth:
		return errTooDeep // before json.Valid, which keeps a stack
	case !json.Valid(raw):
		return errNotJSON
	}
	return nil
}

// depth is how deep arrays and objects are nested in raw; more, if anything, in
// what is not JSON.
func depth(raw []byte) int {
	deepest, now := 0, 0
	inString := false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now = max(now-1, 0)
		}
	}
	return deepest
}
