package keyturn

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyturn-io/keyturn/broker"
	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

const crashManifest = `name: crash
version: 1.0.0
initial_state: WAIT
transitions:
- {name: update, from: [WAIT], destination: DEPLOY}
- {name: deployed, from: [DEPLOY], destination: WAIT}
- {name: failed, from: [DEPLOY], destination: WAIT}
watchers:
- {name: watch, type: kv, state_match: [WAIT], success_transition: update, properties: {bucket: CRASH, mode: watch}}
- {name: deploy, type: exec, state_match: [DEPLOY], success_transition: deployed, fail_transition: failed, properties: {command: [./deploy.sh]}}
`

// crashDeploy notes what it was given in one write, takes a moment, and notes its end.
const crashDeploy = `#!/bin/sh
printf 'begin %s %s\n' "$(tr -d '\n' <"$WATCHER_CHANGES")" "$(tr -d '\n' <"$WATCHER_DATA")" >>actions
sleep 0.0$(($$ % 3))
echo end >>actions
`

// TestCrashAnywhere kills the real program at random instants, on a real store, and
// holds what it did to promises 2, 3, 5 and 11. It prints its seed; KEYTURN_SEED plays
// that one again, and KEYTURN_CRASHES says how often to kill.
func TestCrashAnywhere(t *testing.T) {
	seed, crashes := rand.Uint64(), 200
	if n, err := strconv.ParseUint(os.Getenv("KEYTURN_SEED"), 10, 64); err == nil {
		seed = n
	}
	if n, err := strconv.Atoi(os.Getenv("KEYTURN_CRASHES")); err == nil {
		crashes = n
	}
	if testing.Short() {
		crashes = 20
	}
	t.Logf("KEYTURN_SEED=%d", seed)
	c := newCrash(t, rand.New(rand.NewPCG(seed, 2)))
	for range crashes {
		c.round()
		if t.Failed() {
			t.Fatalf("after %d kills, KEYTURN_SEED=%d; the actions were\n%s", c.kills, seed, c.tail())
		}
	}
	c.end()
	t.Logf("%d kills, %d actions, %d of them interrupted, %d restarts with nothing to do", c.kills, c.begun, c.begun-c.ended, c.idle)
	if c.begun == c.ended || c.idle == 0 {
		t.Error("no action was interrupted, or the machine never had nothing to do: the test shows nothing")
	}
}

// crash is a machine that is killed again and again.
type crash struct {
	t      *testing.T
	random *rand.Rand
	binary string
	dir    string // the machine's folder
	store  string
	bucket kv.Bucket

	values map[string]string                 // the newest of each key
	at     map[string]map[kv.Revision]string // all of them

	read         int64 // bytes of the actions that were looked at
	kills, idle  int
	begun, ended int
	data         map[string]json.RawMessage // of the last action that began
}

