package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
)

func TestOutletKeepsTheOrderAndFlushesWhenItCloses(t *testing.T) {
	var got bytes.Buffer // read after Close, when the outlet's goroutine has ended
	o := newOutlet(&got)
	var want strings.Builder
	for i := range 1000 {
		line := strings.Repeat("x", i%80) + "\n"
		want.WriteString(line)
		if n, err := io.WriteString(o, line); n != len(line) || err != nil {
			t.Fatalf("Write returned %d, %v", n, err)
		}
	}
	o.Close()
	if got.String() != want.String() {
		t.Errorf("%d bytes came out, want the %d that went in", got.Len(), want.Len())
	}
}

// A pipe that nobody reads is a terminal after Ctrl-S.
func TestOutletNeverBlocksAndTellsWhatItDropped(t *testing.T) {
	r, w := io.Pipe()
	o := newOutlet(w)
	lost := make(chan int, 1)
	o.onLoss(func(bytes int) { lost <- bytes })

	const size = 64 << 10
	written := make(chan int)
	go func() {
		n := 0
		for range 3 * outletLimit / size {
			io.WriteString(o, strings.Repeat("x", size))
			n += size
		}
		written <- n
	}()
	var total int
	select {
	case total = <-written:
	case <-time.After(10 * time.Second):
		t.Fatal("writing blocks although nobody reads")
	}

	// It does not wait for ever when it closes, either.
	began := time.Now()
	o.Close()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("closing took %v", took)
	}

	// Once somebody reads, what was kept comes out, and what was not is told.
	kept := make(chan int)
	go func() {
		n, _ := io.Copy(io.Discard, r)
		kept <- int(n)
	}()
	var dropped int
	select {
	case dropped = <-lost:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was dropped although nobody has read")
	}
	<-o.done
	w.Close()
	if n := <-kept; n+dropped != total || n > 2*outletLimit {
		t.Errorf("%d bytes were kept and %d dropped, want %d together and at most %d kept", n, dropped, total, 2*outletLimit)
	}
}
