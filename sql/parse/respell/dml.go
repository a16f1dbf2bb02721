package respell

import (
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
)

// DML respells INSERT, UPDATE or DELETE with the WITH before it.
func (p *Parser) DML() Frag {
	p.enter()
	defer p.leave()
	with := 0
	if p.Is("with") {
		with = p.part(p.cat(p.with(), p.raw("SELECT 0")))
	}
	switch {
	case p.Is("insert"):
		return p.insert(with)
	case p.Is("update"):
		return p.update(with)
	case p.Is("delete"):
		return p.delete(with)
	}
	p.Unexpected()
	return Frag{}
}

func (p *Parser) returning() int {
	if !p.Accept("returning") {
		return 0
	}
	return p.part(p.cat(p.raw("SELECT"), p.targets()))
}

func (p *Parser) insert(with int) Frag {
	p.Expect("insert", "into")
	n := &InsertNote{With: with, Pos: p.Pos()}
	n.Table = p.relationName()
	if p.Accept("as") {
		n.Alias = p.ColID()
	}
	var cols Frag
	if p.IsPunct("(") && !p.queryAhead() {
		p.Next()
		var ids []Frag
		for {
			pos := p.Pos()
			n.ColumnsPos = append(n.ColumnsPos, pos)
			ids = append(ids, p.ident(p.ColID(), pos))
			if p.IsPunct("[") || p.IsPunct(".") {
				p.Unsupported("assignment to a part of a column is")
			}
			if !p.AcceptPunct(",") {
				break
			}
		}
		p.ExpectPunct(")")
		cols = p.cat(p.raw("("), p.list(ids), p.raw(")"))
	}
	if p.Is("overriding") {
		p.Next()
		n.Overriding = p.AcceptAny("user", "system")
		if n.Overriding == "" {
			p.Unexpected()
		}
		p.Expect("value")
	}
	var source Frag
	if cols.Empty() && n.Overriding == "" && p.AcceptSeq("default", "values") {
		n.Defaults = true
		source = p.raw("VALUES ()")
	} else {
		source = p.subquery(p.topQuery())
	}
	ignore := false
	var update Frag
	if p.IsSeq("on", "conflict") {
		ignore, update = p.onConflict(n)
	}
	n.Returning = p.returning()
	verb := "INSERT INTO"
	if ignore {
		verb = "INSERT IGNORE INTO"
	}
	return p.cat(p.raw(verb), p.tableIdent(n.Table, n, n.Pos), cols, source, update)
}

// onConflict reads the clause; what the grammar lacks goes into a part.
func (p *Parser) onConflict(n *InsertNote) (ignore bool, update Frag) {
	pos := p.Pos()
	p.Expect("on", "conflict")
	c := &ConflictNote{}
	var args []Frag
	if p.AcceptSeq("on", "constraint") {
		c.Constraint = p.ColID()
	} else if p.AcceptPunct("(") {
		for {
			e, _, class := p.indexKey()
			if class != "" {
				p.Unsupported("an operator class in ON CONFLICT is")
			}
			args = append(args, e)
			if !p.AcceptPunct(",") {
				break
			}
		}
		p.ExpectPunct(")")
		c.NTarget = len(args)
		if p.Accept("where") {
			c.Where = true
			args = append(args, p.Expr())
		}
	}
	p.Expect("do")
	if p.Accept("nothing") {
		c.DoNothing = true
	} else {
		p.Expect("update", "set")
		if c.Constraint == "" && c.NTarget == 0 {
			p.Fail(sqlstate.Newf(sqlstate.SyntaxError, "ON CONFLICT DO UPDATE requires inference specification or constraint name").
				WithHint("For example, ON CONFLICT (column_name).").At(p.src, pos))
		}
		update = p.cat(p.raw("ON DUPLICATE KEY UPDATE"), p.assignments())
		if p.Accept("where") {
			c.SetWhere = true
			args = append(args, p.Expr())
		}
	}
	n.Conflict = p.part(p.cat(p.raw("SELECT"), p.call(c, pos, args...)))
	return c.DoNothing, update
}

// indexKey reads an index_elem without its ordering: a column, a function call
// or a parenthesised expression, then COLLATE and an operator class.
func (p *Parser) indexKey() (e Frag, column, class string) {
	pos := p.Pos()
	switch {
	case p.IsPunct("("):
		p.Next()
		e = p.Expr()
		p.ExpectPunct(")")
	case p.IsColID() && !isPunct(p.Peek(1), "(") && !isPunct(p.Peek(1), "."):
		column = p.ColID()
		e = p.ident(column, pos)
	default:
		start := p.i
		if f, ok := p.keywordExprTable(p.Tok().Text, pos); ok {
			e = f
			break
		}
		name := p.funcName()
		if !p.IsPunct("(") {
			p.Unexpected()
		}
		e = p.funcCall(name, start, pos)
	}
	if p.Accept("collate") {
		e = p.call(&CollateNote{Name: p.AnyName()}, pos, e)
		column = ""
	}
	if p.IsColID() && !p.Is("nulls") {
		name := p.AnyName()
		class = name.Last()
		if p.IsPunct("(") {
			p.options()
		}
	}
	return e, column, class
}

