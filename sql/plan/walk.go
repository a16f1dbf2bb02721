package plan

import (
	"reflect"
	"strings"

	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
)

// children calls f for every direct sub-expression of e. Subqueries are not entered.
func children(e pgast.Expr, f func(pgast.Expr)) {
	one := func(x pgast.Expr) {
		if x != nil {
			f(x)
		}
	}
	all := func(xs []pgast.Expr) {
		for _, x := range xs {
			one(x)
		}
	}
	switch x := e.(type) {
	case *pgast.Op:
		one(x.Left)
		one(x.Right)
		one(x.Escape)
	case *pgast.And:
		all(x.Args)
	case *pgast.Or:
		all(x.Args)
	case *pgast.Not:
		one(x.Arg)
	case *pgast.IsTest:
		one(x.Arg)
	case *pgast.Distinct:
		one(x.Left)
		one(x.Right)
	case *pgast.Between:
		one(x.Arg)
		one(x.Lo)
		one(x.Hi)
	case *pgast.In:
		one(x.Arg)
		all(x.List)
	case *pgast.Quantified:
		one(x.Left)
		one(x.Array)
	case *pgast.Func:
		all(x.Args)
		for i := range x.OrderBy {
			one(x.OrderBy[i].Expr)
		}
		one(x.Filter)
	case *pgast.Case:
		one(x.Arg)
		for _, w := range x.Whens {
			one(w.Cond)
			one(w.Result)
		}
		one(x.Else)
	case *pgast.Cast:
		one(x.Arg)
	case *pgast.Collate:
		one(x.Arg)
	case *pgast.Array:
		all(x.Elems)
	case *pgast.Row:
		all(x.Elems)
	case *pgast.Subscript:
		one(x.Arg)
		one(x.Lo)
		one(x.Hi)
	case *pgast.Field:
		one(x.Arg)
	}
}

// walkTables calls f for every table name in q's FROM clauses, subqueries in FROM
// and set operations included.
func walkTables(q *pgast.Select, f func(pgast.Name)) {
	if q == nil {
		return
	}
	var table func(t pgast.TableExpr)
	table = func(t pgast.TableExpr) {
		switch x := t.(type) {
		case *pgast.Table:
			f(x.Name)
		case *pgast.SubqueryTable:
			walkTables(x.Query, f)
		case *pgast.Join:
			table(x.Left)
			table(x.Right)
		}
	}
	for _, t := range q.From {
		table(t)
	}
	walkTables(q.Left, f)
	walkTables(q.Right, f)
}

// same reports whether two expressions are the same: columns by what they resolve
// to, constants by value (which ties the plan to the values).
func (s *scope) same(a, b pgast.Expr) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	switch x := a.(type) {
	case *pgast.ColumnRef:
		y, ok := b.(*pgast.ColumnRef)
		if !ok || x.Star || y.Star {
			return false
		}
		v, _ := s.find(x.Name)
		w, _ := s.find(y.Name)
		return v != nil && v == w || v != nil && w != nil && v.idx == w.idx ||
			v == nil && w == nil && reflect.DeepEqual(x.Name, y.Name)
	case *pgast.Const:
		y, ok := b.(*pgast.Const)
		if !ok || x.Kind != y.Kind {
			return false
		}
		s.b.byVal = true
		return s.b.st.Consts[x.Slot] == s.b.st.Consts[y.Slot]
	case *pgast.Param:
		y, ok := b.(*pgast.Param)
		return ok && x.N == y.N
	case *pgast.Subquery, *pgast.Exists, *pgast.ArrayQuery:
		return a == b
	}
	if reflect.TypeOf(a) != reflect.TypeOf(b) || !sameShape(a, b) {
		return false
	}
	var as, bs []pgast.Expr
	children(a, func(e pgast.Expr) { as = append(as, e) })
	children(b, func(e pgast.Expr) { bs = append(bs, e) })
	if len(as) != len(bs) {
		return false
	}
	for i := range as {
		if !s.same(as[i], bs[i]) {
			return false
		}
	}
	return true
}

