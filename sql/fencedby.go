package sql

import (
	"strings"

	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
)

// fencedByOption is the table option that names a lock without which nobody writes to the
// table. It takes effect as other schema changes do (B2): whoever planned a write before
// commits before the change, or finds the descriptor changed and fails.
const fencedByOption = "fenced_by"

// fencedBy refuses a write to a table whose lock the session's fence does not name in
// exclusive mode. Whether the lock is held is found out at the commit.
func (c *Conn) fencedBy(t *catalog.Table) error {
	if t.FencedBy == "" {
		return nil
	}
	shared := false
	for _, s := range c.set.fence {
		if s.path == t.FencedBy {
			if s.exclusive {
				return nil
			}
			shared = true
		}
	}
	e := &sqlstate.Error{Code: sqlstate.FenceRequired, Table: t.Name,
		Message: "cannot write to table \"" + t.Name + "\" without a fence that names lock \"" + t.FencedBy + "\"",
		Detail:  "The table's option fenced_by demands it.",
		Hint:    "Acquire the lock in exclusive mode and SET LOCAL spand.fence to its sequencer in the transaction."}
	if shared {
		e.Detail = "The table's option fenced_by demands exclusive mode, and the fence names the lock in shared mode."
	}
	return e
}

// tableOptions checks WITH (…) or SET (…) of a table and applies what has a meaning here
// to t; with reset, RESET (…). It reports whether t has changed.
func tableOptions(t *catalog.Table, opts []pgast.Option, reset bool) (changed bool, err error) {
	was := t.FencedBy
	seen := make(map[string]bool)
	for _, o := range opts {
		n := strings.ToLower(o.Name)
		if seen[n] {
			return false, sqlstate.Newf(sqlstate.InvalidParameterValue, "parameter %q specified more than once", o.Name)
		}
		seen[n] = true
		switch {
		case reset && o.Value != "":
			return false, sqlstate.Newf(sqlstate.SyntaxError, "RESET must not include values for parameters")
		case n == fencedByOption && reset:
			t.FencedBy = ""
		case n == fencedByOption:
			if !isLockPath(o.Value) {
				return false, invalidValue(fencedByOption, o.Value).(*sqlstate.Error).
					WithHint("It is the path of a lock, such as \"/ls/local/jobs/x\".")
			}
			t.FencedBy = o.Value
		default:
			if err := checkStorageOptions([]pgast.Option{o}); err != nil && !reset {
				return false, err
			}
		}
	}
	return t.FencedBy != was, nil
}
