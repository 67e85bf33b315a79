package main

import (
	"io"
	"sync"
	"time"
)

// outlet writes to a stream that may block for as long as somebody likes, a terminal
// after Ctrl-S or a pipe that nobody reads, and never blocks itself: what the
// stream does not take is kept, up to a limit, and beyond that is dropped. The
// machine's goroutine and its commands write through it.
type outlet struct {
	wake chan struct{} // has room for one
	done chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex // guards what follows
	lost    func(bytes int)
	pending []byte
	dropped int
	closed  bool
}

const (
	outletLimit = 1 << 20                // bytes that are kept
	outletFlush = 200 * time.Millisecond // that closing may take
)

func newOutlet(w io.Writer) *outlet {
	o := &outlet{lost: func(int) {}, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go o.run(w)
	return o
}

// Write keeps a copy of p, all of it or nothing. It always succeeds.
func (o *outlet) Write(p []byte) (int, error) {
	o.mu.Lock()
	if len(o.pending)+len(p) > outletLimit {
		o.dropped += len(p)
	} else {
		o.pending = append(o.pending, p...)
	}
	o.mu.Unlock()
	o.signal()
	return len(p), nil
}

// onLoss has lost hear of what was dropped, when the stream takes something again.
func (o *outlet) onLoss(lost func(bytes int)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lost = lost
}

// Close writes what is kept, if the stream takes it soon. A stream that does not is
// left to the end of the process.
func (o *outlet) Close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.signal()
	select {
	case <-o.done:
	case <-time.After(outletFlush):
	}
}

func (o *outlet) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outlet) run(w io.Writer) {
	defer close(o.done)
	for range o.wake {
		o.mu.Lock()
		text, dropped, closed, lost := o.pending, o.dropped, o.closed, o.lost
		o.pending, o.dropped = nil, 0
		o.mu.Unlock()

		// A stream that is broken is like one that nobody reads: the machine goes on.
		if len(text) > 0 {
			_, _ = w.Write(text)
		}
		if dropped > 0 {
			lost(dropped)
		}
		if closed {
			return
		}
	}
}
