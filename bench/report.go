package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// rows are what is measured, in the order in which it is shown.
var rows = []struct{ id, title string }{
	{"p50_to_exec", "put to command, p50 / exec alone"},
	{"p50_to_nats.go", "put to command, p50 / nats.go"},
	{"p50_ms", "put to command, p50 (ms)"},
	{"p99_ms", "put to command, p99 (ms)"},
	{"steady_acted", "10 puts, 2 s apart: values acted on"},
	{"steady_last_ms", "... last put to its command (ms)"},
	{"burst_actions", "200 puts in a row: actions"},
	{"burst_after_ms", "... last put to its command (ms)"},
	{"burst_last_right", "... the last command has the last value"},
	{"restart_ms", "server restarts: put to command (ms)"},
	{"restart_max_ms", "... the slowest (ms)"},
	{"redone", "killed in a command: redone, of 8"},
	{"unchanged_acts", "started again, nothing new: acts"},
	{"fail_runs", "a command that fails: runs"},
	{"hang_ms", "newer value while a command hangs (ms)"},
	{"hang_timeout_ms", "... with a timeout of 1 s (ms)"},
	{"hang_supersede_ms", "... that may end it (ms)"},
	{"memory_mib", "500 keys: memory (MiB)"},
}

// report is what was measured: for a row and a contestant a float64, an int, a bool, or
// a string where the patience was at its end.
type report struct {
	SyncAlways bool                      `json:"sync_always"`
	Puts       int                       `json:"puts"`
	Rounds     int                       `json:"rounds"`
	Hang       string                    `json:"hang"`
	CPUs       int                       `json:"cpus"`
	Put        float64                   `json:"put_p50_ms"`  // a put alone
	Sync       float64                   `json:"sync_p50_ms"` // 200 bytes more on disk
	Rows       map[string]map[string]any `json:"rows"`
}

func newReport(s settings) *report {
	return &report{
		SyncAlways: s.sync, Puts: s.puts, Rounds: s.rounds, Hang: s.hang.String(), CPUs: runtime.NumCPU(),
		Rows: map[string]map[string]any{},
	}
}

func (r *report) set(row, contestant string, value any) {
	if r.Rows[row] == nil {
		r.Rows[row] = map[string]any{}
	}
	r.Rows[row][contestant] = value
}

func (r *report) writeJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")

	return encoder.Encode(r)
}

func (r *report) writeText(w io.Writer) error {
	columns := append([]string{alone}, names()...)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "\t")
	for _, name := range columns {
		fmt.Fprint(table, name, "\t")
	}
	fmt.Fprintln(table)
	for _, row := range rows {
		if r.Rows[row.id] == nil {
			continue
		}
		fmt.Fprint(table, row.title, "\t")
		for _, name := range columns {
			fmt.Fprint(table, text(r.Rows[row.id][name]), "\t")
		}
		fmt.Fprintln(table)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%s: the command alone\n", alone)
	for _, c := range contestants {
		fmt.Fprintf(w, "%s: %s\n", c.name, c.what)
	}
	if r.Put > 0 {
		fmt.Fprintf(w, "limits, p50: a put %s ms, a write synced to disk %s ms\n", text(r.Put), text(r.Sync))
	}
	_, err := fmt.Fprintf(w, "the server syncs each write: %s; a command hangs %s\n", text(r.SyncAlways), r.Hang)

	return err
}

// text returns a value for people.
func text(value any) string {
	switch v := value.(type) {
	case nil:
		return "-"
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case float64:
		decimals := 0
		if v < 10 {
			decimals = 1
		}
		if v < 1 {
			decimals = 2
		}
		return strconv.FormatFloat(v, 'f', decimals, 64)
	default:
		return fmt.Sprint(v)
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// bounded returns milliseconds, or that it was more than there was time for.
func bounded(d, limit time.Duration) any {
	if d >= limit {
		return ">" + text(milliseconds(limit))
	}

	return milliseconds(d)
}

// quantile returns the sample below which a part q of all lies.
func quantile(samples []time.Duration, q float64) time.Duration {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))

	return sorted[int(q*float64(len(sorted)-1))]
}
