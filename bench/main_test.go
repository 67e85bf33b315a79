package main

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"
)

// TestScript plays a part of the script, small, and holds the report to what does not
// depend on how fast the computer is.
func TestScript(t *testing.T) {
	var stdout bytes.Buffer
	args := []string{"-json", "-puts", "3", "-rounds", "1", "-only", "nats.go,keyturn", "-script", "spaced,burst,unchanged,fail"}
	if err := run(t.Context(), args, &stdout, t.Output()); err != nil {
		t.Fatal(err)
	}
	if stdout.Len() == 0 {
		t.Skip("SKIPPED: there is no C compiler")
	}
	var got report
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		row, contestant string
		value           any
	}{
		{"p50_to_exec", alone, 1.0},
		{"p50_to_nats.go", "nats.go", 1.0},
		{"burst_last_right", "keyturn", true},
		{"burst_last_right", "nats.go", true},
		{"unchanged_acts", "keyturn", false},
		{"unchanged_acts", "nats.go", true},
		{"fail_runs", "keyturn", 5.0},
		{"fail_runs", "nats.go", 1.0},
	} {
		if value := got.Rows[want.row][want.contestant]; value != want.value {
			t.Errorf("%s of %s is %v, want %v", want.row, want.contestant, value, want.value)
		}
	}
	for _, contestant := range []string{alone, "nats.go", "keyturn"} {
		if ms, ok := got.Rows["p50_ms"][contestant].(float64); !ok || ms <= 0 {
			t.Errorf("put to command of %s is %v", contestant, got.Rows["p50_ms"][contestant])
		}
	}
	if actions, ok := got.Rows["burst_actions"]["keyturn"].(float64); !ok || actions < 1 {
		t.Errorf("keyturn acted %v times on a burst", got.Rows["burst_actions"]["keyturn"])
	}
}

func TestUnknownNames(t *testing.T) {
	for _, args := range [][]string{{"-only", "nats.go,nobody"}, {"-script", "nothing"}} {
		if err := run(t.Context(), args, t.Output(), t.Output()); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}

func TestQuantile(t *testing.T) {
	var samples []time.Duration
	for i := range 100 {
		samples = append(samples, time.Duration(100-i))
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 50, 0.99: 99, 1: 100} {
		if got := quantile(samples, q); got != want {
			t.Errorf("quantile %v of 1 to 100 is %d, want %d", q, got, want)
		}
	}
}

func TestText(t *testing.T) {
	for want, value := range map[string]any{
		"-": nil, "yes": true, "no": false, "8": 8, "0.28": 0.284, "4.6": 4.58, "100": 99.6, "18807": 18807.2,
		">70000": bounded(patience, patience), "69999": bounded(patience-time.Millisecond, patience),
	} {
		if got := text(value); got != want {
			t.Errorf("%v is shown as %q, want %q", value, got, want)
		}
	}
}
