package plan

import (
	"strconv"

	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/tablet"
)

// selectQuery plans q in s, a fresh scope whose parent is the enclosing query's.
func (b *builder) selectQuery(s *scope, q *pgast.Select) (*Query, error) {
	if b.depth++; b.depth > maxDepth {
		return nil, sqlstate.Newf(sqlstate.StatementTooComplex, "queries are nested too deeply")
	}
	defer func() { b.depth-- }()
	switch {
	case q.Recursive && recursive(q):
		return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "WITH RECURSIVE is not supported")
	case q.WithTies:
		return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "FETCH FIRST … WITH TIES is not supported")
	case q.GroupSets != "":
		return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "%s is not supported", q.GroupSets)
	}
	if err := s.addCTEs(q.With); err != nil {
		return nil, err
	}
	var out *Query
	var err error
	switch {
	case q.SetOp != "":
		out, err = s.setOp(q)
	case q.Values != nil:
		out, err = s.values(q)
	default:
		return s.core(q)
	}
	if err != nil {
		return nil, err
	}
	if len(q.Locking) > 0 {
		return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "FOR UPDATE is not allowed with UNION/INTERSECT/EXCEPT or VALUES")
	}
	if err := s.orderOutput(out, q.OrderBy); err != nil {
		return nil, err
	}
	return out, s.limits(out, q)
}

func recursive(q *pgast.Select) bool {
	for i := range q.With {
		c, ok := q.With[i].Query.(*pgast.Select)
		if !ok {
			continue
		}
		found := false
		walkTables(c, func(n pgast.Name) {
			found = found || len(n) == 1 && n[0] == q.With[i].Name
		})
		if found {
			return true
		}
	}
	return false
}

func (s *scope) addCTEs(list []pgast.CTE) error {
	for i := range list {
		for _, c := range s.ctes {
			if c.def.Name == list[i].Name {
				return sqlstate.Newf("42712", "WITH query name %q specified more than once", list[i].Name)
			}
		}
		if _, ok := list[i].Query.(*pgast.Select); !ok {
			return sqlstate.Newf(sqlstate.FeatureNotSupported, "data-modifying statements in WITH are not supported")
		}
		s.ctes = append(s.ctes, &cte{def: &list[i], scope: s, index: len(s.ctes)})
	}
	return nil
}

