package plan

import (
	"slices"

	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// fromItem is a bound FROM tree: a relation, or a join of two.
type fromItem struct {
	rel         *rel
	join        JoinType
	left, right *fromItem
	on          []*cond
	merges      []MergedCol
	rels        relSet
}

// cond is one bound conjunct.
type cond struct {
	e    expr.Expr
	ast  pgast.Expr
	rels relSet
	// tied: it runs a subquery that reads this scope, or is volatile: it only ever
	// filters, behind the join that completes rels (which count what the subquery reads).
	tied bool
	done bool // an access path enforces it
}

// buildFrom binds a FROM list; the result lists its items in order.
func (s *scope) buildFrom(list []pgast.TableExpr) ([]*fromItem, error) {
	var items []*fromItem
	for _, te := range list {
		before := s.vis
		it, vis, err := s.buildTable(te)
		if err != nil {
			return nil, err
		}
		s.vis = append(slices.Clip(before), vis...)
		items = append(items, it)
	}
	return items, nil
}

// buildTable binds one FROM entry. s.vis holds what stands to its left, which only
// lateral entries see.
func (s *scope) buildTable(te pgast.TableExpr) (*fromItem, []visCol, error) {
	switch t := te.(type) {
	case *pgast.Table:
		return s.buildNamed(t)
	case *pgast.SubqueryTable:
		return s.buildSubquery(t)
	case *pgast.FuncTable:
		return s.buildFunc(t)
	case *pgast.Join:
		return s.buildJoin(t)
	}
	return nil, nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "this kind of FROM item is not supported")
}

func (s *scope) leaf(r *rel, a pgast.Alias) (*fromItem, []visCol, error) {
	if a.Name != "" {
		r.alias = a.Name
	}
	if len(a.Columns) > 0 {
		n := 0
		for i := range r.cols {
			if !r.cols[i].hidden && n < len(a.Columns) {
				r.cols[i].name = a.Columns[n]
				n++
			}
		}
		if n < len(a.Columns) {
			return nil, nil, sqlstate.Newf(sqlstate.InvalidColumnReference,
				"table %q has %d columns available but %d columns specified", r.alias, n, len(a.Columns))
		}
	}
	for _, o := range s.rels {
		if o.alias == r.alias && r.alias != "" && (o.schema == r.schema || a.Name != "" || o.schema == "" || r.schema == "") {
			return nil, nil, sqlstate.Newf("42712", "table name %q specified more than once", r.alias)
		}
	}
	if err := s.addRel(r); err != nil {
		return nil, nil, err
	}
	return &fromItem{rel: r, rels: r.bit}, r.columnsOf(), nil
}

func (s *scope) buildNamed(t *pgast.Table) (*fromItem, []visCol, error) {
	if len(t.Name) == 1 {
		if c := s.findCTE(t.Name[0]); c != nil {
			return s.buildCTE(c, t.Alias)
		}
	}
	rl, err := s.b.cat.Resolve(s.b.ctx, t.Name)
	if err != nil {
		return nil, nil, at(err, s.b.st.SQL, t.Pos)
	}
	r := &rel{alias: t.Name.Last(), schema: rl.Schema, ord: -1, pos: t.Pos}
	if rl.Virtual != nil {
		r.virt = rl.Virtual
		for i, c := range rl.Virtual.Columns {
			r.cols = append(r.cols, relCol{name: c.Name, typ: c.Type, oid: rl.Virtual.OID, attnum: int16(i + 1)})
		}
	} else {
		s.b.use(rl.Table)
		if s.b.readTables == nil {
			s.b.readTables = make(map[catalog.ID]bool)
		}
		s.b.readTables[rl.Table.ID] = true
		r.table = NewTableInfo(rl.Table)
		for _, c := range rl.Table.Columns {
			r.cols = append(r.cols, relCol{name: c.Name, typ: c.Type, oid: types.OID(rl.Table.ID), attnum: int16(c.ID), hidden: c.Hidden})
		}
	}
	return s.leaf(r, t.Alias)
}

