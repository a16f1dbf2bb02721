package respell

import (
	"strings"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
)

// Precedence levels of PostgreSQL's gram.y, loosest first.
const (
	precOr = iota + 1
	precAnd
	precNot
	precIs
	precCompare
	precLike // BETWEEN IN LIKE ILIKE SIMILAR
	precEscape
	precOp // any other operator
	precAdd
	precMul
	precExp
	precAt
	precCollate
	precUnary
)

// native maps the operators whose spelling and meaning the grammars share.
var native = map[string]bool{
	"+": true, "-": true, "*": true, "/": true, "%": true,
	"=": true, "<>": true, "<": true, ">": true, "<=": true, ">=": true,
}

func opPrec(op string) int {
	switch op {
	case "=", "<", ">", "<=", ">=", "<>":
		return precCompare
	case "+", "-":
		return precAdd
	case "*", "/", "%":
		return precMul
	case "^":
		return precExp
	}
	return precOp
}

// Expr respells an a_expr.
func (p *Parser) Expr() Frag { return p.expr(precOr, false) }

// bExpr respells a b_expr: no boolean operators at its top level.
func (p *Parser) bExpr() Frag { return p.expr(precIs, true) }

func (p *Parser) exprList() []Frag {
	var out []Frag
	for {
		out = append(out, p.Expr())
		if !p.AcceptPunct(",") {
			return out
		}
	}
}

// infix describes the operator at the cursor.
type infix struct {
	kind string // "op", or the construct's word
	op   string
	prec int
	not  bool
	toks int // tokens of the operator itself; 0 for OPERATOR(…)
}

// infixAt looks at the cursor for an operator that can follow an expression.
func (p *Parser) infixAt(b bool) (infix, bool) {
	t := p.Tok()
	switch t.Kind {
	case pglex.Op:
		return infix{kind: "op", op: t.Text, prec: opPrec(t.Text), toks: 1}, true
	case pglex.Ident:
	default:
		return infix{}, false
	}
	word := t.Text
	switch word {
	case "is":
		return infix{kind: "is", prec: precIs}, true
	case "operator":
		if isPunct(p.Peek(1), "(") {
			return infix{kind: "op", prec: precOp}, true
		}
	}
	if b {
		return infix{}, false
	}
	switch word {
	case "and":
		return infix{kind: "and", prec: precAnd}, true
	case "or":
		return infix{kind: "or", prec: precOr}, true
	case "isnull", "notnull":
		return infix{kind: word, prec: precIs}, true
	case "collate":
		return infix{kind: word, prec: precCollate}, true
	case "at":
		if isWord(p.Peek(1), "time") {
			return infix{kind: word, prec: precAt}, true
		}
		p.far = max(p.far, p.i+1)
	case "between", "in", "like", "ilike":
		return infix{kind: word, prec: precLike, toks: 1}, true
	case "similar":
		if isWord(p.Peek(1), "to") {
			return infix{kind: word, prec: precLike, toks: 2}, true
		}
		p.far = max(p.far, p.i+1)
	case "not":
		switch n := p.Peek(1); {
		case n.Kind != pglex.Ident:
		case n.Text == "between", n.Text == "in", n.Text == "like", n.Text == "ilike":
			return infix{kind: n.Text, prec: precLike, not: true, toks: 2}, true
		case n.Text == "similar":
			return infix{kind: n.Text, prec: precLike, not: true, toks: 3}, true
		}
	}
	return infix{}, false
}

// expr is the precedence climber. With b only b_expr's operators are taken.
func (p *Parser) expr(min int, b bool) Frag {
	p.enter()
	defer p.leave()
	left := p.prefix(b)
	for {
		in, ok := p.infixAt(b)
		if !ok || in.prec < min {
			return left
		}
		at := p.i
		pos := p.Pos()
		nonassoc := false
		switch in.kind {
		case "op":
			left, nonassoc = p.binary(left, in, pos, b)
		case "and", "or":
			left = p.chain(left, in, pos)
		case "is":
			var done bool
			if left, nonassoc, done = p.is(left, pos, b); !done {
				p.UnexpectedAt(at)
			}
		case "isnull":
			p.Next()
			left = p.paren(pos, left, p.raw("IS NULL"))
		case "notnull":
			p.Next()
			left = p.paren(pos, left, p.raw("IS NOT NULL"))
		case "collate":
			p.Next()
			left = p.call(&CollateNote{Name: p.AnyName()}, pos, left)
		case "at":
			p.Expect("at", "time", "zone")
			zone := p.expr(precAt+1, false)
			left = p.plainFunc("timezone", pos, zone, left)
		case "between":
			left = p.between(left, in, pos)
			nonassoc = true
		case "in":
			left = p.in(left, in, pos)
		default:
			left, nonassoc = p.like(left, in, pos)
		}
		if nonassoc {
			if next, ok := p.infixAt(b); ok && next.prec == in.prec {
				p.Unexpected()
			}
		}
	}
}

