package plan

import (
	"context"
	"slices"

	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// Build plans tree, which is st's tree or the statement inside it (EXPLAIN, COPY,
// DECLARE). params are the parameters' types, as far as the client gave them (0: not).
func Build(ctx context.Context, cat *Catalog, st *pgast.Statement, tree pgast.Stmt, params []types.OID) (*Plan, error) {
	b := &builder{ctx: ctx, cat: cat, st: st}
	for _, p := range params {
		t := types.Type{}
		if p != 0 && p != types.OIDUnknown {
			if types.Lookup(p) == nil {
				return nil, sqlstate.Newf(sqlstate.UndefinedObject, "type with OID %d does not exist", p)
			}
			t = types.T(p)
		}
		b.params = append(b.params, t)
	}
	out := &Plan{Version: cat.View.Version()}
	var err error
	switch x := tree.(type) {
	case *pgast.Select:
		if out.Query, err = b.selectQuery(b.newScope(nil), x); err == nil {
			out.Columns = out.Query.Columns
			if out.Columns == nil {
				out.Columns = []Column{}
			}
		}
	case *pgast.Insert:
		out.Insert, out.Columns, err = b.insert(x)
	case *pgast.Update:
		out.Modify, out.Columns, err = b.update(x)
	case *pgast.Delete:
		out.Modify, out.Columns, err = b.delete(x)
	default:
		return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "this statement cannot be planned")
	}
	if err != nil {
		return nil, err
	}
	for _, e := range st.AsOf {
		if _, err := b.asOf(e); err != nil {
			return nil, err
		}
	}
	for len(b.params) < st.NumParams {
		b.params = append(b.params, types.Type{})
	}
	for i, t := range b.params {
		if t.OID == 0 {
			if i >= st.NumParams && i < len(params) {
				continue // given a type by nobody and not used
			}
			return nil, sqlstate.Newf(sqlstate.IndeterminateDatatype, "could not determine data type of parameter $%d", i+1)
		}
	}
	out.Params, out.Uses, out.ValueDependent = b.params, b.uses, b.byVal
	out.Locks = b.locks || out.Query == nil
	return out, nil
}

func (b *builder) insert(x *pgast.Insert) (*Insert, []Column, error) {
	if x.Overriding != "" {
		return nil, nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "OVERRIDING is not supported")
	}
	d, err := b.table(x.Table, x.Pos)
	if err != nil {
		return nil, nil, err
	}
	ti := NewTableInfo(d)
	out := &Insert{Table: ti}
	ords, err := b.insertColumns(d, x)
	if err != nil {
		return nil, nil, err
	}
	outer := b.newScope(nil)
	if err := outer.addCTEs(x.With); err != nil {
		return nil, nil, err
	}
	switch src := x.Source; {
	case x.Defaults || src == nil:
		row, err := b.insertRow(outer, ti, nil, nil)
		if err != nil {
			return nil, nil, err
		}
		out.Rows = [][]expr.Expr{row}
	case plainValues(src):
		s := b.newScope(outer)
		s.clause = "VALUES"
		for _, vs := range src.Values {
			if err := countColumns(ords, len(vs), x.Columns != nil, len(src.Values[0])); err != nil {
				return nil, nil, err
			}
			row, err := b.insertRow(s, ti, ords, vs)
			if err != nil {
				return nil, nil, err
			}
			out.Rows = append(out.Rows, row)
		}
	default:
		q, err := b.selectQuery(b.newScope(outer), src)
		if err != nil {
			return nil, nil, err
		}
		if err := countColumns(ords, len(q.Columns), x.Columns != nil, len(q.Columns)); err != nil {
			return nil, nil, err
		}
		out.Source = q
		if out.Cols, err = b.sourceCols(outer, ti, ords, q, src); err != nil {
			return nil, nil, err
		}
		out.Spool = b.readTables[d.ID]
	}
	b.use(d)
	r := b.targetRel(x.Table, x.Alias, ti)
	if x.OnConflict != nil {
		if out.OnConflict, err = b.onConflict(x, ti); err != nil {
			return nil, nil, err
		}
	}
	cols, err := b.returning(r, x.Returning, &out.Returning)
	return out, cols, err
}

// plainValues reports VALUES lists without ORDER BY and the like, whose
// expressions may be DEFAULT and take their column's type.
func plainValues(q *pgast.Select) bool {
	return q.Values != nil && q.OrderBy == nil && q.Limit == nil && q.Offset == nil && q.With == nil
}

