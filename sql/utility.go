package sql

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// utility runs a statement that has no plan of its own, and returns its tag.
func (c *Conn) utility(ctx context.Context, r *request) (string, error) {
	if r.st.AsOf != nil {
		switch r.tree.(type) {
		case *pgast.Copy, *pgast.Explain, *pgast.Declare:
		default:
			return "", errAsOfLocks
		}
	}
	switch x := r.tree.(type) {
	case *pgast.SetVar:
		return c.setVar(r, x)
	case *pgast.ShowVar:
		return "SHOW", c.showVar(ctx, x, &r.sink)
	case *pgast.Copy:
		return c.copyStmt(ctx, r, x)
	case *pgast.Explain:
		return "EXPLAIN", c.explain(ctx, r, x)
	case *pgast.Maintenance:
		return c.maintenance(ctx, x)
	case *pgast.Prepare:
		return "PREPARE", c.prepareStmt(ctx, x)
	case *pgast.Execute:
		return c.executeStmt(ctx, r, x)
	case *pgast.Deallocate:
		return c.deallocate(x)
	case *pgast.Discard:
		return c.discard(x)
	case *pgast.Declare:
		return "DECLARE CURSOR", c.declare(ctx, r, x)
	case *pgast.Fetch:
		return c.fetchStmt(ctx, r, x)
	case *pgast.Close:
		return c.closeStmt(x)
	case *pgast.Listen:
		return "", sqlstate.Newf(sqlstate.FeatureNotSupported, "%s is not supported", commandTag(x.Kind))
	case *pgast.Lock:
		return "", sqlstate.Newf(sqlstate.FeatureNotSupported, "LOCK TABLE is not supported").
			WithHint("Every transaction is serializable; use SELECT ... FOR UPDATE to lock rows early.")
	case *pgast.Comment:
		return "", sqlstate.Newf(sqlstate.FeatureNotSupported, "COMMENT is not supported")
	case *pgast.SplitTable:
		return "SPLIT TABLE", c.splitTable(ctx, r, x)
	case *pgast.Other:
		return "", sqlstate.Newf(sqlstate.FeatureNotSupported, "%s is not supported", x.Tag)
	}
	return c.ddl(ctx, r)
}

