package respell

import (
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
	"github.com/spandb/spand/sql/sqlstate"
)

// plainFunc is a call with a one-part name and plain arguments.
func (p *Parser) plainFunc(name string, pos int, args ...Frag) Frag {
	f := p.cat(p.ident(name, pos), p.raw("("), p.list(args), p.raw(")"))
	f.depth++
	return f
}

// funcCall reads the argument list and everything behind it.
func (p *Parser) funcCall(name pgast.Name, start, pos int) Frag {
	n := &FuncNote{Name: name}
	var args []Frag
	plain := true
	mixed := -1 // where a positional argument follows a named one
	p.ExpectPunct("(")
	switch {
	case p.AcceptPunct(")"):
	case p.AcceptOp("*"):
		p.ExpectPunct(")")
		n.Star, plain = true, false
	default:
		if p.Accept("distinct") {
			n.Distinct, plain = true, false
		} else {
			p.Accept("all")
		}
		for {
			if p.Accept("variadic") {
				if n.Distinct {
					p.UnexpectedAt(p.i - 1)
				}
				n.Variadic, plain = true, false
			}
			label := ""
			if c, ok := p.category(); ok && (isPunct(p.Peek(1), "=>") || isPunct(p.Peek(1), ":=")) {
				if c == pglex.Reserved || c == pglex.ColName {
					p.Unexpected()
				}
				label = p.Tok().Text
				p.i += 2
				for len(n.ArgNames) < len(args) {
					n.ArgNames = append(n.ArgNames, "")
				}
				n.ArgNames = append(n.ArgNames, label)
				plain = false
			} else if n.ArgNames != nil && mixed < 0 {
				mixed = p.Pos()
			}
			args = append(args, p.Expr())
			if n.Variadic || !p.AcceptPunct(",") {
				break
			}
		}
		n.NArgs = len(args)
		if mixed >= 0 {
			p.FailAt(sqlstate.SyntaxError, mixed, "positional argument cannot follow named argument")
		}
		if p.IsSeq("order", "by") {
			plain = false
			args = p.orderInto(n, args)
		}
		p.ExpectPunct(")")
	}
	if p.IsSeq("within", "group") {
		at := p.Pos()
		p.i += 2
		p.ExpectPunct("(")
		if n.OrderBy != nil {
			p.FailAt(sqlstate.SyntaxError, at, "cannot use multiple ORDER BY clauses with WITHIN GROUP")
		}
		if n.Distinct {
			p.FailAt(sqlstate.SyntaxError, at, "cannot use DISTINCT with WITHIN GROUP")
		}
		if n.Variadic {
			p.FailAt(sqlstate.SyntaxError, at, "cannot use VARIADIC with WITHIN GROUP")
		}
		if !p.IsSeq("order", "by") {
			p.Unexpected()
		}
		args = p.orderInto(n, args)
		n.WithinGroup, plain = true, false
		p.ExpectPunct(")")
	}
	if p.IsThen("filter", "(") {
		p.i += 2
		p.Expect("where")
		args = append(args, p.Expr())
		n.Filter, plain = true, false
		p.ExpectPunct(")")
	}
	if !p.Is("over") || !(isPunct(p.Peek(1), "(") || p.Peek(1).Kind == pglex.Ident || p.Peek(1).Kind == pglex.QuotedIdent) {
		return p.finishFunc(n, args, plain, pos)
	}
	p.Next()
	var spec Frag
	if p.IsPunct("(") {
		spec, n.Exclude = p.windowSpec()
		if n.Exclude != "" {
			plain = false
		}
	} else {
		spec = p.ident(p.ColID(), p.Pos())
	}
	f := p.finishFunc(n, args, plain, pos)
	f = p.cat(p.rawAt("MAX(", pos), f, p.raw(")"), p.raw("OVER"), spec)
	f.depth++
	return f
}

func (p *Parser) finishFunc(n *FuncNote, args []Frag, plain bool, pos int) Frag {
	if !plain || len(n.Name) > 2 {
		return p.call(n, pos, args...)
	}
	f := p.ident(n.Name.Last(), pos)
	if len(n.Name) == 2 {
		f = p.cat(p.ident(n.Name[0], pos), p.raw("."), p.ident(n.Name[1], -1))
	}
	f = p.cat(f, p.raw("("), p.list(args), p.raw(")"))
	f.depth++
	return f
}

