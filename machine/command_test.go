package machine_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/keyturn-io/keyturn/watchers"
)

// printed is where a command prints.
type printed struct {
	play    *play
	watcher string
}

func (o printed) Write(text []byte) (int, error) {
	o.play.say("command %s prints %s", o.watcher, strings.TrimSpace(string(text)))
	return len(text), nil
}

// playing is what commands tell what they do.
var playing *play

// command is a kind of watcher whose commands only take time, so that a trace can
// follow them. Like exec it runs once for each visit that a step began.
type command struct {
	Takes   watchers.Duration `json:"takes"`
	Timeout watchers.Duration `json:"timeout"` // when it fails if it has not ended; 0 is never
	Panics  bool              `json:"panics"`
	Kill    bool              `json:"kill"` // when the visit ends; else it goes on
	quiet   bool
}

func (c *command) Check(watchers.Settings) []watchers.Problem { return nil }

func (c *command) Watcher(env watchers.Env) (watchers.Watcher, error) {
	return &commandWatcher{*c, env, playing}, nil
}

type commandWatcher struct {
	command
	env  watchers.Env
	play *play
}

func (c *commandWatcher) Run(ctx context.Context, report watchers.Report) error {
	visit := c.env.Visit()
	if visit.Cause == watchers.Started {
		return nil
	}
	if c.quiet {
		return report(watchers.Observation{Outcome: watchers.Success})
	}
	time.Sleep(time.Microsecond) // so that the step is told first
	data := c.env.Data().JSON()
	var changes strings.Builder
	for _, change := range visit.Changes {
		fmt.Fprintf(&changes, ", %s %s.%s", change.Operation, change.Bucket, change.Key)
		if change.Old != nil {
			fmt.Fprintf(&changes, " was %s", change.Old)
		}
	}
	c.play.say("command %s begins: %s from %s%s, data %s", c.env.Watcher, visit.Event, visit.Previous, changes.String(), strings.Join(strings.Fields(string(data)), " "))
	if c.Panics {
		panic("as the test wants it")
	}
	killed := ctx.Done()
	if !c.Kill {
		killed = nil
	}
	c.play.mu.Lock()
	does := c.play.lets[c.env.Watcher]
	c.play.mu.Unlock()
	ended, timeout := time.After(time.Duration(c.Takes)), time.After(time.Duration(c.Timeout))
	if does == "hang" {
		ended = nil
	}
	if c.Timeout == 0 {
		timeout = nil
	}
	outcome, how := watchers.Success, "ends"
	if does == "fail" {
		outcome, how = watchers.Failure, "fails"
	}
	select {
	case <-ended:
	case <-timeout:
		outcome, how = watchers.Failure, "is ended by its timeout"
	case <-killed:
		time.Sleep(time.Microsecond)
		c.play.say("command %s is killed", c.env.Watcher)
		return nil
	case <-c.env.Stopping:
		c.play.say("command %s is killed", c.env.Watcher)
		return nil
	}
	c.play.say("command %s %s", c.env.Watcher, how)
	_ = report(watchers.Observation{Outcome: outcome, State: "done"})

	return nil
}
