package sim

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Trace is the readable story of a run: faults, operations, and the rooms' log
// lines when asked for, each with its instant of virtual time.
type Trace struct {
	start time.Time
	mu    sync.Mutex // a leaf
	lines []string
	said  map[string]int // log messages of level Info, counted whether or not they are kept
}

func newTrace() *Trace { return &Trace{start: time.Now(), said: map[string]int{}} }

func (t *Trace) count(message string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.said[message]
}

// Addf adds a line.
func (t *Trace) Addf(format string, args ...any) {
	at := time.Since(t.start)
	line := fmt.Sprintf("%12.6f  ", at.Seconds()) + fmt.Sprintf(format, args...)
	t.mu.Lock()
	t.lines = append(t.lines, line)
	t.mu.Unlock()
}

// Lines returns a copy of the trace.
func (t *Trace) Lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.lines...)
}

// handler writes slog records into a trace.
type handler struct {
	t     *Trace
	level slog.Level
	attrs string
}

func (t *Trace) logger(level slog.Level) *slog.Logger { return slog.New(&handler{t: t, level: level}) }

func (h *handler) Enabled(_ context.Context, l slog.Level) bool {
	return l >= min(h.level, slog.LevelInfo)
}

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	if r.Level == slog.LevelInfo {
		h.t.mu.Lock()
		h.t.said[r.Message]++
		h.t.mu.Unlock()
	}
	if r.Level < h.level {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "    %-5s %s%s", r.Level, r.Message, h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	})
	h.t.Addf("%s", b.String())
	return nil
}

func (h *handler) WithAttrs(as []slog.Attr) slog.Handler {
	n := *h
	for _, a := range as {
		n.attrs += fmt.Sprintf(" %s=%v", a.Key, a.Value)
	}
	return &n
}

func (h *handler) WithGroup(string) slog.Handler { return h }
