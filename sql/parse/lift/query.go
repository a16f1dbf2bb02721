package lift

import (
	"strings"

	"github.com/pingcap/tidb/pkg/parser/ast"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/respell"
	"github.com/spandb/spand/sql/parse/tidbdrv"
)

func (l *Lifter) subquery(n ast.ExprNode) *pgast.Select {
	s, ok := n.(*ast.SubqueryExpr)
	if !ok {
		l.fail("unexpected subquery %s", describe(n))
	}
	return l.query(s.Query)
}

func (l *Lifter) query(n ast.Node) *pgast.Select {
	switch n := n.(type) {
	case *ast.SelectStmt:
		return l.selectStmt(n)
	case *ast.SetOprStmt:
		return l.setOpr(n.SelectList.Selects, n.With, n.OrderBy, n.Limit)
	case *ast.SetOprSelectList:
		if len(n.Selects) == 1 {
			return l.query(n.Selects[0])
		}
		return l.setOpr(n.Selects, n.With, n.OrderBy, n.Limit)
	case *ast.SubqueryExpr:
		return l.query(n.Query)
	}
	l.fail("unexpected query %s", describe(n))
	return nil
}

func (l *Lifter) setOpr(sel []ast.Node, with *ast.WithClause, order *ast.OrderByClause, limit *ast.Limit) *pgast.Select {
	if len(sel) != 2 {
		l.fail("set operation of %d queries", len(sel))
	}
	s := &pgast.Select{Left: l.query(sel[0]), Right: l.query(sel[1])}
	var op *ast.SetOprType
	switch r := sel[1].(type) {
	case *ast.SelectStmt:
		op = r.AfterSetOperator
	case *ast.SetOprSelectList:
		op = r.AfterSetOperator
	}
	if op == nil {
		l.fail("set operation without operator")
	}
	switch *op {
	case ast.Union:
		s.SetOp = "union"
	case ast.UnionAll:
		s.SetOp, s.SetAll = "union", true
	case ast.Except:
		s.SetOp = "except"
	case ast.ExceptAll:
		s.SetOp, s.SetAll = "except", true
	case ast.Intersect:
		s.SetOp = "intersect"
	case ast.IntersectAll:
		s.SetOp, s.SetAll = "intersect", true
	}
	l.tail(s, with, order, limit)
	return s
}

// tail lifts what stands before and behind a query's body.
func (l *Lifter) tail(s *pgast.Select, with *ast.WithClause, order *ast.OrderByClause, limit *ast.Limit) {
	s.With, s.Recursive = l.with(with)
	if order != nil {
		var tail *ast.FuncCallExpr
		s.OrderBy, tail = l.orderBy(order.Items)
		if tail != nil {
			_, note := l.note(tail.FnName.O)
			t := note.(*respell.TailNote)
			args := tail.Args
			next := func() pgast.Expr {
				if len(args) == 0 {
					l.fail("query tail lacks an argument")
				}
				e := l.expr(args[0])
				args = args[1:]
				return e
			}
			if t.Limit {
				s.Limit = next()
			}
			if t.Offset {
				s.Offset = next()
			}
			if t.AsOf {
				s.AsOf = next()
				l.AsOf = append(l.AsOf, s.AsOf)
			}
			s.WithTies = t.WithTies
			s.Locking = t.Locking
		}
	}
	if limit != nil {
		s.Limit = l.number(limit.Count)
		if limit.Offset != nil {
			s.Offset = l.number(limit.Offset)
		}
	}
}

func (l *Lifter) number(n ast.ExprNode) pgast.Expr {
	v, ok := n.(*tidbdrv.Value)
	if !ok {
		l.fail("unexpected limit %s", describe(n))
	}
	u, _ := v.GetValue().(uint64)
	slot, param, ok := respell.SlotNumber(u)
	if !ok {
		l.fail("unexpected limit %v", v.GetValue())
	}
	if param {
		return &pgast.Param{N: slot, Pos: -1}
	}
	return l.slot(slot)
}

// orderBy lifts sort items; a query's tail carrier, always the last, comes back apart.
func (l *Lifter) orderBy(items []*ast.ByItem) ([]pgast.OrderItem, *ast.FuncCallExpr) {
	var out []pgast.OrderItem
	for _, it := range items {
		o := pgast.OrderItem{Desc: it.Desc}
		e := it.Expr
		if c, ok := e.(*ast.FuncCallExpr); ok {
			_, note := l.note(c.FnName.O)
			switch note := note.(type) {
			case *respell.TailNote:
				return out, c
			case *respell.OrderNote:
				o.NullsFirst, o.Using = note.NullsFirst, note.Using
				e = c.Args[0]
			}
		}
		o.Expr = l.expr(e)
		out = append(out, o)
	}
	return out, nil
}

