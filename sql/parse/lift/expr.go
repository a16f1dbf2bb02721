package lift

import (
	"strconv"

	"github.com/pingcap/tidb/pkg/parser/ast"
	"github.com/pingcap/tidb/pkg/parser/opcode"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/respell"
)

var opNames = map[opcode.Op]string{
	opcode.Plus: "+", opcode.Minus: "-", opcode.Mul: "*", opcode.Div: "/", opcode.Mod: "%",
	opcode.EQ: "=", opcode.NE: "<>", opcode.LT: "<", opcode.LE: "<=", opcode.GT: ">", opcode.GE: ">=",
}

func (l *Lifter) exprs(ns []ast.ExprNode) []pgast.Expr {
	if len(ns) == 0 {
		return nil
	}
	out := make([]pgast.Expr, len(ns))
	for i, n := range ns {
		out[i] = l.expr(n)
	}
	return out
}

func (l *Lifter) expr(n ast.ExprNode) pgast.Expr { return l.exprAt(n, -1) }

// exprAt lifts n; at is the position of the parenthesis around it.
func (l *Lifter) exprAt(n ast.ExprNode, at int) pgast.Expr {
	switch n := n.(type) {
	case *ast.ParenthesesExpr:
		return l.exprAt(n.Expr, l.pos(n))
	case *ast.VariableExpr:
		return l.variable(n)
	case *ast.ColumnNameExpr:
		return &pgast.ColumnRef{Name: columnName(n.Name), Pos: l.pos(n)}
	case *ast.BinaryOperationExpr:
		return l.binary(n, at)
	case *ast.UnaryOperationExpr:
		switch n.Op {
		case opcode.Not:
			return &pgast.Not{Arg: l.expr(n.V)}
		case opcode.Minus:
			return &pgast.Op{Name: "-", Right: l.expr(n.V), Pos: at}
		case opcode.Plus:
			return &pgast.Op{Name: "+", Right: l.expr(n.V), Pos: at}
		}
	case *ast.FuncCallExpr:
		return l.call(n)
	case *ast.WindowFuncExpr:
		return l.window(n)
	case *ast.IsNullExpr:
		return &pgast.IsTest{Arg: l.expr(n.Expr), Test: "null", Not: n.Not}
	case *ast.IsTruthExpr:
		test := "false"
		if n.True == 1 {
			test = "true"
		}
		return &pgast.IsTest{Arg: l.expr(n.Expr), Test: test, Not: n.Not}
	case *ast.BetweenExpr:
		return &pgast.Between{Arg: l.expr(n.Expr), Lo: l.expr(n.Left), Hi: l.expr(n.Right), Not: n.Not, Pos: at}
	case *ast.PatternInExpr:
		in := &pgast.In{Arg: l.expr(n.Expr), Not: n.Not, Pos: at}
		if n.Sel != nil {
			in.Query = l.subquery(n.Sel)
		} else {
			in.List = l.exprs(n.List)
		}
		return in
	case *ast.CaseExpr:
		c := &pgast.Case{}
		if n.Value != nil {
			c.Arg = l.expr(n.Value)
		}
		for _, w := range n.WhenClauses {
			c.Whens = append(c.Whens, pgast.When{Cond: l.expr(w.Expr), Result: l.expr(w.Result)})
		}
		if n.ElseClause != nil {
			c.Else = l.expr(n.ElseClause)
		}
		return c
	case *ast.RowExpr:
		return &pgast.Row{Elems: l.exprs(n.Values)}
	case *ast.SubqueryExpr:
		return &pgast.Subquery{Query: l.subquery(n)}
	case *ast.ExistsSubqueryExpr:
		e := &pgast.Exists{Query: l.subquery(n.Sel)}
		if n.Not {
			return &pgast.Not{Arg: e}
		}
		return e
	case *ast.DefaultExpr:
		return &pgast.Default{Pos: l.pos(n)}
	}
	l.fail("unexpected expression %s", describe(n))
	return nil
}

func columnName(n *ast.ColumnName) pgast.Name {
	switch {
	case n.Schema.O != "":
		return pgast.Name{n.Schema.O, n.Table.O, n.Name.O}
	case n.Table.O != "":
		return pgast.Name{n.Table.O, n.Name.O}
	}
	return pgast.Name{n.Name.O}
}

