package respell

import (
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
	"github.com/spandb/spand/sql/sqlstate"
)

// ifNotExists reads IF NOT EXISTS.
func (p *Parser) ifNotExists() bool {
	if !p.Is("if") {
		return false
	}
	if !p.IsSeq("if", "not", "exists") {
		return false
	}
	p.i += 3
	return true
}

// IfExists reads IF EXISTS.
func (p *Parser) IfExists() bool { return p.AcceptSeq("if", "exists") }

// Other reports the tag of a statement that was parsed but that the tree has no
// node for, "" otherwise.
func (p *Parser) Other() string { return p.other }

// CreateTable reads CREATE … TABLE from the word CREATE on.
func (p *Parser) CreateTable() Frag {
	p.Expect("create")
	n := &CreateTableNote{}
	t := &n.Table
	if p.AcceptAny("global", "local") != "" && !p.Is("temp") && !p.Is("temporary") {
		p.Unexpected()
	}
	switch p.AcceptAny("temp", "temporary", "unlogged") {
	case "temp", "temporary":
		t.Temporary = true
	case "unlogged":
		t.Unlogged = true
	}
	p.Expect("table")
	t.IfNotExists = p.ifNotExists()
	pos := p.Pos()
	t.Name = p.relationName()
	p.table = t.Name.Last()
	var elems []Frag
	asColumns := false
	switch {
	case p.AcceptSeq("partition", "of"):
		p.other = "CREATE TABLE"
		p.AnyName()
		if p.IsPunct("(") {
			elems = p.tableElements(n, true)
		}
		p.partitionBound()
	case p.Accept("of"):
		p.other = "CREATE TABLE"
		p.AnyName()
		if p.IsPunct("(") {
			elems = p.tableElements(n, true)
		}
	case p.IsPunct("(") && p.ctasColumns():
		asColumns = true
		for _, c := range p.columnList() {
			t.Columns = append(t.Columns, pgast.ColumnDef{Name: c, Pos: -1})
		}
	case p.IsPunct("("):
		elems = p.tableElements(n, false)
	default:
		asColumns = true
	}
	if !asColumns && p.Accept("inherits") {
		p.other = "CREATE TABLE"
		p.ExpectPunct("(")
		p.AnyNames()
		p.ExpectPunct(")")
	}
	if !asColumns && p.IsSeq("partition", "by") {
		p.partitionBy()
	}
	if p.Accept("using") {
		p.ColID()
	}
	if p.IsThen("with", "(") {
		p.Next()
		t.Options = p.options()
	} else {
		p.AcceptSeq("without", "oids")
	}
	if p.AcceptSeq("on", "commit") {
		if !p.Accept("drop") {
			if p.AcceptAny("delete", "preserve") == "" {
				p.Unexpected()
			}
			p.Expect("rows")
		}
	}
	if p.Accept("tablespace") {
		p.ColID()
	}
	if !asColumns && p.Accept("interleave") {
		p.Expect("in", "parent")
		t.Interleave = p.relationName()
	}
	if asColumns {
		p.Expect("as")
		if p.Is("execute") {
			p.Unsupported("CREATE TABLE AS EXECUTE is")
		}
		n.As = p.part(p.Query())
		if p.AcceptSeq("with", "no", "data") {
			t.WithNoData = true
		} else {
			p.AcceptSeq("with", "data")
		}
	}
	p.End()
	if len(elems) == 0 {
		// The grammar wants a column; lift knows this one by its missing note.
		elems = []Frag{p.cat(p.ident("x", -1), p.raw("BLOB"))}
	}
	return p.cat(p.raw("CREATE TABLE"), p.tableIdent(t.Name, n, pos), p.raw("("), p.list(elems), p.raw(")"))
}

// ctasColumns tells (a, b) AS query from a list of definitions: a name alone
// cannot define a column.
func (p *Parser) ctasColumns() bool {
	if k := p.Peek(1).Kind; k != pglex.Ident && k != pglex.QuotedIdent {
		return false
	}
	return isPunct(p.Peek(2), ",") || isPunct(p.Peek(2), ")")
}

func (p *Parser) partitionBy() {
	p.other = "CREATE TABLE"
	p.Expect("partition", "by")
	p.ColID()
	p.ExpectPunct("(")
	for {
		p.indexKey()
		if !p.AcceptPunct(",") {
			break
		}
	}
	p.ExpectPunct(")")
}

