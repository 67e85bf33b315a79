package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/watchers"
)

// The files in which a machine keeps what must survive a restart.
const (
	dataFile  = "machine_data.json"
	stateFile = "machine_state.json"
)

// memory is what the machine itself must remember, as it stands in machine_state.json.
type memory struct {
	// The visit that goes on; it survives a restart when the manifest says resume.
	State    string            `json:"state,omitempty"`
	Event    string            `json:"event,omitempty"`
	Previous string            `json:"previous,omitempty"`
	Changes  []watchers.Change `json:"changes,omitempty"`

	// Marks holds, by watcher, what it last said of a change that is settled since.
	Marks map[string]json.RawMessage `json:"marks"`

	// Pending holds, by watcher, what it said a crash must not make it forget.
	Pending map[string]json.RawMessage `json:"pending,omitempty"`

	// Unsettled holds, by watcher, the mark of a change whose event was taken, until
	// the machine is next in a state in which that watcher runs. It survives a restart
	// only together with the state, that is when the manifest says resume.
	Unsettled map[string]json.RawMessage `json:"unsettled,omitempty"`
}

func emptyMemory() memory {
	return memory{
		Marks:     map[string]json.RawMessage{},
		Pending:   map[string]json.RawMessage{},
		Unsettled: map[string]json.RawMessage{},
	}
}

// loadMemory reads the file in a folder. With found false there has never been one.
// When it cannot be read it is set aside, which aside tells.
func loadMemory(dir string) (m memory, found bool, aside, err error) {
	path := filepath.Join(dir, stateFile)
	if err := datalayer.Sweep(path); err != nil {
		return m, false, nil, err
	}
	text, err := datalayer.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return emptyMemory(), false, nil, nil
	}
	m = emptyMemory()
	if err == nil && (json.Unmarshal(text, &m) != nil || m.Marks == nil || m.Pending == nil || m.Unsettled == nil) {
		err = errors.New("it is not what a machine has written")
	}
	if err == nil {
		return m, true, nil, nil
	}
	moved, err := datalayer.MoveAside(path, err)
	if err != nil {
		return m, false, nil, err
	}

	return emptyMemory(), true, moved, nil
}

// save writes the file, all of it or nothing.
func (m memory) save(dir string) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", stateFile, err)
	}

	return datalayer.WriteFile(filepath.Join(dir, stateFile), append(text, '\n'))
}
