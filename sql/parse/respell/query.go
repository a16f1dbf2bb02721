package respell

import (
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
	"github.com/spandb/spand/sql/sqlstate"
)

// query is a SELECT under construction. Its tail (ORDER BY, LIMIT, locking)
// stays apart until it is rendered, because PostgreSQL merges the tail behind a
// parenthesised query into that query.
type query struct {
	parens, setOp, values bool
	with, body            Frag
	order                 Frag
	limit, offset, asOf   Frag
	hasLimit              bool // LIMIT ALL included
	withTies              bool
	locking               []pgast.Locking
}

// continuesQuery reports whether the cursor stands at something that can follow
// a parenthesised query as part of a larger query.
func (p *Parser) continuesQuery() bool {
	t := p.Tok()
	if t.Kind != pglex.Ident {
		return false
	}
	switch t.Text {
	case "union", "intersect", "except", "order", "limit", "offset", "fetch", "for":
		return true
	}
	return false
}

// parenQuery reads ( query ).
func (p *Parser) parenQuery() *query {
	p.enter()
	defer p.leave()
	p.ExpectPunct("(")
	p.needQuery()
	q := p.query(nil)
	p.ExpectPunct(")")
	q.parens = true
	return q
}

// Query respells a whole SelectStmt.
func (p *Parser) Query() Frag { return p.render(p.topQuery()) }

func (p *Parser) topQuery() *query {
	p.needQuery()
	return p.query(nil)
}

// needQuery fails, behind the parentheses, where a query must begin and none does.
func (p *Parser) needQuery() {
	if p.queryAhead() {
		return
	}
	i := p.i
	for isPunct(&p.toks[i], "(") {
		i++
	}
	p.UnexpectedAt(max(i, p.far))
}

// query reads a query; left, if not nil, is a parenthesised one already read.
func (p *Parser) query(left *query) *query {
	p.enter()
	defer p.leave()
	var with Frag
	withPos := p.Pos()
	if left == nil {
		if p.Is("with") {
			with = p.with()
		}
		left = p.operand()
	}
	q := p.setOps(left, 1)
	p.tail(q)
	if !with.Empty() {
		if !q.with.Empty() {
			p.FailAt(sqlstate.SyntaxError, withPos, "multiple WITH clauses not allowed")
		}
		q.with = with
	}
	q.parens = false
	return q
}

func (p *Parser) setOps(left *query, min int) *query {
	for {
		op, prec := "", 1
		switch {
		case p.Is("union"):
			op = "UNION"
		case p.Is("except"):
			op = "EXCEPT"
		case p.Is("intersect"):
			op, prec = "INTERSECT", 2
		}
		if op == "" || prec < min {
			return left
		}
		p.Next()
		if p.Accept("all") {
			op += " ALL"
		} else {
			p.Accept("distinct")
		}
		right := p.operand()
		if prec == 1 && p.Is("intersect") {
			right = p.setOps(right, 2)
		}
		body := p.cat(p.subquery(left), p.raw(op), p.subquery(right))
		body.depth++
		left = &query{setOp: true, body: body}
	}
}

// operand reads a simple_select or a parenthesised query.
func (p *Parser) operand() *query {
	switch {
	case p.IsPunct("("):
		return p.parenQuery()
	case p.Is("select"):
		return &query{body: p.selectBody()}
	case p.Is("values"):
		return &query{values: true, body: p.valuesBody()}
	case p.Accept("table"):
		t := p.relationRef(false)
		return &query{body: p.cat(p.raw("SELECT * FROM"), t)}
	}
	p.Unexpected()
	return nil
}

// subquery renders q in parentheses.
func (p *Parser) subquery(q *query) Frag {
	f := p.cat(p.raw("("), p.render(q), p.raw(")"))
	f.depth++
	return f
}

