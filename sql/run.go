package sql

import (
	"context"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"

	"github.com/spandb/spand/sql/exec"
	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/truetime"
)

// request is one statement to run.
type request struct {
	st     *pgast.Statement
	tree   pgast.Stmt // st.Tree, or the statement inside it
	prep   *prepared  // nil: not prepared
	params []types.Datum
	sink   sink
	// single: the statement is an implicit transaction of its own, committed before
	// its completion is reported.
	single bool
	// several: it is one of several statements of a query string, which are a block as far as
	// settings are concerned.
	several bool

	portal    *portal // for suspending; nil: run to the end
	maxRows   int     // of the portal; -1: only open it
	suspended bool
	quiet     bool // no Complete: the caller reports it

	asOf truetime.Timestamp // of its AS OF TIMESTAMP clauses, 0: it has none
	// committed, if set, writes the statement's rows, which are about its own commit,
	// once that has come.
	committed func(context.Context) error
}

// maxAttempts bounds how often a statement that the client has seen nothing of is
// tried again after a conflict. Its age grows, so it wins long before.
const maxAttempts = 100

// Simple runs a query string.
func (c *Conn) Simple(ctx context.Context, query string, w ResultWriter) (err error) {
	ctx, done := c.begin(ctx)
	defer done()
	sts, err := c.eng.parse.Parse(query)
	if err != nil {
		c.failTxn()
		return c.clientError(err)
	}
	if len(sts) == 0 {
		return w.Empty()
	}
	from := 0
	for i, st := range sts {
		r := request{st: st, tree: st.Tree}
		r.sink = sink{c: c, w: w}
		r.several = len(sts) > 1
		r.single = !c.txn.open && (len(sts) == 1 || i == len(sts)-1)
		if !r.single && i == len(sts)-1 && !c.txn.explicit {
			r.single = true // the last one commits the implicit transaction before it completes
		}
		if at := strings.Index(query[from:], st.SQL); at >= 0 {
			from += at
		}
		if err := c.dispatch(ctx, &r); err != nil {
			return shift(err, query, from)
		}
		from += len(st.SQL)
	}
	if t := &c.txn; t.open && !t.explicit { // the last one was no statement that commits
		return c.clientError(c.commit(ctx))
	}
	return nil
}

// shift moves an error's position from a statement to the query string around it.
func shift(err error, query string, from int) error {
	if e, ok := err.(*sqlstate.Error); ok && e.Position > 0 && from > 0 {
		moved := *e
		moved.Position += len([]rune(query[:from]))
		return &moved
	}
	return err
}

// dispatch runs one statement in the transaction it belongs to, and reports its end.
func (c *Conn) dispatch(ctx context.Context, r *request) error {
	if err := c.clockRefuses(r.tree); err != nil {
		return err
	}
	if c.faults != nil {
		if err := c.fault(ctx, r); err != nil {
			return err
		}
	}
	if tc, ok := r.tree.(*pgast.Transaction); ok {
		err := c.clientError(c.control(ctx, tc, r))
		if err == nil {
			err = c.tellSettings(r.sink.w)
		}
		return err
	}
	t := &c.txn
	if t.failed {
		return errInFailed
	}
	for attempt := 1; ; attempt++ {
		if !t.open {
			c.openTxn(false)
		}
		again := !t.ran && len(t.marks) == 0 && attempt < maxAttempts && !reads(r.tree)
		r.sink.start(again && (r.single || t.explicit))
		r.committed = nil
		tag, err := c.perform(ctx, r)
		if err == nil && r.single && !t.explicit {
			// What was read or written becomes visible with the commit.
			if r.sink.hold || t.kv == nil || !t.kv.ReadOnly() {
				err = c.commit(ctx)
			} else if err = r.sink.flush(ctx); err == nil {
				err = c.commit(ctx)
			}
			if err == nil && r.committed != nil {
				r.sink.hold = false
				err = r.committed(ctx)
			}
		}
		if err != nil && t.kv != nil && t.kv.Insist() {
			c.dropXact()
			continue // a guess may be to blame
		}
		if err == nil {
			if t.open && !(t.explicit && onlySets(r.tree)) {
				t.ran = true
			}
			if r.suspended || r.quiet {
				return c.clientError(r.sink.flush(ctx))
			}
			if err = r.sink.finish(ctx, tag); err == nil {
				err = c.tellSettings(r.sink.w)
			}
			if err != nil {
				c.failTxn()
			}
			return c.clientError(err)
		}
		if again && retryable(err) && !r.sink.sent && ctx.Err() == nil {
			c.restart(err)
			continue
		}
		return c.refuse(ctx, positionOf(err, r.st))
	}
}

