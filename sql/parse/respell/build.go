package respell

import (
	"strconv"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
)

func (p *Parser) add(pc piece) Frag {
	p.pieces = append(p.pieces, pc)
	n := int32(len(p.pieces))
	return Frag{head: n, tail: n}
}

// raw is a keyword, an operator or punctuation of the TiDB grammar.
func (p *Parser) raw(s string) Frag { return p.add(piece{text: s, src: -1}) }

func (p *Parser) rawAt(s string, src int) Frag { return p.add(piece{text: s, src: int32(src)}) }

func (p *Parser) ident(name string, src int) Frag {
	return p.add(piece{kind: identPiece, text: name, src: int32(src)})
}

// named is an identifier that carries a note: `name\0n`.
func (p *Parser) named(name string, note any, src int) Frag {
	n := p.note(note)
	return p.add(piece{kind: identPiece, text: name + "\x00" + strconv.Itoa(n), src: int32(src)})
}

func (p *Parser) note(n any) int {
	p.notes = append(p.notes, n)
	return len(p.notes) - 1
}

// call is a carrier call.
func (p *Parser) call(note any, src int, args ...Frag) Frag {
	n := p.note(note)
	f := p.add(piece{kind: carrierPiece, num: int32(n), src: int32(src)})
	f = p.cat(f, p.raw("("), p.list(args), p.raw(")"))
	f.depth++
	return f
}

// cat joins fragments; empty ones vanish.
func (p *Parser) cat(fs ...Frag) Frag {
	var out Frag
	for _, f := range fs {
		if f.head == 0 {
			continue
		}
		if f.depth > out.depth {
			out.depth = f.depth
		}
		if out.head == 0 {
			out.head, out.tail = f.head, f.tail
			continue
		}
		p.pieces[out.tail-1].next = f.head
		out.tail = f.tail
	}
	if out.depth > MaxDepth {
		p.tooDeep()
	}
	return out
}

// list joins fragments with commas.
func (p *Parser) list(fs []Frag) Frag {
	var out Frag
	for i, f := range fs {
		if i > 0 {
			out = p.cat(out, p.raw(","))
		}
		out = p.cat(out, f)
	}
	return out
}

// paren wraps f; src is where the construct's operator stands, which lift finds
// again as the position of the parenthesis.
func (p *Parser) paren(src int, fs ...Frag) Frag {
	f := p.cat(fs...)
	f = p.cat(p.rawAt("(", src), f, p.raw(")"))
	f.depth++
	return f
}

// part puts f behind the statement and returns the statement's index.
func (p *Parser) part(f Frag) int {
	p.parts = append(p.parts, f)
	return len(p.parts)
}

// bareSlot returns the slot if f is nothing but one literal.
func (p *Parser) bareSlot(f Frag) (int, bool) {
	if f.head == 0 || f.head != f.tail || p.pieces[f.head-1].kind != slotPiece {
		return 0, false
	}
	return int(p.pieces[f.head-1].num), true
}

// slot spells the literal at the current token and moves on.
func (p *Parser) slot() Frag {
	n := p.slotOf[p.i]
	f := p.add(piece{kind: slotPiece, num: n, src: p.toks[p.i].Start})
	p.Next()
	return f
}

// fixed spells a constant that has no literal in the source.
func (p *Parser) fixed(kind pgast.ValueKind, text string, pos int) Frag {
	p.slots = append(p.slots, Slot{Kind: kind, Pos: int32(pos), Tok: -1, Text: text})
	return p.add(piece{kind: slotPiece, num: int32(len(p.slots) - 1), src: int32(pos)})
}

// param spells the parameter at the current token and moves on.
func (p *Parser) param() Frag {
	t := p.Tok()
	n, err := strconv.Atoi(t.Text)
	if err != nil || n < 1 || n > 65535 {
		p.FailAt(sqlstate.UndefinedParameter, int(t.Start), "there is no parameter $%s", t.Text)
	}
	p.params = max(p.params, n)
	f := p.add(piece{kind: paramPiece, num: int32(n), src: t.Start})
	p.Next()
	return f
}

// Pin consumes the literal at the current token by value: the shape depends on it.
func (p *Parser) Pin() string {
	t := p.Tok()
	if n := p.slotOf[p.i]; n >= 0 {
		p.slots[n].Pin = true
	}
	p.Next()
	return t.Text
}

// PinAll makes every literal between token indexes from and to part of the shape.
func (p *Parser) PinAll(from, to int) {
	for i := from; i < to && i < len(p.slotOf); i++ {
		if n := p.slotOf[i]; n >= 0 {
			p.slots[n].Pin = true
		}
	}
}

// Finish renders root and the parts.
func (p *Parser) Finish(root Frag) *Result {
	r := &Result{Notes: p.notes, Slots: p.slots, Params: p.params}
	b := make([]byte, 0, len(p.src)+len(p.pieces)*4)
	marks := make([]mark, 0, len(p.pieces))
	emit := func(f Frag) {
		for n := f.head; n != 0; {
			pc := &p.pieces[n-1]
			if pc.src >= 0 {
				marks = append(marks, mark{int32(len(b)), pc.src})
			}
			switch pc.kind {
			case rawPiece:
				b = append(b, pc.text...)
			case identPiece:
				b = append(b, '`')
				for i := 0; i < len(pc.text); i++ {
					if pc.text[i] == '`' {
						b = append(b, '`')
					}
					b = append(b, pc.text[i])
				}
				b = append(b, '`')
			case slotPiece:
				b = strconv.AppendInt(append(b, '@'), int64(pc.num), 10)
			case paramPiece:
				b = strconv.AppendInt(append(b, "@p"...), int64(pc.num), 10)
			case carrierPiece:
				b = append(strconv.AppendInt(append(b, '`', 0), int64(pc.num), 10), '`')
			case numberPiece:
				b = strconv.AppendUint(b, numberBase+uint64(pc.num), 10)
			}
			b = append(b, ' ')
			if n == f.tail {
				break
			}
			n = pc.next
		}
	}
	emit(root)
	for _, f := range p.parts {
		b = append(b, "; "...)
		emit(f)
	}
	r.Text, r.marks = string(b), marks
	return r
}

// SlotNumber undoes what Finish does to a number: the slot or parameter n.
func SlotNumber(v uint64) (n int, param, ok bool) {
	if v < numberBase {
		return 0, false, false
	}
	v -= numberBase
	return int(v >> 1), v&1 == 1, true
}

// number spells a bare literal or parameter where the grammar wants a number;
// ok is false if f is something else.
func (p *Parser) number(f Frag) (Frag, bool) {
	if f.head == 0 || f.head != f.tail {
		return f, false
	}
	pc := p.pieces[f.head-1]
	switch pc.kind {
	case slotPiece:
		return p.add(piece{kind: numberPiece, num: pc.num << 1, src: pc.src}), true
	case paramPiece:
		return p.add(piece{kind: numberPiece, num: pc.num<<1 | 1, src: pc.src}), true
	}
	return f, false
}