// orderInto reads ORDER BY inside a call.
func (p *Parser) orderInto(n *FuncNote, args []Frag) []Frag {
	p.Expect("order", "by")
	for {
		args = append(args, p.Expr())
		it := pgast.OrderItem{}
		if p.Accept("using") {
			it.Using = p.anyOp()
		} else if p.Accept("desc") {
			it.Desc = true
		} else {
			p.Accept("asc")
		}
		it.NullsFirst = p.nullsOrder()
		n.OrderBy = append(n.OrderBy, it)
		if !p.AcceptPunct(",") {
			return args
		}
	}
}

func (p *Parser) anyOp() string {
	if p.Is("operator") {
		return p.operatorName()
	}
	if p.Tok().Kind != pglex.Op {
		p.Unexpected()
	}
	s := p.Tok().Text
	p.Next()
	return s
}

func (p *Parser) nullsOrder() *bool {
	if p.acceptPair("nulls", "first") {
		first := true
		return &first
	}
	if p.acceptPair("nulls", "last") {
		return new(bool)
	}
	return nil
}

// windowSpec reads ( [name] [PARTITION BY …] [ORDER BY …] [frame] ).
func (p *Parser) windowSpec() (f Frag, exclude string) {
	p.ExpectPunct("(")
	f = p.raw("(")
	if p.IsColID() && !p.IsSeq("partition", "by") && !p.frameAhead() {
		f = p.cat(f, p.ident(p.ColID(), p.Pos()))
	}
	if p.AcceptSeq("partition", "by") {
		f = p.cat(f, p.raw("PARTITION BY"), p.list(p.exprList()))
	}
	if p.IsSeq("order", "by") {
		items, _ := p.orderBy(false)
		f = p.cat(f, p.raw("ORDER BY"), items)
	}
	if p.frameAhead() {
		var frame Frag
		frame, exclude = p.frame()
		f = p.cat(f, frame)
	}
	p.ExpectPunct(")")
	return p.cat(f, p.raw(")")), exclude
}

func (p *Parser) frameAhead() bool {
	return p.Is("rows") || p.Is("range") || p.Is("groups")
}

// bound is one end of a window frame; rank orders the ends.
type bound struct {
	f    Frag
	rank int
	pos  int
}

func (p *Parser) frameBound() bound {
	pos := p.Pos()
	switch {
	case p.AcceptSeq("unbounded", "preceding"):
		return bound{p.raw("UNBOUNDED PRECEDING"), 0, pos}
	case p.AcceptSeq("unbounded", "following"):
		return bound{p.raw("UNBOUNDED FOLLOWING"), 4, pos}
	case p.AcceptSeq("current", "row"):
		return bound{p.raw("CURRENT ROW"), 2, pos}
	}
	e := p.Expr()
	switch {
	case p.Accept("preceding"):
		return bound{p.cat(p.raw("INTERVAL"), e, p.raw("DAY PRECEDING")), 1, pos}
	case p.Accept("following"):
		return bound{p.cat(p.raw("INTERVAL"), e, p.raw("DAY FOLLOWING")), 3, pos}
	}
	p.Unexpected()
	return bound{}
}

const windowingError = sqlstate.Code("42P20")

func (p *Parser) frame() (Frag, string) {
	mode := p.AcceptAny("rows", "range", "groups")
	f := p.raw(map[string]string{"rows": "ROWS", "range": "RANGE", "groups": "GROUPS"}[mode])
	if p.Accept("between") {
		lo := p.frameBound()
		p.Expect("and")
		hi := p.frameBound()
		switch {
		case lo.rank == 4:
			p.FailAt(windowingError, lo.pos, "frame start cannot be UNBOUNDED FOLLOWING")
		case hi.rank == 0:
			p.FailAt(windowingError, hi.pos, "frame end cannot be UNBOUNDED PRECEDING")
		case lo.rank == 2 && hi.rank == 1:
			p.FailAt(windowingError, hi.pos, "frame starting from current row cannot have preceding rows")
		case lo.rank == 3 && (hi.rank == 1 || hi.rank == 2):
			p.FailAt(windowingError, hi.pos, "frame starting from following row cannot have preceding rows")
		}
		f = p.cat(f, p.raw("BETWEEN"), lo.f, p.raw("AND"), hi.f)
	} else {
		lo := p.frameBound()
		switch lo.rank {
		case 4:
			p.FailAt(windowingError, lo.pos, "frame start cannot be UNBOUNDED FOLLOWING")
		case 3:
			p.FailAt(windowingError, lo.pos, "frame starting from following row cannot end with current row")
		}
		f = p.cat(f, lo.f)
	}
	if !p.Accept("exclude") {
		return f, ""
	}
	switch {
	case p.AcceptSeq("current", "row"):
		return f, "current row"
	case p.Accept("group"):
		return f, "group"
	case p.Accept("ties"):
		return f, "ties"
	case p.AcceptSeq("no", "others"):
		return f, ""
	}
	p.Unexpected()
	return f, ""
}

