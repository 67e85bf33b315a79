package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// logger returns a log of records to w, from the level up that the flags name or
// else from otherwise up.
func (a *app) logger(otherwise slog.Level, w io.Writer) (*slog.Logger, error) {
	level, err := a.level(otherwise)
	if err != nil {
		return nil, err
	}
	opts := &slog.HandlerOptions{Level: level}
	switch {
	case a.logFormat == "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	case a.logFormat == "" && isTerminal(a.stderr):
		return slog.New(newPlainHandler(level, func(level slog.Level, text string) {
			_, _ = io.WriteString(w, "keyturn: "+text+"\n")
		})), nil
	default:
		return slog.New(slog.NewTextHandler(w, opts)), nil
	}
}

// plainHandler writes records for people: the message, then what else there is
// to say in brackets.
type plainHandler struct {
	slog.Handler // writes the attributes into shared.buffer
	shared       *plainShared
}

type plainShared struct {
	print func(level slog.Level, text string)

	mu     sync.Mutex // guards buffer
	buffer bytes.Buffer
}

func newPlainHandler(least slog.Level, print func(level slog.Level, text string)) slog.Handler {
	shared := &plainShared{print: print}
	attributes := slog.NewTextHandler(&shared.buffer, &slog.HandlerOptions{
		Level: least,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			switch a.Key {
			case slog.TimeKey, slog.LevelKey, slog.MessageKey, "machine":
				if len(groups) == 0 {
					return slog.Attr{}
				}
			}
			return a
		},
	})
	return &plainHandler{attributes, shared}
}

// Handle writes one record.
func (h *plainHandler) Handle(ctx context.Context, r slog.Record) error {
	h.shared.mu.Lock()
	h.shared.buffer.Reset()
	err := h.Handler.Handle(ctx, r)
	attributes := strings.TrimSpace(h.shared.buffer.String())
	h.shared.mu.Unlock()

	text := strings.ToLower(r.Level.String()) + ": " + r.Message
	if attributes != "" {
		text += " (" + attributes + ")"
	}
	h.shared.print(r.Level, text)
	return err
}

// WithAttrs returns a handler that has more to say of each record.
func (h *plainHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &plainHandler{h.Handler.WithAttrs(attrs), h.shared}
}

// WithGroup returns a handler whose attributes are in a group.
func (h *plainHandler) WithGroup(name string) slog.Handler {
	return &plainHandler{h.Handler.WithGroup(name), h.shared}
}
