package respell

import (
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
	"github.com/spandb/spand/sql/sqlstate"
)

// fromList reads the comma list of FROM.
func (p *Parser) fromList() Frag {
	f, _ := p.tableRef()
	for p.AcceptPunct(",") {
		t, _ := p.tableRef()
		f = p.cat(f, p.raw(","), t)
	}
	return f
}

// tableRef reads a table_ref; join tells that it is a joined_table.
func (p *Parser) tableRef() (f Frag, join bool) {
	p.enter()
	defer p.leave()
	f, join = p.tablePrimary()
	return p.joins(f, join)
}

func (p *Parser) joins(f Frag, join bool) (Frag, bool) {
	for p.joinAhead() {
		f = p.join(f)
		join = true
	}
	return f, join
}

func (p *Parser) joinAhead() bool {
	t := p.Tok()
	if t.Kind != pglex.Ident {
		return false
	}
	switch t.Text {
	case "join", "cross", "natural", "inner", "left", "right", "full":
		return true
	}
	return false
}

// join reads one join behind its left side. Every join is put in parentheses,
// so that the grammar's own associativity does not matter.
func (p *Parser) join(left Frag) Frag {
	if p.AcceptSeq("cross", "join") {
		right, _ := p.tablePrimary()
		return p.wrapJoin(left, p.raw("CROSS JOIN"), right)
	}
	natural := p.Accept("natural")
	typ := p.AcceptAny("inner", "left", "right", "full")
	if typ == "" {
		typ = "inner"
	} else if typ != "inner" {
		p.Accept("outer")
	}
	p.Expect("join")
	right, rj := p.tablePrimary()
	word := map[string]string{"inner": "JOIN", "left": "LEFT JOIN", "right": "RIGHT JOIN", "full": "LEFT JOIN"}[typ]
	n := &JoinNote{Type: typ, Natural: natural}
	if natural {
		if typ == "full" {
			return p.wrapJoin(left, p.raw(word), right, p.raw("ON"), p.call(n, -1))
		}
		return p.wrapJoin(left, p.raw("NATURAL "+word), right)
	}
	for p.joinAhead() {
		right, rj = p.join(right), true
	}
	_ = rj
	switch {
	case p.Accept("on"):
		on := p.Expr()
		if typ == "full" {
			n.On = true
			on = p.call(n, -1, on)
		}
		return p.wrapJoin(left, p.raw(word), right, p.raw("ON"), on)
	case p.Accept("using"):
		n.Using = p.columnList()
		if p.Accept("as") {
			n.Alias = pgast.Alias{Name: p.ColID()}
		}
		if typ == "full" || n.Alias.Name != "" {
			return p.wrapJoin(left, p.raw(word), right, p.raw("ON"), p.call(n, -1))
		}
		var cols []Frag
		for _, c := range n.Using {
			cols = append(cols, p.ident(c, -1))
		}
		return p.wrapJoin(left, p.raw(word), right, p.raw("USING ("), p.list(cols), p.raw(")"))
	}
	p.Unexpected()
	return Frag{}
}

func (p *Parser) wrapJoin(fs ...Frag) Frag {
	f := p.cat(append([]Frag{p.raw("(")}, fs...)...)
	f = p.cat(f, p.raw(")"))
	f.depth++
	return f
}