// core plans SELECT … FROM … .
func (s *scope) core(q *pgast.Select) (*Query, error) {
	if len(q.Windows) > 0 {
		return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "window functions are not supported")
	}
	q, moved := setFromTarget(q)
	items, err := s.buildFrom(q.From)
	if err != nil {
		return nil, err
	}
	var conds []*cond
	if q.Where != nil {
		if conds, err = s.conditions(q.Where, "WHERE"); err != nil {
			return nil, err
		}
	}
	targets, err := s.targets(q.Targets)
	if err != nil {
		return nil, err
	}
	groups, err := s.groupBy(q, targets)
	if err != nil {
		return nil, err
	}
	var having expr.Expr
	if q.Having != nil {
		s.allow, s.clause = true, "HAVING"
		if having, err = expr.BindBool(q.Having, s, "HAVING"); err != nil {
			return nil, err
		}
	}
	out := &Query{Core: &Core{Having: having}}
	keys, distinctOn, err := s.orderBy(q, targets)
	if err != nil {
		return nil, err
	}
	grouped := len(q.GroupBy) > 0
	if grouped || len(s.aggs) > 0 || having != nil {
		if moved {
			return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "set-returning functions beside aggregate functions are not supported")
		}
		if err := s.checkGrouping(q, targets, keys, groups); err != nil {
			return nil, err
		}
		out.Core.Agg = &Agg{Calls: s.aggs, Orders: s.orders, Grouped: grouped}
		for _, g := range groups {
			out.Core.Agg.Keys = append(out.Core.Agg.Keys, g.e)
		}
		if len(q.Locking) > 0 {
			return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "FOR UPDATE is not allowed with GROUP BY or aggregate functions")
		}
	}
	distinct := q.Distinct && distinctOn == 0
	if (distinct || distinctOn > 0) && len(q.Locking) > 0 {
		return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "FOR UPDATE is not allowed with DISTINCT clause")
	}
	for i := range targets {
		out.Columns = append(out.Columns, targets[i].col)
		out.Core.Targets = append(out.Core.Targets, targets[i].e)
	}
	// Sort keys that are no output columns follow them, unseen.
	for _, k := range keys {
		col := k.target
		if col < 0 {
			if distinct {
				return nil, sqlstate.Newf(sqlstate.InvalidColumnReference, "for SELECT DISTINCT, ORDER BY expressions must appear in select list")
			}
			col = len(out.Core.Targets)
			out.Core.Targets = append(out.Core.Targets, k.e)
		}
		out.Sort = append(out.Sort, SortKey{Col: col, Type: k.e.Type(), Desc: k.desc, NullsFirst: k.nullsFirst, Text: deparse(k.ast, s.b.st)})
	}
	out.Width, out.Distinct, out.DistinctOn = len(out.Core.Targets), distinct, distinctOn
	if err := s.limits(out, q); err != nil {
		return nil, err
	}
	locks, err := s.locking(q.Locking)
	if err != nil {
		return nil, err
	}
	p := &planner{s: s, locks: locks}
	if len(out.Sort) > 0 && out.Core.Agg == nil && !distinct && distinctOn == 0 {
		p.want = wantedOrder(keys, targets)
	}
	p.limited = out.Limit != nil
	if out.Core.Agg != nil {
		p.minMax(out.Core.Agg)
	}
	node, err := p.plan(items, conds)
	if err != nil {
		return nil, err
	}
	if p.ordered {
		out.Sort = nil
	}
	out.Core.From, out.Core.Width = node, s.width
	if a := out.Core.Agg; a != nil {
		a.First = p.first
		if p.first {
			r := s.relOf(p.want[0].slot)
			a.FirstRow = r.table.Desc.Columns[p.want[0].slot-r.off].NotNull
		}
		a.Keep = s.keepSlots(out.Core)
	}
	out.Streams = out.Core.Agg == nil && !out.Distinct && out.DistinctOn == 0 && out.Sort == nil
	return out, nil
}

// keepSlots are the frame slots that targets and HAVING read above the aggregate.
func (s *scope) keepSlots(c *Core) []int {
	seen := make(map[int]bool)
	var keep []int
	add := func(e expr.Expr) {
		for _, i := range columnsOf(e) {
			if i < s.width && !seen[i] {
				seen[i] = true
				keep = append(keep, i)
			}
		}
	}
	for _, e := range c.Targets {
		add(e)
	}
	if c.Having != nil {
		add(c.Having)
	}
	if len(s.b.subs) > 0 {
		// A correlated subquery may read any column that somebody reads.
		for _, r := range s.rels {
			for i, need := range r.need {
				if slot := r.off + i; need && !seen[slot] {
					seen[slot] = true
					keep = append(keep, slot)
				}
			}
		}
	}
	return keep
}

// group is a GROUP BY expression.
type group struct {
	e   expr.Expr
	ast pgast.Expr
}

func (s *scope) groupBy(q *pgast.Select, targets []target) ([]group, error) {
	var out []group
	for _, g := range q.GroupBy {
		ast := g
		if t, err := s.ordinal(g, targets, "GROUP BY"); err != nil {
			return nil, err
		} else if t != nil {
			if t.ast == nil {
				out = append(out, group{t.e, nil})
				continue
			}
			ast = t.ast
		} else if c, ok := g.(*pgast.ColumnRef); ok && len(c.Name) == 1 {
			// A name is an input column first, then an output column.
			if v, err := s.find(c.Name); err == nil && v == nil {
				for i := range targets {
					if targets[i].col.Name == c.Name[0] && targets[i].ast != nil {
						ast = targets[i].ast
						break
					}
				}
			}
		}
		s.allow, s.clause = false, "GROUP BY"
		e, err := expr.Bind(ast, s, types.Type{})
		if err != nil {
			return nil, err
		}
		out = append(out, group{e, ast})
	}
	return out, nil
}

