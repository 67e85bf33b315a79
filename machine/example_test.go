package machine_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/keyturn-io/keyturn/kv/memkv"
	"github.com/keyturn-io/keyturn/machine"
	"github.com/keyturn-io/keyturn/watchers/builtin"
)

const exampleManifest = `name: deployment
version: 1.0.0
initial_state: WAIT
transitions:
  - {name: update_deployment, from: [WAIT], destination: DEPLOY}
  - {name: deployed, from: [DEPLOY], destination: WAIT}
watchers:
  - name: kv_watch
    type: kv
    state_match: [WAIT]
    success_transition: update_deployment
    properties: {bucket: CFG, key: username, mode: watch}
  - name: deploy
    type: exec
    state_match: [DEPLOY]
    success_transition: deployed
    properties: {command: ["true"]}
`

// A program hosts a machine, here on a bucket in memory instead of natskv's, and
// sees each of its steps.
func Example() {
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	dir, err := os.MkdirTemp("", "machine")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, machine.ManifestFile), []byte(exampleManifest), 0o600); err != nil {
		log.Fatal(err)
	}
	store := memkv.New()
	if err := store.Create("CFG", memkv.Config{History: 5}); err != nil {
		log.Fatal(err)
	}
	bucket, err := store.Bucket("CFG")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := bucket.Put(ctx, "username", []byte("bob")); err != nil {
		log.Fatal(err)
	}

	manifest, err := machine.Load(dir, builtin.Kinds())
	if err != nil {
		log.Fatal(err) // all that is wrong, each with its line and column
	}
	m, err := machine.New(manifest, machine.Options{
		Dir:    dir,
		Bucket: store.Bucket,
		OnStep: func(s machine.Step) {
			fmt.Println(s.From, "->", s.To, "because of", s.Watcher)
			if s.To == "WAIT" {
				stop()
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := m.Run(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("stopped in", m.Status().State)
	// Output:
	// WAIT -> DEPLOY because of kv_watch
	// DEPLOY -> WAIT because of deploy
	// stopped in WAIT
}

// Parse finds everything that is wrong with a manifest, and where.
func ExampleParse() {
	_, err := machine.Parse("machine.yaml", []byte(`name: door
version: 1.0.0
initial_state: SHUT
transitions:
  - {name: open, from: [CLOSED], destination: OPEN}
watchers: []
`), builtin.Kinds())
	fmt.Println(err)
	// Output:
	// machine.yaml:3:16: no transition knows the initial_state "SHUT": known are CLOSED, OPEN
	// machine.yaml:6:11: a machine needs at least one watcher
}
