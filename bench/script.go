package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// act is a part of the script, and plays itself to all contestants.
type act struct {
	name string
	what string
	play func(*play) error
}

var script = []act{
	{"spaced", "puts with pauses between them, in turns", (*play).spaced},
	{"steady", "a put every two seconds", each((*play).steady)},
	{"burst", "200 puts in a row", each((*play).burst)},
	{"restart", "the server restarts", each((*play).restart)},
	{"kill", "kill -9 in the middle of a command", each((*play).kill)},
	{"unchanged", "a restart of the contestant with nothing new", each((*play).unchanged)},
	{"fail", "a command that fails", each((*play).fail)},
	{"hang", "a newer value behind a command that hangs", each((*play).hang)},
	{"memory", "500 keys", each((*play).memory)},
}

// acts returns the names of the acts.
func acts() []string {
	var all []string
	for _, a := range script {
		all = append(all, a.name)
	}

	return all
}

// play is a run of the script.
type play struct {
	*rig
	report *report
	puts   []time.Duration // what the spaced ones took by themselves
}

// all returns who takes part.
func (p *play) all() []*contestant {
	if p.settings.only == "" {
		return contestants
	}
	only := strings.Split(p.settings.only, ",")

	return slices.DeleteFunc(slices.Clone(contestants), func(c *contestant) bool { return !slices.Contains(only, c.name) })
}

// each plays to one contestant after the other.
func each(one func(*play, *contestant) error) func(*play) error {
	return func(p *play) error {
		for _, c := range p.all() {
			if err := one(p, c); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if err := p.ctx.Err(); err != nil {
				return err
			}
		}
		return nil
	}
}

const patience = 70 * time.Second // for what may still come

// begin starts a contestant and waits until it has acted on a first value.
func (p *play) begin(c *contestant, plan plan) (*running, error) {
	run, err := p.start(c, plan)
	if err != nil {
		return nil, err
	}
	value := p.value("ok")
	if _, _, err := p.put(plan.Keys[0], value); err != nil {
		return nil, err
	}
	if _, ok := p.begun(value, patience); !ok {
		return nil, errors.New("did not act on its first value: -v shows what it says")
	}
	p.collect(200 * time.Millisecond)

	return run, run.renew()
}
