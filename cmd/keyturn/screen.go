package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/keyturn-io/keyturn/machine"
)

// screen reports to people at a terminal.
type screen struct {
	to      io.Writer
	colours bool
	outputs []*lines // owned by the machine's goroutine

	mu   sync.Mutex             // guards what follows
	last string                 // the line printed last, which what follows need not repeat
	held *machine.WatcherStatus // a failure, for the step that it causes to tell
}

// holdFor is how long a step may take to follow what causes it.
const holdFor = 100 * time.Millisecond

var _ reporter = (*screen)(nil)

func newScreen(to io.Writer) *screen {
	return &screen{to: to, colours: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// colour is a way to write on a terminal that knows ANSI sequences.
type colour string

const (
	faint  colour = "2"
	red    colour = "31"
	yellow colour = "33"
	cyan   colour = "36"
)

func (s *screen) in(c colour, text string) string {
	if !s.colours || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// indent is as wide as the time in front of a line.
const indent = "          "

func (s *screen) starting(machine string, next []string) {
	text := "starting machine " + machine
	if len(next) > 0 {
		text += "; in another terminal type: " + strings.Join(next, " && ")
	}
	s.print(time.Time{}, text)
}

func (s *screen) resumed(state string) { s.print(time.Now(), "in "+state+", resumed") }

func (s *screen) step(step machine.Step) {
	flush(s.outputs)
	text := step.From + " " + s.in(cyan, "--"+step.Event+"-->") + " " + step.To
	if w := s.release(); w != nil && w.Name == step.Watcher && w.Detail == step.Detail {
		text += "  " + s.failure(*w)
	} else if s.show(w); step.Detail != "" && !s.told(step.Detail) {
		text += "  " + s.in(faint, step.Detail)
	}
	s.print(step.Time, text)
}

// release takes back what is held, or nil.
func (s *screen) release() *machine.WatcherStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.held
	s.held = nil
	return held
}

func (s *screen) failure(w machine.WatcherStatus) string {
	return s.in(red, w.Name+" "+w.State+": ") + w.Detail
}

// watcher shows what a step will not.
func (s *screen) watcher(w machine.WatcherStatus) {
	flush(s.outputs)
	switch {
	case w.Announced, w.Detail == "", s.told(w.Detail):
	case w.State == "retrying":
		s.show(&w)
	case failed(w):
		s.show(s.release())
		s.mu.Lock()
		s.held = &w
		s.mu.Unlock()
		time.AfterFunc(holdFor, func() { s.show(s.release()) })
	case w.State == "missing":
		s.print(w.Since, s.in(faint, w.Name+" "+w.State+": "+w.Detail))
	}
}

func (s *screen) output(string) (stdout, stderr io.Writer) {
	stream := func() *lines {
		l := &lines{to: s.to, show: func(line []byte) []byte { return fmt.Appendf(nil, "%s%s\n", indent, line) }}
		s.outputs = append(s.outputs, l)
		return l
	}
	return stream(), stream()
}

func (s *screen) stopped(state string) {
	s.print(time.Now(), strings.TrimSuffix("stopped in "+state, " in "))
}

// log shows a record of the log.
func (s *screen) log(level slog.Level, text string) {
	c := faint
	switch {
	case level >= slog.LevelError:
		c = red
	case level >= slog.LevelWarn:
		c = yellow
	}
	s.print(time.Now(), s.in(c, kind(level))+text)
}

// told says whether the last line has shown a text.
func (s *screen) told(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.last, text)
}

// show prints a failure, unless it is nil.
func (s *screen) show(w *machine.WatcherStatus) {
	if w != nil {
		s.print(w.Since, s.failure(*w))
	}
}

// print prints a line, with a time unless that is zero, and before it what is held.
func (s *screen) print(at time.Time, text string) {
	s.show(s.release())
	s.mu.Lock()
	s.last = text
	s.mu.Unlock()
	if !at.IsZero() {
		text = s.in(faint, at.Format("15:04:05")) + "  " + text
	}
	_, _ = io.WriteString(s.to, text+"\n")
}