func (l *Lifter) with(w *ast.WithClause) ([]pgast.CTE, bool) {
	if w == nil {
		return nil, false
	}
	out := make([]pgast.CTE, 0, len(w.CTEs))
	for _, c := range w.CTEs {
		name, note := l.note(c.Name.O)
		n, ok := note.(*respell.CTENote)
		if !ok {
			l.fail("CTE %q has no note", name)
		}
		cte := pgast.CTE{Name: name, Materialized: n.Materialized}
		for _, col := range c.ColNameList {
			cte.Columns = append(cte.Columns, col.O)
		}
		if n.Part > 0 {
			cte.Query = l.Part(n.Part)
		} else {
			cte.Query = l.query(c.Query)
		}
		out = append(out, cte)
	}
	return out, w.IsRecursive
}

func (l *Lifter) carrier(n ast.ExprNode) (*ast.FuncCallExpr, any) {
	c, ok := n.(*ast.FuncCallExpr)
	if !ok {
		return nil, nil
	}
	_, note := l.note(c.FnName.O)
	return c, note
}

func (l *Lifter) selectStmt(n *ast.SelectStmt) *pgast.Select {
	s := &pgast.Select{Distinct: n.Distinct}
	if n.Kind == ast.SelectStmtKindValues {
		for _, r := range n.Lists {
			s.Values = append(s.Values, l.exprs(r.Values))
		}
		l.tail(s, n.With, n.OrderBy, n.Limit)
		return s
	}
	fields := n.Fields.Fields
	if len(fields) > 0 && fields[0].Expr != nil {
		c, note := l.carrier(fields[0].Expr)
		switch note.(type) {
		case *respell.DistinctOnNote:
			s.DistinctOn = l.exprs(c.Args)
			fields = fields[1:]
		case *respell.NoTargetsNote:
			fields = fields[1:]
		}
	}
	s.Targets = l.targets(fields)
	if n.From != nil {
		s.From = l.fromList(n.From.TableRefs)
	}
	if n.Where != nil {
		s.Where = l.expr(n.Where)
	}
	if n.GroupBy != nil {
		l.groupBy(s, n.GroupBy.Items)
	}
	if n.Having != nil {
		s.Having = l.expr(n.Having.Expr)
	}
	for i := range n.WindowSpecs {
		w := &n.WindowSpecs[i]
		name, exclude, _ := strings.Cut(w.Name.O, "\x00")
		if s.Windows == nil {
			s.Windows = map[string]*pgast.Window{}
		}
		if _, dup := s.Windows[name]; dup {
			panic(liftPanic{windowDefined(name)})
		}
		s.Windows[name] = l.windowSpec(w, exclude)
	}
	l.tail(s, n.With, n.OrderBy, n.Limit)
	if n.LockInfo != nil && n.LockInfo.LockType != ast.SelectLockNone {
		s.Locking = append(s.Locking, l.locking(n.LockInfo.LockType))
	}
	return s
}

func (l *Lifter) locking(t ast.SelectLockType) pgast.Locking {
	switch t {
	case ast.SelectLockForUpdate:
		return pgast.Locking{Strength: "update"}
	case ast.SelectLockForUpdateNoWait:
		return pgast.Locking{Strength: "update", Wait: "nowait"}
	case ast.SelectLockForUpdateSkipLocked:
		return pgast.Locking{Strength: "update", Wait: "skip locked"}
	case ast.SelectLockForShare:
		return pgast.Locking{Strength: "share"}
	case ast.SelectLockForShareNoWait:
		return pgast.Locking{Strength: "share", Wait: "nowait"}
	case ast.SelectLockForShareSkipLocked:
		return pgast.Locking{Strength: "share", Wait: "skip locked"}
	}
	l.fail("unexpected lock %v", t)
	return pgast.Locking{}
}

func (l *Lifter) targets(fields []*ast.SelectField) []pgast.Target {
	if len(fields) == 0 {
		return nil
	}
	out := make([]pgast.Target, 0, len(fields))
	for _, f := range fields {
		if f.WildCard != nil {
			out = append(out, pgast.Target{Expr: &pgast.ColumnRef{Star: true, Pos: l.res.Exact(f.Offset)}})
			continue
		}
		out = append(out, pgast.Target{Expr: l.expr(f.Expr), Alias: f.AsName.O})
	}
	return out
}

func (l *Lifter) groupBy(s *pgast.Select, items []*ast.ByItem) {
	sets := 0
	for _, it := range items {
		if _, note := l.carrier(it.Expr); note != nil {
			if _, ok := note.(*respell.GroupNote); ok {
				sets++
			}
		}
		s.GroupBy = append(s.GroupBy, l.expr(it.Expr))
	}
	switch {
	case sets == 0:
	case len(items) == 1:
		f := s.GroupBy[0].(*pgast.Func)
		s.GroupSets, s.GroupBy = f.Name.Last(), f.Args
	default:
		s.GroupSets = "mixed"
	}
}

