package respell

import (
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
)

// primary respells a c_expr with its subscripts and casts.
func (p *Parser) primary() Frag {
	t := p.Tok()
	pos := int(t.Start)
	switch t.Kind {
	case pglex.Int, pglex.Num, pglex.Str, pglex.Bit:
		return p.casts(p.slot())
	case pglex.Param:
		return p.indirection(p.param())
	case pglex.Punct:
		if t.Text == "(" {
			return p.parenthesised()
		}
		p.Unexpected()
	case pglex.QuotedIdent:
		return p.nameExpr()
	case pglex.Ident:
		if f, ok := p.keywordExpr(t.Text, pos); ok {
			return p.casts(f)
		}
		return p.nameExpr()
	}
	p.Unexpected()
	return Frag{}
}

// parenthesised is ( … ) in an expression: a subquery, an expression or a row.
func (p *Parser) parenthesised() Frag {
	pos := p.Pos()
	if p.queryAhead() {
		p.Next()
		q, e := p.parenBody()
		if q != nil {
			if q.parens && p.IsPunct(",") {
				return p.rowTail(p.subquery(q), pos)
			}
			p.ExpectPunct(")")
			return p.indirection(p.subquery(q))
		}
		if p.IsPunct(",") {
			return p.rowTail(e, pos)
		}
		p.ExpectPunct(")")
		return p.indirection(e)
	}
	p.Next()
	first := p.Expr()
	if p.IsPunct(",") {
		return p.rowTail(first, pos)
	}
	p.ExpectPunct(")")
	return p.indirection(first)
}

func (p *Parser) rowTail(first Frag, pos int) Frag {
	elems := []Frag{first}
	for p.AcceptPunct(",") {
		elems = append(elems, p.Expr())
	}
	p.ExpectPunct(")")
	return p.rowExpr(elems, pos)
}

// rowExpr is a row constructor with what may follow one: OVERLAPS.
func (p *Parser) rowExpr(elems []Frag, pos int) Frag {
	if p.Is("overlaps") {
		at := p.Pos()
		p.Next()
		p.Accept("row")
		p.ExpectPunct("(")
		right := p.exprList()
		if len(right) < 2 {
			p.Unexpected()
		}
		p.ExpectPunct(")")
		if len(elems) != 2 || len(right) != 2 {
			p.FailAt("42601", at, "wrong number of parameters on OVERLAPS expression")
		}
		return p.plainFunc("overlaps", at, append(elems, right...)...)
	}
	return p.casts(p.row(elems, pos))
}

func (p *Parser) row(elems []Frag, pos int) Frag {
	if len(elems) < 2 {
		return p.call(&RowNote{}, pos, elems...)
	}
	f := p.cat(p.rawAt("ROW", pos), p.raw("("), p.list(elems), p.raw(")"))
	f.depth++
	return f
}

// casts reads ::type and whatever binds as tightly.
func (p *Parser) casts(f Frag) Frag {
	for p.IsPunct("::") {
		pos := p.Pos()
		p.Next()
		f = p.call(&CastNote{Type: p.TypeName()}, pos, f)
	}
	return f
}

// indirection reads [i], .field, .* and casts behind an expression.
func (p *Parser) indirection(f Frag) Frag {
	for {
		switch {
		case p.IsPunct("["):
			f = p.subscript(f)
		case p.IsPunct("."):
			pos := p.Pos()
			p.Next()
			if p.AcceptOp("*") {
				f = p.call(&FieldNote{Star: true}, pos, f)
				continue
			}
			f = p.call(&FieldNote{Name: p.ColLabel()}, pos, f)
		case p.IsPunct("::"):
			return p.casts(f)
		default:
			return f
		}
	}
}

func (p *Parser) subscript(f Frag) Frag {
	pos := p.Pos()
	p.ExpectPunct("[")
	n := &SubscriptNote{}
	args := []Frag{f}
	if !p.IsPunct(":") {
		args = append(args, p.Expr())
		n.Lo = true
	}
	if p.AcceptPunct(":") {
		n.Slice = true
		if !p.IsPunct("]") {
			args = append(args, p.Expr())
			n.Hi = true
		}
	}
	p.ExpectPunct("]")
	return p.call(n, pos, args...)
}

