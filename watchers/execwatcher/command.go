package execwatcher

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/kballard/go-shellquote"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/watchers"
)

// Command is the property command, in one of two forms. A string is expanded and
// then split like a shell would, so a value that it looks up may become several
// words, unless it goes through quote. A list is the arguments as they stand: each
// is expanded by itself and stays one argument, whatever the value holds.
type Command struct {
	line datalayer.Template
	list []datalayer.Template
}

// UnmarshalJSON takes a string or a list of strings.
func (c *Command) UnmarshalJSON(raw []byte) error {
	var line string
	if json.Unmarshal(raw, &line) == nil {
		parsed, err := datalayer.Parse(line)
		*c = Command{line: parsed}
		return err
	}
	texts, err := stringList(raw)
	if err != nil {
		return fmt.Errorf("must be a string or a list of strings: %w", err)
	}
	list := make([]datalayer.Template, len(texts))
	for i, text := range texts {
		if list[i], err = datalayer.Parse(text); err != nil {
			return fmt.Errorf("element %d: %w", i+1, err)
		}
	}
	*c = Command{list: list}
	return nil
}

// stringList decodes a list of strings and says which element is none.
func stringList(raw []byte) ([]string, error) {
	var elements []json.RawMessage
	if err := json.Unmarshal(raw, &elements); err != nil {
		return nil, errors.New("this is no list")
	}
	texts := make([]string, len(elements))
	for i, element := range elements {
		if len(element) == 0 || element[0] != '"' {
			return nil, fmt.Errorf("element %d is no string: put it in quotes", i+1)
		}
		if err := json.Unmarshal(element, &texts[i]); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// IsZero says whether there is nothing to run.
func (c Command) IsZero() bool { return c.line.IsZero() && len(c.list) == 0 }

// arguments expands the command. The first one is not empty.
func (c Command) arguments(scope datalayer.Scope) ([]string, error) {
	var args []string
	if c.list != nil {
		for i, element := range c.list {
			arg, err := element.Expand(scope)
			if err != nil {
				return nil, fmt.Errorf("command, element %d: %w", i+1, err)
			}
			args = append(args, arg)
		}
	} else {
		line, err := c.line.Expand(scope)
		if err != nil {
			return nil, fmt.Errorf("command: %w", err)
		}
		if args, err = shellquote.Split(line); err != nil {
			return nil, fmt.Errorf("command: %w", quotingError(err))
		}
	}
	if len(args) == 0 || args[0] == "" {
		return nil, errors.New("command: there is nothing to run")
	}
	for i, arg := range args {
		if strings.ContainsRune(arg, 0) {
			return nil, fmt.Errorf("command: argument %d holds a NUL byte", i)
		}
	}
	return args, nil
}

// names says whether the manifest itself names this program: then an error may
// name it too. Otherwise the name is a value of data or facts.
func (c Command) names(program string) bool {
	text := c.line.String()
	if c.list != nil {
		text = c.list[0].String()
	}
	return strings.Contains(text, program)
}

// check says what is wrong with a command whose values are not known yet.
func (c Command) check() []watchers.Problem {
	problem := func(warning bool, format string, args ...any) []watchers.Problem {
		return []watchers.Problem{{Property: "command", Message: fmt.Sprintf(format, args...), Warning: warning}}
	}
	if c.IsZero() {
		return problem(false, "is required: a command line, or a list of its arguments")
	}
	if c.list != nil {
		if c.list[0].IsZero() {
			return problem(false, "begins with an empty element: the first one is the program")
		}
		return c.checkList(problem)
	}

	// What stands outside of the actions is the manifest's own; an action may
	// become anything, and counts as an unremarkable part of a word.
	line := action.ReplaceAllString(c.line.String(), placeholder)
	if operator := shellSyntax(line); operator != "" {
		return problem(false, "holds %s, which means something to a shell only, and no shell runs: "+
			`quote it, or write ["sh", "-c", "..."]`, operator)
	}
	words, err := shellquote.Split(line)
	switch {
	case err != nil && !c.line.Static():
		return nil // quotes that belong together may stand in actions
	case err != nil:
		return problem(false, "%v", quotingError(err))
	case len(words) == 0 || words[0] == "":
		return problem(false, "holds no word: there is nothing to run")
	}
	if i := shellScript(words); i > 0 && strings.Contains(words[i], placeholder) {
		return problem(true, "a shell runs what a template puts into its script, and here quote does not help: "+
			`write ["sh", "-c", "...\"$1\"...", "sh", "{{ ... }}"]`)
	}
	return nil
}

func (c Command) checkList(problem func(bool, string, ...any) []watchers.Problem) []watchers.Problem {
	words := make([]string, len(c.list))
	for i, element := range c.list {
		words[i] = element.String()
	}
	i := shellScript(words)
	if i < 0 || c.list[i].Static() {
		return nil
	}
	for _, found := range action.FindAllStringSubmatch(words[i], -1) {
		if !control.MatchString(found[1]) && !quoted.MatchString(found[1]) {
			return problem(true, "a shell runs what {{%s}} puts into its script: pass it through quote, "+
				`or write "$1" there and the template after it as an argument of its own`, found[1])
		}
	}
	return nil
}

var (
	action  = regexp.MustCompile(`(?s)\{\{(.*?)\}\}`)
	control = regexp.MustCompile(`^-?\s*(if|else|end|range|with|define|block|break|continue|/\*|\$\w+\s*:?=)`)
	quoted  = regexp.MustCompile(`\bquote\b`)
)

// placeholder stands for an action of a template. No argument can hold it.
const placeholder = "\x00"

var shells = []string{"sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "busybox", "su"}

var scriptFlag = regexp.MustCompile(`^-[a-zA-Z]*c[a-zA-Z]*$`)

// shellScript finds the word that a shell among the words would run as a script,
// or returns -1.
func shellScript(words []string) int {
	shell := slices.IndexFunc(words, func(w string) bool { return slices.Contains(shells, filepath.Base(w)) })
	if shell < 0 {
		return -1
	}
	flag := slices.IndexFunc(words[shell:], scriptFlag.MatchString)
	if script := shell + flag + 1; flag > 0 && script < len(words) {
		return script
	}
	return -1
}

// shellSyntax returns the first thing in a line that a shell would not take as
// part of a word, or nothing.
func shellSyntax(line string) string {
	var quote byte // the one that is open, or 0
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case quote == '\'':
			if c == '\'' {
				quote = 0
			}
		case c == '\\':
			i++
		case c == '`':
			return "a backtick"
		case c == '$' && strings.HasPrefix(line[i:], "$("):
			return "$("
		case c == '"' && quote == '"':
			quote = 0
		case quote == '"':
		case c == '"', c == '\'':
			quote = c
		case strings.IndexByte(";|&<>()", c) >= 0:
			return string(c)
		case c == '#' && (i == 0 || strings.IndexByte(" \t\n", line[i-1]) >= 0):
			return "a comment (#)"
		}
	}
	return ""
}

func quotingError(err error) error {
	switch {
	case errors.Is(err, shellquote.UnterminatedSingleQuoteError):
		return errors.New("a ' is not closed")
	case errors.Is(err, shellquote.UnterminatedDoubleQuoteError):
		return errors.New(`a " is not closed`)
	default:
		return errors.New("nothing follows the last backslash")
	}
}
