package kvwatcher

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/choria-io/ccm/hiera"
	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"

	"github.com/keyturn-io/keyturn/datalayer"
)

// What a value may be at most that is hierarchical data.
const (
	maxHiera      = 256 << 10 // bytes
	maxHieraDepth = 32
	maxHieraOrder = 64    // entries of the hierarchy
	maxHieraWork  = 5_000 // expressions, each counted for each entry of the hierarchy
)

// resolveHiera makes of a value, a JSON or YAML document with data, a hierarchy and
// overrides, what it says for a node with these facts.
//
// Whoever may put a key writes the document, so it is held to limits, and the
// expressions in it to lookups: the language behind them can loop without end.
func resolveHiera(value, facts []byte) (resolved json.RawMessage, err error) {
	defer func() {
		if recover() != nil {
			resolved, err = nil, errors.New("it is not hierarchical data: data and overrides must be mappings")
		}
	}()
	if len(value) > maxHiera {
		return nil, fmt.Errorf("hierarchical data of more than %d KiB", maxHiera>>10)
	}
	var root, known map[string]any
	limits := loaderlimits.New(loaderlimits.DepthValue(maxHieraDepth), loaderlimits.AliasValue(0))
	if err := yaml.Load(value, &root, yaml.WithPlugin(limits)); err != nil {
		return nil, errors.New("it is neither JSON nor YAML with a mapping at the top")
	}
	expressions := 0
	if err := plainExpressions(root, 0, &expressions); err != nil {
		return nil, err
	}
	if h, ok := root["hierarchy"].(map[string]any); ok {
		order, _ := h["order"].([]any)
		if len(order) > maxHieraOrder || len(order)*expressions > maxHieraWork {
			return nil, fmt.Errorf("a hierarchy of %d entries with %d expressions is more work than a value may cause", len(order), expressions)
		}
	}
	if expressions > maxHieraWork {
		return nil, fmt.Errorf("%d expressions are more work than a value may cause", expressions)
	}
	if err := json.Unmarshal(facts, &known); err != nil {
		return nil, errors.New("the facts are not a JSON object")
	}
	data, err := hiera.Resolve(root, known, hiera.DefaultOptions, nil)
	if err != nil {
		return nil, errors.New("the hierarchy cannot be resolved: see its merge mode and its lookups") // the cause may hold a value
	}

	return datalayer.Encode(data)
}

// lookup matches what an expression may be: a lookup by path with a plain default, or
// a path of facts.
var lookup = regexp.MustCompile(`^\s*(?:` +
	`lookup\(\s*(?:'[\w.-]*'|"[\w.-]*")\s*(?:,\s*(?:'[^'"\\{}$]*'|"[^'"\\{}$]*"|-?[0-9]+(?:\.[0-9]+)?|true|false)\s*)?\)` +
	`|Facts(?:\.[A-Za-z_]\w*|\[(?:'[\w.-]*'|"[\w.-]*")\])+` +
	`)\s*$`)

// expression matches an expression in a text, of both forms.
var expression = regexp.MustCompile(`(?s)\{\{(.*?)\}\}|\$\{(.*?)\}`)

// plainExpressions refuses expressions that do more than look something up, and counts
// those that do not.
func plainExpressions(v any, depth int, count *int) error {
	if depth > maxHieraDepth {
		return errors.New("it is nested too deep")
	}
	switch v := v.(type) {
	case string:
		rest := expression.ReplaceAllStringFunc(v, func(found string) string {
			if match := expression.FindStringSubmatch(found); !lookup.MatchString(match[1] + match[2]) {
				return found
			}
			*count++
			return ""
		})
		if strings.Contains(rest, "{{") || strings.Contains(rest, "${") {
			return errors.New("an expression in it is more than lookup('facts.path', 'default') or Facts.path")
		}
	case []any:
		for _, part := range v {
			if err := plainExpressions(part, depth+1, count); err != nil {
				return err
			}
		}
	case map[string]any:
		for key, part := range v {
			if err := errors.Join(plainExpressions(key, depth+1, count), plainExpressions(part, depth+1, count)); err != nil {
				return err
			}
		}
	case map[any]any:
		return errors.New("a key in it is not a string")
	}

	return nil
}
