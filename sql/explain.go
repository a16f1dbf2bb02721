package sql

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spandb/spand/sql/exec"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

var explainColumns = textColumns("QUERY PLAN")

// explain prints a statement's plan in PostgreSQL's style; with ANALYZE it runs it.
func (c *Conn) explain(ctx context.Context, r *request, x *pgast.Explain) error {
	analyze := x.Analyze
	for _, o := range x.Options {
		on := o.Value == "" || strings.EqualFold(o.Value, "on") || strings.EqualFold(o.Value, "true") || o.Value == "1"
		switch strings.ToLower(o.Name) {
		case "analyze":
			analyze = on
		case "verbose", "costs", "settings", "buffers", "wal", "timing", "summary":
		case "format":
			if !strings.EqualFold(o.Value, "text") {
				return unsupported("EXPLAIN (FORMAT %s) is not supported", strings.ToUpper(o.Value))
			}
		default:
			return sqlstate.Newf(sqlstate.SyntaxError, "unrecognized EXPLAIN option %q", o.Name)
		}
	}
	tree := x.Stmt
	switch s := tree.(type) {
	case *pgast.Select, *pgast.Insert, *pgast.Update, *pgast.Delete:
	case *pgast.CreateTable:
		if s.As == nil {
			return unsupported("EXPLAIN of this statement is not supported")
		}
		tree = s.As
	default:
		return unsupported("EXPLAIN of this statement is not supported")
	}
	t := &c.txn
	started := time.Now()
	if r.st.AsOf != nil {
		leave, err := c.enterAsOf(ctx, r)
		if err != nil {
			return err
		}
		defer leave()
	}
	cp, err := c.explained(ctx, r, tree, analyze)
	if err != nil {
		return err
	}
	planning := time.Since(started)
	var stats map[plan.Node]*exec.NodeStats
	var rows int64
	if analyze {
		if err := c.writes(cp.plan); err != nil {
			return err
		}
		t.view.Used(cp.plan.Uses)
		ec := c.execContext(ctx)
		ec.Eval.Reset(r.st.Consts, r.params)
		ec.Eval.Format = c.format()
		stats = make(map[plan.Node]*exec.NodeStats)
		ec.Stats = stats
		started = time.Now()
		discard := func([]types.Datum) error { return nil }
		if cp.plan.Query == nil {
			rows, err = ec.Run(cp.plan, discard)
		} else {
			rows, err = c.copyQuery(cp, ec.Open, discard)
		}
		c.release(ec)
		if err != nil {
			return err
		}
	}
	lines := plan.Explain(cp.plan, r.st, func(n plan.Node) string {
		if st := stats[n]; st != nil {
			return fmt.Sprintf(" (actual rows=%d loops=%d)", st.Rows, st.Loops)
		}
		return ""
	})
	if analyze {
		if cp.plan.Query == nil { // the statement's own line, which is no node of the plan
			lines[0] += fmt.Sprintf(" (actual rows=%d)", rows)
		}
		lines = append(lines,
			fmt.Sprintf("Planning Time: %.3f ms", float64(planning.Microseconds())/1000),
			fmt.Sprintf("Execution Time: %.3f ms", float64(time.Since(started).Microseconds())/1000))
	}
	r.sink.columns(explainColumns)
	emit := func(lines []string) error {
		for _, l := range lines {
			if err := r.sink.row(ctx, []types.Datum{types.Text(l)}); err != nil {
				return err
			}
		}
		return nil
	}
	switch {
	case !analyze || !modifies(tree):
	case r.single && !t.explicit:
		// The commit is part of what is explained: first it, then the rows.
		r.committed = func(context.Context) error { return emit(append(lines, explainCommit(&c.commitResult)...)) }
		return nil
	default:
		lines = append(lines, "Commit: when the transaction ends")
	}
	return emit(lines)
}

// explained plans what EXPLAIN is about; for ANALYZE it begins the store's transaction
// too.
func (c *Conn) explained(ctx context.Context, r *request, tree pgast.Stmt, analyze bool) (*compiled, error) {
	if analyze || c.readsPast(r, tree) {
		return c.plan(ctx, r, tree, nil)
	}
	if err := c.txn.view.Begin(ctx); err != nil {
		return nil, err
	}
	return c.compiled(ctx, r.st, tree, nil)
}
