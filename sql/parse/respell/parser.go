package respell

import (
	"sort"

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
	closer []int32 // token index of ( -> of its ), made by closing
	params int
	parts  []Frag
	// pending is a left operand that was read before the climber was called.
	pending    Frag
	hasPending bool
	other      string
	table      string // the table being defined, for messages
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