// keywordExpr handles the expressions that begin with a keyword of their own.
func (p *Parser) keywordExpr(word string, pos int) (Frag, bool) {
	paren := isPunct(p.Peek(1), "(")
	switch word {
	case "default":
		p.FailAt(sqlstate.SyntaxError, pos, "DEFAULT is not allowed in this context")
	case "null":
		p.Next()
		return p.fixed(pgast.Null, "", pos), true
	case "true", "false":
		p.Next()
		return p.fixed(pgast.Bool, word, pos), true
	case "case":
		return p.caseExpr(pos), true
	case "current_date", "current_role", "current_user", "session_user", "user", "current_catalog", "current_schema":
		if word == "current_schema" && paren {
			return Frag{}, false
		}
		p.Next()
		return p.call(&FuncNote{Name: pgast.Name{word}, NoParens: true}, pos), true
	case "current_time", "current_timestamp", "localtime", "localtimestamp":
		p.Next()
		n := &FuncNote{Name: pgast.Name{word}, NoParens: true}
		if !p.AcceptPunct("(") {
			return p.call(n, pos), true
		}
		if p.Tok().Kind != pglex.Int {
			p.Unexpected()
		}
		p.slots[p.slotOf[p.i]].Pin = true
		arg := p.slot()
		p.ExpectPunct(")")
		n.NArgs = 1
		return p.call(n, pos, arg), true
	case "array":
		p.Next()
		if p.IsPunct("[") {
			return p.arrayLiteral(), true
		}
		q := p.parenQuery()
		return p.call(&ArrayQueryNote{}, pos, p.subquery(q)), true
	case "cast", "treat":
		if !paren {
			if word == "cast" {
				p.UnexpectedAt(p.i + 1)
			}
			return Frag{}, false
		}
		if word == "treat" {
			p.Unsupported("TREAT is")
		}
		p.i += 2
		x := p.Expr()
		p.Expect("as")
		t := p.TypeName()
		p.ExpectPunct(")")
		return p.call(&CastNote{Type: t}, pos, x), true
	case "collation":
		if isWord(p.Peek(1), "for") {
			p.i += 2
			p.ExpectPunct("(")
			x := p.Expr()
			p.ExpectPunct(")")
			return p.plainFunc("pg_collation_for", pos, x), true
		}
		return Frag{}, false
	}
	if !paren {
		return Frag{}, false
	}
	switch word {
	case "exists":
		p.Next()
		return p.cat(p.rawAt("EXISTS", pos), p.subquery(p.parenQuery())), true
	case "row":
		p.i += 2
		var elems []Frag
		if !p.IsPunct(")") {
			elems = p.exprList()
		}
		p.ExpectPunct(")")
		return p.rowExpr(elems, pos), true
	case "grouping", "coalesce", "greatest", "least":
		p.i += 2
		args := p.exprList()
		p.ExpectPunct(")")
		return p.plainFunc(word, pos, args...), true
	case "nullif":
		p.i += 2
		a := p.Expr()
		p.ExpectPunct(",")
		b := p.Expr()
		p.ExpectPunct(")")
		return p.plainFunc(word, pos, a, b), true
	case "extract":
		return p.extract(pos), true
	case "overlay", "position", "substring", "trim":
		return p.stringFunc(word, pos), true
	case "normalize":
		p.i += 2
		args := []Frag{p.Expr()}
		if p.AcceptPunct(",") {
			at := p.Pos()
			form := p.AcceptAny("nfc", "nfd", "nfkc", "nfkd")
			if form == "" {
				p.Unexpected()
			}
			args = append(args, p.fixed(pgast.Unknown, form, at))
		}
		p.ExpectPunct(")")
		return p.plainFunc(word, pos, args...), true
	case "xmlconcat", "xmlelement", "xmlexists", "xmlforest", "xmlparse", "xmlpi", "xmlroot", "xmlserialize":
		p.Unsupported("XML is")
	}
	return Frag{}, false
}