func (p *Parser) render(q *query) Frag {
	f := p.cat(q.with, q.body)
	order := q.order
	lim, limOK := p.number(q.limit)
	off, offOK := p.number(q.offset)
	native := !q.limit.Empty() && limOK && (q.offset.Empty() || offOK) && !q.withTies
	lock := ""
	if len(q.locking) == 1 && len(q.locking[0].Of) == 0 && !q.setOp && !q.values {
		switch q.locking[0].Strength {
		case "update":
			lock = "FOR UPDATE"
		case "share":
			lock = "FOR SHARE"
		}
		switch q.locking[0].Wait {
		case "nowait":
			lock += " NOWAIT"
		case "skip locked":
			lock += " SKIP LOCKED"
		}
	}
	n := &TailNote{WithTies: q.withTies}
	var args []Frag
	if !native {
		if !q.limit.Empty() {
			n.Limit = true
			args = append(args, q.limit)
		}
		if !q.offset.Empty() {
			n.Offset = true
			args = append(args, q.offset)
		}
	}
	if !q.asOf.Empty() {
		n.AsOf = true
		args = append(args, q.asOf)
	}
	if lock == "" && len(q.locking) > 0 {
		n.Locking = q.locking
	}
	if len(args) > 0 || n.WithTies || n.Locking != nil {
		if !order.Empty() {
			order = p.cat(order, p.raw(","))
		}
		order = p.cat(order, p.call(n, -1, args...))
	}
	if !order.Empty() {
		f = p.cat(f, p.raw("ORDER BY"), order)
	}
	if native {
		f = p.cat(f, p.raw("LIMIT"), lim)
		if !q.offset.Empty() {
			f = p.cat(f, p.raw("OFFSET"), off)
		}
	}
	if lock != "" {
		f = p.cat(f, p.raw(lock))
	}
	return f
}

// tail reads ORDER BY, LIMIT, OFFSET, FETCH and FOR … into q.
func (p *Parser) tail(q *query) {
	if p.IsSeq("order", "by") {
		pos := int(p.Peek(2).Start)
		items, _ := p.orderBy(true)
		if !q.order.Empty() {
			p.FailAt(sqlstate.SyntaxError, pos, "multiple ORDER BY clauses not allowed")
		}
		q.order = items
	}
	limits, locks := 0, 0
	for {
		switch {
		case p.Is("for") && locks == 0:
			locks++
			p.locking(q)
		case (p.Is("limit") || p.Is("offset") || p.Is("fetch")) && limits == 0:
			limits++
			p.limits(q)
		case p.asOfAhead() && q.asOf.Empty():
			p.i += 3
			q.asOf = p.Expr()
		default:
			return
		}
	}
}

func (p *Parser) limits(q *query) {
	seenLimit, seenOffset := false, false
	for {
		pos := p.Pos()
		switch {
		case p.Is("limit") && !seenLimit:
			p.Next()
			seenLimit = true
			if q.hasLimit {
				p.FailAt(sqlstate.SyntaxError, p.Pos(), "multiple LIMIT clauses not allowed")
			}
			q.hasLimit = true
			if p.Accept("all") {
				continue
			}
			q.limit = p.Expr()
			if p.IsPunct(",") {
				p.Fail(sqlstate.Newf(sqlstate.SyntaxError, "LIMIT #,# syntax is not supported").
					WithHint("Use separate LIMIT and OFFSET clauses.").At(p.src, pos))
			}
		case p.Is("fetch") && !seenLimit:
			p.Next()
			seenLimit = true
			if q.hasLimit {
				p.FailAt(sqlstate.SyntaxError, pos, "multiple LIMIT clauses not allowed")
			}
			q.hasLimit = true
			if p.AcceptAny("first", "next") == "" {
				p.Unexpected()
			}
			if p.Is("row") || p.Is("rows") {
				q.limit = p.fixed(pgast.Integer, "1", p.Pos())
			} else if p.IsOp("-") || p.IsOp("+") {
				q.limit = p.prefix(false)
			} else {
				q.limit = p.primary()
			}
			if p.AcceptAny("row", "rows") == "" {
				p.Unexpected()
			}
			if p.AcceptSeq("with", "ties") {
				q.withTies = true
				if q.order.Empty() {
					p.FailAt(sqlstate.SyntaxError, pos, "WITH TIES cannot be specified without ORDER BY clause")
				}
			} else {
				p.Expect("only")
			}
		case p.Is("offset") && !seenOffset:
			p.Next()
			seenOffset = true
			if !q.offset.Empty() {
				p.FailAt(sqlstate.SyntaxError, p.Pos(), "multiple OFFSET clauses not allowed")
			}
			q.offset = p.Expr()
			p.AcceptAny("row", "rows")
		default:
			return
		}
	}
}

