package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// spaced measures from the beginning of a put to the first instruction of the command.
// Contestants take turns of 15 puts, so that they share the computer's good and bad
// times, and start anew for each, so that none is slowed down for having taken many
// steps: how they watch is the question here, and steady asks the other.
func (p *play) spaced() error {
	const turn = 15
	samples := map[string][]time.Duration{}
	var syncs []time.Duration
	for done := 0; done < p.settings.puts; done += turn {
		n := min(turn, p.settings.puts-done)
		for range n {
			started, synced, err := p.limits()
			if err != nil {
				return err
			}
			samples[alone] = append(samples[alone], started)
			syncs = append(syncs, synced)
		}
		for _, c := range p.all() {
			if err := p.turn(c, n, samples); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}

	p.report.Put = milliseconds(quantile(p.puts, 0.5))
	p.report.Sync = milliseconds(quantile(syncs, 0.5))
	for name := range samples {
		p.report.set("p50_ms", name, milliseconds(quantile(samples[name], 0.5)))
		p.report.set("p99_ms", name, milliseconds(quantile(samples[name], 0.99)))
		for id, to := range map[string]string{"p50_to_exec": alone, "p50_to_nats.go": "nats.go"} {
			if len(samples[to]) > 0 {
				p.report.set(id, name, float64(quantile(samples[name], 0.5))/float64(quantile(samples[to], 0.5)))
			}
		}
	}

	return nil
}

// limits measures what nobody can be faster than: from the start of the command to its first
// instruction, and what it takes to have 200 bytes more on disk.
func (p *play) limits() (started, synced time.Duration, err error) {
	value := p.value("ok")
	cmd := exec.CommandContext(p.ctx, p.commandPath(), p.fifoPath())
	cmd.Env = []string{"VALUE=" + value}
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, 0, err
	}
	e, ok := p.begun(value, time.Second)
	if !ok {
		return 0, 0, errors.New("the command does not note that it has begun")
	}

	file, err := os.OpenFile(filepath.Join(p.dir, "synced"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()
	before := time.Now()
	if _, err := file.Write(make([]byte, 200)); err != nil {
		return 0, 0, err
	}
	err = file.Sync()

	return e.at.Sub(began), time.Since(before), err
}

// turn measures n puts of a contestant.
func (p *play) turn(c *contestant, n int, samples map[string][]time.Duration) error {
	plan := c.asking("spaced")
	run, err := p.begin(c, plan)
	if err != nil {
		return err
	}
	for range n {
		if err := run.renew(); err != nil {
			return err
		}
		p.spread(c)
		value := p.value("ok")
		began, acknowledged, err := p.put(plan.Keys[0], value)
		if err != nil {
			return err
		}
		e, ok := p.begun(value, patience)
		if !ok {
			return fmt.Errorf("did not act on %s", value)
		}
		samples[c.name] = append(samples[c.name], e.at.Sub(began))
		p.puts = append(p.puts, acknowledged.Sub(began))
		p.pause(50 * time.Millisecond) // until it is back where it watches
	}

	return run.stop()
}

// spread waits for a random part of the time in which a contestant may poll.
func (p *play) spread(c *contestant) {
	if c.polls {
		p.pause(rand.N(time.Second))
	} else {
		p.pause(rand.N(50 * time.Millisecond))
	}
}

// steady puts a value every two seconds, lets the contestants be slowed down by what they
// did before, and counts the values that a command was run with.
func (p *play) steady(c *contestant) error {
	const puts = 10
	plan := c.asking("steady")
	run, err := p.begin(c, plan)
	if err != nil {
		return err
	}
	var value string
	var began time.Time
	for range puts {
		p.spread(c)
		value = p.value("ok")
		if began, _, err = p.put(plan.Keys[0], value); err != nil {
			return err
		}
		p.pause(time.Until(began.Add(2 * time.Second)))
	}
	acted := map[string]bool{}
	took := patience
	e, ok := p.await(patience, func(e event) bool { acted[e.value] = true; return e.value == value })
	if ok {
		took = e.at.Sub(began)
	}
	p.report.set("steady_acted", c.name, len(acted))
	p.report.set("steady_last_ms", c.name, bounded(took, patience))

	return run.stop()
}

// burst counts actions, and measures from the end of the last put to the beginning of the
// first command that had its value.
func (p *play) burst(c *contestant) error {
	const puts = 200
	var actions []int
	var after []time.Duration
	right := true
	for range p.settings.rounds {
		plan := c.asking("burst")
		run, err := p.begin(c, plan)
		if err != nil {
			return err
		}
		p.spread(c)
		var value string
		var last time.Time
		for range puts {
			value = p.value("ok")
			if _, last, err = p.put(plan.Keys[0], value); err != nil {
				return err
			}
		}
		n := 0
		e, ok := p.await(patience, func(e event) bool { n++; return e.value == value })
		if ok {
			after = append(after, max(0, e.at.Sub(last)))
		} else {
			after = append(after, patience)
		}
		rest := p.collect(2 * time.Second)
		right = right && ok && (len(rest) == 0 || rest[len(rest)-1].value == value)
		actions = append(actions, n+len(rest))
		if err := run.stop(); err != nil {
			return err
		}
	}
	slices.Sort(actions)
	p.report.set("burst_actions", c.name, actions[len(actions)/2])
	p.report.set("burst_after_ms", c.name, bounded(quantile(after, 0.5), patience))
	p.report.set("burst_last_right", c.name, right)

	return nil
}

// restart restarts the server after a second, and measures from a put, made as soon as the
// server answers, to the command.
func (p *play) restart(c *contestant) error {
	var samples []time.Duration
	for range p.settings.rounds {
		plan := c.asking("restart")
		run, err := p.begin(c, plan)
		if err != nil {
			return err
		}
		p.stopServer()
		p.pause(time.Second)
		if err := p.serveAgain(); err != nil {
			return err
		}
		value := p.value("ok")
		began, _, err := p.put(plan.Keys[0], value)
		if err != nil {
			return err
		}
		if e, ok := p.begun(value, patience); ok {
			samples = append(samples, e.at.Sub(began))
		} else {
			samples = append(samples, patience)
		}
		if err := run.stop(); err != nil {
			return err
		}
	}
	p.report.set("restart_ms", c.name, bounded(quantile(samples, 0.5), patience))
	p.report.set("restart_max_ms", c.name, bounded(quantile(samples, 1), patience))

	return nil
}