func (p *Parser) partitionBound() {
	if p.Accept("default") {
		return
	}
	p.Expect("for", "values")
	switch {
	case p.Accept("in"):
		p.ExpectPunct("(")
		p.exprList()
		p.ExpectPunct(")")
	case p.Accept("from"):
		p.ExpectPunct("(")
		p.exprList()
		p.ExpectPunct(")")
		p.Expect("to")
		p.ExpectPunct("(")
		p.exprList()
		p.ExpectPunct(")")
	case p.Accept("with"):
		p.ExpectPunct("(")
		for {
			p.NonReserved()
			p.expectInt()
			if !p.AcceptPunct(",") {
				break
			}
		}
		p.ExpectPunct(")")
	default:
		p.Unexpected()
	}
}

// options reads ( name [= value], … ), a reloptions list.
func (p *Parser) options() []pgast.Option {
	var out []pgast.Option
	from := p.i
	p.ExpectPunct("(")
	for {
		o := pgast.Option{Name: p.ColLabel()}
		if p.AcceptPunct(".") {
			o.Name += "." + p.ColLabel()
		}
		if p.AcceptOp("=") {
			o.Value = p.defArg()
		}
		out = append(out, o)
		if !p.AcceptPunct(",") {
			break
		}
	}
	p.ExpectPunct(")")
	p.PinAll(from, p.i)
	return out
}

// defArg reads an option's value: a word, a name, a number, a string.
func (p *Parser) defArg() string {
	switch t := p.Tok(); t.Kind {
	case pglex.Str, pglex.Int, pglex.Num:
		return p.Pin()
	case pglex.Op:
		if t.Text == "-" || t.Text == "+" {
			p.Next()
			if k := p.Tok().Kind; k != pglex.Int && k != pglex.Num {
				p.Unexpected()
			}
			v := p.Pin()
			if t.Text == "-" {
				v = "-" + v
			}
			return v
		}
		p.Next()
		return t.Text
	}
	v := p.ColLabel()
	for p.AcceptPunct(".") {
		v += "." + p.ColLabel()
	}
	return v
}

func (p *Parser) tableElements(n *CreateTableNote, typed bool) []Frag {
	p.ExpectPunct("(")
	var out []Frag
	if p.AcceptPunct(")") {
		return nil
	}
	for {
		switch {
		case p.constraintAhead():
			f, _ := p.tableConstraint()
			out = append(out, f)
		case p.Accept("like"):
			n.Table.Like = append(n.Table.Like, p.relationName())
			for p.AcceptAny("including", "excluding") != "" {
				if p.AcceptAny("all", "comments", "compression", "constraints", "defaults", "generated", "identity", "indexes", "statistics", "storage") == "" {
					p.Unexpected()
				}
			}
		default:
			out = append(out, p.columnDef(typed))
		}
		if !p.AcceptPunct(",") {
			break
		}
	}
	p.ExpectPunct(")")
	return out
}

func (p *Parser) constraintAhead() bool {
	switch {
	case p.Is("constraint"), p.Is("check"), p.Is("primary"), p.Is("unique"), p.Is("foreign"), p.Is("exclude") && !p.columnFollows():
		return true
	}
	return false
}

// columnFollows tells a column that is called like the unreserved word EXCLUDE.
func (p *Parser) columnFollows() bool {
	return !isPunct(p.Peek(1), "(") && !isWord(p.Peek(1), "using")
}

// columnDef reads a column; typed ones have no type of their own.
func (p *Parser) columnDef(typed bool) Frag {
	n := &ColumnDefNote{}
	d := &n.Def
	d.Pos = p.Pos()
	d.Name = p.ColID()
	if typed {
		p.AcceptSeq("with", "options")
	} else {
		d.Type = p.TypeName()
	}
	if p.Accept("storage") {
		p.ColID()
	}
	if p.Accept("compression") {
		p.ColLabel()
	}
	f := p.cat(p.named(d.Name, n, d.Pos), p.raw("BLOB"))
	hasDefault, generated := false, false
	for {
		o, kind, ok := p.columnConstraint(n)
		if !ok {
			break
		}
		switch kind {
		case "default":
			if hasDefault {
				p.FailAt(sqlstate.SyntaxError, d.Pos, "multiple default values specified for column \"%s\" of table \"%s\"", d.Name, p.table)
			}
			hasDefault = true
		case "generated":
			generated = true
		}
		if hasDefault && generated {
			p.FailAt(sqlstate.SyntaxError, d.Pos, "both default and generation expression specified for column \"%s\" of table \"%s\"", d.Name, p.table)
		}
		f = p.cat(f, o)
	}
	if d.NotNull && d.Null {
		p.FailAt(sqlstate.SyntaxError, d.Pos, "conflicting NULL/NOT NULL declarations for column \"%s\" of table \"%s\"", d.Name, p.table)
	}
	return f
}

