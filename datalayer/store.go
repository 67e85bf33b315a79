package datalayer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
)

// Store keeps the items of one machine in a file. One goroutine owns it; View
// alone may be called by any.
type Store struct {
	path       string
	view       atomic.Pointer[View]
	unreadable *UnreadableError // by Open; nil if it could read the file
	stale      bool             // the file may hold something else than the view
}

// Open reads the items from a file. No file means no items. A file that cannot
// be read, for whatever reason, is set aside under a name that says so, the
// store is empty then and SetAside tells. An error means that the folder cannot
// be used.
//
// What a crash has left of an earlier write of this file is removed.
func Open(path string) (*Store, error) {
	if err := Sweep(path); err != nil {
		return nil, fmt.Errorf("open data: %w", err)
	}
	s := &Store{path: path}
	view, err := load(path)
	if err != nil {
		view = &View{}
		if s.unreadable, err = MoveAside(path, err); err != nil {
			return nil, fmt.Errorf("open data: %w", err)
		}
	}
	s.view.Store(view)
	return s, nil
}

// SetAside returns an *UnreadableError when Open could not read the file, else nil.
// Whatever was remembered beside the data is worthless then.
func (s *Store) SetAside() error {
	if s.unreadable == nil {
		return nil
	}
	return s.unreadable
}

// View returns the items as they are now. Any goroutine may call it; it never waits.
func (s *Store) View() *View { return s.view.Load() }

// Commit changes items and returns once the change is on the disk, and whether
// there was one: a commit that changes nothing writes nothing. On an error the
// items and the file are what they were, except that after a failed sync of the
// folder the file may hold the new ones until the next commit.
func (s *Store) Commit(c Commit) (changed bool, err error) {
	next, changed, err := s.View().with(c)
	if err != nil {
		return false, fmt.Errorf("commit data: %w", err)
	}
	if !changed && !s.stale {
		return false, nil
	}
	s.stale = true
	if err := WriteFile(s.path, next.JSON()); err != nil {
		return false, fmt.Errorf("commit data: %w", err)
	}
	s.stale = false
	s.view.Store(next)
	return changed, nil
}

func load(path string) (*View, error) {
	doc, err := ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &View{}, nil
	}
	if err != nil {
		return nil, err
	}
	return parseItems(doc)
}

func parseItems(doc []byte) (*View, error) {
	doc = bytes.TrimLeft(doc, space)
	if len(doc) == 0 || doc[0] != '{' {
		return nil, errors.New("not a JSON object")
	}
	if err := checkJSON(doc, 1+MaxDepth); err != nil {
		return nil, err
	}
	var values map[string]json.RawMessage
	if err := json.Unmarshal(doc, &values); err != nil {
		return nil, errNotJSON
	}
	var c Commit
	for name, value := range values {
		c.Set = append(c.Set, Item{name, value})
	}
	view, _, err := (&View{}).with(c)
	return view, err
}