func (p *Parser) tablePrimary() (f Frag, join bool) {
	lateral := p.Accept("lateral")
	pos := p.Pos()
	switch {
	case p.IsPunct("("):
		p.Next()
		if lateral {
			p.needQuery()
		}
		q, t, j := p.fromParen()
		p.ExpectPunct(")")
		if q != nil {
			return p.derived(q, lateral, pos), false
		}
		if lateral || !j {
			p.UnexpectedAt(p.i - 1)
		}
		return p.joinAlias(t)
	case p.IsSeq("rows", "from") && isPunct(p.Peek(2), "("):
		return p.rowsFrom(lateral), false
	case p.Is("xmltable"):
		p.Unsupported("XML is")
	case !lateral && p.Is("only"):
		return p.relationRef(true), false
	}
	start := p.i
	if t := p.Tok(); t.Kind == pglex.Ident {
		if word := t.Text; pglex.LookupKeyword(word).Category != pglex.Unreserved || word == "current_schema" {
			if e, ok := p.keywordExprTable(word, pos); ok {
				return p.funcTable(e, lateral), false
			}
		}
		if pglex.LookupKeyword(t.Text).Category == pglex.TypeFunc {
			if !isPunct(p.Peek(1), "(") {
				p.UnexpectedAt(p.i + 1)
			}
			p.Next()
			return p.funcTable(p.tableFunc(pgast.Name{t.Text}, start, pos), lateral), false
		}
	}
	name := p.relationName()
	if p.IsPunct("(") {
		if t := &p.toks[start]; len(name) == 1 && t.Kind == pglex.Ident && pglex.LookupKeyword(t.Text).Category == pglex.ColName {
			p.Unexpected()
		}
		return p.funcTable(p.tableFunc(name, start, pos), lateral), false
	}
	if lateral {
		p.Unexpected()
	}
	return p.relationTail(name, false, pos, true), false
}

// keywordExprTable allows CURRENT_DATE and the like in FROM.
func (p *Parser) keywordExprTable(word string, pos int) (Frag, bool) {
	switch word {
	case "current_date", "current_role", "current_user", "session_user", "user", "current_catalog", "current_schema",
		"current_time", "current_timestamp", "localtime", "localtimestamp", "coalesce", "greatest", "least", "nullif",
		"extract", "overlay", "position", "substring", "trim", "cast", "normalize":
		return p.keywordExpr(word, pos)
	}
	return Frag{}, false
}

// fromParen reads the inside of a parenthesis in FROM: a query or a joined table.
func (p *Parser) fromParen() (q *query, t Frag, join bool) {
	p.enter()
	defer p.leave()
	if !p.queryAhead() {
		t, join = p.tableRef()
		return nil, t, join
	}
	if !p.IsPunct("(") {
		return p.query(nil), Frag{}, false
	}
	pos := p.Pos()
	p.Next()
	q, t, join = p.fromParen()
	p.ExpectPunct(")")
	if q == nil {
		if !join {
			p.UnexpectedAt(p.i - 1)
		}
		t, join = p.joins(p.joinAlias(t))
		return nil, t, join
	}
	q.parens = true
	switch {
	case p.IsPunct(")"):
		return q, Frag{}, false
	case p.continuesQuery():
		return p.query(q), Frag{}, false
	}
	t, join = p.joins(p.derived(q, false, pos), false)
	return nil, t, join
}

// joinAlias reads an alias behind ( joined_table ); with one it is a table, not
// a joined_table any more.
func (p *Parser) joinAlias(t Frag) (Frag, bool) {
	a := p.alias(false)
	if a == nil {
		return t, true
	}
	return p.wrapJoin(t, p.raw("CROSS JOIN"), p.named("", &JoinNote{Alias: *a}, -1)), false
}

// derived reads the alias that a subquery in FROM must have.
func (p *Parser) derived(q *query, lateral bool, pos int) Frag {
	a := p.alias(false)
	if a == nil {
		what := "subquery"
		eg := "(SELECT ...)"
		if q.values {
			what, eg = "VALUES", "(VALUES ...)"
		}
		p.Fail(sqlstate.Newf(sqlstate.SyntaxError, "%s in FROM must have an alias", what).
			WithHint("For example, FROM %s [AS] foo.", eg).At(p.src, pos))
	}
	f := p.cat(p.subquery(q), p.raw("AS"), p.named(a.Name, &AliasNote{Columns: a.Columns}, -1))
	if lateral {
		f = p.cat(p.raw("LATERAL"), f)
	}
	return f
}

// alias reads [AS] name [(columns)]; nil if there is none. In a target position
// of UPDATE, SET is not an alias.
func (p *Parser) alias(target bool) *pgast.Alias {
	if p.asOfAhead() {
		return nil
	}
	if !p.Accept("as") {
		if !p.IsColID() || target && p.Is("set") {
			return nil
		}
	}
	a := &pgast.Alias{Name: p.ColID()}
	if !target && p.IsPunct("(") {
		a.Columns = p.columnList()
	}
	return a
}

