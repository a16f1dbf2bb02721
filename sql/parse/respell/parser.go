package respell

import (
	"fmt"
	"sort"
	"strconv"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
	"github.com/spandb/spand/sql/sqlstate"
)

const (
	// MaxDepth bounds the nesting of expressions and queries.
	MaxDepth = 1500
	// maxChain is the longest AND or OR chain that stays binary; longer ones
	// become one n-ary carrier so that the tree stays shallow.
	maxChain = 64
	// numberBase is added to slot numbers that stand where only a number parses.
	numberBase = uint64(1) << 63
)

// Slot describes one constant of the statement. Literals come first, in the
// order of the source, then constants that have no literal (NULL, TRUE, a
// keyword that stands for a text).
type Slot struct {
	Kind  pgast.ValueKind
	Pos   int32
	Tok   int32  // token index; -1 for a fixed constant
	Text  string // fixed constants only
	Neg   bool   // a minus sign was folded into the literal
	NegAt int32  // token index of that minus sign
	Pin   bool   // the value is part of the shape
}

// Result is a statement ready for the TiDB parser.
type Result struct {
	Text   string
	Notes  []any
	Slots  []Slot
	Params int // highest $n
	marks  []mark
}

type mark struct{ out, src int32 }

// Pos maps an offset of Text to the source offset it stands for, -1 if unknown.
func (r *Result) Pos(out int) int {
	i := sort.Search(len(r.marks), func(i int) bool { return int(r.marks[i].out) > out })
	if i == 0 {
		return -1
	}
	return int(r.marks[i-1].src)
}

// Exact is Pos for an offset at which a piece starts; -1 otherwise.
func (r *Result) Exact(out int) int {
	i := sort.Search(len(r.marks), func(i int) bool { return int(r.marks[i].out) >= out })
	if i == len(r.marks) || int(r.marks[i].out) != out {
		return -1
	}
	return int(r.marks[i].src)
}

type pieceKind uint8

const (
	rawPiece pieceKind = iota
	identPiece
	slotPiece
	paramPiece
	carrierPiece // a name of NUL and a note's index
	numberPiece  // numberBase + num
)

type piece struct {
	text string
	num  int32
	src  int32
	next int32
	kind pieceKind
}

// Frag is a piece list under construction. The zero Frag is empty.
type Frag struct {
	head, tail int32 // piece index + 1; 0 is none
	depth      int32
}

// Empty reports whether f holds nothing.
func (f Frag) Empty() bool { return f.head == 0 }

// Parser walks over the tokens of one statement.
type Parser struct {
	src    string
	toks   []pglex.Token
	i      int
	far    int // one beyond the last word of the longest partial IsSeq
	depth  int
	pieces []piece
	notes  []any
	slots  []Slot
	slotOf []int32 // token index -> slot
	params int
	parts  []Frag
	// pending is a left operand that was read before the climber was called.
	pending    Frag
	hasPending bool
	other      string
}

// syntaxPanic carries an error up to Run.
type syntaxPanic struct{ err *sqlstate.Error }

// NewParser starts on src, whose tokens (EOF last) are toks; they are only read.
func NewParser(src string, toks []pglex.Token) *Parser {
	p := &Parser{src: src, toks: toks}
	p.slotOf = make([]int32, len(toks))
	for i := range toks {
		p.slotOf[i] = -1
		k := pgast.Unknown
		switch toks[i].Kind {
		case pglex.Int:
			k = pgast.Integer
		case pglex.Num:
			k = pgast.Numeric
		case pglex.Str:
		case pglex.Bit:
			k = pgast.BitString
		default:
			continue
		}
		p.slotOf[i] = int32(len(p.slots))
		p.slots = append(p.slots, Slot{Kind: k, Pos: toks[i].Start, Tok: int32(i)})
	}
	p.pieces = make([]piece, 0, 4*len(toks)+16)
	return p
}

// Run calls f and turns a failure inside it into an error.
func Run(f func()) (err *sqlstate.Error) {
	defer func() {
		if r := recover(); r != nil {
			sp, ok := r.(syntaxPanic)
			if !ok {
				panic(r)
			}
			err = sp.err
		}
	}()
	f()
	return nil
}

// Fail ends the parse with err.
func (p *Parser) Fail(err *sqlstate.Error) { panic(syntaxPanic{err}) }

// FailAt ends the parse with an error at a source offset.
func (p *Parser) FailAt(code sqlstate.Code, pos int, format string, args ...any) {
	p.Fail(sqlstate.Newf(code, format, args...).At(p.src, pos))
}

// Unsupported refuses something PostgreSQL has and we do not.
func (p *Parser) Unsupported(what string) {
	p.FailAt(sqlstate.FeatureNotSupported, p.Pos(), "%s not supported", what)
}

// SyntaxError builds PostgreSQL's message for token t of src.
func SyntaxError(src string, t *pglex.Token) *sqlstate.Error {
	if t.Kind == pglex.EOF {
		return sqlstate.Newf(sqlstate.SyntaxError, "syntax error at end of input").At(src, len(src))
	}
	return sqlstate.Newf(sqlstate.SyntaxError, "syntax error at or near \"%s\"", src[t.Start:t.End]).At(src, int(t.Start))
}

// Unexpected fails at the current token, or behind the words after it that were
// still right: PostgreSQL's parser would have shifted them.
func (p *Parser) Unexpected() { p.UnexpectedAt(max(p.i, p.far)) }