func (p *Parser) prefix(b bool) Frag {
	if p.hasPending {
		p.hasPending = false
		return p.pending
	}
	t := p.Tok()
	pos := int(t.Start)
	switch {
	case t.Kind == pglex.Op:
		p.Next()
		switch t.Text {
		case "-", "+":
			minus := p.i - 1
			x := p.expr(precUnary, b)
			if n, ok := p.bareSlot(x); ok {
				s := &p.slots[n]
				if (s.Kind == pgast.Integer || s.Kind == pgast.Numeric) && !s.Neg {
					if t.Text == "-" {
						s.Neg, s.NegAt, s.Pos = true, int32(minus), t.Start
					}
					return x
				}
			}
			return p.paren(pos, p.raw(t.Text), x)
		}
		if opPrec(t.Text) != precOp {
			p.UnexpectedAt(p.i - 1)
		}
		return p.call(&OpNote{Name: t.Text, Prefix: true}, pos, p.expr(precOp+1, b))
	case t.Kind == pglex.Ident && t.Text == "not" && !b:
		p.Next()
		return p.paren(pos, p.raw("NOT"), p.expr(precNot, false))
	case t.Kind == pglex.Ident && t.Text == "operator" && isPunct(p.Peek(1), "("):
		op := p.operatorName()
		return p.call(&OpNote{Name: op, Prefix: true}, pos, p.expr(precOp+1, b))
	}
	return p.primary()
}

// operatorName reads OPERATOR(schema.op); PostgreSQL's own schema is dropped.
func (p *Parser) operatorName() string {
	p.Expect("operator")
	p.ExpectPunct("(")
	var schema []string
	for p.Tok().Kind == pglex.Ident || p.Tok().Kind == pglex.QuotedIdent {
		schema = append(schema, p.ColID())
		p.ExpectPunct(".")
	}
	if p.Tok().Kind != pglex.Op {
		p.Unexpected()
	}
	op := p.Tok().Text
	p.Next()
	p.ExpectPunct(")")
	if len(schema) == 0 || len(schema) == 1 && schema[0] == "pg_catalog" {
		return op
	}
	return strings.Join(schema, ".") + "." + op
}

// binary handles every symbol operator, its ANY and ALL forms included.
func (p *Parser) binary(left Frag, in infix, pos int, b bool) (Frag, bool) {
	op := in.op
	qualified := in.toks == 0
	if qualified {
		op = p.operatorName()
	} else {
		p.Next()
	}
	if f, ok := p.quantified(left, op, pos); ok {
		return f, false
	}
	right := p.expr(in.prec+1, b)
	nonassoc := in.prec == precCompare
	if native[op] {
		return p.paren(pos, left, p.raw(op), right), nonassoc
	}
	return p.call(&OpNote{Name: op}, pos, left, right), nonassoc
}

// quantified reads ANY|SOME|ALL (array or subquery) behind an operator.
func (p *Parser) quantified(left Frag, op string, pos int) (Frag, bool) {
	if !(p.Is("any") || p.Is("some") || p.Is("all")) {
		return left, false
	}
	all := p.Is("all")
	p.Next()
	p.ExpectPunct("(")
	n := &QuantNote{Op: op, All: all}
	var arg Frag
	if p.queryAhead() {
		arg, n.Query = p.queryOrExpr()
	} else {
		arg = p.Expr()
	}
	p.ExpectPunct(")")
	return p.call(n, pos, left, arg), true
}

// queryOrExpr reads what stands inside parentheses that may hold a query or an
// expression that begins with a parenthesised query.
func (p *Parser) queryOrExpr() (f Frag, query bool) {
	q, e := p.parenBody()
	if q != nil {
		return p.subquery(q), true
	}
	return e, false
}

func (p *Parser) chain(left Frag, in infix, pos int) Frag {
	word := "AND"
	if in.kind == "or" {
		word = "OR"
	}
	args := []Frag{left}
	for p.Is(in.kind) {
		p.Next()
		args = append(args, p.expr(in.prec+1, false))
	}
	if len(args) > maxChain {
		return p.call(&BoolNote{Or: in.kind == "or"}, pos, args...)
	}
	f := args[0]
	for _, a := range args[1:] {
		f = p.cat(f, p.raw(word), a)
	}
	return p.paren(pos, f)
}

func (p *Parser) is(left Frag, pos int, b bool) (f Frag, nonassoc, done bool) {
	p.Next()
	not := p.Accept("not")
	word := func(s string) string {
		if not {
			return "IS NOT " + s
		}
		return "IS " + s
	}
	if p.AcceptSeq("distinct", "from") {
		right := p.expr(precIs+1, b)
		if not {
			return p.paren(pos, left, p.raw("<=>"), right), true, true
		}
		return p.call(&DistinctNote{}, pos, left, right), true, true
	}
	if b {
		p.Unexpected()
	}
	switch {
	case p.Accept("null"):
		return p.paren(pos, left, p.raw(word("NULL"))), false, true
	case p.Accept("true"):
		return p.paren(pos, left, p.raw(word("TRUE"))), false, true
	case p.Accept("false"):
		return p.paren(pos, left, p.raw(word("FALSE"))), false, true
	case p.Accept("unknown"):
		return p.call(&IsNote{Test: "unknown", Not: not}, pos, left), false, true
	}
	form := p.AcceptAny("nfc", "nfd", "nfkc", "nfkd")
	if p.Accept("normalized") {
		if form == "" {
			form = "nfc"
		}
		f = p.plainFunc("is_normalized", pos, left, p.fixed(pgast.Unknown, form, pos))
		if not {
			f = p.paren(pos, p.raw("NOT"), f)
		}
		return f, false, true
	}
	if p.Is("document") {
		p.Unsupported("XML is")
	}
	p.Unexpected()
	return
}

