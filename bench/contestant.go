package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// contestant is a way to run a command when a key changes.
type contestant struct {
	name string
	what string

	polls      bool // once a second
	timeouts   bool // can end a command that takes too long
	supersedes bool // can end a command because of a newer value

	// renews is whether it prints "ready" after its start, and after a SIGHUP, on which
	// it starts over: see peers/choria.
	renews bool

	// argv returns how to start it for a plan; what it must find on disk is in dir.
	argv func(r *rig, p plan, dir string) ([]string, error)
}

// plan is what a contestant is asked for. Whoever cannot do it ignores it.
type plan struct {
	Act       string // names the folder, too
	Keys      []string
	Timeout   time.Duration // of the command, 0 is a minute
	Retry     bool
	Supersede bool
}

// asking returns the plan of an act for one key.
func (c *contestant) asking(act string) plan {
	return plan{Act: act, Keys: []string{act + "-" + c.name}}
}

// manyKeys returns a plan for the keys mem.0, mem.1, ...
func manyKeys(act string, n int) plan {
	p := plan{Act: act}
	for i := range n {
		p.Keys = append(p.Keys, fmt.Sprintf("mem.%d", i))
	}

	return p
}

// filter returns what matches all keys of the plan.
func (p plan) filter() string {
	if len(p.Keys) == 1 {
		return p.Keys[0]
	}

	return "mem.*"
}

const alone = "exec" // not a contestant but the limit of all

var contestants = []*contestant{
	{
		name: "nats.go", what: "nats.go: watch a key, run a command",
		argv: func(r *rig, p plan, _ string) ([]string, error) {
			return []string{filepath.Join(r.dir, "natswatch"), r.url(), bucketName, p.filter(), r.commandPath(), r.fifoPath()}, nil
		},
	},
	{
		name: "keyturn", what: "keyturn machine run, with its data on disk", timeouts: true, supersedes: true,
		argv: func(r *rig, p plan, dir string) ([]string, error) {
			return []string{filepath.Join(r.dir, "keyturn"), "machine", "run", dir, "--server", r.url()}, r.writeManifest(keyturnManifest, p, dir)
		},
	},
	{
		name: "poll", what: "nats.go: ask for a key every second, run a command", polls: true,
		argv: func(r *rig, p plan, _ string) ([]string, error) {
			return []string{filepath.Join(r.dir, "poll"), r.url(), bucketName, strings.Join(p.Keys, ","), r.commandPath(), r.fifoPath()}, nil
		},
	},
	{
		name: "choria", what: "go-choria 0.30.2: kv watcher that polls every second, exec watcher",
		polls: true, timeouts: true, renews: true,
		argv: func(r *rig, p plan, dir string) ([]string, error) {
			return []string{filepath.Join(r.dir, "choria"), r.url(), dir}, r.writeManifest(choriaManifest, p, dir)
		},
	},
	{
		name: "republish", what: "the same with republish_trigger",
		timeouts: true, renews: true,
		argv: func(r *rig, p plan, dir string) ([]string, error) {
			return []string{filepath.Join(r.dir, "choria"), r.url(), dir}, r.writeManifest(republishManifest, p, dir)
		},
	},
}

// names returns the names of the contestants.
func names() []string {
	var all []string
	for _, c := range contestants {
		all = append(all, c.name)
	}

	return all
}

