package respell

import (
	"strconv"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
)

// TypeName reads a Typename: SETOF, modifiers and array bounds included. The
// literals in it are part of the shape.
func (p *Parser) TypeName() pgast.TypeName {
	from := p.i
	setof := p.Accept("setof")
	t := p.simpleType()
	if t.Name.Last() == "interval" && len(t.Name) == 1 && t.Mods == nil {
		if f := p.intervalFields(); len(f) > 0 {
			t.Mods = append(f, t.Mods...)
		}
	}
	t.SetOf = setof
	switch {
	case p.Accept("array"):
		t.Array = 1
		if p.AcceptPunct("[") {
			p.expectInt()
			p.ExpectPunct("]")
		}
	default:
		for p.AcceptPunct("[") {
			if p.Tok().Kind == pglex.Int {
				p.Next()
			}
			p.ExpectPunct("]")
			t.Array++
		}
	}
	p.PinAll(from, p.i)
	return t
}

func (p *Parser) expectInt() string {
	if p.Tok().Kind != pglex.Int {
		p.Unexpected()
	}
	return p.Pin()
}

// intMods reads an optional (n, …).
func (p *Parser) intMods() []string {
	if !p.IsPunct("(") {
		return nil
	}
	p.Next()
	var mods []string
	for {
		sign := ""
		if p.AcceptOp("-") {
			sign = "-"
		}
		switch t := p.Tok(); t.Kind {
		case pglex.Int, pglex.Num, pglex.Str:
			mods = append(mods, sign+p.Pin())
		case pglex.Ident, pglex.QuotedIdent:
			if sign != "" {
				p.Unexpected()
			}
			mods = append(mods, p.ColID())
		default:
			p.Unexpected()
		}
		if !p.AcceptPunct(",") {
			break
		}
	}
	p.ExpectPunct(")")
	return mods
}

// oneMod reads an optional (n).
func (p *Parser) oneMod() []string {
	if !p.AcceptPunct("(") {
		return nil
	}
	m := p.expectInt()
	p.ExpectPunct(")")
	return []string{m}
}

// simpleType reads a type without array bounds, in PostgreSQL's internal names.
func (p *Parser) simpleType() pgast.TypeName {
	t := p.Tok()
	pos := int(t.Start)
	mk := func(name string, mods []string) pgast.TypeName {
		return pgast.TypeName{Name: pgast.Name{name}, Mods: mods, Pos: pos}
	}
	if t.Kind == pglex.Ident {
		word := t.Text
		switch word {
		case "int", "integer":
			p.Next()
			return mk("int4", nil)
		case "smallint":
			p.Next()
			return mk("int2", nil)
		case "bigint":
			p.Next()
			return mk("int8", nil)
		case "real":
			p.Next()
			return mk("float4", nil)
		case "float":
			p.Next()
			at := int(p.Peek(1).Start)
			m := p.oneMod()
			if m == nil {
				return mk("float8", nil)
			}
			n, err := strconv.Atoi(m[0])
			switch {
			case n < 1 && err == nil:
				p.FailAt("22023", at, "precision for type float must be at least 1 bit")
			case err != nil || n > 53:
				p.FailAt("22023", at, "precision for type float must be less than 54 bits")
			case n <= 24:
				return mk("float4", nil)
			}
			return mk("float8", nil)
		case "double":
			if isWord(p.Peek(1), "precision") {
				p.i += 2
				return mk("float8", nil)
			}
		case "decimal", "dec", "numeric":
			p.Next()
			return mk("numeric", p.intMods())
		case "boolean":
			p.Next()
			return mk("bool", nil)
		case "bit":
			p.Next()
			if p.Accept("varying") {
				return mk("varbit", p.intMods())
			}
			m := p.intMods()
			if m == nil {
				m = []string{"1"}
			}
			return mk("bit", m)
		case "character", "char", "nchar", "national", "varchar":
			return p.charType(mk)
		case "time", "timestamp":
			p.Next()
			m := p.oneMod()
			if p.acceptPair("with", "time") {
				p.Expect("zone")
				return mk(word+"tz", m)
			}
			p.AcceptSeq("without", "time", "zone")
			return mk(word, m)
		case "interval":
			p.Next()
			return mk("interval", p.oneMod())
		}
		switch pglex.LookupKeyword(word).Category {
		case pglex.Reserved, pglex.ColName:
			p.Unexpected()
		}
	} else if t.Kind != pglex.QuotedIdent {
		p.Unexpected()
	}
	name := pgast.Name{t.Text}
	p.Next()
	for p.AcceptPunct(".") {
		name = append(name, p.ColLabel())
	}
	return pgast.TypeName{Name: name, Mods: p.intMods(), Pos: pos}
}

func (p *Parser) charType(mk func(string, []string) pgast.TypeName) pgast.TypeName {
	word := p.Tok().Text
	p.Next()
	if word == "varchar" {
		return mk("varchar", p.oneMod())
	}
	if word == "national" {
		if p.AcceptAny("character", "char") == "" {
			p.Unexpected()
		}
	}
	if p.Accept("varying") {
		return mk("varchar", p.oneMod())
	}
	m := p.oneMod()
	if m == nil {
		m = []string{"1"}
	}
	return mk("bpchar", m)
}

// intervalFields reads YEAR TO MONTH and the like, and SECOND(p).
func (p *Parser) intervalFields() []string {
	from := p.AcceptAny("year", "month", "day", "hour", "minute", "second")
	if from == "" {
		return nil
	}
	to := map[string]string{"year": "month", "day": "hour minute second", "hour": "minute second", "minute": "second"}
	f := from
	if to[from] != "" && p.Is("to") {
		p.Next()
		w := p.Tok().Text
		if p.Tok().Kind != pglex.Ident || !contains(to[from], w) {
			p.Unexpected()
		}
		p.Next()
		f += " to " + w
		from = w
	}
	out := []string{f}
	if from == "second" {
		out = append(out, p.oneMod()...)
	}
	return out
}

func contains(words, w string) bool {
	for len(words) > 0 {
		i := 0
		for i < len(words) && words[i] != ' ' {
			i++
		}
		if words[:i] == w {
			return true
		}
		if i == len(words) {
			break
		}
		words = words[i+1:]
	}
	return false
}
