package watchertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/keyturn-io/keyturn/watchers"
)

// ErrUnknownProperty is returned by Decode for a property that the kind has not.
var ErrUnknownProperty = errors.New("unknown property")

// Decode makes a kind's properties from a JSON object, each by itself into the field
// with its json tag, as a loader of manifests does.
func Decode(kind watchers.Kind, properties string) (watchers.Properties, error) {
	var values map[string]json.RawMessage
	if err := json.Unmarshal([]byte(properties), &values); err != nil {
		return nil, fmt.Errorf("the properties are not a JSON object: %w", err)
	}
	p := kind.New()
	fields := fieldsOf(p)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		field, ok := fields[name]
		if !ok {
			return nil, fmt.Errorf("%s: %w", name, ErrUnknownProperty)
		}
		if err := json.Unmarshal(values[name], field.Addr().Interface()); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return p, nil
}

// fieldsOf returns the exported fields of properties by their json tags. It panics
// when they are not what watchers.Properties asks for.
func fieldsOf(p watchers.Properties) map[string]reflect.Value {
	value := reflect.ValueOf(p)
	if value.Kind() != reflect.Pointer || value.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("%T is no pointer to a struct", p))
	}
	fields := map[string]reflect.Value{}
	for i := range value.Elem().NumField() {
		field := value.Elem().Type().Field(i)
		if !field.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" {
			panic(fmt.Sprintf("%T: field %s has no json tag", p, field.Name))
		}
		fields[name] = value.Elem().Field(i)
	}
	return fields
}
