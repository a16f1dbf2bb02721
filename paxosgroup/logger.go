package paxosgroup

import (
	"context"
	"fmt"
	"log/slog"
)

// raftLogger routes Raft's log to slog. Raft calls every vote and every step
// "info"; here that is debug. Panics stay panics: they say that the log is
// corrupt or that an invariant of Raft's is broken, and going on would spread it.
type raftLogger struct{ l *slog.Logger }

func (r raftLogger) log(level slog.Level, v []any) {
	if r.l.Enabled(context.Background(), level) {
		r.l.Log(context.Background(), level, "raft: "+fmt.Sprint(v...))
	}
}

func (r raftLogger) logf(level slog.Level, f string, v []any) {
	if r.l.Enabled(context.Background(), level) {
		r.l.Log(context.Background(), level, "raft: "+fmt.Sprintf(f, v...))
	}
}

func (r raftLogger) Debug(v ...any)              { r.log(slog.LevelDebug, v) }
func (r raftLogger) Debugf(f string, v ...any)   { r.logf(slog.LevelDebug, f, v) }
func (r raftLogger) Info(v ...any)               { r.log(slog.LevelDebug, v) }
func (r raftLogger) Infof(f string, v ...any)    { r.logf(slog.LevelDebug, f, v) }
func (r raftLogger) Warning(v ...any)            { r.log(slog.LevelWarn, v) }
func (r raftLogger) Warningf(f string, v ...any) { r.logf(slog.LevelWarn, f, v) }
func (r raftLogger) Error(v ...any)              { r.log(slog.LevelError, v) }
func (r raftLogger) Errorf(f string, v ...any)   { r.logf(slog.LevelError, f, v) }
func (r raftLogger) Fatal(v ...any)              { r.Panic(v...) }
func (r raftLogger) Fatalf(f string, v ...any)   { r.Panicf(f, v...) }

func (r raftLogger) Panic(v ...any) {
	r.log(slog.LevelError, v)
	panic("paxosgroup: raft: " + fmt.Sprint(v...))
}

func (r raftLogger) Panicf(f string, v ...any) {
	r.logf(slog.LevelError, f, v)
	panic("paxosgroup: raft: " + fmt.Sprintf(f, v...))
}