func (b *builder) insertColumns(d *catalog.Table, x *pgast.Insert) ([]int, error) {
	var ords []int
	if x.Columns == nil {
		for i, c := range d.Columns {
			if !c.Hidden {
				ords = append(ords, i)
			}
		}
		return ords, nil
	}
	for i, name := range x.Columns {
		at := func(e *sqlstate.Error) error {
			if x.ColumnsPos == nil {
				return e
			}
			return e.At(b.st.SQL, x.ColumnsPos[i])
		}
		o := d.ColumnByName(name)
		if o < 0 {
			return nil, at(sqlstate.Newf(sqlstate.UndefinedColumn, "column %q of relation %q does not exist", name, d.Name))
		}
		if slices.Contains(ords, o) {
			return nil, at(sqlstate.Newf(sqlstate.DuplicateColumn, "column %q specified more than once", name))
		}
		ords = append(ords, o)
	}
	return ords, nil
}

func countColumns(ords []int, n int, named bool, first int) error {
	switch {
	case n != first:
		return sqlstate.Newf(sqlstate.SyntaxError, "VALUES lists must all be the same length")
	case n > len(ords):
		return sqlstate.Newf(sqlstate.SyntaxError, "INSERT has more expressions than target columns")
	case n < len(ords) && named:
		return sqlstate.Newf(sqlstate.SyntaxError, "INSERT has more target columns than expressions")
	}
	return nil
}

// insertRow binds one VALUES list into table order; columns not named get their default.
func (b *builder) insertRow(s *scope, ti *TableInfo, ords []int, vs []pgast.Expr) ([]expr.Expr, error) {
	row := make([]expr.Expr, len(ti.Types))
	for i, v := range vs {
		o := ords[i]
		if _, ok := v.(*pgast.Default); ok {
			continue
		}
		e, err := b.assign(s, ti, o, v)
		if err != nil {
			return nil, err
		}
		row[o] = e
	}
	return row, b.fillDefaults(ti, row)
}

// assign binds v as the new value of column o.
func (b *builder) assign(s *scope, ti *TableInfo, o int, v pgast.Expr) (expr.Expr, error) {
	c := &ti.Desc.Columns[o]
	e, err := expr.Bind(v, s, c.Type)
	if err != nil {
		return nil, err
	}
	return expr.CoerceForAssignment(e, c.Type, c.Name)
}

func (b *builder) fillDefaults(ti *TableInfo, row []expr.Expr) error {
	for o := range row {
		if row[o] == nil {
			e, err := b.defaultOf(ti, o)
			if err != nil {
				return err
			}
			row[o] = e
		}
	}
	return nil
}

// sourceCols computes each table column from a row of an INSERT's query.
func (b *builder) sourceCols(s *scope, ti *TableInfo, ords []int, q *Query, ast *pgast.Select) ([]expr.Expr, error) {
	row := make([]expr.Expr, len(ti.Types))
	for i := range q.Columns {
		c := &ti.Desc.Columns[ords[i]]
		e, err := expr.CoerceForAssignment(setColumn(q, ast, i), c.Type, c.Name)
		if err != nil {
			return nil, err
		}
		row[ords[i]] = e
	}
	return row, b.fillDefaults(ti, row)
}

// targetRel is the relation that RETURNING and SET expressions see.
func (b *builder) targetRel(name pgast.Name, alias string, ti *TableInfo) *rel {
	r := &rel{alias: name.Last(), schema: "", ord: -1, table: ti, pos: -1}
	if len(name) > 1 {
		r.schema = name[len(name)-2]
	}
	if alias != "" {
		r.alias = alias
	}
	for _, c := range ti.Desc.Columns {
		r.cols = append(r.cols, relCol{name: c.Name, typ: c.Type, oid: types.OID(ti.Desc.ID), attnum: int16(c.ID), hidden: c.Hidden})
	}
	return r
}

func (b *builder) returning(r *rel, list []pgast.Target, into *[]expr.Expr) ([]Column, error) {
	if len(list) == 0 {
		return nil, nil
	}
	s := b.newScope(nil)
	if err := s.addRel(r); err != nil {
		return nil, err
	}
	s.vis = r.columnsOf()
	return s.returning(list, into)
}

func (s *scope) returning(list []pgast.Target, into *[]expr.Expr) ([]Column, error) {
	if len(list) == 0 {
		return nil, nil
	}
	ts, err := s.targets(list)
	if err != nil {
		return nil, err
	}
	if len(s.aggs) > 0 {
		return nil, sqlstate.Newf(sqlstate.GroupingError, "aggregate functions are not allowed in RETURNING")
	}
	cols := []Column{}
	for i := range ts {
		cols = append(cols, ts[i].col)
		*into = append(*into, ts[i].e)
	}
	return cols, nil
}

