package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// logger returns a log of records to w, from the level up that the flags name or
// else from otherwise up.
func (a *app) logger(otherwise slog.Level, w io.Writer) (*slog.Logger, error) {
	level, err := a.level(otherwise)
	if err != nil {
		return nil, err
	}
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: inPlainWords}
	switch {
	case a.logFormat == "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	case a.logFormat == "" && isTerminal(a.stderr):
		return slog.New(newPlainHandler(level, func(level slog.Level, text string) {
			fmt.Fprintf(w, "%s  %s%s\n", time.Now().Format(time.TimeOnly), kind(level), text)
		})), nil
	default:
		return slog.New(slog.NewTextHandler(w, opts)), nil
	}
}

// inPlainWords replaces an error by its text in words of ours.
func inPlainWords(_ []string, a slog.Attr) slog.Attr {
	if err, ok := a.Value.Any().(error); ok {
		a.Value = slog.StringValue(plain(err))
	}
	return a
}

// kind is what people are told of a level in front of its message: nothing of info.
func kind(level slog.Level) string {
	if level == slog.LevelInfo {
		return ""
	}
	return strings.ToLower(level.String()) + ": "
}

// plainHandler writes records for people: the message, the error, then what else there
// is to say in brackets.
type plainHandler struct {
	least  slog.Level
	print  func(level slog.Level, text string)
	detail []string // of all records
	group  string   // in front of the names of attributes, with a dot at its end
}

func newPlainHandler(least slog.Level, print func(level slog.Level, text string)) slog.Handler {
	return &plainHandler{least: least, print: print}
}

// Enabled says whether records of a level are shown.
func (h *plainHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.least }

// Handle writes one record.
func (h *plainHandler) Handle(_ context.Context, r slog.Record) error {
	text, detail := r.Message, slices.Clip(h.detail)
	r.Attrs(func(a slog.Attr) bool {
		a = inPlainWords(nil, a)
		if h.group == "" && a.Key == "error" {
			text += ": " + oneLine([]byte(a.Value.Resolve().String()))
		} else {
			detail = appendDetail(detail, h.group, a)
		}
		return true
	})
	if len(detail) > 0 {
		text += " (" + strings.Join(detail, ", ") + ")"
	}
	h.print(r.Level, text)
	return nil
}

// appendDetail appends what an attribute says, and what those in a group say. Which
// machine it is the screen has said.
func appendDetail(detail []string, group string, a slog.Attr) []string {
	value := a.Value.Resolve()
	switch {
	case value.Kind() == slog.KindGroup:
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, member := range value.Group() {
			detail = appendDetail(detail, group, member)
		}
	case a.Key != "" && group+a.Key != "machine" && value.String() != "":
		detail = append(detail, group+a.Key+" "+oneLine([]byte(value.String())))
	}
	return detail
}

// WithAttrs returns a handler that has more to say of each record.
func (h *plainHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	more := *h
	more.detail = slices.Clip(h.detail)
	for _, a := range attrs {
		more.detail = appendDetail(more.detail, h.group, a)
	}
	return &more
}

// WithGroup returns a handler whose attributes are in a group.
func (h *plainHandler) WithGroup(name string) slog.Handler {
	in := *h
	in.group += name + "."
	return &in
}