// refuse fails the transaction for a statement's error and returns what the client is
// told. An error tells of what was read ("already exists"), so it waits as rows do, for
// no longer than clocks are uncertain, even when the statement has run out of time (X1).
func (c *Conn) refuse(ctx context.Context, err error) error {
	if kv := c.txn.kv; kv != nil {
		if invisible := kv.AwaitVisible(c.ctx); invisible != nil && !retryable(err) {
			err = invisible
		}
	}
	c.noteAbort(err)
	c.failTxn()
	return c.clientError(c.cause(ctx, err))
}

// positionOf gives an error in a literal of st its position.
func positionOf(err error, st *pgast.Statement) error {
	var literal *expr.LiteralError
	if errors.As(err, &literal) {
		return literal.At(st)
	}
	return err
}

// cause prefers the reason why ctx ended to what its end made fail.
func (c *Conn) cause(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	if se, ok := context.Cause(ctx).(*sqlstate.Error); ok {
		return se
	}
	return err
}

// reads reports statements that consume the client's input, which is gone after one attempt.
func reads(tree pgast.Stmt) bool {
	cp, ok := tree.(*pgast.Copy)
	return ok && cp.From
}

// onlySets reports SET, RESET and SHOW. In a block the statement behind them can still be tried again
// unseen: they have seen nothing of the store, and what they have set outlives a restart. It
// does not outlive the failed commit of an implicit transaction.
func onlySets(tree pgast.Stmt) bool {
	switch tree.(type) {
	case *pgast.SetVar, *pgast.ShowVar:
		return true
	}
	return false
}

// restart prepares another attempt of the first statement of a transaction.
func (c *Conn) restart(err error) {
	t := &c.txn
	if !t.open {
		return // the commit failed and has ended it
	}
	c.noteAbort(err)
	if t.kv != nil {
		t.kv.Rollback(c.ctx)
		t.kv = nil
	}
	c.dropXact()
	t.fence = nil
	t.view.Abandon()
	t.view.Reset()
	t.bulk = exec.Bulk{IsNew: c.isNewPhys}
}

// perform runs a statement inside the open transaction and returns its tag.
func (c *Conn) perform(ctx context.Context, r *request) (string, error) {
	switch r.tree.(type) {
	case *pgast.Select, *pgast.Insert, *pgast.Update, *pgast.Delete:
		return c.planned(ctx, r)
	}
	return c.utility(ctx, r)
}

// plan plans tree, which is r's statement or the query inside it, and begins the store's
// transaction that it runs in.
func (c *Conn) plan(ctx context.Context, r *request, tree pgast.Stmt, prep *prepared) (*compiled, error) {
	t := &c.txn
	if c.readsPast(r, tree) {
		if cp, err := c.planPast(ctx, r, tree, prep); cp != nil || err != nil {
			return cp, err
		}
	}
	if err := t.view.Begin(ctx); err != nil {
		return nil, err
	}
	for {
		cp, err := c.compiled(ctx, r.st, tree, prep)
		if err != nil {
			return nil, err
		}
		if t.readOnly && cp.plan.Locks {
			return nil, errReadOnly(cp.plan)
		}
		if len(cp.plan.Uses) == 0 {
			return cp, nil // no table is read: no store is needed
		}
		changed, err := c.needKV(ctx, c.accessOf(r, cp.plan))
		if err != nil || !changed {
			return cp, err
		}
	}
}

