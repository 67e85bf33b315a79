package execwatcher

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"
)

func TestCapture(t *testing.T) {
	for _, limit := range []int{1, 10, firstCapture, firstCapture + 1, 3 * firstCapture} {
		for _, size := range []int{0, 1, limit - 1, limit, limit + 1, 2 * limit, 2*limit + 1, 5*limit + 3} {
			stream := make([]byte, size)
			for i := range stream {
				stream[i] = byte('a' + i%23)
			}
			var passed bytes.Buffer
			c := &capture{limit: limit, sink: &passed}
			c.readAll(bytes.NewReader(stream))

			want := string(stream)
			if lost := size - 2*limit; lost > 0 {
				want = want[:limit] + fmt.Sprintf("\n[%d bytes left out]\n", lost) + want[size-limit:]
			}
			if passed.String() != want {
				t.Errorf("limit %d, %d bytes: passed on %d bytes, want %d", limit, size, passed.Len(), len(want))
			}
			if c.truncated() != (size > limit) {
				t.Errorf("limit %d, %d bytes: truncated is %v", limit, size, c.truncated())
			}
			if !c.truncated() && !bytes.Equal(c.bytes(), stream) {
				t.Errorf("limit %d, %d bytes: holds something else", limit, size)
			}
			if len(c.held) > limit {
				t.Errorf("limit %d, %d bytes: holds %d", limit, size, len(c.held))
			}
		}
	}
}

type brokenSink struct{ writes int }

func (s *brokenSink) Write([]byte) (int, error) {
	s.writes++
	return 0, errors.New("gone")
}

func TestCaptureOutlivesItsSink(t *testing.T) {
	var sink brokenSink
	c := &capture{limit: 100, sink: &sink}
	c.readAll(iotest.OneByteReader(strings.NewReader("whole")))
	if sink.writes != 1 || string(c.bytes()) != "whole" {
		t.Errorf("%d writes, %q", sink.writes, c.bytes())
	}
	(&capture{limit: 1}).readAll(strings.NewReader("nobody there"))
}
