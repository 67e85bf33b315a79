package execwatcher

import (
	"bytes"
	"encoding/json"
	"errors"

	"github.com/keyturn-io/keyturn/datalayer"
)

var (
	errNotObject = errors.New("stdout is not one JSON object, as parse_as_data wants it")
	errTwice     = errors.New("a key stands twice in the JSON object on stdout")
)

// parseObject reads one JSON object and returns an item for each of its keys.
// Its errors hold nothing of the text.
func parseObject(text []byte) ([]datalayer.Item, error) {
	object, err := datalayer.Encode(json.RawMessage(text))
	if err != nil || object[0] != '{' {
		return nil, errNotObject
	}
	var items []datalayer.Item
	seen := map[string]bool{}
	// Token by token, because a map would hide that a key stands twice.
	d := json.NewDecoder(bytes.NewReader(object))
	d.Token() // the opening brace
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, errNotObject
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, errNotObject
		}
		name := key.(string)
		if seen[name] {
			return nil, errTwice
		}
		seen[name] = true
		items = append(items, datalayer.Item{Name: name, Value: value})
	}
	return items, nil
}
