package pglex

import (
	"strings"
	"unicode/utf8"

	"github.com/spandb/spand/sql/sqlstate"
)

// Kind is a token's class.
type Kind uint8

const (
	// EOF ends every token list.
	EOF Kind = iota
	// Ident is an unquoted word, keywords included.
	Ident
	// QuotedIdent is "x" or U&"x".
	QuotedIdent
	// Op is an operator; != arrives as <>.
	Op
	// Punct is , ( ) [ ] . ; : .. := => ::
	Punct
	// Int is a run of digits.
	Int
	// Num is a number with a decimal point or an exponent.
	Num
	// Str is any string literal; Text is its value.
	Str
	// Bit is B'…' or X'…'; Text is "b0101" or "xFF".
	Bit
	// Param is $n; Text is the digits.
	Param
)

// MaxIdent is the longest identifier in bytes; longer ones are cut, as
// PostgreSQL cuts them at NAMEDATALEN.
const MaxIdent = 63

// Token is one token. Start and End are byte offsets into the source.
type Token struct {
	Kind Kind
	// upper is set when an Ident has upper-case letters or is too long, so
	// that Text is not yet its name.
	upper      bool
	Start, End int32
	// Text is the value: a string's contents, an operator's name, a number's
	// digits, and for an Ident the source's spelling until Name folds it.
	Text string
}

// Name returns an identifier's name: folded, cut to MaxIdent.
func (t *Token) Name() string {
	if !t.upper {
		return t.Text
	}
	return cut(foldASCII(t.Text))
}