func (b *builder) onConflict(x *pgast.Insert, ti *TableInfo) (*OnConflict, error) {
	oc := x.OnConflict
	out := &OnConflict{}
	if oc.Where != nil {
		return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "ON CONFLICT with an index predicate is not supported")
	}
	switch {
	case oc.Constraint != "":
		for _, ix := range ti.Indexes {
			if ix.Desc.Name == oc.Constraint && ix.Desc.Constraint {
				out.Index = ix
			}
		}
		if out.Index == nil {
			return nil, sqlstate.Newf(sqlstate.UndefinedObject, "constraint %q for table %q does not exist", oc.Constraint, ti.Desc.Name)
		}
	case len(oc.Columns) > 0:
		var ords []int
		for _, e := range oc.Columns {
			c, ok := e.(*pgast.ColumnRef)
			if !ok || len(c.Name) != 1 {
				return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "ON CONFLICT on an expression is not supported")
			}
			o := ti.Desc.ColumnByName(c.Name[0])
			if o < 0 {
				return nil, sqlstate.Newf(sqlstate.UndefinedColumn, "column %q does not exist", c.Name[0]).At(b.st.SQL, c.Pos)
			}
			if !slices.Contains(ords, o) {
				ords = append(ords, o)
			}
		}
		for _, ix := range ti.Indexes {
			if ix.Desc.Unique && sameSet(ix.Ords, ords) {
				out.Index = ix
				break
			}
		}
		if out.Index == nil {
			return nil, sqlstate.Newf(sqlstate.InvalidColumnReference, "there is no unique or exclusion constraint matching the ON CONFLICT specification")
		}
	}
	if oc.DoNothing {
		return out, nil
	}
	if out.Index == nil {
		return nil, sqlstate.Newf(sqlstate.SyntaxError, "ON CONFLICT DO UPDATE requires inference specification or constraint name")
	}
	// The row that exists stands first, the proposed one behind it as EXCLUDED.
	s := b.newScope(nil)
	target := b.targetRel(x.Table, x.Alias, ti)
	excluded := b.targetRel(pgast.Name{"excluded"}, "", ti)
	for _, r := range []*rel{target, excluded} {
		if err := s.addRel(r); err != nil {
			return nil, err
		}
	}
	// An unqualified name means the row that exists.
	s.vis = target.columnsOf()
	for _, v := range excluded.columnsOf() {
		v.merged = true
		s.vis = append(s.vis, v)
	}
	set, multi, err := s.assignments(ti, oc.Set)
	if err != nil {
		return nil, err
	}
	if len(multi) > 0 {
		return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "assigning several columns from a subquery is not supported in ON CONFLICT")
	}
	out.Set = set
	if oc.SetWhere != nil {
		s.clause = "WHERE"
		if out.Where, err = expr.BindBool(oc.SetWhere, s, "WHERE"); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func sameSet(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		if !slices.Contains(b, x) {
			return false
		}
	}
	return true
}