func (l *Lifter) variable(v *ast.VariableExpr) pgast.Expr {
	name := v.Name
	if len(name) > 1 && name[0] == 'p' {
		if n, err := strconv.Atoi(name[1:]); err == nil {
			return &pgast.Param{N: n, Pos: l.pos(v)}
		}
	}
	n, err := strconv.Atoi(name)
	if err != nil {
		l.fail("unexpected variable %q", name)
	}
	return l.slot(n)
}

func (l *Lifter) slot(n int) pgast.Expr {
	if n < 0 || n >= len(l.res.Slots) {
		l.fail("slot %d is unknown", n)
	}
	s := &l.res.Slots[n]
	return &pgast.Const{Slot: n, Kind: s.Kind, Pos: int(s.Pos)}
}

func (l *Lifter) binary(n *ast.BinaryOperationExpr, at int) pgast.Expr {
	switch n.Op {
	case opcode.LogicAnd:
		return &pgast.And{Args: l.chain(n, n.Op)}
	case opcode.LogicOr:
		return &pgast.Or{Args: l.chain(n, n.Op)}
	case opcode.NullEQ:
		return &pgast.Distinct{Left: l.expr(n.L), Right: l.expr(n.R), Not: true, Pos: at}
	}
	name, ok := opNames[n.Op]
	if !ok {
		l.fail("unexpected operator %s", n.Op)
	}
	return &pgast.Op{Name: name, Left: l.expr(n.L), Right: l.expr(n.R), Pos: at}
}

// chain flattens the left-deep tree that one AND or OR list has become.
func (l *Lifter) chain(n *ast.BinaryOperationExpr, op opcode.Op) []pgast.Expr {
	var rev []ast.ExprNode
	var cur ast.ExprNode = n
	for {
		b, ok := cur.(*ast.BinaryOperationExpr)
		if !ok || b.Op != op {
			rev = append(rev, cur)
			break
		}
		rev = append(rev, b.R)
		cur = b.L
	}
	out := make([]pgast.Expr, 0, len(rev))
	for i := len(rev) - 1; i >= 0; i-- {
		out = append(out, l.expr(rev[i]))
	}
	return out
}

// call lifts a function call or a carrier.
func (l *Lifter) call(n *ast.FuncCallExpr) pgast.Expr {
	_, note := l.note(n.FnName.O)
	pos := l.pos(n)
	if note == nil {
		f := &pgast.Func{Name: pgast.Name{n.FnName.O}, Args: l.exprs(n.Args), Pos: pos}
		if n.Schema.O != "" {
			f.Name = pgast.Name{n.Schema.O, n.FnName.O}
		}
		return f
	}
	arg := func(i int) pgast.Expr {
		if i >= len(n.Args) {
			l.fail("carrier %T lacks an argument", note)
		}
		return l.expr(n.Args[i])
	}
	switch note := note.(type) {
	case *respell.OpNote:
		if note.Prefix {
			return &pgast.Op{Name: note.Name, Right: arg(0), Pos: pos}
		}
		op := &pgast.Op{Name: note.Name, Left: arg(0), Right: arg(1), Pos: pos}
		if note.Escape {
			op.Escape = arg(2)
		}
		return op
	case *respell.BoolNote:
		if note.Or {
			return &pgast.Or{Args: l.exprs(n.Args)}
		}
		return &pgast.And{Args: l.exprs(n.Args)}
	case *respell.IsNote:
		return &pgast.IsTest{Arg: arg(0), Test: note.Test, Not: note.Not}
	case *respell.DistinctNote:
		return &pgast.Distinct{Left: arg(0), Right: arg(1), Pos: pos}
	case *respell.BetweenNote:
		return &pgast.Between{Arg: arg(0), Lo: arg(1), Hi: arg(2), Not: note.Not, Symmetric: true, Pos: pos}
	case *respell.QuantNote:
		q := &pgast.Quantified{Left: arg(0), Op: note.Op, All: note.All, Pos: pos}
		if note.Query {
			q.Query = l.subqueryArg(n, 1)
		} else {
			q.Array = arg(1)
		}
		return q
	case *respell.CastNote:
		return &pgast.Cast{Arg: arg(0), Type: note.Type, Pos: pos}
	case *respell.CollateNote:
		return &pgast.Collate{Arg: arg(0), Name: note.Name}
	case *respell.RowNote:
		return &pgast.Row{Elems: l.exprs(n.Args)}
	case *respell.ArrayNote:
		return &pgast.Array{Elems: l.exprs(n.Args)}
	case *respell.ArrayQueryNote:
		return &pgast.ArrayQuery{Query: l.subqueryArg(n, 0)}
	case *respell.SubscriptNote:
		s := &pgast.Subscript{Arg: arg(0), Slice: note.Slice}
		i := 1
		if note.Lo {
			s.Lo = arg(i)
			i++
		}
		if note.Hi {
			s.Hi = arg(i)
		}
		return s
	case *respell.FieldNote:
		return &pgast.Field{Arg: arg(0), Name: note.Name, Star: note.Star}
	case *respell.ColumnNote:
		return &pgast.ColumnRef{Name: note.Name, Star: note.Star, Pos: pos}
	case *respell.FuncNote:
		return l.fullFunc(note, n, pos)
	case *respell.GroupNote:
		return &pgast.Func{Name: pgast.Name{note.Kind}, Args: l.exprs(n.Args), Pos: pos}
	case *respell.DefaultNote:
		return &pgast.Default{Pos: pos}
	case *respell.DefaultExprNote:
		return arg(0)
	}
	l.fail("unexpected carrier %T", note)
	return nil
}