func (p *Parser) funcName() pgast.Name {
	if _, ok := p.category(); !ok {
		p.Unexpected()
	}
	n := pgast.Name{p.NonReserved()}
	for p.AcceptPunct(".") {
		n = append(n, p.ColLabel())
	}
	return n
}

// assignments reads a SET list.
func (p *Parser) assignments() Frag {
	var out Frag
	for {
		pos := p.Pos()
		var f Frag
		if p.AcceptPunct("(") {
			n := &SetNote{Pos: pos}
			for {
				name, part := p.setTarget()
				if !part.Empty() {
					p.Unsupported("assignment to a part of a column in a list is")
				}
				n.Columns = append(n.Columns, name)
				if !p.AcceptPunct(",") {
					break
				}
			}
			p.ExpectPunct(")")
			if !p.AcceptOp("=") {
				p.Unexpected()
			}
			f = p.cat(p.named(n.Columns[0], n, pos), p.raw("="), p.multiSource())
		} else {
			name, part := p.setTarget()
			if !p.AcceptOp("=") {
				p.Unexpected()
			}
			var value Frag
			switch at := p.Pos(); {
			case part.Empty():
				value = p.exprOrDefault()
			case p.Accept("default"):
				value = p.call(&PartNote{}, pos, p.call(&DefaultNote{}, at), part)
			default:
				value = p.call(&PartNote{}, pos, p.Expr(), part)
			}
			f = p.cat(p.named(name, &SetNote{Columns: []string{name}, Pos: pos}, pos), p.raw("="), value)
		}
		out = p.cat(out, f)
		if !p.AcceptPunct(",") {
			return out
		}
		out = p.cat(out, p.raw(","))
	}
}

// setTarget reads a set_target; part is not empty for an element or field.
func (p *Parser) setTarget() (name string, part Frag) {
	pos := p.Pos()
	name = p.ColID()
	if p.IsPunct("[") || p.IsPunct(".") {
		part = p.parts0(p.ident(name, pos))
	}
	return name, part
}

// parts0 reads an indirection without casts.
func (p *Parser) parts0(f Frag) Frag {
	for {
		switch {
		case p.IsPunct("["):
			f = p.subscript(f)
		case p.IsPunct("."):
			pos := p.Pos()
			p.Next()
			f = p.call(&FieldNote{Name: p.ColLabel()}, pos, f)
		default:
			return f
		}
	}
}

// multiSource is the right side of (a, b) = …: a row, whose elements may be
// DEFAULT, or a subquery.
func (p *Parser) multiSource() Frag {
	pos := p.Pos()
	row := p.IsThen("row", "(")
	if row {
		p.Next()
	}
	bad := func() {
		p.FailAt(sqlstate.FeatureNotSupported, pos, "source for a multiple-column UPDATE item must be a sub-SELECT or ROW() expression")
	}
	if !p.IsPunct("(") {
		p.Expr()
		bad()
	}
	if !row && p.queryAhead() {
		return p.Expr()
	}
	p.Next()
	var elems []Frag
	for {
		if p.Is("default") {
			p.Next()
			elems = append(elems, p.call(&DefaultNote{}, p.Pos()))
		} else {
			elems = append(elems, p.Expr())
		}
		if !p.AcceptPunct(",") {
			break
		}
	}
	p.ExpectPunct(")")
	if !row && len(elems) < 2 {
		bad()
	}
	return p.row(elems, pos)
}

// target reads the table an UPDATE or DELETE changes.
func (p *Parser) target(n *DMLNote) Frag {
	n.Only = p.Accept("only")
	paren := n.Only && p.AcceptPunct("(")
	n.Pos = p.Pos()
	n.Name = p.relationName()
	if paren {
		p.ExpectPunct(")")
	} else if !n.Only {
		p.AcceptOp("*")
	}
	f := p.tableIdent(n.Name, n, n.Pos)
	if a := p.alias(true); a != nil {
		f = p.cat(f, p.raw("AS"), p.named(a.Name, &AliasNote{}, -1))
	}
	return f
}

func (p *Parser) where() Frag {
	if !p.Accept("where") {
		return Frag{}
	}
	if p.IsSeq("current", "of") {
		p.Unsupported("WHERE CURRENT OF is")
	}
	return p.cat(p.raw("WHERE"), p.Expr())
}

func (p *Parser) update(with int) Frag {
	p.Expect("update")
	n := &DMLNote{With: with}
	t := p.target(n)
	p.Expect("set")
	set := p.assignments()
	if p.Accept("from") {
		t = p.cat(t, p.raw(","), p.fromList())
	}
	where := p.where()
	n.Returning = p.returning()
	return p.cat(p.raw("UPDATE"), t, p.raw("SET"), set, where)
}

func (p *Parser) delete(with int) Frag {
	p.Expect("delete", "from")
	n := &DMLNote{With: with}
	t := p.target(n)
	head := p.raw("DELETE FROM")
	if p.Accept("using") {
		t = p.cat(t, p.raw(","), p.fromList())
		head = p.cat(p.raw("DELETE"), p.ident("x", -1), p.raw("FROM"))
	}
	where := p.where()
	n.Returning = p.returning()
	return p.cat(head, t, where)
}