func (p *Parser) locking(q *query) {
	for p.Is("for") {
		pos := p.Pos()
		p.Next()
		if p.AcceptSeq("read", "only") {
			return
		}
		l := pgast.Locking{}
		switch {
		case p.Accept("update"):
			l.Strength = "update"
		case p.AcceptSeq("no", "key", "update"):
			l.Strength = "no key update"
		case p.Accept("share"):
			l.Strength = "share"
		case p.AcceptSeq("key", "share"):
			l.Strength = "key share"
		default:
			p.Unexpected()
		}
		if p.Accept("of") {
			l.Of = p.AnyNames()
		}
		if p.Accept("nowait") {
			l.Wait = "nowait"
		} else if p.AcceptSeq("skip", "locked") {
			l.Wait = "skip locked"
		}
		if q.setOp || q.values {
			what := "not allowed with UNION/INTERSECT/EXCEPT"
			verb := "is "
			if q.values {
				verb, what = "cannot be ", "applied to VALUES"
			}
			p.FailAt(sqlstate.FeatureNotSupported, pos, "FOR %s %s%s", upper(l.Strength), verb, what)
		}
		q.locking = append(q.locking, l)
	}
}

// orderBy reads ORDER BY items; an ordinal in them is part of the shape.
func (p *Parser) orderBy(ordinals bool) (Frag, int) {
	p.Expect("order", "by")
	var out Frag
	for n := 1; ; n++ {
		pos := p.Pos()
		e := p.Expr()
		if ordinals {
			p.pinOrdinal(e)
		}
		on := &OrderNote{}
		dir := ""
		if p.Accept("using") {
			on.Using = p.anyOp()
		} else if p.Accept("desc") {
			dir = "DESC"
		} else {
			p.Accept("asc")
		}
		on.NullsFirst = p.nullsOrder()
		if on.Using != "" || on.NullsFirst != nil {
			e = p.call(on, pos, e)
		}
		if dir != "" {
			e = p.cat(e, p.raw(dir))
		}
		if n > 1 {
			out = p.cat(out, p.raw(","))
		}
		out = p.cat(out, e)
		if !p.AcceptPunct(",") {
			return out, n
		}
	}
}

func (p *Parser) pinOrdinal(e Frag) {
	if n, ok := p.bareSlot(e); ok && p.slots[n].Tok >= 0 {
		p.slots[n].Pin = true
	}
}

func upper(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'a' && c <= 'z' {
			b[i] = c - 32
		}
	}
	return string(b)
}

// valuesBody reads VALUES (…), (…).
func (p *Parser) valuesBody() Frag {
	p.Expect("values")
	f := p.raw("VALUES")
	for {
		f = p.cat(f, p.raw("ROW"), p.valuesRow())
		if !p.AcceptPunct(",") {
			return f
		}
		f = p.cat(f, p.raw(","))
	}
}

// valuesRow reads ( expr | DEFAULT, … ).
func (p *Parser) valuesRow() Frag {
	p.ExpectPunct("(")
	f := p.raw("(")
	for {
		f = p.cat(f, p.exprOrDefault())
		if !p.AcceptPunct(",") {
			break
		}
		f = p.cat(f, p.raw(","))
	}
	p.ExpectPunct(")")
	return p.cat(f, p.raw(")"))
}

func (p *Parser) exprOrDefault() Frag {
	if p.Is("default") {
		f := p.rawAt("DEFAULT", p.Pos())
		p.Next()
		return f
	}
	return p.Expr()
}