func (s *scope) buildCTE(c *cte, a pgast.Alias) (*fromItem, []visCol, error) {
	q, ok := c.def.Query.(*pgast.Select)
	if !ok {
		return nil, nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "data-modifying statements in WITH are not supported")
	}
	if a.Name == "" {
		a.Name = c.def.Name
	}
	if len(a.Columns) == 0 {
		a.Columns = c.def.Columns
	}
	inner := s.b.newScope(s)
	inner.jump, inner.cteScope, inner.ctes = true, c.scope.parent, c.scope.ctes[:c.index]
	query, err := s.b.hidden(s, c.scope, func() (*Query, error) { return s.b.selectQuery(inner, q) })
	if err != nil {
		return nil, nil, err
	}
	return s.queryLeaf(query, a)
}

// hidden runs f while the columns of the scopes from s up to top cannot be seen: a
// FROM entry that is not lateral still stands one level below s, and a WITH query
// below everything between its use and its definition.
func (b *builder) hidden(s, top *scope, f func() (*Query, error)) (*Query, error) {
	var saved [][]visCol
	for sc := s; sc != nil; sc = sc.parent {
		saved = append(saved, sc.vis)
		sc.vis = nil
		if sc == top {
			break
		}
	}
	q, err := f()
	for sc, i := s, 0; i < len(saved); sc, i = sc.parent, i+1 {
		sc.vis = saved[i]
	}
	return q, err
}

func (s *scope) buildSubquery(t *pgast.SubqueryTable) (*fromItem, []visCol, error) {
	inner := s.b.newScope(s)
	var query *Query
	var err error
	saved := s.track
	s.track = 0
	if t.Lateral {
		query, err = s.b.selectQuery(inner, t.Query)
	} else {
		query, err = s.b.hidden(s, s, func() (*Query, error) { return s.b.selectQuery(inner, t.Query) })
	}
	deps := s.track
	s.track = saved
	if err != nil {
		return nil, nil, err
	}
	it, vis, err := s.queryLeaf(query, t.Alias)
	if err == nil {
		it.rel.deps = deps
	}
	return it, vis, err
}

func (s *scope) queryLeaf(q *Query, a pgast.Alias) (*fromItem, []visCol, error) {
	r := &rel{query: q, ord: -1, pos: -1}
	for _, c := range q.Columns {
		r.cols = append(r.cols, relCol{name: c.Name, typ: c.Type, oid: c.TableOID, attnum: c.AttNum})
	}
	return s.leaf(r, a)
}

func (s *scope) buildFunc(t *pgast.FuncTable) (*fromItem, []visCol, error) {
	r := &rel{ord: -1, pos: -1}
	saved, clause := s.track, s.clause
	s.track, s.clause = 0, "functions in FROM"
	defer func() { s.track, s.clause = saved, clause }()
	width := 0
	for _, f := range t.Funcs {
		name := f.Name.Last()
		if r.alias == "" {
			r.alias = name
		}
		set, sc, err := expr.BindSetCall(f, s)
		if err != nil {
			return nil, nil, err
		}
		fc := FuncCall{Set: set, Off: width}
		var cols []relCol
		for _, c := range sc {
			t := c.Type
			if t.OID == types.OIDUnknown {
				t = types.T(types.OIDText)
			}
			cols = append(cols, relCol{name: c.Name, typ: t})
		}
		// One plain column is called like the function's alias, as in PostgreSQL.
		if len(cols) == 1 && len(t.Funcs) == 1 && t.Alias.Name != "" && len(t.Alias.Columns) == 0 {
			cols[0].name = t.Alias.Name
		}
		fc.Width = len(cols)
		width += len(cols)
		r.cols = append(r.cols, cols...)
		r.funcs = append(r.funcs, fc)
	}
	if t.Ordinality {
		r.ord = width
		r.cols = append(r.cols, relCol{name: "ordinality", typ: types.T(types.OIDInt8)})
	}
	r.deps = s.track
	return s.leaf(r, t.Alias)
}

