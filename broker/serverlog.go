package broker

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// serverLog is the server's log. The server never traces what it is sent, so
// there are no values in it.
type serverLog struct {
	log     *slog.Logger
	trouble chan struct{} // has something in it after a warning or an error
	fatal   string        // why Start gave up; not written after Start
}

var _ server.Logger = (*serverLog)(nil)

func (l *serverLog) Noticef(format string, v ...any) { l.write(slog.LevelDebug, format, v) }
func (l *serverLog) Debugf(format string, v ...any)  { l.write(slog.LevelDebug, format, v) }
func (l *serverLog) Tracef(string, ...any)           {}
func (l *serverLog) Errorf(format string, v ...any)  { l.write(slog.LevelError, format, v) }

// Warnf makes less of an index that is older than the messages: after a process was killed
// it always is, and the server builds it anew from them. Of a damaged one it warns besides.
func (l *serverLog) Warnf(format string, v ...any) {
	level := slog.LevelWarn
	for _, usual := range []string{" outdated", "Recovering stream state from index errored"} {
		if strings.HasPrefix(format, "Filestore [") && strings.Contains(format, usual) {
			level = slog.LevelDebug
		}
	}
	l.write(level, format, v)
}

// Fatalf does not end the process: the server returns from Start after it, and
// Connect returns the text as its error.
func (l *serverLog) Fatalf(format string, v ...any) { l.fatal = fmt.Sprintf(format, v...) }

func (l *serverLog) write(level slog.Level, format string, v []any) {
	if level >= slog.LevelWarn {
		select {
		case l.trouble <- struct{}{}:
		default:
		}
	}
	ctx := context.Background()
	if l.log.Enabled(ctx, level) {
		l.log.Log(ctx, level, fmt.Sprintf(format, v...), "from", "nats-server")
	}
}
