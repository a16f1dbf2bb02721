package sql

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/truetime"
)

// NodeClock is the node's clock as its operator sees it and widens it. Its methods may
// be called concurrently.
type NodeClock interface {
	// ErrorAdded is what spand.clock_error_add shows.
	ErrorAdded() time.Duration
	// AddError widens the clock's interval by d >= 0 each way, replacing what was added
	// before. The error is for the client: d is more than the node can serve with.
	AddError(d time.Duration) error
	// Summary is one line, for SHOW spand.clock.
	Summary() string
}

// clockErrorAdd is a setting of the node, not of the session: it takes effect at once
// for everybody, and neither ROLLBACK nor the session's end undoes it.
const clockErrorAdd = "spand.clock_error_add"

func init() {
	define(setting{name: clockErrorAdd, def: "0", desc: "Widens this node's clock uncertainty, for every session and until it is set again.",
		set: (*Conn).setClockErrorAdd,
		show: func(c *Conn) string {
			if c.eng.cfg.NodeClock == nil {
				return "0"
			}
			return formatDuration(c.eng.cfg.NodeClock.ErrorAdded())
		}})
	define(setting{name: "spand.clock", readOnly: true, desc: "Shows this node's clock uncertainty and where it comes from.",
		show: func(c *Conn) string {
			if c.eng.cfg.NodeClock == nil {
				return "epsilon " + formatDuration(c.eng.clock.Now().Epsilon())
			}
			return c.eng.cfg.NodeClock.Summary()
		}})
}

func (c *Conn) setClockErrorAdd(v string, local bool) error {
	switch {
	case local:
		return sqlstate.Newf(sqlstate.FeatureNotSupported, "parameter %q cannot be set for a transaction", clockErrorAdd).
			WithHint("It belongs to the node, not to the session: use SET, which takes effect at once, and RESET.")
	case c.opts.User != catalog.RootUser:
		return sqlstate.Newf(sqlstate.InsufficientPrivilege, "permission denied to set parameter %q", clockErrorAdd)
	case c.eng.cfg.NodeClock == nil:
		return sqlstate.Newf(sqlstate.FeatureNotSupported, "parameter %q cannot be changed on this server", clockErrorAdd)
	}
	d, ok := parseDuration(v)
	if !ok {
		return invalidValue(clockErrorAdd, v).(*sqlstate.Error).WithHint(`Valid units for this parameter are "us", "ms", "s", "min", "h", and "d".`)
	}
	if d < 0 {
		return invalidValue(clockErrorAdd, v).(*sqlstate.Error).WithHint("A clock's uncertainty can be widened, never narrowed.")
	}
	if err := c.eng.cfg.NodeClock.AddError(d); err != nil {
		return sqlstate.Newf(sqlstate.InvalidParameterValue, "invalid value for parameter %q: %q", clockErrorAdd, v).WithDetail("%s", sentence(err.Error()))
	}
	return nil
}

// parseDuration reads a number with one of PostgreSQL's units, milliseconds without one.
func parseDuration(v string) (time.Duration, bool) {
	v = strings.TrimSpace(v)
	i := len(v)
	for i > 0 && (v[i-1] < '0' || v[i-1] > '9') && v[i-1] != '.' {
		i--
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(v[:i]), 64)
	unit, ok := map[string]time.Duration{"": time.Millisecond, "us": time.Microsecond, "ms": time.Millisecond, "s": time.Second,
		"min": time.Minute, "h": time.Hour, "d": 24 * time.Hour}[strings.TrimSpace(v[i:])]
	ns := n * float64(unit)
	if err != nil || !ok || !(ns > -1e18 && ns < 1e18) { // NaN too
		return 0, false
	}
	return time.Duration(ns), true
}

// formatDuration writes what parseDuration reads, in milliseconds.
func formatDuration(d time.Duration) string {
	if d == 0 {
		return "0"
	}
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', -1, 64) + "ms"
}

