package execwatcher

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/watchers"
)

// The files that a command may read, in the folder of its run.
const (
	dataFile    = "data.json"
	factsFile   = "facts.json"
	changesFile = "changes.json"
)

// environment is the variables of a command, each once, in the form NAME=value.
type environment []string

// newEnvironment makes the variables that every command gets, and no others: what
// the agent has in its own environment may be secret.
func newEnvironment(env watchers.Env, folder string) environment {
	visit := env.Visit()
	e := environment{
		"MACHINE_NAME=" + env.Machine,
		"MACHINE_WATCHER_NAME=" + env.Watcher,
		"MACHINE_INSTANCE_ID=" + env.Instance,
		"MACHINE_STATE=" + visit.State,
		"MACHINE_EVENT=" + visit.Event,
		"MACHINE_PREVIOUS_STATE=" + visit.Previous,
		"WATCHER_DATA=" + filepath.Join(folder, dataFile),
		"WATCHER_FACTS=" + filepath.Join(folder, factsFile),
		"WATCHER_CHANGES=" + filepath.Join(folder, changesFile),
	}
	path := env.Dir
	if own := os.Getenv("PATH"); own != "" {
		path = own + string(os.PathListSeparator) + path
	}
	e = append(e, "PATH="+path)
	for _, name := range []string{"HOME", "LANG"} {
		if value, ok := os.LookupEnv(name); ok {
			e = append(e, name+"="+value)
		}
	}
	return e
}

// add expands the manifest's variables, which win over those that are there.
func (e environment) add(variables Environment, scope datalayer.Scope) (environment, error) {
	for _, v := range variables {
		value, err := v.Value.Expand(scope)
		if err != nil {
			return nil, fmt.Errorf("environment, %s: %w", v.Name, err)
		}
		if strings.ContainsRune(value, 0) {
			return nil, fmt.Errorf("environment, %s: it holds a NUL byte", v.Name)
		}
		e = e.set(v.Name, value)
	}
	return e, nil
}

func (e environment) set(name, value string) environment {
	for i, known := range e {
		if strings.HasPrefix(known, name+"=") {
			e[i] = name + "=" + value
			return e
		}
	}
	return append(e, name+"="+value)
}

func (e environment) get(name string) string {
	for _, known := range e {
		if value, ok := strings.CutPrefix(known, name+"="); ok {
			return value
		}
	}
	return ""
}
