package main

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestNatsCommand holds us to the nats command: each reads what the other writes.
func TestNatsCommand(t *testing.T) {
	path, err := natsCommand()
	if err != nil {
		t.Skip("SKIPPED: NOTHING HOLDS US TO THE nats COMMAND: there is none; make nats builds it: ", err)
	}
	params := scripts(t)
	params.Files = []string{"testdata/nats.txtar"}
	setup := params.Setup
	params.Setup = func(env *testscript.Env) error {
		bin := filepath.Join(env.WorkDir, "bin")
		if err := os.Mkdir(bin, 0o700); err != nil {
			return err
		}
		if err := os.Symlink(path, filepath.Join(bin, "nats")); err != nil {
			return err
		}
		env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
		return setup(env)
	}
	testscript.Run(t, params)
}

// natsCommand returns the path of the nats command: of $NATS_CLI, or else of the one in PATH.
func natsCommand() (string, error) {
	path, err := exec.LookPath(cmp.Or(os.Getenv("NATS_CLI"), "nats"))
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}