func (p *Parser) between(left Frag, in infix, pos int) Frag {
	p.i += in.toks
	symmetric := p.Accept("symmetric")
	if !symmetric {
		p.Accept("asymmetric")
	}
	lo := p.bExpr()
	p.Expect("and")
	hi := p.expr(precLike+1, false)
	if symmetric {
		return p.call(&BetweenNote{Not: in.not}, pos, left, lo, hi)
	}
	op := "BETWEEN"
	if in.not {
		op = "NOT BETWEEN"
	}
	return p.paren(pos, left, p.raw(op), lo, p.raw("AND"), hi)
}

func (p *Parser) in(left Frag, in infix, pos int) Frag {
	p.i += in.toks
	op := "IN"
	if in.not {
		op = "NOT IN"
	}
	p.ExpectPunct("(")
	var list Frag
	if p.queryAhead() {
		q, e := p.parenBody()
		if q != nil {
			p.ExpectPunct(")")
			return p.paren(pos, left, p.raw(op), p.subquery(q))
		}
		list = e
		if p.AcceptPunct(",") {
			list = p.cat(list, p.raw(","), p.list(p.exprList()))
		}
	} else {
		list = p.list(p.exprList())
	}
	p.ExpectPunct(")")
	return p.paren(pos, left, p.raw(op), p.raw("("), list, p.raw(")"))
}

func (p *Parser) like(left Frag, in infix, pos int) (Frag, bool) {
	if in.kind == "similar" && !isWord(p.Peek(in.toks-1), "to") {
		p.UnexpectedAt(p.i + in.toks - 1)
	}
	p.i += in.toks
	n := &OpNote{Name: in.kind}
	if in.kind == "similar" {
		n.Name = "similar to"
	}
	if in.not {
		n.Name = "not " + n.Name
	}
	if in.kind != "similar" {
		if f, ok := p.quantified(left, n.Name, pos); ok {
			return f, false
		}
	}
	right := p.expr(precLike+1, false)
	if p.Accept("escape") {
		n.Escape = true
		return p.call(n, pos, left, right, p.expr(precEscape, false)), true
	}
	return p.call(n, pos, left, right), true
}

// queryAhead reports whether a query begins at the cursor, behind any number
// of opening parentheses.
func (p *Parser) queryAhead() bool {
	i := p.i
	for isPunct(&p.toks[i], "(") {
		if i++; i-p.i > MaxDepth {
			p.tooDeep()
		}
	}
	t := &p.toks[i]
	if t.Kind != pglex.Ident {
		return false
	}
	switch t.Text {
	case "select", "values", "with", "table":
		return true
	}
	return false
}

// parenBody reads the inside of a parenthesis for which queryAhead holds. It
// is a query, or an expression that starts with a parenthesised query, and one
// look at the token behind the inner parenthesis tells; nothing is read twice.
func (p *Parser) parenBody() (*query, Frag) {
	p.enter()
	defer p.leave()
	if !p.IsPunct("(") {
		return p.query(nil), Frag{}
	}
	p.Next()
	q, e := p.parenBody()
	if q == nil && p.IsPunct(",") {
		// (((select 1) + 1, 2)): the inner parenthesis is a row.
		elems := []Frag{e}
		for p.AcceptPunct(",") {
			elems = append(elems, p.Expr())
		}
		p.ExpectPunct(")")
		return nil, p.exprFrom(p.casts(p.row(elems, p.Pos())))
	}
	if q != nil && q.parens && p.IsPunct(",") {
		elems := []Frag{p.subquery(q)}
		for p.AcceptPunct(",") {
			elems = append(elems, p.Expr())
		}
		p.ExpectPunct(")")
		return nil, p.exprFrom(p.casts(p.row(elems, p.Pos())))
	}
	p.ExpectPunct(")")
	if q == nil {
		return nil, p.exprFrom(p.indirection(e))
	}
	q.parens = true
	t := p.Tok()
	if isPunct(t, ")") || isPunct(t, ",") {
		return q, Frag{}
	}
	if p.continuesQuery() {
		return p.query(q), Frag{}
	}
	return nil, p.exprFrom(p.indirection(p.subquery(q)))
}

// exprFrom continues the climber with a left operand that was already read.
func (p *Parser) exprFrom(left Frag) Frag {
	p.pending, p.hasPending = left, true
	return p.expr(precOr, false)
}