func (s *scope) buildJoin(j *pgast.Join) (*fromItem, []visCol, error) {
	before := s.vis
	left, lvis, err := s.buildTable(j.Left)
	if err != nil {
		return nil, nil, err
	}
	s.vis = append(slices.Clip(before), lvis...)
	right, rvis, err := s.buildTable(j.Right)
	if err != nil {
		return nil, nil, err
	}
	it := &fromItem{left: left, right: right, rels: left.rels | right.rels}
	swap := false
	switch j.Type {
	case "inner", "cross", "":
		it.join = InnerJoin
	case "left":
		it.join = LeftJoin
	case "right":
		it.join, swap = LeftJoin, true
	case "full":
		it.join = FullJoin
	default:
		return nil, nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "join type %q is not supported", j.Type)
	}
	vis := append(slices.Clone(lvis), rvis...)
	using := j.Using
	if j.Natural {
		for _, l := range lvis {
			if !l.merged && slices.ContainsFunc(rvis, func(r visCol) bool { return !r.merged && r.name == l.name }) {
				using = append(using, l.name)
			}
		}
	}
	if len(using) > 0 {
		if vis, err = s.mergeUsing(it, using, lvis, rvis, swap); err != nil {
			return nil, nil, err
		}
	}
	if j.On != nil {
		s.vis = vis
		conds, err := s.conditions(j.On, "JOIN conditions")
		if err != nil {
			return nil, nil, err
		}
		it.on = append(it.on, conds...)
	}
	s.vis = before
	if swap {
		it.left, it.right = it.right, it.left
	}
	if j.Alias.Name != "" {
		return nil, nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "an alias for a join is not supported")
	}
	return it, vis, nil
}

// mergeUsing makes the join conditions of USING and the columns that it merges.
func (s *scope) mergeUsing(it *fromItem, using []string, lvis, rvis []visCol, swap bool) ([]visCol, error) {
	lvis, rvis = slices.Clone(lvis), slices.Clone(rvis)
	find := func(vs []visCol, name, side string) (*visCol, error) {
		var f *visCol
		for i := range vs {
			if vs[i].name != name || vs[i].merged {
				continue
			}
			if f != nil {
				return nil, sqlstate.Newf(sqlstate.AmbiguousColumn, "common column name %q appears more than once in %s table", name, side)
			}
			f = &vs[i]
		}
		if f == nil {
			return nil, sqlstate.Newf(sqlstate.UndefinedColumn, "column %q specified in USING clause does not exist in %s table", name, side)
		}
		return f, nil
	}
	var merged []visCol
	for _, name := range using {
		l, err := find(lvis, name, "left")
		if err != nil {
			return nil, err
		}
		r, err := find(rvis, name, "right")
		if err != nil {
			return nil, err
		}
		// Bind l = r through a name space of just the two.
		lv, rv := *l, *r
		lv.name, rv.name = "l", "r"
		saved, track := s.vis, s.track
		s.vis, s.track = []visCol{lv, rv}, 0
		eq := &pgast.Op{Name: "=", Left: &pgast.ColumnRef{Name: pgast.Name{"l"}, Pos: -1}, Right: &pgast.ColumnRef{Name: pgast.Name{"r"}, Pos: -1}, Pos: -1}
		e, err := expr.Bind(eq, s, types.T(types.OIDBool))
		s.vis = saved
		if err != nil {
			return nil, err
		}
		shown := &pgast.Op{Name: "=", Left: qualified(l), Right: qualified(r), Pos: -1}
		it.on = append(it.on, &cond{e: e, ast: shown, rels: s.track})
		s.track = track
		m := *l
		switch {
		case it.join == FullJoin:
			if l.typ.OID != r.typ.OID {
				return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "FULL JOIN USING columns of different types is not supported")
			}
			m = visCol{name: name, idx: s.width, typ: l.typ, of: []int{l.idx, r.idx}}
			s.width++
			it.merges = append(it.merges, MergedCol{Slot: m.idx, Left: l.idx, Right: r.idx})
		case swap:
			m = *r
			m.name = name
		}
		l.merged, r.merged = true, true
		merged = append(merged, m)
	}
	return append(append(merged, lvis...), rvis...), nil
}

func qualified(v *visCol) pgast.Expr {
	n := pgast.Name{v.name}
	if v.rel != nil {
		n = pgast.Name{v.rel.alias, v.name}
	}
	return &pgast.ColumnRef{Name: n, Pos: -1}
}

