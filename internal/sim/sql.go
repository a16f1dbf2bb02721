package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/spandb/spand/integration/check"
	"github.com/spandb/spand/integration/workload"
)

// The clients that speak SQL, over pgx, to every node's front end: those of package
// workload, judged by package check. They run beside the others, on tables of their own.

func (w *World) sqlOptions() workload.Options {
	p := &w.plan
	return workload.Options{Seed: p.Seed, Clients: p.SQLClients, Kinds: p.SQL, Think: p.Think, Log: func(format string, args ...any) {
		w.trace.Addf("sql: "+format, args...)
	}}
}

// setupSQL makes the tables.
func (w *World) setupSQL() bool {
	if len(w.plan.SQL) == 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := workload.Setup(ctx, w, w.sqlOptions()); err != nil {
		w.violate("F1", "no first tables in a healthy cluster: %v", err)
		return false
	}
	return true
}

// runSQL runs the clients until the faults are over.
func (w *World) runSQL(until time.Time) {
	if len(w.plan.SQL) == 0 {
		return
	}
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	w.sql = workload.Run(ctx, w, w.sqlOptions())
}

// finishSQL reads everything once more in the healed cluster.
func (w *World) finishSQL() {
	if w.sql == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := workload.Finale(ctx, w, w.sql); err != nil {
		w.violate("liveness", "SQL in a healed cluster: %v", err)
	}
}

// judgeSQL holds what the clients saw against what they may see.
func (w *World) judgeSQL() {
	if w.sql == nil {
		return
	}
	r := check.Judge(w.sql, check.Options{})
	w.stats.SQL = fmt.Sprintf("%v: %d ok, %d failed, %d unknown, %d undecided", w.plan.SQL, r.OK, r.Failed, r.Unknown, len(r.Undecided))
	if len(r.Violations) > 0 || w.opts.Log {
		for _, x := range w.sql.Txns() {
			w.trace.Addf("%v", x)
		}
	}
	for _, v := range r.Violations {
		w.violate(v.Invariant, "%s: %s", v.Anomaly, v.Story)
	}
}