// clockRefuses says why a statement is refused when the node's clock does not vouch for
// true time (T1, T2): whatever it read or wrote would bear a wrong timestamp. Settings
// can be looked at, and a transaction can be given up.
func (c *Conn) clockRefuses(tree pgast.Stmt) error {
	err := c.eng.clock.Err()
	if err == nil {
		return nil
	}
	switch x := tree.(type) {
	case *pgast.SetVar, *pgast.ShowVar:
		return nil
	case *pgast.Transaction:
		if x.Kind != "commit" || c.txn.kv == nil || c.txn.failed {
			return nil
		}
		c.rollback()
		return clockError(err)
	}
	c.failTxn()
	return clockError(err)
}

// clockError is what a client hears of a clock that does not vouch. libpq tries its
// next host on 57P03.
func clockError(err error) *sqlstate.Error {
	e := &sqlstate.Error{Code: sqlstate.CannotConnectNow, Cause: err,
		Message: "this node does not serve: its clock cannot be trusted",
		Detail:  sentence(strings.TrimPrefix(err.Error(), "truetime: ")),
		Hint:    "Connect to another node."}
	var outvoted *truetime.OutvotedError
	if errors.As(err, &outvoted) {
		e.Message = "this node does not serve: its clock disagrees with those of " + outvoted.Names()
		e.Detail = sentence(outvoted.Gaps())
		e.Hint = "Connect to another node; restart this one once its clock is right."
	}
	return e
}

func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// ClockFailed interrupts what runs: the node's clock does not vouch any more, for err.
// Commits under way are not interrupted; their outcome counts.
func (e *Engine) ClockFailed(err error) {
	why := clockError(err)
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.mu.sessions {
		c.cancelMu.Lock()
		if c.cancelMu.busy {
			c.cancelMu.cancel(why)
		}
		c.cancelMu.Unlock()
	}
}

// committed notes what a commit of the session's transaction yielded.
func (c *Conn) committed(ctx context.Context, ts truetime.Timestamp, err error) error {
	if err != nil {
		return err
	}
	c.lastCommit, c.commitResult = ts, c.txn.kv.Result()
	c.eng.logCommit(ctx, c.opts.BackendPID, c.txn.kv, &c.commitResult, time.Since(c.began))
	return nil
}

// logCommit says at which timestamp a transaction committed and what that cost: in debug
// mode always, else when the statement was slow, once a second at most.
func (e *Engine) logCommit(ctx context.Context, pid int32, t kv.Txn, r *kv.CommitResult, took time.Duration) {
	level := slog.LevelDebug
	if took >= slowStatement && onceASecond(&e.slowCommitSaid) {
		level = slog.LevelInfo
	}
	if !e.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{slog.Int("pid", int(pid)), slog.String("txn", t.ID().String()),
		slog.String("timestamp", r.TS.Time().Format(time.RFC3339Nano)), slog.Int("participants", r.Participants),
		slog.Duration("epsilon", r.Epsilon), slog.Duration("wait_gross", r.Gross), slog.Duration("wait_net", r.Net), slog.Duration("took", took)}
	if r.Asking > 0 {
		attrs = append(attrs, slog.Duration("fence_check", r.Asking))
	}
	e.log.LogAttrs(ctx, level, "committed", attrs...)
}

// explainCommit is what EXPLAIN ANALYZE tells of the commit of its own transaction.
func explainCommit(r *kv.CommitResult) []string {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	var fence []string
	if r.Asking > 0 {
		fence = []string{fmt.Sprintf("Fence Check: %.3f ms", ms(r.Asking))}
	}
	if r.Participants == 0 || r.Gross == 0 {
		return append(fence, "Commit: nothing was written")
	}
	phases, tablets := "one phase", "1 tablet"
	if r.Participants > 1 {
		phases, tablets = "two phases", fmt.Sprintf("%d tablets", r.Participants)
	}
	return append(fence,
		"Commit Timestamp: "+showTimestamp(r.TS),
		fmt.Sprintf("Commit: %s, %s, clock uncertainty %.3f ms", phases, tablets, ms(r.Epsilon)),
		fmt.Sprintf("Commit Wait: gross %.3f ms, net %.3f ms", ms(r.Gross), ms(r.Net)))
}