func errReadOnly(p *plan.Plan) error {
	return sqlstate.Newf(sqlstate.ReadOnlyTransaction, "cannot execute %s in a read-only transaction", verb(p))
}

// planned runs a statement that has a plan.
func (c *Conn) planned(ctx context.Context, r *request) (string, error) {
	t := &c.txn
	if r.st.AsOf != nil {
		leave, err := c.enterAsOf(ctx, r)
		if err != nil {
			return "", err
		}
		defer leave()
	}
	cp, err := c.plan(ctx, r, r.tree, r.prep)
	if err != nil {
		return "", err
	}
	if err := c.writes(cp.plan); err != nil {
		return "", err
	}
	t.view.Used(cp.plan.Uses)
	if len(r.params) < len(cp.params) {
		return "", sqlstate.Newf(sqlstate.UndefinedParameter, "there is no parameter $%d", len(r.params)+1)
	}
	x := c.execContext(ctx)
	x.Eval.Reset(r.st.Consts, r.params)
	x.Eval.Format = c.format()
	if r.portal != nil && r.maxRows != 0 {
		return c.startPortal(ctx, r, cp, x)
	}
	tag, err := c.runPlan(ctx, cp, x, &r.sink)
	c.release(x)
	return tag, err
}

// accessOf a statement that has a plan, when it is the first of its transaction.
func (c *Conn) accessOf(r *request, p *plan.Plan) access {
	t := &c.txn
	switch alone := r.single && !t.explicit && !t.ran; {
	case !p.Locks && (t.readOnly || alone):
		return readOnly
	case alone && modifies(r.tree):
		return optimistic
	}
	return withLocks
}

// writes notes that the transaction writes what p writes.
func (c *Conn) writes(p *plan.Plan) error {
	switch {
	case p.Insert != nil:
		c.txn.wrote = true
		return c.underFence(p.Insert.Table.Desc)
	case p.Modify != nil:
		c.txn.wrote = true
		return c.underFence(p.Modify.Table.Desc)
	}
	return nil
}

// modifies reports INSERT, UPDATE and DELETE, which show nothing before they commit.
func modifies(tree pgast.Stmt) bool {
	switch tree.(type) {
	case *pgast.Insert, *pgast.Update, *pgast.Delete:
		return true
	}
	return false
}

func verb(p *plan.Plan) string {
	switch {
	case p.Insert != nil:
		return "INSERT"
	case p.Query != nil:
		return "SELECT FOR UPDATE"
	case p.Modify.Set != nil:
		return "UPDATE"
	}
	return "DELETE"
}

// runPlan runs a plan to its end.
func (c *Conn) runPlan(ctx context.Context, cp *compiled, x *exec.Context, s *sink) (string, error) {
	if cp.cols != nil {
		s.columns(cp.cols)
	}
	if cp.plan.Query == nil {
		n, err := x.Run(cp.plan, func(row []types.Datum) error { return s.row(ctx, row) })
		return dmlTag(cp.plan, n), err
	}
	if c.txn.kv != nil && c.txn.kv.ReadOnly() {
		s.hold = false // a lock-free read meets no conflict
	}
	rows, err := x.Open(cp.plan)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	n := int64(0)
	for {
		row, err := rows.Next()
		if err != nil {
			return "", err
		}
		if row == nil {
			return countTag(selectTags[:], "SELECT ", n), nil
		}
		if err := s.row(ctx, row); err != nil {
			return "", err
		}
		n++
	}
}

// Tags of small counts, made once.
var selectTags, updateTags, deleteTags, insertTags [101]string

func init() {
	for i := range selectTags {
		n := strconv.Itoa(i)
		selectTags[i], updateTags[i], deleteTags[i], insertTags[i] = "SELECT "+n, "UPDATE "+n, "DELETE "+n, "INSERT 0 "+n
	}
}

func countTag(known []string, prefix string, n int64) string {
	if n < int64(len(known)) {
		return known[n]
	}
	return prefix + strconv.FormatInt(n, 10)
}