// AppendName appends Name without allocating.
func (t *Token) AppendName(b []byte) []byte {
	if !t.upper {
		return append(b, t.Text...)
	}
	at := len(b)
	for i := 0; i < len(t.Text); i++ {
		c := t.Text[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	if len(b)-at > MaxIdent {
		n := MaxIdent
		for n > 0 && !utf8.RuneStart(b[at+n]) {
			n--
		}
		b = b[:at+n]
	}
	return b
}

func foldASCII(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] >= 'A' && s[i] <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if b[i] >= 'A' && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// cut shortens a name to MaxIdent bytes at a character's boundary.
func cut(s string) string {
	if len(s) <= MaxIdent {
		return s
	}
	n := MaxIdent
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

const (
	clsSpace = 1 << iota
	clsIdentStart
	clsIdent
	clsDigit
	clsOp
	clsUpper
	clsPunct
)

var class [256]uint8

func init() {
	for _, c := range []byte(" \t\n\r\f") {
		class[c] |= clsSpace
	}
	for c := 0; c < 256; c++ {
		switch {
		case c >= 'a' && c <= 'z', c == '_', c >= 0x80:
			class[c] |= clsIdentStart | clsIdent
		case c >= 'A' && c <= 'Z':
			class[c] |= clsIdentStart | clsIdent | clsUpper
		case c >= '0' && c <= '9':
			class[c] |= clsIdent | clsDigit
		case c == '$':
			class[c] |= clsIdent
		}
	}
	for _, c := range []byte("~!@#^&|`?+-*/%<>=") {
		class[c] |= clsOp
	}
	for _, c := range []byte(",()[].;:") {
		class[c] |= clsPunct
	}
}

// Scanner walks over one source text. The zero value with Init is ready.
type Scanner struct {
	src string
	pos int
}

// Init starts over at the beginning of src, which must be valid UTF-8 without NUL.
func (s *Scanner) Init(src string) { s.src, s.pos = src, 0 }

// Pos returns the offset just behind the last token.
func (s *Scanner) Pos() int { return s.pos }

func (s *Scanner) errAt(start, end int, msg string) *sqlstate.Error {
	if start >= len(s.src) {
		return sqlstate.Newf(sqlstate.SyntaxError, "%s at end of input", msg).At(s.src, len(s.src))
	}
	return sqlstate.Newf(sqlstate.SyntaxError, "%s at or near \"%s\"", msg, s.src[start:end]).At(s.src, start)
}

// skip moves over white space and comments.
func (s *Scanner) skip() *sqlstate.Error {
	src, i := s.src, s.pos
	for i < len(src) {
		c := src[i]
		switch {
		case class[c]&clsSpace != 0:
			i++
		case c == '-' && i+1 < len(src) && src[i+1] == '-':
			i = lineEnd(src, i)
		case c == '/' && i+1 < len(src) && src[i+1] == '*':
			start, depth := i, 1
			i += 2
			for depth > 0 {
				j := strings.IndexAny(src[i:], "*/")
				if j < 0 || i+j+1 >= len(src) {
					s.pos = len(src)
					return s.errAt(start, len(src), "unterminated /* comment")
				}
				i += j
				switch {
				case src[i] == '*' && src[i+1] == '/':
					depth--
					i += 2
				case src[i] == '/' && src[i+1] == '*':
					depth++
					i += 2
				default:
					i++
				}
			}
		default:
			s.pos = i
			return nil
		}
	}
	s.pos = i
	return nil
}

func lineEnd(src string, i int) int {
	for i < len(src) && src[i] != '\n' && src[i] != '\r' {
		i++
	}
	return i
}

// Next reads the next token into t; at the end t.Kind is EOF.
func (s *Scanner) Next(t *Token) *sqlstate.Error {
	if err := s.skip(); err != nil {
		return err
	}
	src, i := s.src, s.pos
	t.upper = false
	t.Start = int32(i)
	if i >= len(src) {
		t.Kind, t.Text, t.End = EOF, "", int32(i)
		return nil
	}
	c := src[i]
	cl := class[c]
	switch {
	case cl&clsIdentStart != 0:
		if i+1 < len(src) && src[i+1] == '\'' {
			switch c {
			case 'e', 'E':
				return s.escapeString(t, i+1)
			case 'b', 'B', 'x', 'X':
				return s.bitString(t, i+1, c|0x20)
			case 'n', 'N':
				// NCHAR: the word, then an ordinary string.
				t.Kind, t.Text = Ident, "nchar"
				s.pos = i + 1
				t.End = int32(s.pos)
				return nil
			}
		}
		if (c == 'u' || c == 'U') && i+2 < len(src) && src[i+1] == '&' {
			switch src[i+2] {
			case '\'':
				return s.unicodeString(t, i+2)
			case '"':
				return s.unicodeIdent(t, i+2)
			}
		}
		upper := cl & clsUpper
		j := i + 1
		for j < len(src) {
			k := class[src[j]]
			if k&clsIdent == 0 {
				break
			}
			upper |= k & clsUpper
			j++
		}
		t.Kind, t.Text = Ident, src[i:j]
		t.upper = upper != 0 || j-i > MaxIdent
		s.pos = j
	case cl&clsDigit != 0:
		return s.number(t)
	case c == '\'':
		return s.plainString(t, i)
	case c == '"':
		return s.quotedIdent(t, i)
	case c == '$':
		return s.dollar(t)
	case c == '.' && i+1 < len(src) && class[src[i+1]]&clsDigit != 0:
		return s.number(t)
	case cl&clsPunct != 0:
		n := 1
		if i+1 < len(src) {
			d := src[i+1]
			if c == ':' && (d == ':' || d == '=') || c == '.' && d == '.' {
				n = 2
			}
		}
		t.Kind, t.Text = Punct, src[i:i+n]
		s.pos = i + n
	case cl&clsOp != 0:
		return s.operator(t)
	default:
		_, n := utf8.DecodeRuneInString(src[i:])
		return s.errAt(i, i+n, "syntax error")
	}
	t.End = int32(s.pos)
	return nil
}

// operator applies scan.l's trimming: a comment ends an operator, and a
// multi-character one keeps a trailing + or - only beside a special character.
func (s *Scanner) operator(t *Token) *sqlstate.Error {
	src, i := s.src, s.pos
	j := i + 1
	for j < len(src) && class[src[j]]&clsOp != 0 {
		j++
	}
	for k := i; k+1 < j; k++ {
		if src[k] == '/' && src[k+1] == '*' || src[k] == '-' && src[k+1] == '-' {
			j = k
			break
		}
	}
	if j-i > 1 && (src[j-1] == '+' || src[j-1] == '-') && !strings.ContainsAny(src[i:j-1], "~!@#^&|`?%") {
		for j-i > 1 && (src[j-1] == '+' || src[j-1] == '-') {
			j--
		}
	}
	op := src[i:j]
	t.Kind, t.Text = Op, op
	switch op {
	case "!=":
		t.Text = "<>"
	case "=>":
		t.Kind = Punct
	}
	if len(op) > MaxIdent {
		return s.errAt(i, j, "operator too long")
	}
	s.pos = j
	t.End = int32(j)
	return nil
}

func (s *Scanner) digits(i int) int {
	for i < len(s.src) && class[s.src[i]]&clsDigit != 0 {
		i++
	}
	return i
}

func (s *Scanner) number(t *Token) *sqlstate.Error {
	src, i := s.src, s.pos
	j := s.digits(i)
	t.Kind = Int
	// "1..10" is an integer, then "..".
	if j < len(src) && src[j] == '.' && !(j+1 < len(src) && src[j+1] == '.' && j > i) {
		t.Kind = Num
		j = s.digits(j + 1)
	}
	if j < len(src) && src[j]|0x20 == 'e' {
		k := j + 1
		if k < len(src) && (src[k] == '+' || src[k] == '-') {
			k++
		}
		if e := s.digits(k); e > k {
			t.Kind = Num
			j = e
		} else if k > j+1 {
			return s.errAt(i, k, "trailing junk after numeric literal")
		}
	}
	if j < len(src) && class[src[j]]&clsIdentStart != 0 {
		return s.errAt(i, junkEnd(src, j), "trailing junk after numeric literal")
	}
	t.Text = src[i:j]
	s.pos = j
	t.End = int32(j)
	return nil
}

// junkEnd is where the identifier ends that PostgreSQL 15 shows as junk.
func junkEnd(src string, j int) int {
	for j < len(src) && class[src[j]]&clsIdent != 0 {
		j++
	}
	return j
}

func (s *Scanner) dollar(t *Token) *sqlstate.Error {
	src, i := s.src, s.pos
	j := s.digits(i + 1)
	if j > i+1 {
		if j < len(src) && class[src[j]]&clsIdentStart != 0 {
			return s.errAt(i, junkEnd(src, j), "trailing junk after parameter")
		}
		t.Kind, t.Text = Param, src[i+1:j]
		s.pos = j
		t.End = int32(j)
		return nil
	}
	j = i + 1
	if j < len(src) && class[src[j]]&clsIdentStart != 0 {
		for j < len(src) && class[src[j]]&clsIdent != 0 && src[j] != '$' {
			j++
		}
	}
	if j >= len(src) || src[j] != '$' {
		return s.errAt(i, i+1, "syntax error")
	}
	tag := src[i : j+1]
	end := strings.Index(src[j+1:], tag)
	if end < 0 {
		s.pos = len(src)
		return s.errAt(i, len(src), "unterminated dollar-quoted string")
	}
	t.Kind, t.Text = Str, src[j+1:j+1+end]
	s.pos = j + 1 + end + len(tag)
	t.End = int32(s.pos)
	return nil
}

// All reads a whole text, appending to buf; the last token is EOF. Identifier
// texts are folded names. With an error come the tokens before it, without EOF.
func All(src string, buf []Token) ([]Token, *sqlstate.Error) {
	var s Scanner
	s.Init(src)
	for {
		buf = append(buf, Token{})
		t := &buf[len(buf)-1]
		if err := s.Next(t); err != nil {
			return buf[:len(buf)-1], err
		}
		t.Fold()
		if t.Kind == EOF {
			return buf, nil
		}
	}
}

// Fold makes Text the identifier's name.
func (t *Token) Fold() {
	if t.upper {
		t.Text = t.Name()
		t.upper = false
	}
}