// nameExpr is a column reference, a function call or a literal with a type's
// name before it.
func (p *Parser) nameExpr() Frag {
	start := p.i
	t := p.Tok()
	pos := int(t.Start)
	if t.Kind == pglex.Ident {
		kw := pglex.LookupKeyword(t.Text)
		switch kw.Category {
		case pglex.Reserved:
			p.Unexpected()
		case pglex.Unreserved:
			if t.Text == "double" && isWord(p.Peek(1), "precision") && p.Peek(2).Kind == pglex.Str {
				typed, _ := p.typedLiteral()
				return p.casts(typed)
			}
		case pglex.ColName:
			if typed, ok := p.typedLiteral(); ok {
				return p.casts(typed)
			}
			if isPunct(p.Peek(1), "(") {
				p.simpleType() // fails where PostgreSQL does, or at what follows
				p.Unexpected()
			}
		case pglex.TypeFunc:
			// A function or a type, never a column.
			n := p.Peek(1)
			if !isPunct(n, "(") && n.Kind != pglex.Str {
				p.UnexpectedAt(p.i + 1)
			}
		}
	}
	name := pgast.Name{p.Tok().Text}
	p.Next()
	for p.IsPunct(".") {
		if n := p.Peek(1); n.Kind == pglex.Op && n.Text == "*" {
			p.i += 2
			return p.call(&ColumnNote{Name: name, Star: true}, pos)
		}
		p.Next()
		name = append(name, p.ColLabel())
	}
	switch {
	case p.IsPunct("("):
		if len(name) == 1 && t.Kind == pglex.Ident && pglex.LookupKeyword(t.Text).Category == pglex.ColName {
			p.Unexpected()
		}
		open := p.i
		f := p.funcCall(name, start, pos)
		if p.Tok().Kind == pglex.Str && isPunct(&p.toks[p.i-1], ")") {
			return p.casts(p.call(&CastNote{Type: p.callAsType(name, open, pos)}, pos, p.slot()))
		}
		return p.casts(f)
	case p.Tok().Kind == pglex.Str:
		if len(name) == 1 && t.Kind == pglex.Ident && pglex.LookupKeyword(t.Text).Category == pglex.ColName {
			p.Unexpected()
		}
		return p.casts(p.call(&CastNote{Type: pgast.TypeName{Name: name, Pos: pos}}, pos, p.slot()))
	}
	if len(name) > 3 {
		return p.indirection(p.call(&ColumnNote{Name: name}, pos))
	}
	f := p.ident(name[0], pos)
	for _, n := range name[1:] {
		f = p.cat(f, p.raw("."), p.ident(n, -1))
	}
	return p.indirection(f)
}

// callAsType reads f(mods) before a string literal as a type with modifiers.
func (p *Parser) callAsType(name pgast.Name, open, pos int) pgast.TypeName {
	t := pgast.TypeName{Name: name, Pos: pos}
	for i := open + 1; i < p.i-1; i++ {
		switch tk := &p.toks[i]; {
		case (i-open)%2 == 0 && isPunct(tk, ","):
		case (i-open)%2 == 1 && (tk.Kind == pglex.Int || tk.Kind == pglex.Num || tk.Kind == pglex.Str ||
			tk.Kind == pglex.Ident || tk.Kind == pglex.QuotedIdent):
			t.Mods = append(t.Mods, tk.Text)
		default:
			p.FailAt("42601", pos, "type modifiers must be simple constants or identifiers")
		}
	}
	p.PinAll(open, p.i)
	return t
}

// typedLiteral reads int '1', timestamp(3) with time zone '…', interval '1' day:
// a built-in type's name and a string. ok is false, and nothing is consumed,
// if no string follows the type.
func (p *Parser) typedLiteral() (Frag, bool) {
	end := p.i + 1
	word := p.Tok().Text
	switch word {
	case "double", "interval", "int", "integer", "smallint", "bigint", "real", "float", "decimal", "dec", "numeric",
		"boolean", "bit", "character", "char", "varchar", "national", "nchar", "time", "timestamp":
	default:
		return Frag{}, false
	}
	for isWord(&p.toks[end], "varying") || isWord(&p.toks[end], "precision") || isWord(&p.toks[end], "character") || isWord(&p.toks[end], "char") {
		end++
	}
	if isPunct(&p.toks[end], "(") {
		for end++; p.toks[end].Kind == pglex.Int || isPunct(&p.toks[end], ","); end++ {
		}
		if !isPunct(&p.toks[end], ")") {
			return Frag{}, false
		}
		end++
	}
	if isWord(&p.toks[end], "with") || isWord(&p.toks[end], "without") {
		if !isWord(&p.toks[end+1], "time") || !isWord(&p.toks[end+2], "zone") {
			return Frag{}, false
		}
		end += 3
	}
	if p.toks[end].Kind != pglex.Str {
		return Frag{}, false
	}
	pos := p.Pos()
	typ := p.simpleType()
	if p.Tok().Kind != pglex.Str {
		p.Unexpected()
	}
	lit := p.slot()
	if word == "interval" && typ.Mods == nil {
		if f := p.intervalFields(); len(f) > 0 {
			typ.Mods = append(f, typ.Mods...)
		}
	}
	return p.call(&CastNote{Type: typ}, pos, lit), true
}