// fromList lifts the comma list: joins that respell has not parenthesised.
func (l *Lifter) fromList(n ast.ResultSetNode) []pgast.TableExpr {
	j, ok := n.(*ast.Join)
	if !ok || j.ExplicitParens {
		if t := l.table(n); t != nil {
			return []pgast.TableExpr{t}
		}
		return nil
	}
	out := l.fromList(j.Left)
	if j.Right != nil {
		out = append(out, l.fromList(j.Right)...)
	}
	return out
}

func (l *Lifter) table(n ast.ResultSetNode) pgast.TableExpr {
	switch n := n.(type) {
	case *ast.Join:
		return l.join(n)
	case *ast.TableSource:
		return l.tableSource(n)
	}
	l.fail("unexpected table %s", describe(n))
	return nil
}

func (l *Lifter) join(n *ast.Join) pgast.TableExpr {
	if n.Right == nil {
		return l.table(n.Left)
	}
	if ts, ok := n.Right.(*ast.TableSource); ok {
		if tn, ok := ts.Source.(*ast.TableName); ok {
			if _, note := l.note(tn.Name.O); note != nil {
				if jn, ok := note.(*respell.JoinNote); ok {
					return l.joinAlias(l.table(n.Left), jn.Alias)
				}
			}
		}
	}
	j := &pgast.Join{Left: l.table(n.Left), Right: l.table(n.Right), Natural: n.NaturalJoin}
	switch n.Tp {
	case ast.LeftJoin:
		j.Type = "left"
	case ast.RightJoin:
		j.Type = "right"
	default:
		j.Type = "inner"
		if n.On == nil && n.Using == nil && !n.NaturalJoin {
			j.Type = "cross"
		}
	}
	for _, c := range n.Using {
		j.Using = append(j.Using, c.Name.O)
	}
	if n.On == nil {
		return j
	}
	c, note := l.carrier(n.On.Expr)
	jn, ok := note.(*respell.JoinNote)
	if !ok {
		j.On = l.expr(n.On.Expr)
		return j
	}
	j.Type, j.Natural, j.Using, j.Alias = jn.Type, jn.Natural, jn.Using, jn.Alias
	j.UsingAlias = jn.Alias.Name != ""
	if jn.On {
		j.On = l.expr(c.Args[0])
	}
	return j
}

func (l *Lifter) joinAlias(t pgast.TableExpr, a pgast.Alias) pgast.TableExpr {
	j, ok := t.(*pgast.Join)
	if !ok {
		l.fail("alias on %s", describe(t))
	}
	if j.Alias.Name != "" {
		l.unsupported("an alias on a join with an alias of its own is not supported")
	}
	j.Alias = a
	return j
}

func (l *Lifter) alias(name string) (pgast.Alias, *respell.AliasNote) {
	base, note := l.note(name)
	n, ok := note.(*respell.AliasNote)
	if !ok {
		return pgast.Alias{Name: base}, &respell.AliasNote{}
	}
	return pgast.Alias{Name: base, Columns: n.Columns}, n
}

func (l *Lifter) tableSource(n *ast.TableSource) pgast.TableExpr {
	alias, an := l.alias(n.AsName.O)
	switch src := n.Source.(type) {
	case *ast.TableName:
		_, note := l.note(src.Name.O)
		t := &pgast.Table{Alias: alias}
		switch note := note.(type) {
		case *respell.NoFromNote:
			return nil
		case *respell.TableNote:
			t.Name, t.Only, t.Pos = note.Name, note.Only, note.Pos
		case *respell.DMLNote:
			t.Name, t.Only, t.Pos = note.Name, note.Only, note.Pos
		default:
			l.fail("table %q has no note", src.Name.O)
		}
		if src.AsOf != nil {
			t.AsOf = l.expr(src.AsOf.TsExpr)
			l.AsOf = append(l.AsOf, t.AsOf)
		}
		return t
	case *ast.SelectStmt:
		if src.Kind == ast.SelectStmtKindSelect && len(src.Fields.Fields) == 1 && src.Fields.Fields[0].Expr != nil {
			if c, note := l.carrier(src.Fields.Fields[0].Expr); note != nil {
				if ft, ok := note.(*respell.FuncTableNote); ok {
					return l.funcTable(c, ft, alias, an)
				}
			}
		}
	}
	return &pgast.SubqueryTable{Query: l.query(n.Source), Lateral: n.Lateral, Alias: alias}
}

func (l *Lifter) funcTable(c *ast.FuncCallExpr, n *respell.FuncTableNote, alias pgast.Alias, an *respell.AliasNote) pgast.TableExpr {
	t := &pgast.FuncTable{Ordinality: n.Ordinality, Lateral: n.Lateral, Alias: alias, ColumnDefs: an.ColumnDefs}
	for _, a := range c.Args {
		f, ok := l.expr(a).(*pgast.Func)
		if !ok {
			l.unsupported("this expression in FROM is not supported")
		}
		t.Funcs = append(t.Funcs, f)
	}
	return t
}