// control runs BEGIN, COMMIT and the like.
func (c *Conn) control(ctx context.Context, x *pgast.Transaction, r *request) error {
	t, s := &c.txn, &r.sink
	warn := func(code sqlstate.Code, msg string) error {
		return s.w.Notice("WARNING", sqlstate.Newf(code, "%s", msg))
	}
	if t.failed && !endsTxn(x) {
		return errInFailed
	}
	if x.Chain && !t.explicit {
		return sqlstate.Newf(sqlstate.NoActiveTransaction, "%s AND CHAIN can only be used in transaction blocks", commandTag(x.Kind))
	}
	readOnly := t.readOnly // a chained block has it too
	switch x.Kind {
	case "begin":
		inside := t.explicit
		if inside {
			if err := warn(sqlstate.ActiveTransaction, "there is already a transaction in progress"); err != nil {
				return err
			}
		} else if t.open {
			t.explicit = true // what the implicit transaction did becomes part of the block
		} else {
			c.openTxn(true)
		}
		err := c.characteristics(x)
		if err == nil && x.AsOf != nil {
			err = c.beginAsOf(ctx, r.st, x.AsOf)
		}
		switch {
		case err == nil:
			return s.w.Complete("BEGIN")
		case inside:
			c.failTxn()
		default:
			c.rollback() // a BEGIN that fails begins nothing
		}
		return err
	case "commit":
		if !t.explicit {
			if err := warn(sqlstate.NoActiveTransaction, "there is no transaction in progress"); err != nil {
				return err
			}
		}
		tag := "COMMIT"
		if t.failed {
			c.rollback()
			tag = "ROLLBACK"
		} else if t.open {
			if err := c.commit(ctx); err != nil {
				return err
			}
		}
		if x.Chain {
			c.openTxn(true)
			t.readOnly = readOnly
		}
		return s.w.Complete(tag)
	case "rollback":
		if !t.explicit {
			if err := warn(sqlstate.NoActiveTransaction, "there is no transaction in progress"); err != nil {
				return err
			}
		}
		c.rollback()
		if x.Chain {
			c.openTxn(true)
			t.readOnly = readOnly
		}
		return s.w.Complete("ROLLBACK")
	case "savepoint", "release", "rollback to":
		if !t.explicit {
			name := map[string]string{"savepoint": "SAVEPOINT", "release": "RELEASE SAVEPOINT", "rollback to": "ROLLBACK TO SAVEPOINT"}[x.Kind]
			c.failTxn()
			return sqlstate.Newf(sqlstate.NoActiveTransaction, "%s can only be used in transaction blocks", name)
		}
		var err error
		tag := "SAVEPOINT"
		switch x.Kind {
		case "savepoint":
			c.savepoint(x.Name)
		case "release":
			tag = "RELEASE"
			err = c.releaseSavepoint(x.Name)
		default:
			tag = "ROLLBACK"
			err = c.rollbackTo(x.Name)
		}
		if err != nil {
			c.failTxn()
			return err
		}
		return s.w.Complete(tag)
	case "set transaction":
		if !t.explicit && !r.several {
			if err := warn(sqlstate.NoActiveTransaction, "SET TRANSACTION can only be used in transaction blocks"); err != nil {
				return err
			}
			return s.w.Complete("SET")
		}
		if !t.open {
			c.openTxn(false)
		}
		t.ran = t.ran || !t.explicit // it does not outlive the failed commit of an implicit transaction
		if err := c.characteristics(x); err != nil {
			c.failTxn()
			return err
		}
		return s.w.Complete("SET")
	case "set session characteristics":
		if x.ReadOnly != nil {
			c.change("default_transaction_read_only", ptr(onOff(*x.ReadOnly)), false)
		}
		return s.w.Complete("SET")
	}
	return sqlstate.Newf(sqlstate.FeatureNotSupported, "%s is not supported", commandTag(x.Kind))
}

func ptr[T any](v T) *T { return &v }

// characteristics applies READ ONLY and the like to the open block. Every isolation
// level asked for is given as SERIALIZABLE.
func (c *Conn) characteristics(x *pgast.Transaction) error {
	t := &c.txn
	if x.ReadOnly == nil || *x.ReadOnly == t.readOnly {
		return nil
	}
	if t.asOf != 0 && !*x.ReadOnly {
		return errAsOfWrites
	}
	if t.kv != nil {
		if !*x.ReadOnly {
			return sqlstate.Newf(sqlstate.ActiveTransaction, "transaction read-write mode must be set before any query")
		}
		// Locks taken so far stay; from here on writing is refused.
	}
	t.readOnly = *x.ReadOnly
	return nil
}

func (c *Conn) setVar(r *request, x *pgast.SetVar) (string, error) {
	if x.Local && !c.txn.explicit && !r.several {
		if strings.EqualFold(x.Name, fenceSetting) {
			// A warning, as of other settings, would leave the writes that follow unfenced.
			return "", sqlstate.Newf(sqlstate.NoActiveTransaction, "SET LOCAL %s can only be used in transaction blocks", fenceSetting).
				WithHint("Outside of one it would fence nothing. Begin a transaction first, or use SET, which fences every transaction of the session.")
		}
		if err := r.sink.notice("WARNING", sqlstate.Newf(sqlstate.NoActiveTransaction, "SET LOCAL can only be used in transaction blocks")); err != nil {
			return "", err
		}
		return "SET", nil
	}
	if x.Default {
		if err := c.resetSetting(x.Name, x.Local); err != nil {
			return "", err
		}
		if len(r.st.SQL) >= 5 && strings.EqualFold(r.st.SQL[:5], "reset") {
			return "RESET", nil
		}
		return "SET", nil // SET x TO DEFAULT
	}
	v := strings.Join(x.Values, ", ")
	switch strings.ToLower(x.Name) {
	case "search_path":
		quoted := make([]string, len(x.Values))
		for i, p := range x.Values {
			quoted[i] = quoteIdent(p)
		}
		v = strings.Join(quoted, ", ")
	case "transaction_read_only":
		on, err := boolean("transaction_read_only")(v)
		if err != nil {
			return "", err
		}
		return "SET", c.characteristics(&pgast.Transaction{ReadOnly: ptr(on == "on")})
	}
	return "SET", c.SetSetting(x.Name, v, x.Local)
}