// ordinal resolves ORDER BY 2 and GROUP BY 2.
func (s *scope) ordinal(e pgast.Expr, targets []target, clause string) (*target, error) {
	c, ok := e.(*pgast.Const)
	if !ok {
		return nil, nil
	}
	if c.Kind != pgast.Integer {
		return nil, sqlstate.Newf(sqlstate.SyntaxError, "non-integer constant in %s", clause).At(s.b.st.SQL, c.Pos)
	}
	n, err := strconv.Atoi(s.b.st.Consts[c.Slot].Text)
	if err != nil || n < 1 || n > len(targets) {
		return nil, sqlstate.Newf(sqlstate.InvalidColumnReference, "%s position %s is not in select list", clause, s.b.st.Consts[c.Slot].Text).At(s.b.st.SQL, c.Pos)
	}
	return &targets[n-1], nil
}

// orderKey is a bound ORDER BY item.
type orderKey struct {
	e                expr.Expr
	ast              pgast.Expr
	target           int // output column, -1: none
	desc, nullsFirst bool
}

func direction(o *pgast.OrderItem) (desc, nullsFirst bool, err error) {
	desc = o.Desc
	switch o.Using {
	case "", "<":
	case ">":
		desc = true
	default:
		return false, false, sqlstate.Newf(sqlstate.FeatureNotSupported, "ORDER BY USING %s is not supported", o.Using)
	}
	nullsFirst = desc
	if o.NullsFirst != nil {
		nullsFirst = *o.NullsFirst
	}
	return desc, nullsFirst, nil
}

func (s *scope) orderBy(q *pgast.Select, targets []target) (keys []orderKey, distinctOn int, err error) {
	bind := func(e pgast.Expr, clause string) (orderKey, error) {
		if t, err := s.ordinal(e, targets, clause); err != nil {
			return orderKey{}, err
		} else if t != nil {
			for i := range targets {
				if &targets[i] == t {
					return orderKey{e: t.e, ast: t.ast, target: i}, nil
				}
			}
		}
		// A bare name is an output column first.
		if c, ok := e.(*pgast.ColumnRef); ok && len(c.Name) == 1 && !c.Star {
			found := -1
			for i := range targets {
				if targets[i].col.Name != c.Name[0] {
					continue
				}
				if found >= 0 && !(targets[i].slot >= 0 && targets[i].slot == targets[found].slot) {
					return orderKey{}, sqlstate.Newf(sqlstate.AmbiguousColumn, "%s %q is ambiguous", clause, c.Name[0]).At(s.b.st.SQL, c.Pos)
				}
				if found < 0 {
					found = i
				}
			}
			if found >= 0 {
				return orderKey{e: targets[found].e, ast: e, target: found}, nil
			}
		}
		for i := range targets {
			if targets[i].ast != nil && s.same(targets[i].ast, e) {
				return orderKey{e: targets[i].e, ast: e, target: i}, nil
			}
		}
		s.allow, s.clause = true, clause
		b, err := expr.Bind(e, s, types.Type{})
		if err != nil {
			return orderKey{}, err
		}
		k := orderKey{e: b, ast: e, target: -1}
		if c, ok := e.(*pgast.ColumnRef); ok {
			if v, _ := s.find(c.Name); v != nil {
				for i := range targets {
					if targets[i].slot == v.idx {
						k.target = i
					}
				}
			}
		}
		return k, nil
	}
	for _, e := range q.DistinctOn {
		k, err := bind(e, "SELECT DISTINCT ON")
		if err != nil {
			return nil, 0, err
		}
		keys = append(keys, k)
	}
	distinctOn = len(keys)
	for i := range q.OrderBy {
		o := &q.OrderBy[i]
		k, err := bind(o.Expr, "ORDER BY")
		if err != nil {
			return nil, 0, err
		}
		if k.desc, k.nullsFirst, err = direction(o); err != nil {
			return nil, 0, err
		}
		if i < distinctOn {
			// The leading ORDER BY items must be the DISTINCT ON expressions.
			match := -1
			for j := 0; j < distinctOn; j++ {
				if keys[j].target >= 0 && keys[j].target == k.target || s.same(keys[j].ast, k.ast) {
					match = j
				}
			}
			if match < 0 {
				return nil, 0, sqlstate.Newf(sqlstate.InvalidColumnReference, "SELECT DISTINCT ON expressions must match initial ORDER BY expressions")
			}
			keys[match], keys[i] = keys[i], k
			continue
		}
		keys = append(keys, k)
	}
	return keys, distinctOn, nil
}

