package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// facts is a file with what is known of the node. Other software may rewrite it at any time.
type facts struct {
	path string // empty is no facts
	log  *slog.Logger

	mu    sync.Mutex // guards what follows
	known []byte     // the last ones that could be read
	wrong string     // why the file cannot be read
}

// openFacts returns the facts in a file, which must be readable now.
func openFacts(path string, log *slog.Logger) (*facts, error) {
	f := &facts{path: path, log: log, known: []byte("{}")}
	if path == "" {
		return f, nil
	}
	known, err := readFacts(path)
	if err != nil {
		return nil, fmt.Errorf("facts: %w: name a file with a JSON object in --facts", err)
	}
	f.known = known
	return f, nil
}

// get returns the facts as they are in the file now. While it cannot be read, they
// are what they were.
func (f *facts) get() []byte {
	if f.path == "" {
		return f.known
	}
	known, err := readFacts(f.path)
	wrong := ""
	if err != nil {
		wrong = err.Error()
	}

	f.mu.Lock()
	if err == nil {
		f.known = known
	}
	known = f.known
	news := wrong != f.wrong
	f.wrong = wrong
	f.mu.Unlock()

	if news && err != nil {
		f.log.Warn("the facts stay what they were", "error", err)
	}
	return known
}

func readFacts(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a file")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, cause(err))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, cause(err))
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(text, &object) != nil || object == nil {
		return nil, fmt.Errorf("%s: it does not hold a JSON object", path)
	}
	return text, nil
}

// cause is an error of package os without the path, which the message has already.
func cause(err error) error {
	if path, ok := errors.AsType[*os.PathError](err); ok {
		return path.Err
	}
	return err
}
