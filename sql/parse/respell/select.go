package respell

import (
	"github.com/spandb/spand/sql/parse/pglex"
)

// selectBody reads one SELECT up to its WINDOW clause.
func (p *Parser) selectBody() Frag {
	p.Expect("select")
	f := p.raw("SELECT")
	var on Frag
	needTargets := false
	switch {
	case p.Accept("distinct"):
		needTargets = true
		if p.Accept("on") {
			pos := p.Pos()
			p.ExpectPunct("(")
			keys := p.exprList()
			p.ExpectPunct(")")
			for _, k := range keys {
				p.pinOrdinal(k)
			}
			on = p.call(&DistinctOnNote{}, pos, keys...)
		} else {
			f = p.raw("SELECT DISTINCT")
		}
	default:
		p.Accept("all")
	}
	var targets Frag
	if needTargets || !p.selectListEnds() {
		targets = p.targets()
	} else {
		targets = p.call(&NoTargetsNote{}, -1)
	}
	if !on.Empty() {
		targets = p.cat(on, p.raw(","), targets)
	}
	f = p.cat(f, targets)
	if p.Is("into") {
		p.Unsupported("SELECT … INTO is")
	}
	hasFrom := p.Accept("from")
	var from, rest Frag
	if hasFrom {
		from = p.fromList()
	}
	if p.Accept("where") {
		rest = p.cat(rest, p.raw("WHERE"), p.Expr())
	}
	if p.IsSeq("group", "by") {
		p.i += 2
		rest = p.cat(rest, p.raw("GROUP BY"), p.groupBy())
	}
	if p.Accept("having") {
		rest = p.cat(rest, p.raw("HAVING"), p.Expr())
	}
	if p.Accept("window") {
		rest = p.cat(rest, p.windows())
	}
	switch {
	case hasFrom:
		f = p.cat(f, p.raw("FROM"), from)
	case !rest.Empty():
		f = p.cat(f, p.raw("FROM"), p.named("", &NoFromNote{}, -1))
	}
	f = p.cat(f, rest)
	f.depth++
	return f
}

// selectListEnds reports that no select list stands at the cursor.
func (p *Parser) selectListEnds() bool {
	t := p.Tok()
	switch t.Kind {
	case pglex.EOF:
		return true
	case pglex.Punct:
		return t.Text == ")"
	case pglex.Ident:
		switch t.Text {
		case "from", "where", "group", "having", "window", "union", "intersect", "except", "order", "limit", "offset", "fetch", "for", "into":
			return true
		}
	}
	return false
}

// targets reads a target list.
func (p *Parser) targets() Frag {
	var out Frag
	for {
		if p.IsOp("*") {
			out = p.cat(out, p.rawAt("*", p.Pos()))
			p.Next()
		} else {
			e := p.Expr()
			if p.asOfAhead() {
				out = p.cat(out, e)
			} else if p.Accept("as") {
				out = p.cat(out, e, p.raw("AS"), p.ident(p.ColLabel(), -1))
			} else if p.isBareLabel() {
				out = p.cat(out, e, p.raw("AS"), p.ident(p.ColLabel(), -1))
			} else {
				out = p.cat(out, e)
			}
		}
		if !p.AcceptPunct(",") {
			return out
		}
		out = p.cat(out, p.raw(","))
	}
}

// groupBy reads GROUP BY elements; ordinals, inside grouping sets too, are part
// of the shape.
func (p *Parser) groupBy() Frag {
	if p.Is("distinct") {
		p.Unsupported("GROUP BY DISTINCT is")
	}
	p.Accept("all")
	return p.list(p.groupItems())
}

func (p *Parser) groupItems() []Frag {
	var out []Frag
	for {
		pos := p.Pos()
		switch {
		case p.IsPunct("(") && isPunct(p.Peek(1), ")"):
			p.i += 2
			out = append(out, p.call(&GroupNote{Kind: "()"}, pos))
		case (p.Is("rollup") || p.Is("cube")) && isPunct(p.Peek(1), "("):
			kind, from := p.Tok().Text, p.i
			p.i += 2
			args := p.exprList()
			p.ExpectPunct(")")
			p.PinAll(from, p.i)
			out = append(out, p.call(&GroupNote{Kind: kind}, pos, args...))
		case p.IsSeq("grouping", "sets"):
			from := p.i
			p.i += 2
			p.enter()
			p.ExpectPunct("(")
			args := p.groupItems()
			p.ExpectPunct(")")
			p.leave()
			p.PinAll(from, p.i)
			out = append(out, p.call(&GroupNote{Kind: "grouping sets"}, pos, args...))
		default:
			e := p.Expr()
			p.pinOrdinal(e)
			out = append(out, e)
		}
		if !p.AcceptPunct(",") {
			return out
		}
	}
}

func (p *Parser) windows() Frag {
	f := p.raw("WINDOW")
	for {
		pos := p.Pos()
		name := p.ColID()
		p.Expect("as")
		spec, exclude := p.windowSpec()
		if exclude != "" {
			name += "\x00" + exclude
		}
		f = p.cat(f, p.ident(name, pos), p.raw("AS"), spec)
		if !p.AcceptPunct(",") {
			return f
		}
		f = p.cat(f, p.raw(","))
	}
}