func (p *Parser) caseExpr(pos int) Frag {
	p.Expect("case")
	f := p.rawAt("CASE", pos)
	if !p.Is("when") {
		f = p.cat(f, p.Expr())
	}
	if !p.Is("when") {
		p.Unexpected()
	}
	for p.Accept("when") {
		c := p.Expr()
		p.Expect("then")
		f = p.cat(f, p.raw("WHEN"), c, p.raw("THEN"), p.Expr())
	}
	if p.Accept("else") {
		f = p.cat(f, p.raw("ELSE"), p.Expr())
	}
	p.Expect("end")
	f = p.cat(f, p.raw("END"))
	f.depth++
	return f
}

// arrayLiteral reads [a, b] with nested bare brackets.
func (p *Parser) arrayLiteral() Frag {
	p.enter()
	defer p.leave()
	pos := p.Pos()
	p.ExpectPunct("[")
	var elems []Frag
	if !p.IsPunct("]") {
		nested := p.IsPunct("[")
		for {
			if nested {
				elems = append(elems, p.arrayLiteral())
			} else {
				elems = append(elems, p.Expr())
			}
			if !p.AcceptPunct(",") {
				break
			}
		}
	}
	p.ExpectPunct("]")
	return p.call(&ArrayNote{}, pos, elems...)
}

func (p *Parser) extract(pos int) Frag {
	p.i += 2
	at := p.Pos()
	var field Frag
	switch t := p.Tok(); {
	case t.Kind == pglex.Str:
		p.slots[p.slotOf[p.i]].Pin = true
		field = p.slot()
	case t.Kind == pglex.QuotedIdent,
		t.Kind == pglex.Ident && pglex.LookupKeyword(t.Text).Category == pglex.NotKeyword,
		p.Is("year"), p.Is("month"), p.Is("day"), p.Is("hour"), p.Is("minute"), p.Is("second"):
		field = p.fixed(pgast.Unknown, t.Text, at)
		p.Next()
	default:
		p.Unexpected()
	}
	p.Expect("from")
	x := p.Expr()
	p.ExpectPunct(")")
	return p.plainFunc("extract", pos, field, x)
}

// stringFunc reads SQL's wordy string functions, in PostgreSQL's argument order.
func (p *Parser) stringFunc(word string, pos int) Frag {
	p.i += 2
	var args []Frag
	name := word
	switch word {
	case "position":
		a := p.bExpr()
		p.Expect("in")
		args = []Frag{p.bExpr(), a}
	case "trim":
		name = map[string]string{"": "btrim", "both": "btrim", "leading": "ltrim", "trailing": "rtrim"}[p.AcceptAny("both", "leading", "trailing")]
		if p.Accept("from") {
			args = p.exprList()
			break
		}
		args = p.exprList()
		if len(args) >= 1 && p.Accept("from") {
			if len(args) != 1 {
				p.UnexpectedAt(p.i - 1)
			}
			args = append(p.exprList(), args[0])
		}
	case "overlay":
		args = []Frag{p.Expr()}
		if p.Accept("placing") {
			args = append(args, p.Expr())
			p.Expect("from")
			args = append(args, p.Expr())
			if p.Accept("for") {
				args = append(args, p.Expr())
			}
		} else {
			for p.AcceptPunct(",") {
				args = append(args, p.Expr())
			}
		}
	case "substring":
		if p.IsPunct(")") {
			break
		}
		args = []Frag{p.Expr()}
		switch {
		case p.Accept("from"):
			args = append(args, p.Expr())
			if p.Accept("for") {
				args = append(args, p.Expr())
			}
		case p.Accept("for"):
			n := p.Expr()
			if p.Accept("from") {
				args = append(args, p.Expr(), n)
				break
			}
			cast := p.call(&CastNote{Type: pgast.TypeName{Name: pgast.Name{"int4"}, Pos: -1}}, pos, n)
			args = append(args, p.fixed(pgast.Integer, "1", pos), cast)
		case p.Accept("similar"):
			args = append(args, p.Expr())
			p.Expect("escape")
			args = append(args, p.Expr())
		default:
			for p.AcceptPunct(",") {
				args = append(args, p.Expr())
			}
		}
	}
	p.ExpectPunct(")")
	return p.plainFunc(name, pos, args...)
}