// assignments binds a SET list.
func (s *scope) assignments(ti *TableInfo, list []pgast.Assignment) ([]SetCol, []MultiSet, error) {
	s.clause = "UPDATE"
	var set []SetCol
	var multi []MultiSet
	seen := make(map[int]bool)
	ordinal := func(name string, pos int) (int, error) {
		o := ti.Desc.ColumnByName(name)
		if o < 0 {
			return 0, sqlstate.Newf(sqlstate.UndefinedColumn, "column %q of relation %q does not exist", name, ti.Desc.Name).At(s.b.st.SQL, pos)
		}
		if seen[o] {
			return 0, sqlstate.Newf(sqlstate.SyntaxError, "multiple assignments to same column %q", name)
		}
		seen[o] = true
		return o, nil
	}
	one := func(name string, pos int, v pgast.Expr) error {
		o, err := ordinal(name, pos)
		if err != nil {
			return err
		}
		var e expr.Expr
		if _, ok := v.(*pgast.Default); ok {
			e, err = s.b.defaultOf(ti, o)
		} else {
			e, err = s.b.assign(s, ti, o, v)
		}
		if err == nil {
			set = append(set, SetCol{o, e})
		}
		return err
	}
	for i := range list {
		a := &list[i]
		if len(a.Columns) == 1 {
			if err := one(a.Columns[0], a.Pos, a.Value); err != nil {
				return nil, nil, err
			}
			continue
		}
		switch v := a.Value.(type) {
		case *pgast.Row:
			if len(v.Elems) != len(a.Columns) {
				return nil, nil, sqlstate.Newf(sqlstate.SyntaxError, "number of columns does not match number of values")
			}
			for j, c := range a.Columns {
				if err := one(c, a.Pos, v.Elems[j]); err != nil {
					return nil, nil, err
				}
			}
		case *pgast.Subquery:
			sub, err := s.Subquery(v.Query, "in")
			if err != nil {
				return nil, nil, err
			}
			if len(sub.Types()) != len(a.Columns) {
				return nil, nil, sqlstate.Newf(sqlstate.SyntaxError, "number of columns does not match number of values")
			}
			m := MultiSet{Query: sub}
			for j, name := range a.Columns {
				o, err := ordinal(name, a.Pos)
				if err != nil {
					return nil, nil, err
				}
				e, err := expr.CoerceForAssignment(expr.ColumnExpr(j, sub.Types()[j], name), ti.Types[o], name)
				if err != nil {
					return nil, nil, err
				}
				m.Ords, m.Casts = append(m.Ords, o), append(m.Casts, e)
			}
			multi = append(multi, m)
		default:
			return nil, nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "source for a multiple-column UPDATE item must be a sub-SELECT or ROW() expression")
		}
	}
	return set, multi, nil
}

func (b *builder) update(x *pgast.Update) (*Modify, []Column, error) {
	return b.modify(&x.Table, x.With, x.From, x.Where, x.Set, true, x.Returning)
}

func (b *builder) delete(x *pgast.Delete) (*Modify, []Column, error) {
	return b.modify(&x.Table, x.With, x.Using, x.Where, nil, false, x.Returning)
}

func (b *builder) modify(t *pgast.Table, with []pgast.CTE, from []pgast.TableExpr, where pgast.Expr, set []pgast.Assignment, update bool, returning []pgast.Target) (*Modify, []Column, error) {
	d, err := b.table(t.Name, t.Pos)
	if err != nil {
		return nil, nil, err
	}
	ti := NewTableInfo(d)
	s := b.newScope(nil)
	if err := s.addCTEs(with); err != nil {
		return nil, nil, err
	}
	r := b.targetRel(t.Name, t.Alias.Name, ti)
	if err := s.addRel(r); err != nil {
		return nil, nil, err
	}
	s.vis = r.columnsOf()
	// The whole old row is needed to find its index entries and to write it anew.
	for i := range r.need {
		r.need[i] = true
	}
	more, err := s.buildFrom(from)
	if err != nil {
		return nil, nil, err
	}
	items := append([]*fromItem{{rel: r, rels: r.bit}}, more...)
	out := &Modify{Table: ti, Off: r.off, Once: len(more) > 0}
	var conds []*cond
	if where != nil {
		if conds, err = s.conditions(where, "WHERE"); err != nil {
			return nil, nil, err
		}
	}
	if update {
		if out.Set, out.Multi, err = s.assignments(ti, set); err != nil {
			return nil, nil, err
		}
		if out.Set == nil {
			out.Set = []SetCol{}
		}
	}
	s.allow = false
	cols, err := s.returning(returning, &out.Returning)
	if err != nil {
		return nil, nil, err
	}
	p := &planner{s: s, mod: r}
	if out.From, err = p.plan(items, conds); err != nil {
		return nil, nil, err
	}
	out.Width = s.width
	out.Spool = out.Once || b.readTables[d.ID] || out.movesIn(scanOf(out.From, ti))
	return out, cols, nil
}

// scanOf finds the scan of the target table.
func scanOf(n Node, ti *TableInfo) *Scan {
	switch x := n.(type) {
	case *Scan:
		if x.Table == ti {
			return x
		}
	case *Filter:
		return scanOf(x.Input, ti)
	}
	return nil
}

// movesIn reports whether the update can move rows within the index that it reads,
// so that it could meet them again.
func (m *Modify) movesIn(s *Scan) bool {
	if s == nil {
		return true
	}
	if s.Point {
		return false
	}
	for _, c := range m.Set {
		if slices.Contains(s.Index.KeyOrds, c.Ord) {
			return true
		}
	}
	for _, c := range m.Multi {
		for _, o := range c.Ords {
			if slices.Contains(s.Index.KeyOrds, o) {
				return true
			}
		}
	}
	return false
}