// conditions binds a boolean expression as a list of conjuncts.
func (s *scope) conditions(e pgast.Expr, clause string) ([]*cond, error) {
	var out []*cond
	for _, c := range conjuncts(e, nil) {
		saved, subs, cl := s.track, s.b.subs, s.clause
		s.track, s.b.subs, s.clause = 0, nil, clause
		bound, err := expr.BindBool(c, s, clause)
		cd := &cond{e: bound, ast: c, rels: s.track}
		for _, p := range s.b.subs {
			cd.tied = cd.tied || p.correlated
		}
		s.track, s.b.subs, s.clause = saved|s.track, append(subs, s.b.subs...), cl
		if err != nil {
			return nil, err
		}
		cd.tied = cd.tied || expr.Volatile(bound)
		out = append(out, cd)
	}
	return out, nil
}

// rowConjuncts: (a, b) = (c, d) is a = c AND b = d, and (a, b) > (1, 2) implies a >= 1.
func rowConjuncts(x *pgast.Op) []pgast.Expr {
	l, lok := x.Left.(*pgast.Row)
	r, rok := x.Right.(*pgast.Row)
	if !lok || !rok || len(l.Elems) != len(r.Elems) || len(l.Elems) == 0 {
		return []pgast.Expr{x}
	}
	switch x.Name {
	case "=":
		var out []pgast.Expr
		for i := range l.Elems {
			out = append(out, rowConjuncts(&pgast.Op{Name: "=", Left: l.Elems[i], Right: r.Elems[i], Pos: x.Pos})...)
		}
		return out
	case "<", "<=", ">", ">=":
		if _, column := l.Elems[0].(*pgast.ColumnRef); column && isValue(r.Elems[0]) {
			return []pgast.Expr{x, &pgast.Op{Name: x.Name[:1] + "=", Left: l.Elems[0], Right: r.Elems[0], Pos: x.Pos}}
		}
	}
	return []pgast.Expr{x}
}

// orIsIn makes a = 1 OR a = 2 into a IN (1, 2); nil when it is something else.
func orIsIn(x *pgast.Or) *pgast.In {
	var in *pgast.In
	for _, arg := range x.Args {
		op, ok := arg.(*pgast.Op)
		if !ok || op.Name != "=" || op.Left == nil || !isValue(op.Right) {
			return nil
		}
		col, ok := op.Left.(*pgast.ColumnRef)
		if !ok {
			return nil
		}
		if in == nil {
			in = &pgast.In{Arg: col, Pos: op.Pos}
		} else if !slices.Equal(col.Name, in.Arg.(*pgast.ColumnRef).Name) || kindOf(op.Right) != kindOf(in.List[0]) {
			return nil // of several kinds, an IN list would compare by one type
		}
		in.List = append(in.List, op.Right)
	}
	return in
}

// isValue reports a literal or a parameter.
func isValue(e pgast.Expr) bool {
	switch e.(type) {
	case *pgast.Const, *pgast.Param:
		return true
	}
	return false
}

// kindOf is a literal's kind, and Unknown for a parameter.
func kindOf(e pgast.Expr) pgast.ValueKind {
	if c, ok := e.(*pgast.Const); ok {
		return c.Kind
	}
	return pgast.Unknown
}

// conjuncts splits ANDs, and into what an index can enforce BETWEEN over a column,
// comparisons of rows, and ORs that are IN lists.
func conjuncts(e pgast.Expr, into []pgast.Expr) []pgast.Expr {
	switch x := e.(type) {
	case *pgast.And:
		for _, a := range x.Args {
			into = conjuncts(a, into)
		}
		return into
	case *pgast.Between:
		if _, plain := x.Arg.(*pgast.ColumnRef); plain && !x.Not && !x.Symmetric {
			return append(into,
				&pgast.Op{Name: ">=", Left: x.Arg, Right: x.Lo, Pos: x.Pos},
				&pgast.Op{Name: "<=", Left: x.Arg, Right: x.Hi, Pos: x.Pos})
		}
	case *pgast.Op:
		return append(into, rowConjuncts(x)...)
	case *pgast.Or:
		if in := orIsIn(x); in != nil {
			return append(into, in)
		}
	}
	return append(into, e)
}
