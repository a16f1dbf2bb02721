package respell

import (
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
	"github.com/spandb/spand/sql/sqlstate"
)

// checkBody reads ( expr ) [NO INHERIT] and keeps the text for the catalog.
func (p *Parser) checkBody(c *ConstraintNote) Frag {
	p.ExpectPunct("(")
	from := p.i
	e := p.Expr()
	c.CheckText = p.TextSince(from)
	p.PinAll(from, p.i)
	p.ExpectPunct(")")
	p.AcceptSeq("no", "inherit")
	return e
}

func (p *Parser) nullsDistinct() {
	if p.IsSeq("nulls", "not", "distinct") {
		p.Unsupported("NULLS NOT DISTINCT is")
	}
	p.AcceptSeq("nulls", "distinct")
}

// indexParams reads WITH (…) and USING INDEX TABLESPACE behind a key.
func (p *Parser) indexParams(c *ConstraintNote) {
	if p.Accept("include") {
		c.Include = p.columnList()
	}
	if p.Accept("with") {
		p.options()
	}
	if p.AcceptSeq("using", "index", "tablespace") {
		p.ColID()
	}
}

// references reads REFERENCES' table, columns and actions.
func (p *Parser) references(c *ConstraintNote) Frag {
	pos := p.Pos()
	c.RefTable = p.relationName()
	f := p.cat(p.raw("REFERENCES"), p.tableIdent(c.RefTable, &TableNote{Name: c.RefTable, Pos: pos}, pos))
	if p.IsPunct("(") {
		f = p.cat(f, p.keyColumns(p.columnList()))
	}
	if p.Accept("match") {
		switch p.AcceptAny("full", "partial", "simple") {
		case "partial":
			p.Unsupported("MATCH PARTIAL is")
		case "full":
			p.Unsupported("MATCH FULL is")
		case "":
			p.Unexpected()
		}
	}
	seen := map[string]bool{}
	for p.Is("on") {
		p.Next()
		if p.Tok().Kind == pglex.Ident && seen[p.Tok().Text] {
			p.Unexpected()
		}
		ev := p.AcceptAny("delete", "update")
		if ev == "" {
			p.Unexpected()
		}
		seen[ev] = true
		act := ""
		switch {
		case p.AcceptSeq("no", "action"):
			act = "NO ACTION"
		case p.Accept("restrict"):
			act = "RESTRICT"
		case p.Accept("cascade"):
			act = "CASCADE"
		case p.AcceptSeq("set", "null"):
			act = "SET NULL"
		case p.AcceptSeq("set", "default"):
			act = "SET DEFAULT"
		default:
			p.Unexpected()
		}
		if p.IsPunct("(") {
			p.Unsupported("a column list in ON DELETE SET is")
		}
		f = p.cat(f, p.raw("ON "+upper(ev)+" "+act))
	}
	return f
}

func (p *Parser) keyColumns(cols []string) Frag {
	var ids []Frag
	for _, c := range cols {
		ids = append(ids, p.ident(c, -1))
	}
	return p.cat(p.raw("("), p.list(ids), p.raw(")"))
}

// constraintAttrs reads DEFERRABLE, INITIALLY …, NOT VALID, NO INHERIT.
func (p *Parser) constraintAttrs(c *ConstraintNote, kind string) {
	notDeferrable := false
	for {
		pos := p.Pos()
		switch {
		case p.AcceptSeq("not", "deferrable"):
			notDeferrable = true
		case p.Accept("deferrable"):
			c.Deferrable = true
		case p.AcceptSeq("initially", "deferred"):
			c.Deferrable, c.Deferred = true, true
		case p.AcceptSeq("initially", "immediate"):
		case kind == "check" && p.AcceptSeq("no", "inherit"):
			continue
		case kind != "" && p.AcceptSeq("not", "valid"):
			c.NotValid = true
			if kind != "check" && kind != "foreign key" {
				p.FailAt(sqlstate.FeatureNotSupported, pos, "%s constraints cannot be marked NOT VALID", upper(kind))
			}
			continue
		default:
			return
		}
		if kind == "check" {
			p.FailAt(sqlstate.FeatureNotSupported, pos, "CHECK constraints cannot be marked DEFERRABLE")
		}
		if notDeferrable && c.Deferrable {
			p.FailAt(sqlstate.SyntaxError, pos, "conflicting constraint properties")
		}
	}
}

