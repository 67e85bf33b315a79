package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestNatsCommand holds us to the nats command: each reads what the other writes.
// The command is $NATS_CLI, or the one in PATH.
func TestNatsCommand(t *testing.T) {
	path := os.Getenv("NATS_CLI")
	if path == "" {
		found, err := exec.LookPath("nats")
		if err != nil {
			t.Skip("SKIPPED: NOTHING HOLDS US TO THE nats COMMAND: there is none in PATH; build github.com/nats-io/natscli v0.4.0 and name it in NATS_CLI")
		}
		path = found
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
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
