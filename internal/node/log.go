package node

import (
	"io"
	"log/slog"
	"os"

	"github.com/spandb/spand/internal/tracing"
)

// Version of the binary.
const Version = "0.1.0"

// NewLogger makes the process's logger: text on a terminal, JSON otherwise,
// always with the node's name, and with the trace id of what was done.
func NewLogger(c Config, out io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		level = slog.LevelInfo
	}
	o := &slog.HandlerOptions{Level: level}
	format := c.LogFormat
	if format == "" {
		format = "json"
		if f, ok := out.(*os.File); ok && terminal(f) {
			format = "text"
		}
	}
	var h slog.Handler = slog.NewJSONHandler(out, o)
	if format == "text" {
		h = slog.NewTextHandler(out, o)
	}
	return slog.New(tracing.Handler(h)).With("node", c.Node)
}

func terminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
