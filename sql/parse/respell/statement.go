package respell

import (
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
)

// Statement respells a query, DML or one of the grammar's DDL statements that
// begins at the cursor; ok is false if something else begins there.
func (p *Parser) Statement() (f Frag, ok bool) {
	switch {
	case p.IsPunct("("), p.Is("select"), p.Is("values"), p.Is("table"):
		return p.Query(), true
	case p.Is("with"):
		if f, ok := p.dmlAhead(); ok {
			return f, true
		}
		return p.Query(), true
	case p.Is("insert"), p.Is("update"), p.Is("delete"):
		return p.DML(), true
	case p.IsSeq("split", "table"):
		return p.SplitTable(), true
	case p.IsSeq("alter", "table"):
		return p.AlterTable(), true
	case p.Is("create"):
		i := 1
		for isWord(p.Peek(i), "global") || isWord(p.Peek(i), "local") || isWord(p.Peek(i), "temp") ||
			isWord(p.Peek(i), "temporary") || isWord(p.Peek(i), "unlogged") {
			i++
		}
		if isWord(p.Peek(i), "table") {
			return p.CreateTable(), true
		}
		if isWord(p.Peek(1), "index") || isWord(p.Peek(1), "unique") {
			return p.CreateIndex(), true
		}
	}
	return Frag{}, false
}

// AddQuery reads a query into a part and returns the part's number.
func (p *Parser) AddQuery() int { return p.part(p.Query()) }

// AddExprs reads a list of expressions into a part.
func (p *Parser) AddExprs() int {
	return p.part(p.cat(p.raw("SELECT"), p.list(p.exprList())))
}

// AddExpr reads one expression into a part.
func (p *Parser) AddExpr() int { return p.part(p.cat(p.raw("SELECT"), p.Expr())) }

// Options reads ( name [= value], … ).
func (p *Parser) Options() []pgast.Option { return p.options() }

// CreatesAs reports that the CREATE TABLE just read has a query.
func (p *Parser) CreatesAs() bool {
	for i := len(p.notes) - 1; i >= 0; i-- {
		if n, ok := p.notes[i].(*CreateTableNote); ok {
			return n.As > 0
		}
	}
	return false
}

// HasParts reports whether anything needs the grammar.
func (p *Parser) HasParts() bool { return len(p.parts) > 0 }

// Nothing is a statement that carries only parts.
func (p *Parser) Nothing() Frag { return p.raw("SELECT 0") }

// SetOther marks the statement as one that is parsed but has no tree.
func (p *Parser) SetOther(tag string) { p.other = tag }

// Slots gives the statement's slots, pins included, without rendering.
func (p *Parser) Slots() ([]Slot, int) { return p.slots, p.params }

// ColumnList reads (name, …).
func (p *Parser) ColumnList() []string { return p.columnList() }

// NameList reads name, ….
func (p *Parser) NameList() []string { return p.nameList() }

// IfNotExists reads IF NOT EXISTS.
func (p *Parser) IfNotExists() bool { return p.ifNotExists() }

// Str reads a string literal by value.
func (p *Parser) Str() string {
	if p.Tok().Kind != pglex.Str {
		p.Unexpected()
	}
	return p.Pin()
}

// SignedInt reads a signed integer by value.
func (p *Parser) SignedInt() string {
	sign := ""
	if p.AcceptOp("-") {
		sign = "-"
	} else {
		p.AcceptOp("+")
	}
	return sign + p.expectInt()
}

// DefArg reads an option's value.
func (p *Parser) DefArg() string { return p.defArg() }