// UnexpectedAt fails at token i.
func (p *Parser) UnexpectedAt(i int) {
	p.Fail(SyntaxError(p.src, &p.toks[min(i, len(p.toks)-1)]))
}

// ---- cursor ----

// Tok is the current token.
func (p *Parser) Tok() *pglex.Token { return &p.toks[p.i] }

// Peek is the token n further on, EOF beyond the end.
func (p *Parser) Peek(n int) *pglex.Token {
	if p.i+n >= len(p.toks) {
		return &p.toks[len(p.toks)-1]
	}
	return &p.toks[p.i+n]
}

// Index is the current token's index, for Rewind and TextSince.
func (p *Parser) Index() int { return p.i }

// Rewind moves the cursor back to an Index.
func (p *Parser) Rewind(i int) { p.i = i }

// Pos is the current token's source offset.
func (p *Parser) Pos() int { return int(p.toks[p.i].Start) }

// Next moves on by one token, never beyond the end.
func (p *Parser) Next() {
	if p.i < len(p.toks)-1 {
		p.i++
	}
}

// AtEnd reports the end of the statement.
func (p *Parser) AtEnd() bool { return p.toks[p.i].Kind == pglex.EOF }

// Source is the statement's text.
func (p *Parser) Source() string { return p.src }

// TextSince is the source from token index from to the current token.
func (p *Parser) TextSince(from int) string {
	if from >= p.i {
		return ""
	}
	return p.src[p.toks[from].Start:p.toks[p.i-1].End]
}

func isWord(t *pglex.Token, w string) bool { return t.Kind == pglex.Ident && t.Text == w }

// Is reports whether the current token is the unquoted word w.
func (p *Parser) Is(w string) bool { return isWord(&p.toks[p.i], w) }

// IsSeq reports whether the unquoted words ws come next.
func (p *Parser) IsSeq(ws ...string) bool {
	for n, w := range ws {
		if !isWord(p.Peek(n), w) {
			if n > 0 {
				p.far = max(p.far, p.i+n)
			}
			return false
		}
	}
	return true
}

// IsThen reports whether the word w and then the punctuation s come next.
func (p *Parser) IsThen(w, s string) bool {
	if !p.Is(w) {
		return false
	}
	if !isPunct(p.Peek(1), s) {
		p.far = max(p.far, p.i+1)
		return false
	}
	return true
}

// Accept consumes the word w if it is next.
func (p *Parser) Accept(w string) bool {
	if !p.Is(w) {
		return false
	}
	p.Next()
	return true
}

// AcceptSeq consumes all the words or none.
func (p *Parser) AcceptSeq(ws ...string) bool {
	if !p.IsSeq(ws...) {
		return false
	}
	p.i += len(ws)
	return true
}

// acceptPair consumes two words that PostgreSQL's lexer sees as one token.
func (p *Parser) acceptPair(a, b string) bool {
	if !p.Is(a) || !isWord(p.Peek(1), b) {
		return false
	}
	p.i += 2
	return true
}

// AcceptAny consumes one of the words and returns it, "" if none is next.
func (p *Parser) AcceptAny(ws ...string) string {
	for _, w := range ws {
		if p.Accept(w) {
			return w
		}
	}
	return ""
}

// Expect consumes the words or fails at the first that is missing.
func (p *Parser) Expect(ws ...string) {
	for _, w := range ws {
		if !p.Accept(w) {
			p.Unexpected()
		}
	}
}

// IsPunct reports whether the current token is the punctuation s.
func (p *Parser) IsPunct(s string) bool {
	t := &p.toks[p.i]
	return t.Kind == pglex.Punct && t.Text == s
}

func isPunct(t *pglex.Token, s string) bool { return t.Kind == pglex.Punct && t.Text == s }

// AcceptPunct consumes punctuation if it is next.
func (p *Parser) AcceptPunct(s string) bool {
	if !p.IsPunct(s) {
		return false
	}
	p.Next()
	return true
}

// ExpectPunct consumes punctuation or fails.
func (p *Parser) ExpectPunct(s string) {
	if !p.AcceptPunct(s) {
		p.Unexpected()
	}
}

// IsOp reports whether the current token is the operator s.
func (p *Parser) IsOp(s string) bool {
	t := &p.toks[p.i]
	return t.Kind == pglex.Op && t.Text == s
}

// AcceptOp consumes an operator if it is next.
func (p *Parser) AcceptOp(s string) bool {
	if !p.IsOp(s) {
		return false
	}
	p.Next()
	return true
}

// End fails unless the statement ends here.
func (p *Parser) End() {
	if !p.AtEnd() {
		p.Unexpected()
	}
}

func (p *Parser) enter() {
	p.depth++
	if p.depth > MaxDepth {
		p.tooDeep()
	}
}

func (p *Parser) leave() { p.depth-- }

func (p *Parser) tooDeep() {
	p.Fail(sqlstate.Newf(sqlstate.StatementTooComplex, "statement too complex").
		WithHint("Expressions and queries nest at most %d levels deep.", MaxDepth).At(p.src, p.Pos()))
}

// ---- building ----

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

func (p *Parser) String() string {
	return fmt.Sprintf("respell at token %d of %d", p.i, len(p.toks))
}

// ---- for utility statements ----

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