// quoteIdent quotes a name where it would not be read back as it is.
func quoteIdent(n string) string {
	plain := n != ""
	for i := 0; i < len(n); i++ {
		ch := n[i]
		if !(ch >= 'a' && ch <= 'z' || ch == '_' || i > 0 && (ch >= '0' && ch <= '9' || ch == '$')) {
			plain = false
		}
	}
	if plain {
		return n
	}
	return `"` + strings.ReplaceAll(n, `"`, `""`) + `"`
}

var textType = types.T(types.OIDText)

func textColumns(names ...string) []Column {
	cols := make([]Column, len(names))
	for i, n := range names {
		cols[i] = Column{Name: n, Type: textType}
	}
	return cols
}

func (c *Conn) showColumns(x *pgast.ShowVar) ([]Column, error) {
	if strings.EqualFold(x.Name, "all") {
		return textColumns("name", "setting", "description"), nil
	}
	if _, ok := c.Setting(x.Name); !ok {
		return nil, sqlstate.Newf(sqlstate.UndefinedObject, "unrecognized configuration parameter %q", x.Name)
	}
	name := strings.ToLower(x.Name)
	if d := settingDefs[name]; d != nil {
		name = d.name
	}
	return textColumns(name), nil
}

func (c *Conn) showVar(ctx context.Context, x *pgast.ShowVar, s *sink) error {
	cols, err := c.showColumns(x)
	if err != nil {
		return err
	}
	s.columns(cols)
	if len(cols) == 1 {
		v, _ := c.Setting(x.Name)
		return s.row(ctx, []types.Datum{types.Text(v)})
	}
	for _, n := range settingNames() {
		v, _ := c.Setting(n)
		d := settingDefs[n]
		if err := s.row(ctx, []types.Datum{types.Text(d.name), types.Text(v), types.Text(d.desc)}); err != nil {
			return err
		}
	}
	return nil
}

// maintenance accepts VACUUM and ANALYZE for what they are here: nothing needs to be
// done, since old versions are dropped by themselves and there are no statistics. The
// tables must exist all the same.
func (c *Conn) maintenance(ctx context.Context, x *pgast.Maintenance) (string, error) {
	kind := commandTag(x.Kind)
	switch kind {
	case "VACUUM", "ANALYZE", "CHECKPOINT":
	default:
		return "", sqlstate.Newf(sqlstate.FeatureNotSupported, "%s is not supported", kind)
	}
	if kind == "VACUUM" && c.txn.explicit {
		return "", sqlstate.Newf(sqlstate.ActiveTransaction, "VACUUM cannot run inside a transaction block")
	}
	if len(x.Tables) > 0 {
		if err := c.txn.view.Begin(ctx); err != nil {
			return "", err
		}
	}
	for _, n := range x.Tables {
		if _, err := c.planCatalog().Resolve(ctx, n); err != nil {
			return "", err
		}
	}
	return kind, nil
}

