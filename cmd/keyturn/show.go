package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/table"
)

// print prints what a command was asked for.
func (a *app) print(format string, args ...any) error {
	if _, err := fmt.Fprintf(a.stdout, format, args...); err != nil {
		return fmt.Errorf("print the output: %w", cause(err))
	}
	return nil
}

// doneJSON is what --json prints of a command that prints nothing else.
type doneJSON struct {
	Bucket string `json:"bucket"`
	Key    string `json:"key,omitempty"`
	Done   string `json:"done"`
}

func (a *app) done(what doneJSON) error {
	if !a.json {
		return nil
	}
	return a.print("%s", jsonLine(what))
}

// printTable prints rows under a header.
func (a *app) printTable(header []string, rows [][]string) error {
	row := func(cells []string) (r table.Row) {
		for _, cell := range cells {
			r = append(r, cell)
		}
		return r
	}
	t := table.NewWriter()
	t.AppendHeader(row(header))
	for _, cells := range rows {
		t.AppendRow(row(cells))
	}
	return a.print("%s\n", t.Render())
}

// moment is a time as tables show it, in the zone of who looks.
func moment(t time.Time) string { return t.Local().Format("02 Jan 06 15:04 MST") }

// shown is a value as it is printed. A terminal gets no control characters: whoever
// may put a key shall not write on the screen of those who look at it.
func (a *app) shown(value []byte) string {
	text := string(value)
	if !isTerminal(a.stdout) {
		return text
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// oneLine is a value as it stands in a line of its own: quoted when it has line ends or
// what else cannot be printed.
func oneLine(value []byte) string {
	text := string(value)
	unprintable := func(r rune) bool { return !unicode.IsPrint(r) }
	if utf8.ValidString(text) && !strings.ContainsFunc(text, unprintable) {
		return text
	}
	return strconv.Quote(text)
}

// brief is a value as it fits into a table: the middle of a long one is left out.
func brief(value []byte) string {
	const most, end = 40, 15
	if len(value) > 2*most*utf8.UTFMax { // what is cut out need not be looked at
		value = append(value[:most*utf8.UTFMax:most*utf8.UTFMax], value[len(value)-most*utf8.UTFMax:]...)
	}
	runes := []rune(oneLine(value))
	if len(runes) <= most {
		return string(runes)
	}
	return string(runes[:end]) + "..." + string(runes[len(runes)-end:])
}