func dmlTag(p *plan.Plan, n int64) string {
	switch {
	case p.Insert != nil:
		return countTag(insertTags[:], "INSERT 0 ", n)
	case p.Modify.Set != nil:
		return countTag(updateTags[:], "UPDATE ", n)
	}
	return countTag(deleteTags[:], "DELETE ", n)
}

// planCatalog is how the planner sees this session's names.
func (c *Conn) planCatalog() *plan.Catalog {
	return &plan.Catalog{View: c.txn.view, DB: c.db, SearchPath: c.set.searchPath, Virtual: c.eng.views, UserFunction: c.userFunction}
}

// compiled returns the statement's plan for the pinned schema version: the prepared
// statement's own, the shared cache's, or a new one.
func (c *Conn) compiled(ctx context.Context, st *pgast.Statement, tree pgast.Stmt, prep *prepared) (*compiled, error) {
	view := c.txn.view
	private := view.Changed()
	if prep != nil && !private {
		if cp := prep.compiled; cp != nil && cp.plan.Version == view.Version() && prep.space == c.planSpace {
			return cp, nil
		}
	}
	var oids []types.OID
	if prep != nil {
		oids = prep.params
	}
	shared := !private && st.Shape != "" && tree == st.Tree
	if shared {
		c.planKey(st, oids)
		if cp := c.eng.plans.get(c.key, view.Version()); cp != nil {
			return cp, prep.install(cp, c.planSpace)
		}
	}
	var p *plan.Plan
	err := c.stable(func() (err error) {
		p, err = plan.Build(ctx, c.planCatalog(), st, tree, oids)
		return err
	})
	if err != nil {
		return nil, c.positioned(ctx, err, st, oids)
	}
	cp := compile(p)
	if shared && !p.ValueDependent {
		c.planKey(st, oids)
		c.eng.plans.put(append([]byte(nil), c.key...), cp)
	}
	if private {
		return cp, prep.sameResult(cp)
	}
	return cp, prep.install(cp, c.planSpace)
}

// stable runs f, which reads descriptors, until it saw one schema version throughout:
// a descriptor that is not cached may make the view renew its lease (B2).
func (c *Conn) stable(f func() error) error {
	for {
		version := c.txn.view.Version()
		err := f()
		if c.txn.view.Version() == version {
			return err
		}
	}
}

// planKey makes the cache key of a statement in c.key.
func (c *Conn) planKey(st *pgast.Statement, oids []types.OID) {
	k := append(c.key[:0], st.Shape...)
	k = append(k, 0)
	for i := range st.Consts {
		k = append(k, expr.ConstClass(st.Consts[i]))
	}
	k = append(k, 0)
	for _, o := range oids {
		k = append(k, byte(o), byte(o>>8), byte(o>>16), byte(o>>24))
	}
	k = append(k, 0)
	k = append(k, c.planSpace...)
	if c.txn.view.Superseded() {
		// Beside the plans of the present schema, which it must not push out.
		k = binary.BigEndian.AppendUint64(append(k, 0), c.txn.view.Version())
	}
	c.key = k
}

// positioned plans a statement whose tree came from another text of its shape once
// more from its own text, so that the error's position is right.
func (c *Conn) positioned(ctx context.Context, err error, st *pgast.Statement, oids []types.OID) error {
	e, ok := err.(*sqlstate.Error)
	if !ok || e.Position == 0 || st.Tokens == nil {
		return err
	}
	own, perr := parse.Parse(st.SQL)
	if perr != nil || len(own) != 1 {
		return err
	}
	if _, again := plan.Build(ctx, c.planCatalog(), own[0], own[0].Tree, oids); again != nil {
		return again
	}
	return err
}

// tellSettings reports changed settings that clients track.
func (c *Conn) tellSettings(w ResultWriter) error {
	for len(c.reported) > 0 {
		d := c.reported[0]
		c.reported = c.reported[1:]
		v, _ := c.Setting(d.name)
		if err := w.ParameterStatus(d.name, v); err != nil {
			return err
		}
	}
	return nil
}