func (c *Conn) prepareStmt(ctx context.Context, x *pgast.Prepare) error {
	if _, ok := c.stmts[x.Name]; ok {
		return sqlstate.Newf(sqlstate.DuplicatePreparedStatement, "prepared statement %q already exists", x.Name)
	}
	p := &prepared{st: x.Stmt, fromSQL: true}
	for _, n := range x.Types {
		t, err := types.LookupName(n)
		if err != nil {
			return err
		}
		p.params = append(p.params, t.OID)
	}
	if err := c.describe(ctx, p); err != nil {
		return err
	}
	c.stmts[x.Name] = p
	return nil
}

func (c *Conn) executeStmt(ctx context.Context, r *request, x *pgast.Execute) (string, error) {
	p := c.stmts[x.Name]
	if p == nil {
		return "", sqlstate.Newf(sqlstate.InvalidStatementName, "prepared statement %q does not exist", x.Name)
	}
	if len(x.Args) != len(p.params) {
		return "", sqlstate.Newf(sqlstate.SyntaxError, "wrong number of parameters for prepared statement %q", x.Name).
			WithDetail("Expected %d parameters but got %d.", len(p.params), len(x.Args))
	}
	want := make([]types.Type, len(p.params))
	for i, o := range p.params {
		want[i] = types.T(o)
	}
	var params []types.Datum
	if len(x.Args) > 0 {
		err := c.glance(ctx, r.st, p.st.Tree, func() (err error) {
			params, err = c.values(ctx, r, x.Args, want, "EXECUTE parameter")
			return err
		})
		if err != nil {
			return "", err
		}
	}
	inner := request{st: p.st, tree: p.st.Tree, prep: p, params: params, sink: r.sink, single: r.single}
	if _, nested := inner.tree.(*pgast.Execute); nested || inner.tree == nil {
		return "", sqlstate.Newf(sqlstate.FeatureNotSupported, "EXECUTE of this statement is not supported")
	}
	tag, err := c.perform(ctx, &inner)
	r.sink = inner.sink
	return tag, elsewhere(err)
}

// elsewhere takes the position off an error in a literal of another statement's text:
// the one that was prepared, or that declared the cursor.
func elsewhere(err error) error {
	var literal *expr.LiteralError
	if errors.As(err, &literal) {
		return literal.Err
	}
	return err
}

