package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/keyturn-io/keyturn/kv"
)

// TestPlain shows which words of Go's nobody gets to read, in errors and in every log.
func TestPlain(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("get key: %w: %w", kv.ErrUnavailable, context.DeadlineExceeded), "get key: store unavailable: no answer in time"},
		{fmt.Errorf("read: %w", io.EOF), "read: the other side hung up"},
		{errors.New("key EOF is not there"), "key EOF is not there"},
	} {
		if got := plain(test.err); got != test.want {
			t.Errorf("plain is %q, want %q", got, test.want)
		}
		for _, format := range []string{"text", "json"} {
			var log bytes.Buffer
			a := &app{flags: flags{logFormat: format}}
			logger, err := a.logger(slog.LevelInfo, &log)
			if err != nil {
				t.Fatal(err)
			}
			logger.Warn("lost", "error", test.err)
			if !strings.Contains(log.String(), test.want) {
				t.Errorf("the log as %s is %q, want %q in it", format, log.String(), test.want)
			}
		}
		var told string
		slog.New(newPlainHandler(slog.LevelInfo, func(_ slog.Level, text string) { told = text })).Warn("lost", "error", test.err)
		if want := "lost: " + test.want; told != want {
			t.Errorf("people are told %q, want %q", told, want)
		}
	}
}
