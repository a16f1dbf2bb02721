package sql

import (
	"context"
	"strings"

	"github.com/spandb/spand/sql/exec"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// prepared is a prepared statement.
type prepared struct {
	st       *pgast.Statement // Tree nil: an empty query
	params   []types.OID      // as the client gave them, then as inferred
	compiled *compiled        // nil: not one that has a plan
	space    string           // the name space that compiled was made in
	cols     []Column         // what the client was told
	fromSQL  bool             // PREPARE made it
}

// install makes cp the statement's plan. p may be nil.
func (p *prepared) install(cp *compiled, space string) error {
	if p == nil {
		return nil
	}
	if err := p.sameResult(cp); err != nil {
		return err
	}
	p.compiled, p.space = cp, space
	return nil
}

// sameResult refuses a plan whose rows differ from what the client was told.
func (p *prepared) sameResult(cp *compiled) error {
	if p == nil || p.cols == nil {
		return nil
	}
	same := len(p.cols) == len(cp.cols)
	for i := 0; same && i < len(p.cols); i++ {
		same = p.cols[i].Type.OID == cp.cols[i].Type.OID
	}
	if !same {
		return sqlstate.Newf(sqlstate.FeatureNotSupported, "cached plan must not change result type")
	}
	return nil
}

// portal is a bound statement, or a cursor.
type portal struct {
	name   string
	prep   *prepared
	params []types.Datum
	cursor bool // made by DECLARE

	x    *exec.Context // while rows is open
	rows *exec.Rows
	cols []Column
	n    int64
	done bool
}

func (p *portal) close() {
	if p.rows != nil {
		p.rows.Close()
		p.rows, p.x = nil, nil
	}
	p.done = true
}

func (c *Conn) closePortals() {
	for _, p := range c.portals {
		p.close()
	}
	clear(c.portals)
}

// closeSQLCursors closes open portals after an error: their rows may be gone.
func (c *Conn) closeSQLCursors() {
	for n, p := range c.portals {
		if p.rows != nil || p.cursor {
			p.close()
			delete(c.portals, n)
		}
	}
}

// endsTxn reports the statements that a failed transaction accepts.
func endsTxn(tree pgast.Stmt) bool {
	t, ok := tree.(*pgast.Transaction)
	if !ok {
		return false
	}
	switch t.Kind {
	case "commit", "rollback", "rollback to":
		return true
	}
	return false
}

// Prepare parses and plans one statement under a name.
func (c *Conn) Prepare(ctx context.Context, name, query string, paramTypes []types.OID) error {
	ctx, done := c.begin(ctx)
	defer done()
	err := c.prepare(ctx, name, query, paramTypes)
	if err != nil {
		c.failTxn()
	}
	return c.clientError(c.cause(ctx, err))
}

func (c *Conn) prepare(ctx context.Context, name, query string, paramTypes []types.OID) error {
	if name != "" {
		if _, ok := c.stmts[name]; ok {
			return sqlstate.Newf(sqlstate.DuplicatePreparedStatement, "prepared statement %q already exists", name)
		}
	}
	sts, err := c.eng.parse.Parse(query)
	if err != nil {
		return err
	}
	if len(sts) == 1 {
		if err := c.clockRefuses(sts[0].Tree); err != nil {
			return err
		}
	}
	p := &prepared{st: &pgast.Statement{}, params: paramTypes}
	switch len(sts) {
	case 0:
	case 1:
		p.st = sts[0]
		if err := c.describe(ctx, p); err != nil {
			return err
		}
	default:
		return sqlstate.Newf(sqlstate.SyntaxError, "cannot insert multiple commands into a prepared statement")
	}
	if name == "" {
		c.unnamed = p
	} else {
		c.stmts[name] = p
	}
	return nil
}

// describe plans a statement as far as its parameters and columns need.
func (c *Conn) describe(ctx context.Context, p *prepared) error {
	if c.txn.failed && !endsTxn(p.st.Tree) {
		return errInFailed
	}
	p.params = append([]types.OID(nil), p.params...)
	if !c.txn.open {
		c.txn.view.Reset()
	}
	switch t := p.st.Tree.(type) {
	case *pgast.Select, *pgast.Insert, *pgast.Update, *pgast.Delete:
		return c.glance(ctx, p.st, t, func() error {
			cp, err := c.compiled(ctx, p.st, t, p)
			if err == nil {
				p.params, p.cols = cp.params, cp.cols
			}
			return err
		})
	case *pgast.ShowVar:
		cols, err := c.showColumns(t)
		p.cols = cols
		return err
	case *pgast.Explain:
		p.cols = explainColumns
	case *pgast.Fetch:
		if po := c.portals[t.Cursor]; po != nil && !t.Move {
			p.cols = po.cols
		}
	case *pgast.Execute:
		if q := c.stmts[t.Name]; q != nil {
			p.cols = q.cols
		}
	}
	for i := range p.params {
		if p.params[i] == 0 {
			p.params[i] = types.OIDText
		}
	}
	return nil
}

func (c *Conn) statement(name string) (*prepared, error) {
	p := c.unnamed
	if name != "" {
		p = c.stmts[name]
	}
	if p == nil {
		if name == "" {
			return nil, sqlstate.Newf(sqlstate.InvalidStatementName, "unnamed prepared statement does not exist")
		}
		return nil, sqlstate.Newf(sqlstate.InvalidStatementName, "prepared statement %q does not exist", name)
	}
	return p, nil
}

// DescribeStatement returns parameter types and result columns.
func (c *Conn) DescribeStatement(_ context.Context, name string) ([]types.OID, []Column, error) {
	p, err := c.statement(name)
	if err != nil {
		c.failTxn()
		return nil, nil, err
	}
	if c.txn.failed && !endsTxn(p.st.Tree) && p.cols != nil {
		return nil, nil, errInFailed
	}
	return p.params, p.cols, nil
}

// Bind makes a portal.
func (c *Conn) Bind(_ context.Context, name, statement string, params []types.Datum) error {
	p, err := c.statement(statement)
	if err == nil && c.txn.failed && p.st.Tree != nil && !endsTxn(p.st.Tree) {
		err = errInFailed
	}
	if err == nil && len(params) != len(p.params) {
		err = sqlstate.Newf(sqlstate.ProtocolViolation, "bind message supplies %d parameters, but prepared statement %q requires %d", len(params), statement, len(p.params))
	}
	if err == nil && name != "" && c.portals[name] != nil {
		err = sqlstate.Newf(sqlstate.DuplicateCursor, "cursor %q already exists", name)
	}
	if err != nil {
		c.failTxn()
		return err
	}
	po := c.portals[name]
	if po == nil {
		if po = &c.spare; name != "" {
			po = new(portal)
		}
		c.portals[name] = po
	} else {
		po.close()
	}
	*po = portal{name: name, prep: p, cols: p.cols, params: append(po.params[:0], params...)}
	return nil
}

func (c *Conn) findPortal(name string) (*portal, error) {
	if p := c.portals[name]; p != nil {
		return p, nil
	}
	return nil, sqlstate.Newf(sqlstate.InvalidCursorName, "portal %q does not exist", name)
}

// DescribePortal returns a portal's result columns.
func (c *Conn) DescribePortal(_ context.Context, name string) ([]Column, error) {
	p, err := c.findPortal(name)
	if err != nil {
		c.failTxn()
		return nil, err
	}
	return p.cols, nil
}

// CloseStatement forgets a prepared statement.
func (c *Conn) CloseStatement(name string) {
	if name == "" {
		c.unnamed = nil
		return
	}
	delete(c.stmts, name)
}

// ClosePortal forgets a portal.
func (c *Conn) ClosePortal(name string) {
	if p := c.portals[name]; p != nil {
		p.close()
		delete(c.portals, name)
	}
}

// Execute runs a portal.
func (c *Conn) Execute(ctx context.Context, name string, o ExecuteOptions, w ResultWriter) (bool, error) {
	p, err := c.findPortal(name)
	if err != nil {
		c.failTxn()
		return false, err
	}
	if p.prep.st.Tree == nil {
		return false, w.Empty()
	}
	ctx, done := c.begin(ctx)
	defer done()
	if p.rows != nil || p.done {
		if err := c.clockRefuses(p.prep.st.Tree); err != nil {
			return false, err
		}
		return c.resume(ctx, p, o.MaxRows, w)
	}
	r := request{st: p.prep.st, tree: p.prep.st.Tree, prep: p.prep, params: p.params, portal: p, maxRows: o.MaxRows}
	r.sink = sink{c: c, w: w}
	r.single = o.SyncFollows && !c.txn.open && o.MaxRows == 0
	if tree, ok := r.tree.(*pgast.Transaction); ok && c.txn.open && !c.txn.explicit && tree.Kind != "begin" {
		r.single = false
	}
	if err := c.dispatch(ctx, &r); err != nil {
		return false, err
	}
	if !r.suspended {
		p.done = true
	}
	return r.suspended, nil
}

// startPortal opens a query that may be suspended.
func (c *Conn) startPortal(ctx context.Context, r *request, cp *compiled, x *exec.Context) (string, error) {
	p := r.portal
	if cp.plan.Query == nil {
		tag, err := c.runPlan(ctx, cp, x, &r.sink)
		c.release(x)
		return tag, err
	}
	rows, err := x.Open(cp.plan)
	if err != nil {
		c.release(x)
		return "", err
	}
	p.rows, p.x, p.cols = rows, x, cp.cols
	if r.maxRows < 0 {
		return "", nil
	}
	r.sink.columns(cp.cols)
	n, more, err := c.fetch(ctx, p, r.maxRows, &r.sink)
	if err != nil {
		p.close()
		return "", err
	}
	r.suspended = more
	return countTag(selectTags[:], "SELECT ", n), nil
}

// fetch passes up to max rows (0: all) of an open portal on. more: the limit was reached.
func (c *Conn) fetch(ctx context.Context, p *portal, max int, s *sink) (n int64, more bool, err error) {
	if p.rows == nil {
		return 0, false, nil
	}
	p.x.Eval.Ctx = ctx
	for max == 0 || n < int64(max) {
		row, err := p.rows.Next()
		if err != nil {
			return n, false, err
		}
		if row == nil {
			p.close()
			return n, false, nil
		}
		if s != nil {
			if err := s.row(ctx, row); err != nil {
				return n, false, err
			}
		}
		n++
		p.n++
	}
	return n, true, nil
}

// resume goes on with a suspended portal.
func (c *Conn) resume(ctx context.Context, p *portal, max int, w ResultWriter) (bool, error) {
	if c.txn.failed {
		return false, errInFailed
	}
	s := sink{c: c, w: w}
	if p.cols != nil {
		s.columns(p.cols)
	}
	n, more, err := c.fetch(ctx, p, max, &s)
	if err == nil {
		if more {
			err = s.flush(ctx)
		} else {
			err = s.finish(ctx, countTag(selectTags[:], "SELECT ", n))
		}
	}
	if err != nil {
		p.close()
		return false, c.refuse(ctx, err)
	}
	return more, nil
}

// Sync ends a batch of the extended protocol.
func (c *Conn) Sync(ctx context.Context) error {
	if c.txn.explicit {
		return nil
	}
	if !c.txn.open {
		c.closePortals()
		return nil
	}
	if err := c.clockRefuses(&pgast.Transaction{Kind: "commit"}); err != nil {
		return err
	}
	ctx, done := c.begin(ctx)
	defer done()
	return c.clientError(c.commit(ctx))
}

// commandTag is a utility statement's verb for messages.
func commandTag(words ...string) string { return strings.ToUpper(strings.Join(words, " ")) }
