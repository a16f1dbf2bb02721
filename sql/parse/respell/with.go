package respell

// with reads WITH [RECURSIVE] …
func (p *Parser) with() Frag {
	p.Expect("with")
	f := p.raw("WITH")
	// A CTE can be called recursive.
	if n := p.Peek(1); p.Is("recursive") && !isPunct(n, "(") && !isWord(n, "as") {
		p.Next()
		f = p.raw("WITH RECURSIVE")
	}
	for {
		f = p.cat(f, p.cte())
		if !p.AcceptPunct(",") {
			return f
		}
		f = p.cat(f, p.raw(","))
	}
}

func (p *Parser) cte() Frag {
	pos := p.Pos()
	name := p.ColID()
	var cols Frag
	if p.IsPunct("(") {
		var ids []Frag
		for _, c := range p.columnList() {
			ids = append(ids, p.ident(c, -1))
		}
		cols = p.cat(p.raw("("), p.list(ids), p.raw(")"))
	}
	p.Expect("as")
	n := &CTENote{}
	if p.AcceptSeq("not", "materialized") {
		n.Materialized = new(bool)
	} else if p.Accept("materialized") {
		yes := true
		n.Materialized = &yes
	}
	p.ExpectPunct("(")
	p.enter()
	defer p.leave()
	var body Frag
	if f, ok := p.dmlAhead(); ok {
		n.Part = p.part(f)
		body = p.raw("( SELECT 0 )")
	} else {
		body = p.subquery(p.topQuery())
	}
	p.ExpectPunct(")")
	if p.Is("search") || p.Is("cycle") {
		p.Unsupported("WITH … " + upper(p.Tok().Text) + " is")
	}
	return p.cat(p.named(name, n, pos), cols, p.raw("AS"), body)
}

// closing finds the parenthesis that closes the one at token i, -1 if none does.
// All pairs are found at once, so that nested WITHs cost no more than one.
func (p *Parser) closing(i int) int {
	if p.closer == nil {
		p.closer = make([]int32, len(p.toks))
		var open []int32
		for k := range p.toks {
			p.closer[k] = -1
			switch {
			case isPunct(&p.toks[k], "("):
				open = append(open, int32(k))
			case isPunct(&p.toks[k], ")") && len(open) > 0:
				p.closer[open[len(open)-1]] = int32(k)
				open = open[:len(open)-1]
			}
		}
	}
	return int(p.closer[i])
}

// dmlAhead reads an INSERT, UPDATE or DELETE if one begins at the cursor,
// behind a WITH of its own perhaps.
func (p *Parser) dmlAhead() (Frag, bool) {
	switch {
	case p.Is("insert"), p.Is("update"), p.Is("delete"):
		return p.DML(), true
	case p.Is("with"):
		// The WITH list must be crossed to know what it belongs to.
		for i := p.i + 1; i < len(p.toks)-1; i++ {
			t := &p.toks[i]
			switch {
			case isPunct(t, "("):
				if i = p.closing(i); i < 0 {
					return Frag{}, false
				}
			case isPunct(t, ")"):
				return Frag{}, false
			case !isPunct(&p.toks[i-1], ")"):
			case isWord(t, "insert"), isWord(t, "update"), isWord(t, "delete"):
				return p.DML(), true
			case isWord(t, "select"), isWord(t, "values"), isWord(t, "table"):
				return Frag{}, false
			}
		}
	}
	return Frag{}, false
}