func newCrash(t *testing.T, random *rand.Rand) *crash {
	t.Helper()
	root := t.TempDir()
	c := &crash{
		t: t, random: random,
		binary: filepath.Join(root, "keyturn"), dir: filepath.Join(root, "machine"), store: filepath.Join(root, "store"),
		values: map[string]string{}, at: map[string]map[kv.Revision]string{},
	}
	if out, err := exec.Command("go", "build", "-o", c.binary, "./cmd/keyturn").CombinedOutput(); err != nil {
		t.Fatalf("%s %s", err, out)
	}
	for name, content := range map[string]string{"machine.yaml": crashManifest, "deploy.sh": crashDeploy} {
		if err := os.MkdirAll(c.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}

	store, err := broker.Connect(t.Context(), broker.Options{Dir: c.store})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	client, err := natskv.New(store.Conn(), natskv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if err := client.CreateBucket(t.Context(), natskv.Config{Bucket: "CRASH"}); err != nil {
		t.Fatal(err)
	}
	if c.bucket, err = client.Bucket("CRASH"); err != nil {
		t.Fatal(err)
	}

	return c
}

// start starts the program, which ends with the test at the latest.
func (c *crash) start() *exec.Cmd {
	cmd := exec.CommandContext(c.t.Context(), c.binary, "machine", "run", c.dir, "--store", c.store)
	cmd.Stderr = os.Stderr
	if !testing.Verbose() {
		cmd.Stderr = nil
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}

	return cmd
}

// round starts the program, puts something or nothing, and kills it.
func (c *crash) round() {
	settled := c.settled()
	cmd := c.start()
	puts := max(0, c.random.IntN(5)-1)
	for range puts {
		pause(c.t.Context(), c.random.IntN(20))
		c.put()
	}
	pause(c.t.Context(), c.random.IntN(60))
	if err := cmd.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	_ = cmd.Wait()
	c.kills++

	before := c.begun
	c.look()
	if settled && puts == 0 {
		c.idle++
		if c.begun > before {
			c.t.Errorf("promise 3: all was settled and nothing was put, and yet a command began")
		}
	}
	c.whole()
}

// put puts a value at random. Values come back, too.
func (c *crash) put() {
	key := []string{"a", "b", "c"}[c.random.IntN(3)]
	c.putValue(key, fmt.Sprintf("%s%d", key, c.random.IntN(4)))
}

func (c *crash) putValue(key, value string) {
	revision, err := c.bucket.Put(c.t.Context(), key, []byte(value))
	if err != nil {
		c.t.Fatal(err)
	}
	c.values[key] = value
	if c.at[key] == nil {
		c.at[key] = map[kv.Revision]string{}
	}
	c.at[key][revision] = value
}

func pause(ctx context.Context, milliseconds int) {
	select {
	case <-time.After(time.Duration(milliseconds) * time.Millisecond):
	case <-ctx.Done():
	}
}

// settled says whether the machine has noted for every key that its newest value was
// acted on, and its data has them all.
func (c *crash) settled() bool {
	text, err := os.ReadFile(filepath.Join(c.dir, "machine_state.json"))
	if err != nil {
		return false
	}
	var state struct {
		Marks map[string]struct {
			Keys map[string]struct{ Revision kv.Revision }
		}
		Pending map[string]any
	}
	if err := json.Unmarshal(text, &state); err != nil {
		c.t.Fatalf("promise 11: machine_state.json: %s: %s", err, text)
	}
	data := c.stored()
	for key, value := range c.values {
		seen, ok := state.Marks["watch"].Keys[key]
		if !ok || c.at[key][seen.Revision] != value || string(data["CRASH_"+key]) != `"`+value+`"` {
			return false
		}
	}

	return len(c.values) > 0 && len(state.Pending) == 0
}

// stored reads the machine's data as the machine would, from a copy of its folder.
func (c *crash) stored() map[string]json.RawMessage {
	folder := c.t.TempDir()
	files, err := filepath.Glob(filepath.Join(c.dir, "machine_data*"))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			c.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, filepath.Base(file)), content, 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	store, err := datalayer.Open(filepath.Join(folder, "machine_data.json"))
	if err != nil {
		c.t.Fatal(err)
	}
	if aside := store.SetAside(); aside != nil {
		c.t.Errorf("promise 11: %s", aside)
	}
	data := map[string]json.RawMessage{}
	for name, value := range store.View().All() {
		data[name] = value
	}

	return data
}

// whole holds the files to promise 11.
func (c *crash) whole() {
	for _, name := range []string{"machine_data.json", "machine_state.json"} {
		text, err := os.ReadFile(filepath.Join(c.dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) || err == nil && !json.Valid(text) {
			c.t.Errorf("promise 11: %s: %v: %s", name, err, text)
		}
	}
}

// look looks at the actions that were begun since the last time.
func (c *crash) look() {
	text, err := os.ReadFile(filepath.Join(c.dir, "actions"))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		c.t.Fatal(err)
	}
	fresh := text[c.read:]
	fresh = fresh[:bytes.LastIndexByte(fresh, '\n')+1]
	c.read += int64(len(fresh))
	for line := range strings.Lines(string(fresh)) {
		what, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if what == "end" {
			c.ended++
			continue
		}
		c.begun++
		c.action(rest)
	}
}

// action holds what a command was given to promise 5.
func (c *crash) action(given string) {
	decoder := json.NewDecoder(strings.NewReader(given))
	var changes []struct {
		Key       string
		Operation string
		Revision  kv.Revision
	}
	c.data = nil
	if err := decoder.Decode(&changes); err != nil {
		c.t.Errorf("promise 5: the changes are not whole: %s: %s", err, given)
	}
	if err := decoder.Decode(&c.data); err != nil {
		c.t.Errorf("promise 5: the data is not whole: %s: %s", err, given)
	}
	if len(changes) == 0 {
		c.t.Errorf("promise 5: no change made it run: %s", given)
	}
	for _, change := range changes {
		want := `"` + c.at[change.Key][change.Revision] + `"`
		if got := string(c.data["CRASH_"+change.Key]); got != want {
			c.t.Errorf("promise 5: revision %d of %s is %s, the command has %s", change.Revision, change.Key, want, got)
		}
	}
}

// end lets the machine come to rest, and holds it to promise 2: its last action had
// the last value of every key.
func (c *crash) end() {
	cmd := c.start()
	c.putValue("a", "last") // what is settled with it was settled by a program that runs
	c.rest()
	c.finish(cmd)
}

// rest waits until the machine has nothing more to do.
func (c *crash) rest() {
	c.t.Helper()
	c.wait("the machine comes to rest", c.settled)
}

// wait waits for what the machine does in its own time.
func (c *crash) wait(what string, done func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); !done(); pause(c.t.Context(), 50) {
		if time.Now().After(deadline) {
			c.t.Fatalf("never: %s with %v, its data is %s", what, c.values, c.stored())
		}
	}
}

// finish stops the program, and wants its last action to have had the last values.
func (c *crash) finish(cmd *exec.Cmd) {
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		c.t.Errorf("it ends with %s", err)
	}
	c.look()
	c.whole()
	for key, value := range c.values {
		if got := string(c.data["CRASH_"+key]); got != `"`+value+`"` {
			c.t.Errorf("promise 2: the last action had %s for %s, which is %q", got, key, value)
		}
	}
}

func (c *crash) tail() string {
	text, _ := os.ReadFile(filepath.Join(c.dir, "actions"))
	return string(text[max(0, len(text)-2000):])
}
