package machine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/ghodss/yaml"
	yamlnode "go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// What a manifest may be at most. YAML parsers take gigabytes for a hostile text
// of a few kilobytes, so these limits stand in front.
const (
	maxManifest = 256 << 10 // bytes
	maxNodes    = 20_000
	maxDepth    = 32
)

// readAtMost reads all of r, or fails when that is more than limit bytes.
func readAtMost(r io.Reader, limit int) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err == nil && len(text) > limit {
		err = fmt.Errorf("it is larger than %d KiB", limit>>10)
	}

	return text, err
}

// readYAML reads the one document of a text as nodes that know where they stand,
// within the limits. Its errors are *ManifestError without a File.
func readYAML(text []byte) (*yamlnode.Node, error) {
	if len(text) > maxManifest {
		return nil, &ManifestError{Message: fmt.Sprintf("the manifest is larger than %d KiB", maxManifest>>10)}
	}
	if !utf8.Valid(text) {
		return nil, &ManifestError{Message: "the manifest is not valid UTF-8"}
	}
	if i := bytes.IndexByte(text, 0); i >= 0 {
		return nil, &ManifestError{Line: 1 + bytes.Count(text[:i], []byte("\n")), Column: 1, Message: "a NUL byte is not allowed"}
	}
	loader, err := yamlnode.NewLoader(bytes.NewReader(text), yamlnode.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		return nil, notYAML(err)
	}
	var doc yamlnode.Node
	switch err := loader.Load(&doc); {
	case errors.Is(err, io.EOF):
		return nil, &ManifestError{Message: "the manifest is empty"}
	case err != nil:
		return nil, notYAML(err)
	}
	var second yamlnode.Node
	if err := loader.Load(&second); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, notYAML(err)
		}
		return nil, &ManifestError{Line: second.Line, Column: second.Column, Message: "a second document: a manifest is one"}
	}

	root := &doc
	if root.Kind == yamlnode.DocumentNode && len(root.Content) == 1 {
		root = root.Content[0]
	}
	count := 0
	if err := plain(root, 0, &count); err != nil {
		return nil, err
	}
	if root.Kind != yamlnode.MappingNode {
		return nil, &ManifestError{Line: root.Line, Column: root.Column, Message: "a manifest is a mapping: name: …, version: …"}
	}

	return root, nil
}

// plain makes the tree one that means the same to every YAML parser: scalars that
// look like strings are quoted, and anything beyond plain data is refused.
func plain(node *yamlnode.Node, depth int, count *int) error {
	*count++
	refuse := func(format string, args ...any) error {
		return &ManifestError{Line: node.Line, Column: node.Column, Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case *count > maxNodes:
		return refuse("the manifest has more than %d parts", maxNodes)
	case depth > maxDepth:
		return refuse("it is nested more than %d deep", maxDepth)
	case node.Kind == yamlnode.AliasNode || node.Anchor != "":
		return refuse("anchors and aliases are not allowed: write the value out")
	}
	node.HeadComment, node.LineComment, node.FootComment = "", "", ""

	if node.Kind == yamlnode.ScalarNode {
		switch tag := node.ShortTag(); tag {
		case "!!null":
			node.Value, node.Style = "null", 0
		case "!!bool", "!!int", "!!float":
			node.Style = 0
		case "!!str", "!!timestamp", "!!merge":
			node.Tag, node.Style = "!!str", yamlnode.DoubleQuotedStyle
		default:
			return refuse("the tag %s is not allowed", quoted(tag))
		}
		return nil
	}

	node.Style = 0
	seen := map[string]bool{}
	for i, child := range node.Content {
		if err := plain(child, depth+1, count); err != nil {
			return err
		}
		if node.Kind != yamlnode.MappingNode || i%2 == 1 {
			continue
		}
		if child.Kind != yamlnode.ScalarNode {
			return &ManifestError{Line: child.Line, Column: child.Column, Message: "a key must be a plain word"}
		}
		child.Tag, child.Style = "!!str", yamlnode.DoubleQuotedStyle
		if seen[child.Value] {
			return &ManifestError{Line: child.Line, Column: child.Column, Message: fmt.Sprintf("%s is given twice", quoted(child.Value))}
		}
		seen[child.Value] = true
	}

	return nil
}

// toJSON turns a plain tree into JSON.
func toJSON(root *yamlnode.Node) (json.RawMessage, error) {
	text, err := yamlnode.Dump(root)
	if err != nil {
		return nil, fmt.Errorf("not YAML: %w", err)
	}
	raw, err := yaml.YAMLToJSON(text)
	if err != nil {
		return nil, fmt.Errorf("not YAML: %w", err)
	}

	return raw, nil
}

// notYAML says where a text is not YAML, if the parser says so.
func notYAML(err error) error {
	e := &ManifestError{Message: "not YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	var at *yamlnode.LoadError
	if errors.As(err, &at) {
		e.Line, e.Column = at.Mark.Line, at.Mark.Column
		e.Message = "not YAML: " + at.Message
	}

	return e
}