// values evaluates expressions without columns, converted to the wanted types.
func (c *Conn) values(ctx context.Context, r *request, es []pgast.Expr, want []types.Type, what string) ([]types.Datum, error) {
	bound, err := plan.BindValues(ctx, c.planCatalog(), r.st, es, want, what)
	if err != nil {
		return nil, err
	}
	x := c.execContext(ctx)
	defer c.release(x)
	x.Eval.Reset(r.st.Consts, r.params)
	x.Eval.Format = c.format()
	out := make([]types.Datum, len(bound))
	for i, e := range bound {
		if out[i], err = e.Eval(&x.Eval, nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c *Conn) deallocate(x *pgast.Deallocate) (string, error) {
	if x.Name == "" {
		clear(c.stmts)
		return "DEALLOCATE ALL", nil
	}
	if c.stmts[x.Name] == nil {
		return "", sqlstate.Newf(sqlstate.InvalidStatementName, "prepared statement %q does not exist", x.Name)
	}
	delete(c.stmts, x.Name)
	return "DEALLOCATE", nil
}

func (c *Conn) discard(x *pgast.Discard) (string, error) {
	what := strings.ToUpper(x.What)
	if what == "ALL" {
		if c.txn.explicit {
			return "", sqlstate.Newf(sqlstate.ActiveTransaction, "DISCARD ALL cannot run inside a transaction block")
		}
		c.closePortals()
		clear(c.stmts)
		if err := c.resetSetting("all", false); err != nil {
			return "", err
		}
	}
	return "DISCARD " + what, nil
}

func (c *Conn) declare(ctx context.Context, r *request, x *pgast.Declare) error {
	switch {
	case x.Hold:
		return sqlstate.Newf(sqlstate.FeatureNotSupported, "DECLARE CURSOR ... WITH HOLD is not supported")
	case x.Scroll != nil && *x.Scroll:
		return sqlstate.Newf(sqlstate.FeatureNotSupported, "SCROLL cursors are not supported")
	case !c.txn.explicit:
		return sqlstate.Newf(sqlstate.NoActiveTransaction, "DECLARE CURSOR can only be used in transaction blocks")
	case c.portals[x.Name] != nil:
		return sqlstate.Newf(sqlstate.DuplicateCursor, "cursor %q already exists", x.Name)
	}
	p := &portal{name: x.Name, cursor: true, prep: &prepared{st: r.st}}
	inner := request{st: r.st, tree: x.Query, params: r.params, portal: p, maxRows: -1, sink: sink{c: c}}
	if _, err := c.planned(ctx, &inner); err != nil {
		return err
	}
	c.portals[x.Name] = p
	return nil
}

func (c *Conn) fetchStmt(ctx context.Context, r *request, x *pgast.Fetch) (string, error) {
	p := c.portals[x.Cursor]
	if p == nil {
		return "", sqlstate.Newf(sqlstate.InvalidCursorName, "cursor %q does not exist", x.Cursor)
	}
	n := x.Count
	switch {
	case x.Direction == "forward" && (n >= 0 || x.All):
	case x.Direction == "relative" && n == 1:
	default:
		return "", sqlstate.Newf(sqlstate.ObjectNotInPrerequisiteState, "cursor can only scan forward").
			WithHint("Declare it with SCROLL option to enable backward scan.")
	}
	s := &r.sink
	tag := "FETCH "
	if x.Move {
		s, tag = nil, "MOVE "
	} else {
		s.columns(p.cols)
	}
	if n == 0 && !x.All {
		return tag + "0", nil
	}
	max := int(n)
	if x.All {
		max = 0
	}
	got, _, err := c.fetch(ctx, p, max, s)
	return tag + strconv.FormatInt(got, 10), elsewhere(err)
}

func (c *Conn) closeStmt(x *pgast.Close) (string, error) {
	if x.Name == "" {
		for n, p := range c.portals {
			if p.cursor {
				p.close()
				delete(c.portals, n)
			}
		}
		return "CLOSE CURSOR ALL", nil
	}
	if c.portals[x.Name] == nil {
		return "", sqlstate.Newf(sqlstate.InvalidCursorName, "cursor %q does not exist", x.Name)
	}
	c.ClosePortal(x.Name)
	return "CLOSE CURSOR", nil
}

// splitTable makes tablet boundaries. It is no part of any transaction: it moves no
// row and changes no result.
func (c *Conn) splitTable(ctx context.Context, r *request, x *pgast.SplitTable) error {
	if c.txn.explicit {
		return sqlstate.Newf(sqlstate.ActiveTransaction, "SPLIT TABLE cannot run inside a transaction block")
	}
	splits, err := c.boundaries(ctx, r, x)
	if err != nil {
		return err
	}
	// From the end: a split leaves the left side where it is, with its leader, so
	// that none has to wait for the tablet that the one before made.
	slices.SortFunc(splits, func(a, b keys.Key) int { return bytes.Compare(b, a) })
	for _, k := range splits {
		if err := c.eng.kv.Split(ctx, k); err != nil {
			return err
		}
	}
	return nil
}

// boundaries returns the keys at which SPLIT TABLE splits, in its order.
func (c *Conn) boundaries(ctx context.Context, r *request, x *pgast.SplitTable) ([]keys.Key, error) {
	if err := c.txn.view.Begin(ctx); err != nil {
		return nil, err
	}
	rel, err := c.planCatalog().Resolve(ctx, x.Table)
	if err != nil {
		return nil, err
	}
	if rel.Table == nil {
		return nil, sqlstate.Newf(sqlstate.WrongObjectType, "%q is a system catalog", x.Table.Last())
	}
	ti := plan.NewTableInfo(rel.Table)
	ix := ti.Primary()
	if x.Index != "" {
		i := slices.IndexFunc(ti.Indexes, func(ix *plan.IndexInfo) bool { return ix.Desc.Name == x.Index })
		if i < 0 {
			return nil, sqlstate.Newf(sqlstate.UndefinedObject, "index %q does not exist", x.Index)
		}
		ix = ti.Indexes[i]
	}
	var want []types.Type
	for _, o := range ix.Ords {
		want = append(want, ti.Types[o])
	}
	row := func(es []pgast.Expr) ([]types.Datum, error) {
		if len(es) == 0 || len(es) > len(want) {
			return nil, sqlstate.Newf(sqlstate.SyntaxError, "SPLIT TABLE needs 1 to %d values per boundary", len(want))
		}
		vals, err := c.values(ctx, r, es, want[:len(es)], "SPLIT TABLE value")
		for _, v := range vals {
			if v.IsNull() {
				return nil, sqlstate.Newf(sqlstate.NullValueNotAllowed, "a SPLIT TABLE value must not be null")
			}
		}
		return vals, err
	}
	var bounds [][]types.Datum
	if x.By != nil {
		for _, es := range x.By {
			v, err := row(es)
			if err != nil {
				return nil, err
			}
			bounds = append(bounds, v)
		}
	} else if bounds, err = splitEvenly(x, want, row); err != nil {
		return nil, err
	}
	splits := make([]keys.Key, len(bounds))
	for i, v := range bounds {
		splits[i] = ix.Codec.Partial(nil, v)
	}
	return splits, nil
}

// Boundaries returns the keys at which a SPLIT TABLE statement would split, in its
// order, and splits nothing.
func (e *Engine) Boundaries(ctx context.Context, o SessionOptions, statement string) ([]keys.Key, error) {
	s, err := e.NewSession(ctx, o)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	c := s.(*Conn)
	sts, err := e.parse.Parse(statement)
	if err != nil {
		return nil, err
	}
	if len(sts) != 1 {
		return nil, sqlstate.Newf(sqlstate.SyntaxError, "want one SPLIT TABLE statement")
	}
	x, ok := sts[0].Tree.(*pgast.SplitTable)
	if !ok {
		return nil, sqlstate.Newf(sqlstate.SyntaxError, "%q is not SPLIT TABLE", statement)
	}
	c.openTxn(false)
	defer c.rollback()
	ks, err := c.boundaries(ctx, &request{st: sts[0], tree: x}, x)
	return ks, c.clientError(err)
}

// splitEvenly lays n-1 boundaries between two integers.
func splitEvenly(x *pgast.SplitTable, want []types.Type, row func([]pgast.Expr) ([]types.Datum, error)) ([][]types.Datum, error) {
	lo, err := row(x.Lo)
	if err != nil {
		return nil, err
	}
	hi, err := row(x.Hi)
	if err != nil {
		return nil, err
	}
	if len(lo) != 1 || len(hi) != 1 || types.KindOf(want[0].OID) != types.KindInt {
		return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "SPLIT TABLE ... BETWEEN is only supported for a leading integer column")
	}
	a, b := lo[0].Int(), hi[0].Int()
	width := uint64(b) - uint64(a)
	n := uint64(x.Regions)
	if a >= b || x.Regions < 2 || n > 10000 || width < n {
		return nil, sqlstate.Newf(sqlstate.InvalidParameterValue, "SPLIT TABLE ... BETWEEN needs a lower bound below the upper one and 2 to 10000 regions between them")
	}
	var out [][]types.Datum
	for i := uint64(1); i < n; i++ {
		out = append(out, []types.Datum{types.Int(int64(uint64(a) + width/n*i + width%n*i/n))})
	}
	return out, nil
}
