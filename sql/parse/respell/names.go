package respell

import (
	"strings"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
)

func (p *Parser) category() (pglex.Category, bool) {
	t := p.Tok()
	switch t.Kind {
	case pglex.QuotedIdent:
		return pglex.NotKeyword, true
	case pglex.Ident:
		return pglex.LookupKeyword(t.Text).Category, true
	}
	return 0, false
}

// IsColID reports whether the current token can name a column or a table.
func (p *Parser) IsColID() bool {
	c, ok := p.category()
	return ok && (c == pglex.NotKeyword || c == pglex.Unreserved || c == pglex.ColName) && !p.joinedWord()
}

// TypeFuncName reads the name of a function's parameter.
func (p *Parser) TypeFuncName() string {
	c, ok := p.category()
	if !ok || c == pglex.Reserved || c == pglex.ColName {
		p.Unexpected()
	}
	s := p.Tok().Text
	p.Next()
	return s
}

// ColID reads the name of a column or table.
func (p *Parser) ColID() string {
	if !p.IsColID() {
		p.Unexpected()
	}
	s := p.Tok().Text
	p.Next()
	return s
}

// NonReserved reads a NonReservedWord.
func (p *Parser) NonReserved() string {
	c, ok := p.category()
	if !ok || c == pglex.Reserved {
		p.Unexpected()
	}
	s := p.Tok().Text
	p.Next()
	return s
}

// ColLabel reads a name that may be any keyword, but not one that PostgreSQL's
// lexer has joined with the word behind it.
func (p *Parser) ColLabel() string {
	if _, ok := p.category(); !ok || p.joinedWord() {
		p.Unexpected()
	}
	s := p.Tok().Text
	p.Next()
	return s
}

func (p *Parser) joinedWord() bool {
	t := p.Tok()
	if t.Kind != pglex.Ident {
		return false
	}
	n := p.Peek(1)
	if n.Kind != pglex.Ident {
		return false
	}
	switch t.Text {
	case "not":
		return contains("between in like ilike similar", n.Text)
	case "nulls":
		return contains("first last", n.Text)
	case "with":
		return contains("time ordinality", n.Text)
	}
	return false
}

// isBareLabel reports whether the current token can be a column label without AS.
func (p *Parser) isBareLabel() bool {
	t := p.Tok()
	switch t.Kind {
	case pglex.QuotedIdent:
		return true
	case pglex.Ident:
		return !pglex.LookupKeyword(t.Text).NeedsAs
	}
	return false
}

// AnyName reads a possibly qualified name.
func (p *Parser) AnyName() pgast.Name {
	n := pgast.Name{p.ColID()}
	for p.AcceptPunct(".") {
		n = append(n, p.ColLabel())
	}
	return n
}

// relationName is AnyName with the limit that tables have.
func (p *Parser) relationName() pgast.Name {
	pos := p.Pos()
	n := p.AnyName()
	if len(n) > 3 {
		p.FailAt("42601", pos, "improper qualified name (too many dotted names): %s", strings.Join(n, "."))
	}
	return n
}

// tableIdent spells a table's name with its note.
func (p *Parser) tableIdent(n pgast.Name, note any, pos int) Frag {
	f := p.named(n.Last(), note, pos)
	if len(n) > 1 {
		f = p.cat(p.ident(n[len(n)-2], pos), p.raw("."), f)
	}
	return f
}

// nameList reads name, name, …
func (p *Parser) nameList() []string {
	out := []string{p.ColID()}
	for p.AcceptPunct(",") {
		out = append(out, p.ColID())
	}
	return out
}

// columnList reads (name, name, …).
func (p *Parser) columnList() []string {
	p.ExpectPunct("(")
	out := p.nameList()
	p.ExpectPunct(")")
	return out
}

// AnyNames reads a comma-separated list of qualified names.
func (p *Parser) AnyNames() []pgast.Name {
	out := []pgast.Name{p.AnyName()}
	for p.AcceptPunct(",") {
		out = append(out, p.AnyName())
	}
	return out
}