// relationRef reads [ONLY] name [*] with no alias.
func (p *Parser) relationRef(alias bool) Frag {
	pos := p.Pos()
	only := p.Accept("only")
	if only && p.AcceptPunct("(") {
		pos = p.Pos()
		n := p.relationName()
		p.ExpectPunct(")")
		return p.relationTail(n, true, pos, alias)
	}
	if only {
		pos = p.Pos()
	}
	return p.relationTail(p.relationName(), only, pos, alias)
}

func (p *Parser) relationTail(name pgast.Name, only bool, pos int, alias bool) Frag {
	if !only {
		p.AcceptOp("*")
	}
	f := p.tableIdent(name, &TableNote{Name: name, Only: only, Pos: pos}, pos)
	if !alias {
		return f
	}
	asOf := p.asOf()
	if a := p.alias(false); a != nil {
		f = p.cat(f, p.raw("AS"), p.named(a.Name, &AliasNote{Columns: a.Columns}, -1))
	}
	if asOf.Empty() {
		asOf = p.asOf()
	}
	if p.Is("tablesample") {
		p.Unsupported("TABLESAMPLE is")
	}
	return p.cat(f, asOf)
}

// asOfAhead looks for the clause that PostgreSQL does not have, so that a near
// miss is judged as PostgreSQL would.
func (p *Parser) asOfAhead() bool {
	return p.Is("as") && isWord(p.Peek(1), "of") && isWord(p.Peek(2), "timestamp")
}

func (p *Parser) asOf() Frag {
	if !p.asOfAhead() {
		return Frag{}
	}
	p.i += 3
	return p.cat(p.raw("AS OF TIMESTAMP"), p.Expr())
}

// tableFunc reads a function's arguments in FROM, where no OVER can follow.
func (p *Parser) tableFunc(name pgast.Name, start, pos int) Frag {
	f := p.funcCall(name, start, pos)
	return f
}

func (p *Parser) rowsFrom(lateral bool) Frag {
	p.i += 3
	var fs []Frag
	for {
		start, pos := p.i, p.Pos()
		name := p.AnyName()
		if !p.IsPunct("(") {
			p.Unexpected()
		}
		fs = append(fs, p.tableFunc(name, start, pos))
		if p.Is("as") {
			p.Unsupported("a column definition list in ROWS FROM is")
		}
		if !p.AcceptPunct(",") {
			break
		}
	}
	p.ExpectPunct(")")
	return p.funcTable(p.list(fs), lateral)
}

// funcTable reads WITH ORDINALITY and the alias behind functions in FROM.
func (p *Parser) funcTable(fs Frag, lateral bool) Frag {
	n := &FuncTableNote{Lateral: lateral, Ordinality: p.acceptPair("with", "ordinality")}
	an := &AliasNote{}
	name := ""
	as := !p.asOfAhead() && p.Accept("as")
	switch {
	case as && p.IsPunct("("):
		an.ColumnDefs = p.tableFuncColumns()
	case as || p.IsColID():
		name = p.ColID()
		if p.IsPunct("(") {
			if t := p.Peek(2); isPunct(t, ",") || isPunct(t, ")") {
				an.Columns = p.columnList()
			} else {
				an.ColumnDefs = p.tableFuncColumns()
			}
		}
	}
	return p.cat(p.raw("( SELECT"), p.call(n, -1, fs), p.raw(") AS"), p.named(name, an, -1))
}

func (p *Parser) tableFuncColumns() []pgast.ColumnDef {
	p.ExpectPunct("(")
	var out []pgast.ColumnDef
	for {
		c := pgast.ColumnDef{Pos: p.Pos(), Name: p.ColID()}
		c.Type = p.TypeName()
		if p.Accept("collate") {
			c.Collation = p.AnyName()
		}
		out = append(out, c)
		if !p.AcceptPunct(",") {
			break
		}
	}
	p.ExpectPunct(")")
	return out
}
