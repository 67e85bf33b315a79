package execwatcher

import (
	"fmt"
	"io"
)

// capture takes one stream of output and holds no more than limit bytes of it,
// the last ones. The sink gets the first limit bytes as they come, so that people
// can watch, and when that was not all, at the end what is held of the rest.
type capture struct {
	limit int
	sink  io.Writer // nil when nobody is there or the last write failed

	held  []byte // grows up to limit, then is a ring
	next  int    // where in held the next byte goes
	total int64
}

const firstCapture = 4 << 10

// readAll reads until the end, an error or the deadline of the reader.
func (c *capture) readAll(r io.Reader) {
	for {
		n, err := r.Read(c.space())
		c.took(n)
		if err != nil {
			break
		}
	}
	if c.truncated() {
		c.passTail()
	}
}

// space is where the next bytes are read to. It is not empty.
func (c *capture) space() []byte {
	switch {
	case c.next < len(c.held):
	case len(c.held) == c.limit:
		c.next = 0
	default:
		grown := make([]byte, min(max(firstCapture, 2*len(c.held)), c.limit))
		copy(grown, c.held)
		c.held = grown
	}
	return c.held[c.next:]
}

// took says that n bytes were read to the space.
func (c *capture) took(n int) {
	if c.total < int64(c.limit) {
		c.pass(c.held[c.next : c.next+n])
	}
	c.next += n
	c.total += int64(n)
}

// passTail gives the sink what is held and has not been passed on.
func (c *capture) passTail() {
	rest := c.total - int64(c.limit)
	if lost := rest - int64(c.limit); lost > 0 {
		c.pass(fmt.Appendf(nil, "\n[%d bytes left out]\n", lost))
		rest = int64(c.limit)
	}
	// Of the ring's two parts the one from next on is the older.
	older, newer := c.held[c.next:], c.held[:c.next]
	if skip := int64(c.limit) - rest; skip < int64(len(older)) {
		c.pass(older[skip:])
	} else {
		newer = newer[skip-int64(len(older)):]
	}
	c.pass(newer)
}

func (c *capture) pass(p []byte) {
	if c.sink == nil || len(p) == 0 {
		return
	}
	if _, err := c.sink.Write(p); err != nil {
		c.sink = nil // the command goes on all the same
	}
}

// truncated says whether some of the stream is no longer held.
func (c *capture) truncated() bool { return c.total > int64(c.limit) }

// bytes returns the whole stream, unless it was truncated.
func (c *capture) bytes() []byte { return c.held[:c.total] }
