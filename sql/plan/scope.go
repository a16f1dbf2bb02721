package plan

import (
	"context"

	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// Catalog is how the planner finds relations.
type Catalog struct {
	View       *catalog.View
	DB         *catalog.Database
	SearchPath []string // schemas in order, "$user" already resolved
	Virtual    *Registry
	// UserFunction resolves functions that are not built in; nil: there are none.
	UserFunction func(name pgast.Name, args []expr.Expr) (expr.Expr, error)
}

// builder plans one statement.
type builder struct {
	ctx    context.Context
	cat    *Catalog
	st     *pgast.Statement
	params []types.Type // of $n; OID 0: not known yet
	uses   []catalog.Use
	locks  bool // the plan takes locks or writes
	byVal  bool // the plan depends on constants' values
	depth  int
	subs   []*SubPlan // planned while the current condition was bound
	// readTables are the tables that FROM clauses name (not an UPDATE's target).
	readTables map[catalog.ID]bool
}

// maxDepth bounds the nesting of queries.
const maxDepth = 200

// rel is a relation of a FROM clause.
type rel struct {
	alias  string
	schema string // "" for what is no table
	off    int
	cols   []relCol
	bit    relSet
	need   []bool // by column: somebody reads it
	deps   relSet // relations that it reads laterally

	table *TableInfo
	virt  *VirtualTable
	query *Query
	funcs []FuncCall
	ord   int // FuncScan's ordinality slot, -1

	pos int // of the name, for messages
}

type relCol struct {
	name   string
	typ    types.Type
	oid    types.OID // of the table
	attnum int16
	hidden bool
}

// relSet is a set of a scope's relations.
type relSet uint64

const maxRels = 64

// visCol is a column that names in a scope can mean.
type visCol struct {
	name string
	rel  *rel // nil for a merged column
	ord  int
	idx  int // frame slot
	typ  types.Type
	// merged: reachable only by qualified name, since JOIN USING merged it.
	merged bool
	of     []int // frame slots that a merged column of a full join comes from
}

// scope is the name space of one query; it implements expr.Env for its expressions.
type scope struct {
	b      *builder
	parent *scope
	rels   []*rel
	vis    []visCol
	width  int
	ctes   []*cte // in order of definition
	// A WITH query planned where it is used sees the WITH entries before it and then
	// those around its definition, not those around its use.
	jump     bool
	cteScope *scope

	// While a condition is bound: which relations it reads, and through what.
	track relSet
	outer bool // something in this scope reads an enclosing scope

	clause string // what is being bound, for messages about aggregates
	allow  bool   // aggregates may stand here
	aggs   []*expr.AggCall
	orders [][]AggOrder // by aggregate
	nested []*visCol    // columns that subqueries of the target list read
}

// cte is a WITH query. It is planned anew wherever it is used.
type cte struct {
	def   *pgast.CTE
	scope *scope // where it was defined
	index int    // in scope.ctes
}

// findCTE looks for a WITH query by name.
func (s *scope) findCTE(name string) *cte {
	for sc := s; sc != nil; {
		for i := len(sc.ctes) - 1; i >= 0; i-- {
			if sc.ctes[i].def.Name == name {
				return sc.ctes[i]
			}
		}
		if sc.jump {
			sc = sc.cteScope
		} else {
			sc = sc.parent
		}
	}
	return nil
}

var _ expr.Env = (*scope)(nil)

func (b *builder) newScope(parent *scope) *scope { return &scope{b: b, parent: parent} }

// SQL is the statement's text.
func (s *scope) SQL() string { return s.b.st.SQL }

// Column resolves a name here or in an enclosing query.
func (s *scope) Column(name pgast.Name) (expr.Column, error) {
	if s.clause == defaultClause {
		return expr.Column{}, sqlstate.Newf(sqlstate.FeatureNotSupported, "cannot use column reference in DEFAULT expression")
	}
	level := 0
	for sc := s; sc != nil; sc = sc.parent {
		v, err := sc.find(name)
		if err != nil {
			return expr.Column{}, err
		}
		if v != nil {
			sc.use(v)
			for c := s; c != sc; c = c.parent {
				c.outer = true
			}
			if sc != s && sc.allow {
				sc.nested = append(sc.nested, v)
			}
			return expr.Column{Index: v.idx, Level: level, Type: v.typ, Name: v.name}, nil
		}
		level++
	}
	if len(name) > 1 {
		if q := name[:len(name)-1]; !s.hasQualifier(q) {
			return expr.Column{}, sqlstate.Newf(sqlstate.UndefinedTable, "missing FROM-clause entry for table %q", q.Last())
		}
		return expr.Column{}, sqlstate.Newf(sqlstate.UndefinedColumn, "column %s.%s does not exist", name[len(name)-2], name.Last())
	}
	return expr.Column{}, sqlstate.Newf(sqlstate.UndefinedColumn, "column %q does not exist", name.Last())
}

// use notes that a column is read.
func (s *scope) use(v *visCol) {
	if v.rel != nil {
		v.rel.need[v.ord] = true
		s.track |= v.rel.bit
		return
	}
	for _, slot := range v.of {
		r := s.relOf(slot)
		r.need[slot-r.off] = true
		s.track |= r.bit
	}
}

func (s *scope) relOf(slot int) *rel {
	for _, r := range s.rels {
		if slot >= r.off && slot < r.off+len(r.cols) {
			return r
		}
	}
	return nil
}

func (r *rel) matches(q pgast.Name) bool {
	if len(q) == 0 || q.Last() != r.alias {
		return false
	}
	// schema.t and database.schema.t name the table itself, not an alias.
	return len(q) == 1 || r.schema != "" && q[len(q)-2] == r.schema && r.alias == r.relName()
}

func (r *rel) relName() string {
	switch {
	case r.table != nil:
		return r.table.Desc.Name
	case r.virt != nil:
		return r.virt.Name
	}
	return r.alias
}

func (s *scope) hasQualifier(q pgast.Name) bool {
	for sc := s; sc != nil; sc = sc.parent {
		for _, r := range sc.rels {
			if r.matches(q) {
				return true
			}
		}
	}
	return false
}

func (s *scope) find(name pgast.Name) (*visCol, error) {
	var found *visCol
	col := name.Last()
	for i := range s.vis {
		v := &s.vis[i]
		if v.name != col {
			continue
		}
		if len(name) == 1 {
			if v.merged {
				continue
			}
		} else if v.rel == nil || !v.rel.matches(name[:len(name)-1]) {
			continue
		}
		if found != nil {
			return nil, sqlstate.Newf(sqlstate.AmbiguousColumn, "column reference %q is ambiguous", col)
		}
		found = v
	}
	return found, nil
}

// Const is a constant's value. Where a plan's form depends on more than its class,
// byVal is set.
func (s *scope) Const(slot int) pgast.Value { return s.b.st.Consts[slot] }

func hasConsts(call *expr.AggCall) bool {
	for _, a := range call.Args {
		if len(expr.ConstSlots(a)) > 0 {
			return true
		}
	}
	return call.Filter != nil && len(expr.ConstSlots(call.Filter)) > 0
}

// defaultClause is the clause of a column's default, which reads no column.
const defaultClause = "DEFAULT expressions"

// Star expands * or t.*.
func (s *scope) Star(name pgast.Name) ([]expr.Column, error) {
	vs, err := s.star(name)
	if err != nil {
		return nil, err
	}
	out := make([]expr.Column, len(vs))
	for i, v := range vs {
		out[i] = expr.Column{Index: v.idx, Type: v.typ, Name: v.name}
	}
	return out, nil
}

func (s *scope) star(name pgast.Name) ([]*visCol, error) {
	if len(name) == 0 && len(s.rels) == 0 {
		return nil, sqlstate.Newf(sqlstate.SyntaxError, "SELECT * with no tables specified is not valid")
	}
	var out []*visCol
	known := len(name) == 0
	for i := range s.vis {
		v := &s.vis[i]
		if len(name) == 0 {
			if v.merged {
				continue
			}
		} else {
			if v.rel == nil || !v.rel.matches(name) {
				continue
			}
			known = true
		}
		s.use(v)
		out = append(out, v)
	}
	if !known && !s.hasQualifier(name) {
		return nil, sqlstate.Newf(sqlstate.UndefinedTable, "missing FROM-clause entry for table %q", name.Last())
	}
	return out, nil
}

// Param returns or fixes the type of $n.
func (s *scope) Param(n int, want types.Type) (types.Type, error) {
	b := s.b
	if n < 1 || n > 65535 {
		return types.Type{}, sqlstate.Newf(sqlstate.UndefinedParameter, "there is no parameter $%d", n)
	}
	for len(b.params) < n {
		b.params = append(b.params, types.Type{})
	}
	p := &b.params[n-1]
	if p.OID == 0 && want.OID != 0 && want.OID != types.OIDUnknown {
		*p = types.T(want.OID)
	}
	return *p, nil
}

// Subquery plans a nested query.
func (s *scope) Subquery(q *pgast.Select, kind string) (expr.SubPlan, error) {
	inner := s.b.newScope(s)
	// The enclosing query's aggregates do not belong to the nested one.
	query, err := s.b.selectQuery(inner, q)
	if err != nil {
		return nil, err
	}
	p := &SubPlan{Query: query, correlated: inner.outer}
	for _, c := range query.Columns {
		p.types = append(p.types, c.Type)
	}
	if kind != "exists" && kind != "in" && kind != "any" && kind != "all" && len(p.types) != 1 {
		return nil, sqlstate.Newf(sqlstate.SyntaxError, "subquery must return only one column")
	}
	s.b.subs = append(s.b.subs, p)
	return p, nil
}

// Aggregate registers an aggregate call; its result stands behind the frame.
func (s *scope) Aggregate(call *expr.AggCall) (expr.Column, error) {
	if !s.allow {
		return expr.Column{}, sqlstate.Newf(sqlstate.GroupingError, "aggregate functions are not allowed in %s", s.clause)
	}
	for i, c := range s.aggs {
		if call.Key != "" && c.Key == call.Key {
			s.b.byVal = s.b.byVal || hasConsts(call)
			return expr.Column{Index: s.width + i, Type: c.Result, Name: c.Name}, nil
		}
	}
	orders, err := s.aggOrder(call)
	if err != nil {
		return expr.Column{}, err
	}
	s.aggs = append(s.aggs, call)
	s.orders = append(s.orders, orders)
	return expr.Column{Index: s.width + len(s.aggs) - 1, Type: call.Result, Name: call.Name}, nil
}

// aggOrder binds the ORDER BY inside an aggregate call.
func (s *scope) aggOrder(call *expr.AggCall) ([]AggOrder, error) {
	if len(call.OrderBy) == 0 {
		return nil, nil
	}
	allow := s.allow
	s.allow = false
	defer func() { s.allow = allow }()
	var out []AggOrder
	for i := range call.OrderBy {
		e, err := expr.Bind(call.OrderBy[i].Expr, s, types.Type{})
		if err != nil {
			return nil, err
		}
		desc, nf, err := direction(&call.OrderBy[i])
		if err != nil {
			return nil, err
		}
		out = append(out, AggOrder{e, desc, nf})
	}
	return out, nil
}

// Window functions are not there yet.
func (s *scope) Window(call *pgast.Func) (expr.Column, error) {
	return expr.Column{}, sqlstate.Newf(sqlstate.FeatureNotSupported, "window functions are not supported")
}

// UserFunction resolves functions that are not built in.
func (s *scope) UserFunction(name pgast.Name, args []expr.Expr) (expr.Expr, error) {
	if s.b.cat.UserFunction == nil {
		return nil, nil
	}
	return s.b.cat.UserFunction(name, args)
}

// addRel gives r its slots.
func (s *scope) addRel(r *rel) error {
	if len(s.rels) == maxRels {
		return sqlstate.Newf(sqlstate.StatementTooComplex, "more than %d relations in one FROM clause", maxRels)
	}
	r.off, r.bit = s.width, 1<<len(s.rels)
	r.need = make([]bool, len(r.cols))
	s.width += len(r.cols)
	s.rels = append(s.rels, r)
	return nil
}

// columnsOf lists a relation's visible columns.
func (r *rel) columnsOf() []visCol {
	out := make([]visCol, 0, len(r.cols))
	for i, c := range r.cols {
		if !c.hidden {
			out = append(out, visCol{name: c.name, rel: r, ord: i, idx: r.off + i, typ: c.typ})
		}
	}
	return out
}