// tableConstraint reads [CONSTRAINT name] PRIMARY KEY, UNIQUE, CHECK, FOREIGN KEY.
func (p *Parser) tableConstraint() (Frag, *ConstraintNote) {
	c := &ConstraintNote{}
	pos := p.Pos()
	if p.Accept("constraint") {
		c.Name = p.ColID()
	}
	head := func() Frag { return p.cat(p.raw("CONSTRAINT"), p.named(c.Name, c, pos)) }
	key := func(word, kind string) Frag {
		var cols Frag
		if p.AcceptSeq("using", "index") {
			c.UsingIndex = p.ColID()
			cols = p.keyColumns([]string{"x"})
		} else {
			cols = p.keyColumns(p.columnList())
			p.indexParams(c)
		}
		p.constraintAttrs(c, kind)
		return p.cat(head(), p.raw(word), cols)
	}
	switch {
	case p.AcceptSeq("primary", "key"):
		return key("PRIMARY KEY", "primary key"), c
	case p.Accept("unique"):
		p.nullsDistinct()
		return key("UNIQUE KEY", "unique"), c
	case p.Accept("check"):
		e := p.checkBody(c)
		p.constraintAttrs(c, "check")
		return p.cat(head(), p.raw("CHECK ("), e, p.raw(")")), c
	case p.AcceptSeq("foreign", "key"):
		cols := p.keyColumns(p.columnList())
		p.Expect("references")
		r := p.references(c)
		p.constraintAttrs(c, "foreign key")
		return p.cat(head(), p.raw("FOREIGN KEY"), cols, r), c
	case p.Is("exclude"):
		p.Unsupported("EXCLUDE constraints are")
	}
	p.Unexpected()
	return Frag{}, nil
}

// CreateIndex reads CREATE [UNIQUE] INDEX from the word CREATE on.
func (p *Parser) CreateIndex() Frag {
	p.Expect("create")
	n := &IndexNote{}
	x := &n.Index
	head := p.raw("CREATE INDEX")
	if p.Accept("unique") {
		x.Unique = true
		head = p.raw("CREATE UNIQUE INDEX")
	}
	p.Expect("index")
	x.Concurrently = p.Accept("concurrently")
	x.IfNotExists = p.ifNotExists()
	pos := p.Pos()
	if !p.Is("on") {
		x.Name = p.ColID()
	} else if x.IfNotExists {
		p.Unexpected()
	}
	p.Expect("on")
	only := p.Accept("only")
	tpos := p.Pos()
	x.Table = p.relationName()
	if p.Accept("using") {
		x.Using = p.ColID()
	}
	var keys []Frag
	p.ExpectPunct("(")
	for {
		it := pgast.IndexItem{}
		var e Frag
		e, it.Column, it.OpClass = p.indexKey()
		dir := Frag{}
		if p.Accept("desc") {
			it.Desc, dir = true, p.raw("DESC")
		} else {
			p.Accept("asc")
		}
		it.Nulls = p.nullsOrder()
		if it.Column != "" {
			keys = append(keys, p.cat(e, dir))
		} else {
			keys = append(keys, p.cat(p.raw("("), e, p.raw(")"), dir))
		}
		x.Items = append(x.Items, it)
		if !p.AcceptPunct(",") {
			break
		}
	}
	p.ExpectPunct(")")
	if p.Accept("include") {
		x.Include = p.columnList()
	}
	p.nullsDistinct()
	if p.Accept("with") {
		x.Options = p.options()
	}
	if p.Accept("tablespace") {
		p.ColID()
	}
	if p.Accept("where") {
		from := p.i
		n.Where = p.part(p.cat(p.raw("SELECT"), p.Expr()))
		p.PinAll(from, p.i)
	}
	p.End()
	return p.cat(head, p.named(x.Name, n, pos), p.raw("ON"),
		p.tableIdent(x.Table, &TableNote{Name: x.Table, Only: only, Pos: tpos}, tpos), p.raw("("), p.list(keys), p.raw(")"))
}

// SplitTable reads SPLIT TABLE t [INDEX i] BY (…), … | BETWEEN (…) AND (…) REGIONS n.
func (p *Parser) SplitTable() Frag {
	p.Expect("split", "table")
	pos := p.Pos()
	t := p.relationName()
	f := p.cat(p.raw("SPLIT TABLE"), p.tableIdent(t, &TableNote{Name: t, Pos: pos}, pos))
	if p.Accept("index") {
		f = p.cat(f, p.raw("INDEX"), p.ident(p.ColID(), -1))
	}
	if p.Accept("by") {
		f = p.cat(f, p.raw("BY"))
		for n := 0; ; n++ {
			if n > 0 {
				f = p.cat(f, p.raw(","))
			}
			f = p.cat(f, p.valuesRow())
			if !p.AcceptPunct(",") {
				break
			}
		}
	} else {
		p.Expect("between")
		lo := p.valuesRow()
		p.Expect("and")
		hi := p.valuesRow()
		p.Expect("regions")
		at := p.Pos()
		num := p.expectInt()
		if len(num) > 9 {
			p.FailAt(sqlstate.NumericValueOutOfRange, at, "REGIONS %s is out of range", num)
		}
		f = p.cat(f, p.raw("BETWEEN"), lo, p.raw("AND"), hi, p.raw("REGIONS "+num))
	}
	p.End()
	return f
}