var (
	keyturnManifest = template.Must(template.New("keyturn").Parse(`name: bench
version: 1.0.0
initial_state: WAIT
transitions:
- {name: update, from: [WAIT{{if .Supersede}}, DEPLOY{{end}}], destination: DEPLOY{{if .Supersede}}, reenter: true{{end}}}
- {name: done, from: [DEPLOY], destination: WAIT}
watchers:
- name: watch
  type: kv
  state_match: [WAIT{{if .Supersede}}, DEPLOY{{end}}]
  success_transition: update
  properties: {bucket: {{.Bucket}}, key: "{{.Filter}}", mode: watch}
- name: deploy
  type: exec
  state_match: [DEPLOY]
  success_transition: done
  fail_transition: done
  properties:
    command: {{.Command}}
    timeout: {{.Timeout}}
{{- if .Supersede}}
    on_leave: kill
{{- end}}
{{- if .Retry}}
    retry: 200ms
{{- end}}
`))

	// Its kv watcher knows one key, and 500 of them that each want a step would keep the
	// machine busy for an hour: with more than one key they only keep the data.
	choriaText = `name: bench
version: 1.0.0
initial_state: WAIT
transitions:
- {name: update, from: [WAIT], destination: DEPLOY}
- {name: done, from: [DEPLOY], destination: WAIT}
watchers:
{{- range $i, $key := .Keys}}
- name: watch{{$i}}
  type: kv
  interval: 1s
  state_match: [WAIT]
  {{if eq (len $.Keys) 1}}success_transition: update{{end}}
  properties: {bucket: {{$.Bucket}}, key: {{$key}}{{block "republish" .}}{{end}}}
{{- end}}
- name: deploy
  type: exec
  state_match: [DEPLOY]
  success_transition: done
  fail_transition: done
  properties:
    command: {{.Command}}
    timeout: {{.Timeout}}
`
	choriaManifest    = template.Must(template.New("choria").Parse(choriaText))
	republishManifest = template.Must(template.Must(choriaManifest.Clone()).Parse(`{{define "republish"}}, republish_trigger: republished.{{.}}{{end}}`))
)

// writeManifest writes the machine.yaml for a plan.
func (r *rig) writeManifest(text *template.Template, p plan, dir string) error {
	if p.Timeout == 0 {
		p.Timeout = time.Minute
	}
	file, err := os.OpenFile(filepath.Join(dir, "machine.yaml"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()

	return text.Execute(file, struct {
		plan
		Bucket, Filter, Command string
	}{p, bucketName, p.filter(), r.commandPath() + " " + r.fifoPath()})
}

// running is the process of a contestant.
type running struct {
	*contestant
	r     *rig
	cmd   *exec.Cmd
	ready chan struct{} // has one for each time that it says so
}

// start starts a contestant in its folder for the plan. Who renews is ready then.
func (r *rig) start(c *contestant, p plan) (*running, error) {
	dir := filepath.Join(r.dir, "machines", p.Act+"-"+c.name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	argv, err := c.argv(r, p, dir)
	if err != nil {
		return nil, err
	}
	run := &running{contestant: c, r: r, cmd: exec.CommandContext(r.ctx, argv[0], argv[1:]...), ready: make(chan struct{}, 100)}
	if r.settings.verbose {
		run.cmd.Stderr = r.log
	}
	stdout, err := run.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := run.cmd.Start(); err != nil {
		return nil, err
	}
	r.last = run
	go func() {
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if lines.Text() == "ready" {
				run.ready <- struct{}{}
			}
		}
	}()
	if c.renews {
		if err := run.awaitReady(); err != nil {
			return nil, errors.Join(err, run.kill())
		}
	}

	return run, nil
}

func (run *running) awaitReady() error {
	select {
	case <-run.ready:
		return nil
	case <-time.After(time.Minute):
		return fmt.Errorf("%s is not ready after a minute: -v shows what it says", run.name)
	case <-run.r.ctx.Done():
		return run.r.ctx.Err()
	}
}

// renew has who is slowed down by earlier steps start over.
func (run *running) renew() error {
	if !run.renews {
		return nil
	}
	if err := run.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}

	return run.awaitReady()
}

// stop ends the contestant as an operator would.
func (run *running) stop() error {
	if err := run.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("%s has ended on its own: %w", run.name, err)
	}
	hanging := time.AfterFunc(20*time.Second, func() { _ = run.cmd.Process.Kill() })
	defer hanging.Stop()
	_ = run.cmd.Wait() // a signal is an error for some

	return nil
}

// kill ends the contestant as a crash would.
func (run *running) kill() error {
	if err := run.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("%s has ended on its own: %w", run.name, err)
	}
	_ = run.cmd.Wait()

	return nil
}
