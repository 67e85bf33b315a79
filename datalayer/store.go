package datalayer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
)

// Store keeps the items of one machine in a file and, since that was last written,
// in a journal beside it. One goroutine owns it; View alone may be called by any.
type Store struct {
	path       string
	view       atomic.Pointer[View]
	file       version          // as last read or written
	journal    *journal         // nil while there is none: then each commit writes the file
	unreadable *UnreadableError // by Open; nil if it could read what there was
	stale      bool             // only writing the file makes sure that the disk holds the view
}

// Open reads the items from a file and from the journal beside it, in which a crash
// has left what is not in the file. No file means no items. A file or a journal that
// cannot be read, for whatever reason, is set aside under a name that says so, and
// SetAside tells: without its file the store is empty, without its journal it holds
// the items of the file. An error means that the folder cannot be used.
//
// A journal changes the content of the file that it was written for and no other: it
// is void if somebody has changed the file since. What a crash has left of an earlier
// write of the file is removed.
func Open(path string) (*Store, error) {
	s := &Store{path: path}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("open data: %w", err)
	}
	// If the disk is full or read-only, the next commit tries again, and tells.
	if s.stale {
		_ = s.write(s.View())
	} else {
		_ = removeJournal(path)
	}
	return s, nil
}

// load reads what the disk holds.
func (s *Store) load() error {
	if err := Sweep(s.path); err != nil {
		return err
	}
	content, view, err := readItems(s.path)
	s.view.Store(view)
	if err != nil {
		if s.unreadable, err = MoveAside(s.path, err); err != nil {
			return err
		}
	}
	if s.file, err = versionOf(s.path, content); err != nil {
		return err
	}
	if s.unreadable != nil {
		return nil // and the journal is void
	}
	if err := s.replay(); err != nil {
		if s.unreadable, err = MoveAside(journalPath(s.path), err); err != nil {
			return err
		}
	}
	return nil
}

// replay changes the view as the journal says.
func (s *Store) replay() error {
	commits, err := readJournal(s.path, s.file)
	if err != nil {
		return err
	}
	for _, c := range commits {
		next, _, err := s.View().with(c)
		if err != nil {
			return err
		}
		s.view.Store(next)
		s.stale = true
	}
	return nil
}

// SetAside returns an *UnreadableError when Open could not read the file or the
// journal, else nil. Whatever was remembered beside the data is worthless then.
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
// items are what they were, and so is what the disk holds, except that after a failed
// sync it may hold the new ones until the next commit.
//
// Before the first Checkpoint each commit writes the file. After that most are in the
// journal alone until the next one.
func (s *Store) Commit(c Commit) (changed bool, err error) {
	next, changed, err := s.View().with(c)
	if err != nil {
		return false, fmt.Errorf("commit data: %w", err)
	}
	if !changed && !s.stale {
		return false, nil
	}
	if s.record(c) {
		s.view.Store(next)
		return changed, nil
	}
	s.stale = true
	if err := s.write(next); err != nil {
		return false, fmt.Errorf("commit data: %w", err)
	}
	return changed, nil
}

// record puts a commit into the journal, and says whether it is on the disk there.
func (s *Store) record(c Commit) bool {
	if s.stale || s.journal == nil || !s.journal.inPlace() || !s.file.stands(s.path) {
		return false
	}
	record := s.journal.encode(s.file, c)
	if record == nil {
		return false
	}
	if err := s.journal.append(record); err != nil {
		s.closeJournal() // writing the file will do instead, or will tell what is wrong
		return false
	}
	return true
}

// Checkpoint writes the file if it does not hold all items yet, so that people find
// them there, and makes the journal ready for the next commit. It is called when
// nobody waits for it: before the first commit, and soon after each. It costs nothing
// when there is nothing to do.
//
// Nothing is lost when it fails: the disk holds what was committed, and a later
// Checkpoint, or Open, may succeed. That there is no room for a journal is no error.
func (s *Store) Checkpoint() error {
	if err := s.flush(); err != nil {
		return fmt.Errorf("write data: %w", err)
	}
	if s.journal == nil {
		s.journal, _ = newJournal(s.path)
	}
	return nil
}

// flush writes the file if it does not hold all items yet.
func (s *Store) flush() error {
	if !s.stale && (s.journal == nil || s.journal.end == 0) {
		return nil
	}
	return s.write(s.View())
}

// Close writes the file as Checkpoint does, and leaves it behind without the journal;
// on an error the journal stays, for the next Open. The store must not be used any
// more, except its views. Without Checkpoint there is nothing to close.
func (s *Store) Close() error {
	err := s.flush()
	s.closeJournal()
	if err == nil {
		err = removeJournal(s.path)
	}
	if err != nil {
		return fmt.Errorf("close data: %w", err)
	}
	return nil
}

// write makes a view the content of the file, and thereby the journal void.
func (s *Store) write(next *View) error {
	content := next.JSON()
	if err := WriteFile(s.path, content); err != nil {
		return err
	}
	// The file may get back, one day, the content that the records in the journal
	// were to change. They must be gone before.
	s.stale = true
	file, err := versionOf(s.path, content)
	if err != nil {
		return err
	}
	if s.journal == nil || s.journal.clear() != nil {
		s.closeJournal()
		if err := removeJournal(s.path); err != nil {
			return err
		}
	}
	s.file, s.stale = file, false
	s.view.Store(next)
	return nil
}

func (s *Store) closeJournal() {
	if s.journal != nil {
		s.journal.file.Close()
		s.journal = nil
	}
}

// readItems reads a file: its content, nil if there is none, and the items in it.
func readItems(path string) ([]byte, *View, error) {
	content, err := ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &View{}, nil
	}
	if err != nil {
		return nil, &View{}, err
	}
	view, err := parseItems(content)
	if err != nil {
		return nil, &View{}, err
	}
	return content, view, nil
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
