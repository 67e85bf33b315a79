package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"sync"

	"github.com/keyturn-io/keyturn/machine"
	"github.com/keyturn-io/keyturn/watchers/kvwatcher"
)

// reporter shows what a machine does. None of its methods blocks.
type reporter interface {
	// starting tells which commands to type next; there may be none.
	starting(machine string, next []string)

	// resumed tells the state in which the machine goes on where it was.
	resumed(state string)

	step(machine.Step)
	watcher(machine.WatcherStatus)

	// output returns where the commands of a watcher print.
	output(watcher string) (stdout, stderr io.Writer)

	stopped(state string)
}

// logReporter reports to a log, and lets commands print as they are.
type logReporter struct {
	log    *slog.Logger
	stdout io.Writer
}

var _ reporter = (*logReporter)(nil)

func (r *logReporter) starting(_ string, next []string) {
	for _, command := range next {
		r.log.Info("try this in another terminal", "command", command)
	}
}

func (r *logReporter) resumed(string) {} // the machine logs in which state it starts

func (r *logReporter) step(machine.Step) {} // the machine logs its steps

func (r *logReporter) watcher(w machine.WatcherStatus) {
	level := slog.LevelDebug // a step says the same, and of what is wrong a kv watcher has logged why
	if failed(w) && w.Type != kvwatcher.Kind.Name {
		level = slog.LevelWarn
	}
	r.log.Log(context.Background(), level, "watcher", "watcher", w.Name, "state", w.State, "detail", w.Detail)
}

func (r *logReporter) output(string) (stdout, stderr io.Writer) { return r.stdout, r.stdout }

func (r *logReporter) stopped(string) {} // the machine logs that it has

// failed says whether a watcher's state is that something is wrong. Its outcome does
// not tell: that is of the last observation that had one.
func failed(w machine.WatcherStatus) bool {
	switch w.State {
	case "error", "failed", "timeout", "retrying":
		return true
	default:
		return false
	}
}

// jsonReporter prints an object on a line for each step, and for each line that a
// command prints.
type jsonReporter struct {
	logReporter
	outputs []*lines
}

var _ reporter = (*jsonReporter)(nil)

// printed is a line that a command has printed.
type printed struct {
	Watcher string `json:"watcher"`
	Stream  string `json:"stream"` // stdout or stderr
	Line    string `json:"line"`
}

func (r *jsonReporter) step(s machine.Step) {
	flush(r.outputs)
	_, _ = r.stdout.Write(jsonLine(map[string]machine.Step{"step": s}))
}

func (r *jsonReporter) watcher(w machine.WatcherStatus) {
	flush(r.outputs)
	r.logReporter.watcher(w)
}

func (r *jsonReporter) output(watcher string) (stdout, stderr io.Writer) {
	stream := func(name string) *lines {
		l := &lines{to: r.stdout, show: func(line []byte) []byte {
			return jsonLine(map[string]printed{"output": {watcher, name, string(line)}})
		}}
		r.outputs = append(r.outputs, l)
		return l
	}
	return stream("stdout"), stream("stderr")
}

// jsonLine encodes what always has a form in JSON.
func jsonLine(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return append(text, '\n')
}

// lines cuts what a command prints into lines. It may be written to by several
// goroutines at the same time.
type lines struct {
	to   io.Writer
	show func(line []byte) []byte // returns how a line looks, with its end

	mu      sync.Mutex // guards partial
	partial []byte
}

// maxLine is how long a line becomes before it counts as one without an end.
const maxLine = 16 << 10

// Write shows the lines that are complete.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	l.partial = append(l.partial, p...)
	var shown []byte
	for {
		line, rest, found := bytes.Cut(l.partial, []byte("\n"))
		if !found && len(line) < maxLine {
			break
		}
		shown = append(shown, l.show(line)...)
		l.partial = rest
	}
	l.partial = bytes.Clone(l.partial)
	l.mu.Unlock()

	if len(shown) > 0 {
		_, _ = l.to.Write(shown)
	}
	return len(p), nil
}

// flush shows the line that has no end yet, because something else has happened.
func flush(outputs []*lines) {
	for _, l := range outputs {
		l.mu.Lock()
		open := len(l.partial) > 0
		l.mu.Unlock()
		if open {
			_, _ = l.Write([]byte("\n"))
		}
	}
}