// columnConstraint reads one column constraint; ok is false if none follows.
func (p *Parser) columnConstraint(n *ColumnDefNote) (f Frag, kind string, ok bool) {
	d := &n.Def
	c := ConstraintNote{}
	named := p.Accept("constraint")
	if named {
		c.Name = p.ColID()
	}
	keep := func(f Frag, kind string) (Frag, string, bool) {
		p.constraintAttrs(&c, "")
		n.Constraints = append(n.Constraints, c)
		return f, kind, true
	}
	switch {
	case p.AcceptSeq("not", "null"):
		d.NotNull = true
		return Frag{}, "", true
	case p.Accept("null"):
		d.Null = true
		return Frag{}, "", true
	case p.AcceptSeq("primary", "key"):
		p.indexParams(&c)
		return keep(p.raw("PRIMARY KEY"), "primary key")
	case p.Accept("unique"):
		p.nullsDistinct()
		p.indexParams(&c)
		return keep(p.raw("UNIQUE KEY"), "unique")
	case p.Accept("check"):
		e := p.checkBody(&c)
		return keep(p.cat(p.raw("CHECK ("), e, p.raw(")")), "check")
	case p.Accept("references"):
		return keep(p.references(&c), "foreign key")
	case p.Accept("default"):
		from := p.i
		e := p.bExpr()
		d.DefaultText = p.TextSince(from)
		// The catalog shows the default's text, so its constants are shape.
		p.PinAll(from, p.i)
		return p.cat(p.raw("DEFAULT"), p.call(&DefaultExprNote{}, -1, e)), "default", true
	case p.Accept("generated"):
		return p.generated(d)
	case !named && p.Accept("collate"):
		d.Collation = p.AnyName()
		return Frag{}, "", true
	}
	if named {
		p.Unexpected()
	}
	return Frag{}, "", false
}

func (p *Parser) generated(d *pgast.ColumnDef) (Frag, string, bool) {
	pos := p.Pos()
	byDefault := p.AcceptSeq("by", "default")
	if !byDefault {
		p.Expect("always")
	}
	p.Expect("as")
	if p.Accept("identity") {
		d.Identity = "always"
		if byDefault {
			d.Identity = "by default"
		}
		if p.AcceptPunct("(") {
			from := p.i
			p.SequenceOptions()
			p.PinAll(from, p.i)
			p.ExpectPunct(")")
		}
		return Frag{}, "", true
	}
	if byDefault && p.IsPunct("(") {
		p.FailAt(sqlstate.SyntaxError, pos, "for a generated column, GENERATED ALWAYS must be specified")
	}
	p.ExpectPunct("(")
	from := p.i
	e := p.Expr()
	d.DefaultText = p.TextSince(from)
	p.PinAll(from, p.i)
	p.ExpectPunct(")")
	p.Expect("stored")
	return p.cat(p.raw("GENERATED ALWAYS AS ("), e, p.raw(") STORED")), "generated", true
}

// SequenceOptions reads the options of CREATE SEQUENCE; at least one.
func (p *Parser) SequenceOptions() {
	num := func() {
		if !p.AcceptOp("-") {
			p.AcceptOp("+")
		}
		if k := p.Tok().Kind; k != pglex.Int && k != pglex.Num {
			p.Unexpected()
		}
		p.Pin()
	}
	for n := 0; ; n++ {
		switch {
		case p.Accept("as"):
			p.simpleType()
		case p.Accept("cache"), p.Accept("maxvalue"), p.Accept("minvalue"):
			num()
		case p.Accept("increment"):
			p.Accept("by")
			num()
		case p.Accept("start"):
			p.Accept("with")
			num()
		case p.Accept("restart"):
			p.Accept("with")
			if k := p.Tok().Kind; k == pglex.Int || k == pglex.Num || p.IsOp("-") {
				num()
			}
		case p.Accept("cycle"):
		case p.Accept("no"):
			if p.AcceptAny("cycle", "maxvalue", "minvalue") == "" {
				p.Unexpected()
			}
		case p.AcceptSeq("owned", "by"):
			p.AnyName()
		case p.AcceptSeq("sequence", "name"):
			p.AnyName()
		default:
			if n == 0 {
				p.Unexpected()
			}
			return
		}
	}
}
