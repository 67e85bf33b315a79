package execwatcher_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/watchers"
	"github.com/keyturn-io/keyturn/watchers/execwatcher"
	"github.com/keyturn-io/keyturn/watchers/watchertest"
)

// clock is the source of a program that prints when its first instruction ran.
const clock = `#include <stdio.h>
#include <time.h>
int main(void) {
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	printf("%lld\n", t.tv_sec * 1000000000LL + t.tv_nsec);
	return 0;
}`

// BenchmarkRun says how long it takes from the call of Run to the first instruction
// of a small static command, and to the report, as medians and as a ratio to os/exec
// running the same command and reading what it prints. The two take turns, so that
// a busy machine is fair to both. $TMPDIR says where the folders of the runs are.
func BenchmarkRun(b *testing.B) {
	program := filepath.Join(b.TempDir(), "clock")
	if err := os.WriteFile(program+".c", []byte(clock), 0o600); err != nil {
		b.Fatal(err)
	}
	if out, err := exec.Command("cc", "-O2", "-static", "-o", program, program+".c").CombinedOutput(); err != nil {
		b.Skipf("no C compiler: %v\n%s", err, out)
	}

	m := watchertest.NewMachine(b)
	var stdout bytes.Buffer
	m.Env.Stdout = &stdout
	for i := range 100 {
		m.Set(datalayer.Item{Name: fmt.Sprintf("item%d", i), Value: json.RawMessage(`"a value of usual length"`)})
	}
	w := m.Watcher(execwatcher.Kind, props{"command": []string{program}}.String())
	report := func(watchers.Observation) error { return nil }

	var ours, theirs timings
	for b.Loop() {
		stdout.Reset()
		began := time.Now()
		if err := w.Run(b.Context(), report); err != nil {
			b.Fatal(err)
		}
		ours.add(b, began, stdout.String())

		var out, errs bytes.Buffer
		began = time.Now()
		limit := exec.Command(program)
		limit.Env = []string{"PATH=/bin"}
		limit.Stdout, limit.Stderr = &out, &errs
		if err := limit.Run(); err != nil {
			b.Fatal(err)
		}
		theirs.add(b, began, out.String())
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(micros(ours.start), "µs-to-start")
	b.ReportMetric(micros(ours.start)/micros(theirs.start), "start-ratio")
	b.ReportMetric(micros(ours.end), "µs-to-end")
	b.ReportMetric(micros(ours.end)/micros(theirs.end), "end-ratio")
}

type timings struct{ start, end []time.Duration }

func (t *timings) add(b *testing.B, began time.Time, printed string) {
	t.end = append(t.end, time.Since(began))
	ns, err := strconv.ParseInt(strings.TrimSpace(printed), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	t.start = append(t.start, time.Unix(0, ns).Sub(began))
}

// micros is the median in microseconds.
func micros(times []time.Duration) float64 {
	sorted := slices.Sorted(slices.Values(times))
	return float64(sorted[len(sorted)/2]) / 1e3
}
