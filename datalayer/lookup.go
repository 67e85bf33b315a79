package datalayer

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// Lookup finds a part of the data by a gjson path, whose first component is the
// name of an item; a dot in the name is written as \. there. It returns JSON that
// the caller must not change, or false when there is nothing or CheckPath refuses
// the path. It costs no more than the item looked into, unless that is named by a
// wildcard or the path begins with a modifier.
func (v *View) Lookup(path string) (json.RawMessage, bool) {
	if CheckPath(path) != nil {
		return nil, false
	}
	name, rest, plain := firstComponent(path)
	if !plain {
		return query(v.JSON(), path)
	}
	value, found := v.Get(name)
	switch {
	case rest == "":
		return value, found
	case rest[0] == '.' && len(rest) > 1 && !strings.ContainsRune(special, rune(rest[1])):
		if !hasParts(value) {
			return nil, false
		}
		return query(value, rest[1:])
	}
	// What is special at the start of a path means something else within one:
	// keep it where it is, in a document with this item only.
	return query(v.only(name).JSON(), path)
}

// Query finds a part of a JSON object or array by a gjson path. It returns false
// when there is nothing, when doc is another kind of value, which has no parts, or
// when CheckPath refuses the path. What it returns need not be JSON when doc is not.
func Query(doc []byte, path string) (json.RawMessage, bool) {
	doc = bytes.TrimLeft(doc, space)
	switch {
	case CheckPath(path) != nil:
		return nil, false
	case !hasParts(doc):
		return nil, false
	case strings.Contains(path, "@") && depth(doc) > 1+MaxDepth:
		return nil, false // gjson's modifiers are recursive
	}
	return query(doc, path)
}

// hasParts says whether a value is an object or an array. Of others gjson must not
// be asked: it would search the text of a string for braces.
func hasParts(value []byte) bool {
	return len(value) > 0 && (value[0] == '{' || value[0] == '[')
}

func query(doc []byte, path string) (json.RawMessage, bool) {
	result := gjson.GetBytes(doc, path)
	switch {
	case !result.Exists():
		return nil, false
	case result.Raw != "":
		return json.RawMessage(result.Raw), true
	case result.Type == gjson.Number: // a count has no text of its own
		return strconv.AppendFloat(nil, result.Num, 'f', -1, 64), true
	}
	return encodeText([]byte(result.String())), true
}

// special is what means more than itself at the start of a path.
const special = ".@!{["

// firstComponent splits a path as gjson does into an item's name and the rest
// with the dot or pipe it begins with. It is not plain when more than one item
// may be meant.
func firstComponent(path string) (name, rest string, plain bool) {
	if path != "" && strings.ContainsRune(special, rune(path[0])) {
		return "", "", false
	}
	for i := 0; i < len(path); i++ {
		switch path[i] {
		case '.', '|':
			return name + path[:i], path[i:], true
		case '*', '?':
			return "", "", false
		case '\\':
			name += path[:i]
			path = path[i+1:]
			i = 0 // the escaped byte stands for itself
			if path == "" {
				return name, "", true
			}
		}
	}
	return name + path, "", true
}

var errPath = errors.New("path with too many modifiers or selections")

// CheckPath refuses a gjson path that could make much out of little: modifiers
// and selections multiply what they are given, and nothing can stop gjson half-way.
// Those that people write are far below the limits.
func CheckPath(path string) error {
	if len(path) > 1024 ||
		strings.Count(path, "@") > 4 ||
		strings.Count(path, "@dig") > 1 ||
		strings.Count(path, "#") > 8 ||
		strings.Count(path, "[")+strings.Count(path, "{") > 4 ||
		strings.Count(path, ",") > 32 {
		return errPath
	}
	return nil
}