func (s *scope) limits(out *Query, q *pgast.Select) (err error) {
	bind := func(e pgast.Expr, clause string) (expr.Expr, error) {
		if e == nil {
			return nil, nil
		}
		inner := s.b.newScope(s.parent) // no column of this query may be named
		inner.clause = clause
		x, err := expr.Bind(e, inner, types.T(types.OIDInt8))
		if err != nil {
			return nil, err
		}
		if inner.outer {
			s.outer = true
		}
		return expr.CoerceForAssignment(x, types.T(types.OIDInt8), clause)
	}
	if out.Limit, err = bind(q.Limit, "LIMIT"); err != nil {
		return err
	}
	out.Offset, err = bind(q.Offset, "OFFSET")
	return err
}

// locking resolves FOR UPDATE and FOR SHARE to what each relation is locked with.
func (s *scope) locking(list []pgast.Locking) (map[*rel]lockSpec, error) {
	if len(list) == 0 {
		return nil, nil
	}
	s.b.locks = true
	out := make(map[*rel]lockSpec)
	for _, l := range list {
		spec := lockSpec{strength: tablet.LockExclusive}
		if l.Strength == "share" || l.Strength == "key share" {
			spec.strength = tablet.LockShared
		}
		switch l.Wait {
		case "nowait":
			spec.wait = tablet.WaitNoWait
		case "skip locked":
			spec.wait = tablet.WaitSkip
		}
		put := func(r *rel) {
			if r.table != nil && spec.strength >= out[r].strength {
				out[r] = spec
			}
		}
		if len(l.Of) == 0 {
			for _, r := range s.rels {
				put(r)
			}
			continue
		}
		for _, n := range l.Of {
			found := false
			for _, r := range s.rels {
				if len(n) == 1 && r.alias == n[0] {
					put(r)
					found = true
				}
			}
			if !found {
				return nil, sqlstate.Newf(sqlstate.UndefinedTable, "relation %q in FOR UPDATE clause not found in FROM clause", n.Last())
			}
		}
	}
	return out, nil
}

type lockSpec struct {
	strength tablet.LockStrength
	wait     tablet.WaitPolicy
}

// values plans VALUES (…), (…).
func (s *scope) values(q *pgast.Select) (*Query, error) {
	s.clause = "VALUES"
	n := len(q.Values[0])
	rows := make([][]expr.Expr, len(q.Values))
	for i, vs := range q.Values {
		if len(vs) != n {
			return nil, sqlstate.Newf(sqlstate.SyntaxError, "VALUES lists must all be the same length")
		}
		rows[i] = make([]expr.Expr, n)
		for j, v := range vs {
			if d, ok := v.(*pgast.Default); ok {
				return nil, sqlstate.Newf(sqlstate.SyntaxError, "DEFAULT is not allowed in this context").At(s.b.st.SQL, d.Pos)
			}
			e, err := expr.Bind(v, s, types.T(types.OIDUnknown))
			if err != nil {
				return nil, err
			}
			rows[i][j] = e
		}
	}
	out := &Query{Values: rows, Width: n}
	for j := 0; j < n; j++ {
		col := make([]expr.Expr, len(rows))
		for i := range rows {
			col[i] = rows[i][j]
		}
		t, err := expr.CommonType("VALUES", col)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			if rows[i][j], err = expr.CoerceCommon("VALUES", col[i], t); err != nil {
				return nil, err
			}
		}
		out.Columns = append(out.Columns, Column{Name: "column" + strconv.Itoa(j+1), Type: t})
	}
	return out, nil
}