// sameShape compares what is no sub-expression; both are of one type.
func sameShape(a, b pgast.Expr) bool {
	switch x := a.(type) {
	case *pgast.Op:
		y := b.(*pgast.Op)
		return x.Name == y.Name && (x.Left == nil) == (y.Left == nil)
	case *pgast.IsTest:
		y := b.(*pgast.IsTest)
		return x.Test == y.Test && x.Not == y.Not
	case *pgast.Distinct:
		return x.Not == b.(*pgast.Distinct).Not
	case *pgast.Between:
		y := b.(*pgast.Between)
		return x.Not == y.Not && x.Symmetric == y.Symmetric
	case *pgast.In:
		y := b.(*pgast.In)
		return x.Not == y.Not && x.Query == y.Query
	case *pgast.Quantified:
		y := b.(*pgast.Quantified)
		return x.Op == y.Op && x.All == y.All && x.Query == y.Query
	case *pgast.Func:
		y := b.(*pgast.Func)
		return reflect.DeepEqual(x.Name, y.Name) && x.Star == y.Star && x.Distinct == y.Distinct &&
			(x.Filter == nil) == (y.Filter == nil) && x.Over == y.Over && len(x.Args) == len(y.Args)
	case *pgast.Case:
		y := b.(*pgast.Case)
		return len(x.Whens) == len(y.Whens) && (x.Arg == nil) == (y.Arg == nil) && (x.Else == nil) == (y.Else == nil)
	case *pgast.Cast:
		y := b.(*pgast.Cast)
		return reflect.DeepEqual(x.Type.Name, y.Type.Name) && reflect.DeepEqual(x.Type.Mods, y.Type.Mods) && x.Type.Array == y.Type.Array
	case *pgast.Collate:
		return reflect.DeepEqual(x.Name, b.(*pgast.Collate).Name)
	case *pgast.Subscript:
		y := b.(*pgast.Subscript)
		return x.Slice == y.Slice && (x.Lo == nil) == (y.Lo == nil)
	case *pgast.Field:
		y := b.(*pgast.Field)
		return x.Name == y.Name && x.Star == y.Star
	}
	return true
}

// checkGrouping refuses columns that are neither grouped nor inside an aggregate.
func (s *scope) checkGrouping(q *pgast.Select, targets []target, keys []orderKey, groups []group) error {
	slots := make(map[int]bool) // grouped frame slots
	for _, g := range groups {
		if g.ast == nil {
			for _, i := range columnsOf(g.e) {
				slots[i] = true
			}
			continue
		}
		if c, ok := g.ast.(*pgast.ColumnRef); ok {
			if v, _ := s.find(c.Name); v != nil {
				slots[v.idx] = true
			}
		}
	}
	// Columns of a table whose whole primary key is grouped depend on it.
	for _, r := range s.rels {
		if r.table == nil || !r.table.Desc.HasPrimaryKey() {
			continue
		}
		all := true
		for _, o := range r.table.Primary().Ords {
			all = all && slots[r.off+o]
		}
		if all {
			for i := range r.cols {
				slots[r.off+i] = true
			}
		}
	}
	complain := func(v *visCol, pos int) error {
		name := v.name
		if v.rel != nil {
			name = v.rel.alias + "." + name
		}
		return sqlstate.Newf(sqlstate.GroupingError, "column %q must appear in the GROUP BY clause or be used in an aggregate function", name).At(s.b.st.SQL, pos)
	}
	var check func(e pgast.Expr) error
	check = func(e pgast.Expr) error {
		for _, g := range groups {
			if g.ast != nil && s.same(g.ast, e) {
				return nil
			}
		}
		switch x := e.(type) {
		case *pgast.ColumnRef:
			if v, _ := s.find(x.Name); v != nil && !slots[v.idx] {
				return complain(v, x.Pos)
			}
		case *pgast.Func:
			if expr.IsAggregate(x.Name) && x.Over == nil {
				return nil
			}
		}
		var err error
		children(e, func(c pgast.Expr) {
			if err == nil {
				err = check(c)
			}
		})
		return err
	}
	for _, v := range s.nested {
		if !slots[v.idx] {
			name := v.name
			if v.rel != nil {
				name = v.rel.alias + "." + name
			}
			return sqlstate.Newf(sqlstate.GroupingError, "subquery uses ungrouped column %q from outer query", name)
		}
	}
	for i := range targets {
		if targets[i].ast == nil {
			if !slots[targets[i].slot] {
				return complain(&visCol{name: targets[i].col.Name, rel: s.relOf(targets[i].slot)}, -1)
			}
			continue
		}
		if err := check(targets[i].ast); err != nil {
			return err
		}
	}
	if q.Having != nil {
		if err := check(q.Having); err != nil {
			return err
		}
	}
	for _, k := range keys {
		if k.target >= 0 || k.ast == nil {
			continue
		}
		if err := check(k.ast); err != nil {
			return err
		}
	}
	return nil
}

func upper(s string) string { return strings.ToUpper(s) }
