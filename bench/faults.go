package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// kill kills the contestant and its command 300 ms into a command of a second, and sees
// whether that is done again after the next start.
func (p *play) kill(c *contestant) error {
	const kills = 8
	plan := c.asking("kill")
	run, err := p.begin(c, plan)
	if err != nil {
		return err
	}
	redone := 0
	for range kills {
		value := p.value("sleep1000")
		if _, _, err := p.put(plan.Keys[0], value); err != nil {
			return err
		}
		e, ok := p.begun(value, patience)
		if !ok {
			return fmt.Errorf("did not act on %s", value)
		}
		p.pause(300 * time.Millisecond)
		if err := run.kill(); err != nil {
			return err
		}
		_ = syscall.Kill(e.pid, syscall.SIGKILL) // some take it with them
		if run, err = p.start(c, plan); err != nil {
			return err
		}
		if _, ok := p.begun(value, 3*time.Second); ok {
			if _, ok := p.ended(value, 3*time.Second); ok {
				redone++
			}
		}
		if err := run.renew(); err != nil {
			return err
		}
	}
	p.report.set("redone", c.name, redone)

	return run.stop()
}

// unchanged sees whether a contestant acts when it starts again and nothing is new.
func (p *play) unchanged(c *contestant) error {
	plan := c.asking("unchanged")
	run, err := p.begin(c, plan)
	if err != nil {
		return err
	}
	if err := run.stop(); err != nil {
		return err
	}
	if run, err = p.start(c, plan); err != nil {
		return err
	}
	p.report.set("unchanged_acts", c.name, len(p.during(3*time.Second)) > 0)

	return run.stop()
}

// fail counts how often a command runs that always fails.
func (p *play) fail(c *contestant) error {
	plan := c.asking("fail")
	plan.Retry = true
	run, err := p.begin(c, plan)
	if err != nil {
		return err
	}
	value := p.value("fail")
	if _, _, err := p.put(plan.Keys[0], value); err != nil {
		return err
	}
	if _, ok := p.begun(value, patience); !ok {
		return fmt.Errorf("did not act on %s", value)
	}
	p.report.set("fail_runs", c.name, 1+len(p.during(5*time.Second)))

	return run.stop()
}

// hang measures from the put of a newer value to its command, while that of the older one
// hangs: without further measures, with a timeout, and where a newer value may end it.
func (p *play) hang(c *contestant) error {
	plain, timeout, supersede := c.asking("hang"), c.asking("hang-timeout"), c.asking("hang-supersede")
	timeout.Timeout = time.Second
	supersede.Supersede = true
	for _, row := range []struct {
		id string
		plan
	}{{"hang_ms", plain}, {"hang_timeout_ms", timeout}, {"hang_supersede_ms", supersede}} {
		plan := row.plan
		if plan.Timeout > 0 && !c.timeouts || plan.Supersede && !c.supersedes {
			continue
		}
		run, err := p.begin(c, plan)
		if err != nil {
			return err
		}
		old := p.value(fmt.Sprintf("sleep%d", p.settings.hang.Milliseconds()))
		if _, _, err := p.put(plan.Keys[0], old); err != nil {
			return err
		}
		if _, ok := p.begun(old, patience); !ok {
			return fmt.Errorf("did not act on %s", old)
		}
		p.pause(500 * time.Millisecond)
		value := p.value("ok")
		began, _, err := p.put(plan.Keys[0], value)
		if err != nil {
			return err
		}
		limit := p.settings.hang + patience
		took := limit
		if e, ok := p.begun(value, limit); ok {
			took = e.at.Sub(began)
		}
		p.report.set(row.id, c.name, bounded(took, limit))
		if err := run.stop(); err != nil {
			return err
		}
	}

	return nil
}

// memory measures what a contestant needs that has watched 500 keys for some seconds.
func (p *play) memory(c *contestant) error {
	plan := manyKeys("memory", 500)
	for i, key := range plan.Keys {
		if _, _, err := p.put(key, fmt.Sprintf("m%d.ok%s", i, strings.Repeat("x", 90))); err != nil {
			return err
		}
	}
	run, err := p.start(c, plan)
	if err != nil {
		return err
	}
	p.collect(3 * time.Second)
	p.pause(3 * time.Second)
	if mib, err := resident(run.cmd.Process.Pid); err == nil { // Linux tells
		p.report.set("memory_mib", c.name, mib)
	}

	return run.stop()
}

// resident returns the MiB of memory that a process has now.
func resident(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, fmt.Errorf("process %d has no memory", pid)
	}
	kib, err := strconv.ParseFloat(fields[0], 64)

	return kib / 1024, err
}