func (l *Lifter) subqueryArg(n *ast.FuncCallExpr, i int) *pgast.Select {
	if i < len(n.Args) {
		if s, ok := n.Args[i].(*ast.SubqueryExpr); ok {
			return l.subquery(s)
		}
	}
	l.fail("carrier lacks its subquery")
	return nil
}

func (l *Lifter) fullFunc(note *respell.FuncNote, n *ast.FuncCallExpr, pos int) *pgast.Func {
	f := &pgast.Func{
		Name: note.Name, ArgNames: note.ArgNames, Star: note.Star, Distinct: note.Distinct,
		Variadic: note.Variadic, NoParens: note.NoParens, WithinGroup: note.WithinGroup, Pos: pos,
	}
	want := note.NArgs + len(note.OrderBy)
	if note.Filter {
		want++
	}
	if len(n.Args) != want {
		l.fail("function carrier has %d arguments instead of %d", len(n.Args), want)
	}
	f.Args = l.exprs(n.Args[:note.NArgs])
	for i, o := range note.OrderBy {
		o.Expr = l.expr(n.Args[note.NArgs+i])
		f.OrderBy = append(f.OrderBy, o)
	}
	if note.Filter {
		f.Filter = l.expr(n.Args[want-1])
	}
	return f
}

// window lifts MAX(call) OVER spec, which stands for call OVER spec.
func (l *Lifter) window(n *ast.WindowFuncExpr) pgast.Expr {
	if len(n.Args) != 1 {
		l.fail("window call has %d arguments", len(n.Args))
	}
	call, ok := n.Args[0].(*ast.FuncCallExpr)
	if !ok {
		l.fail("window over %s", describe(n.Args[0]))
	}
	f, ok := l.call(call).(*pgast.Func)
	if !ok {
		l.fail("window over a carrier")
	}
	exclude := ""
	if _, note := l.note(call.FnName.O); note != nil {
		if fn, ok := note.(*respell.FuncNote); ok {
			exclude = fn.Exclude
		}
	}
	if n.Spec.OnlyAlias {
		f.Over = &pgast.Window{Ref: n.Spec.Name.O}
		return f
	}
	f.Over = l.windowSpec(&n.Spec, exclude)
	return f
}

func (l *Lifter) windowSpec(s *ast.WindowSpec, exclude string) *pgast.Window {
	w := &pgast.Window{Ref: s.Ref.O, Defined: true}
	if s.PartitionBy != nil {
		for _, it := range s.PartitionBy.Items {
			w.PartitionBy = append(w.PartitionBy, l.expr(it.Expr))
		}
	}
	if s.OrderBy != nil {
		w.OrderBy, _ = l.orderBy(s.OrderBy.Items)
	}
	if s.Frame != nil {
		mode := "rows"
		switch s.Frame.Type {
		case ast.Ranges:
			mode = "range"
		case ast.Groups:
			mode = "groups"
		}
		var lo, hi string
		lo, w.FrameStart = l.bound(&s.Frame.Extent.Start)
		hi, w.FrameEnd = l.bound(&s.Frame.Extent.End)
		w.Frame = mode + " between " + lo + " and " + hi
		if exclude != "" {
			w.Frame += " exclude " + exclude
		}
	}
	return w
}

func (l *Lifter) bound(b *ast.FrameBound) (string, pgast.Expr) {
	dir := " preceding"
	switch b.Type {
	case ast.CurrentRow:
		return "current row", nil
	case ast.Following:
		dir = " following"
	}
	if b.UnBounded {
		return "unbounded" + dir, nil
	}
	return "offset" + dir, l.expr(b.Expr)
}
