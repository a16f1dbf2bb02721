package pglex

import (
	"strings"
	"unicode/utf8"

	"github.com/spandb/spand/sql/sqlstate"
)

// continued looks behind a closing quote for PostgreSQL's continuation: white
// space with at least one newline, comments allowed, then another quote. It
// returns the offset of that quote.
func continued(src string, i int) (int, bool) {
	newline := false
	for i < len(src) {
		switch c := src[i]; {
		case c == '\n' || c == '\r':
			newline = true
			i++
		case class[c]&clsSpace != 0:
			i++
		case c == '-' && i+1 < len(src) && src[i+1] == '-':
			i = lineEnd(src, i)
		case c == '\'':
			return i, newline
		default:
			return 0, false
		}
	}
	return 0, false
}

// quoted collects the body of a '…' string that opens at i, doubled quotes
// undone and continuations joined. With escapes, a backslash protects the
// character behind it and stays in the body for the caller to decode.
func (s *Scanner) quoted(start, i int, escapes bool) (string, *sqlstate.Error) {
	src := s.src
	var b []byte
	simple := true
	for {
		j := i + 1
		from := j
		for {
			if j >= len(src) {
				s.pos = len(src)
				return "", s.errAt(start, len(src), "unterminated quoted string")
			}
			c := src[j]
			if escapes && c == '\\' {
				j += 2
				continue
			}
			if c != '\'' {
				j++
				continue
			}
			if j+1 < len(src) && src[j+1] == '\'' {
				simple = false
				b = append(b, src[from:j]...)
				if escapes {
					// Kept apart from a backslash's quote: both decode to one.
					b = append(b, '\\', '\'')
				} else {
					b = append(b, '\'')
				}
				j += 2
				from = j
				continue
			}
			break
		}
		if k, ok := continued(src, j+1); ok {
			simple = false
			b = append(b, src[from:j]...)
			i = k
			continue
		}
		s.pos = j + 1
		if simple {
			return src[from:j], nil
		}
		return string(append(b, src[from:j]...)), nil
	}
}

func (s *Scanner) plainString(t *Token, i int) *sqlstate.Error {
	body, err := s.quoted(i, i, false)
	if err != nil {
		return err
	}
	t.Kind, t.Text, t.End = Str, body, int32(s.pos)
	return nil
}

func (s *Scanner) bitString(t *Token, i int, kind byte) *sqlstate.Error {
	start := i - 1
	body, err := s.quoted(start, i, false)
	if err != nil {
		if kind == 'b' {
			return s.errAt(start, len(s.src), "unterminated bit string literal")
		}
		return s.errAt(start, len(s.src), "unterminated hexadecimal string literal")
	}
	t.Kind, t.Text, t.End = Bit, string(kind)+body, int32(s.pos)
	return nil
}

func (s *Scanner) escapeString(t *Token, i int) *sqlstate.Error {
	start := i - 1
	body, err := s.quoted(start, i, true)
	if err != nil {
		return err
	}
	t.Kind, t.End = Str, int32(s.pos)
	if !strings.Contains(body, "\\") {
		t.Text = body
		return nil
	}
	b := make([]byte, 0, len(body))
	var high rune // first half of a surrogate pair
	bytesEscaped := false
	for k := 0; k < len(body); {
		c := body[k]
		if high != 0 && !(c == '\\' && k+1 < len(body) && (body[k+1] == 'u' || body[k+1] == 'U')) {
			return s.errAt(start, int(t.End), "invalid Unicode surrogate pair")
		}
		if c != '\\' {
			b = append(b, c)
			k++
			continue
		}
		if k+1 >= len(body) {
			// A backslash before the closing quote has eaten the quote, so this
			// cannot be reached by a terminated string; keep it literal.
			b = append(b, c)
			k++
			continue
		}
		k++
		e := body[k]
		switch {
		case e >= '0' && e <= '7':
			v := 0
			n := 0
			for n < 3 && k < len(body) && body[k] >= '0' && body[k] <= '7' {
				v = v*8 + int(body[k]-'0')
				k++
				n++
			}
			b = append(b, byte(v))
			bytesEscaped = true
			continue
		case e == 'x' && k+1 < len(body) && hexVal(body[k+1]) >= 0:
			v := 0
			k++
			for n := 0; n < 2 && k < len(body) && hexVal(body[k]) >= 0; n++ {
				v = v*16 + hexVal(body[k])
				k++
			}
			b = append(b, byte(v))
			bytesEscaped = true
			continue
		case e == 'u' || e == 'U':
			n := 4
			if e == 'U' {
				n = 8
			}
			r, ok := hexRune(body[k+1:], n)
			if !ok {
				return sqlstate.Newf("22025", "invalid Unicode escape").
					WithHint(`Unicode escapes must be \uXXXX or \UXXXXXXXX.`).At(s.src, start)
			}
			k += 1 + n
			var bad bool
			if b, high, bad = appendUnicode(b, high, r); bad {
				return s.errAt(start, int(t.End), "invalid Unicode escape value")
			}
			continue
		case e == 'b':
			b = append(b, '\b')
		case e == 'f':
			b = append(b, '\f')
		case e == 'n':
			b = append(b, '\n')
		case e == 'r':
			b = append(b, '\r')
		case e == 't':
			b = append(b, '\t')
		case e == 'v':
			b = append(b, '\v')
		default:
			b = append(b, e)
		}
		k++
	}
	if high != 0 {
		return s.errAt(start, int(t.End), "invalid Unicode surrogate pair")
	}
	if bytesEscaped {
		if err := checkText(b); err != nil {
			return err.At(s.src, start)
		}
	}
	t.Text = string(b)
	return nil
}

// checkText refuses what a text value cannot hold.
func checkText(b []byte) *sqlstate.Error {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n <= 1 || b[i] == 0 {
			return sqlstate.Newf(sqlstate.CharacterNotInRepertoire,
				"invalid byte sequence for encoding \"UTF8\": 0x%02x", b[i])
		}
		i += n
	}
	return nil
}

func hexVal(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

func hexRune(s string, n int) (rune, bool) {
	if len(s) < n {
		return 0, false
	}
	var r uint32
	for i := 0; i < n; i++ {
		v := hexVal(s[i])
		if v < 0 {
			return 0, false
		}
		r = r<<4 | uint32(v)
	}
	if r > utf8.MaxRune {
		return -1, true
	}
	return rune(r), true
}

// appendUnicode appends r, pairing surrogates; high is the pending first half.
func appendUnicode(b []byte, high, r rune) ([]byte, rune, bool) {
	switch {
	case r <= 0:
		return b, 0, true
	case r >= 0xD800 && r < 0xDC00:
		return b, r, high != 0
	case r >= 0xDC00 && r < 0xE000:
		if high == 0 {
			return b, 0, true
		}
		return utf8.AppendRune(b, 0x10000+(high-0xD800)<<10+(r-0xDC00)), 0, false
	case high != 0:
		return b, 0, true
	}
	return utf8.AppendRune(b, r), 0, false
}

// uescape reads an optional UESCAPE 'c' behind a U& literal.
func (s *Scanner) uescape() (byte, *sqlstate.Error) {
	after := s.pos
	var t Token
	if err := s.Next(&t); err != nil || t.Kind != Ident || t.Name() != "uescape" {
		s.pos = after
		return '\\', nil
	}
	if err := s.Next(&t); err != nil {
		return 0, err
	}
	if t.Kind != Str {
		return 0, s.errAt(int(t.Start), int(t.End), "UESCAPE must be followed by a simple string literal")
	}
	if len(t.Text) != 1 || hexVal(t.Text[0]) >= 0 || class[t.Text[0]]&clsSpace != 0 || strings.ContainsAny(t.Text, `+'"`) {
		return 0, s.errAt(int(t.Start), int(t.End), "invalid Unicode escape character")
	}
	return t.Text[0], nil
}

func (s *Scanner) decodeUnicode(start int, body string) (string, *sqlstate.Error) {
	esc, err := s.uescape()
	if err != nil {
		return "", err
	}
	b := make([]byte, 0, len(body))
	var high rune
	for k := 0; k < len(body); {
		c := body[k]
		if c != esc {
			if high != 0 {
				return "", s.errAt(start, s.pos, "invalid Unicode surrogate pair")
			}
			b = append(b, c)
			k++
			continue
		}
		if k+1 < len(body) && body[k+1] == esc {
			if high != 0 {
				return "", s.errAt(start, s.pos, "invalid Unicode surrogate pair")
			}
			b = append(b, esc)
			k += 2
			continue
		}
		from, n := k+1, 4
		if from < len(body) && body[from] == '+' {
			from, n = from+1, 6
		}
		r, ok := hexRune(body[from:], n)
		if !ok {
			return "", sqlstate.Newf(sqlstate.SyntaxError, "invalid Unicode escape").
				WithHint(`Unicode escapes must be \XXXX or \+XXXXXX.`).At(s.src, start)
		}
		k = from + n
		var bad bool
		if b, high, bad = appendUnicode(b, high, r); bad {
			return "", s.errAt(start, s.pos, "invalid Unicode escape value")
		}
	}
	if high != 0 {
		return "", s.errAt(start, s.pos, "invalid Unicode surrogate pair")
	}
	return string(b), nil
}

func (s *Scanner) unicodeString(t *Token, i int) *sqlstate.Error {
	start := i - 2
	body, err := s.quoted(start, i, false)
	if err != nil {
		return err
	}
	text, err := s.decodeUnicode(start, body)
	if err != nil {
		return err
	}
	t.Kind, t.Text, t.End = Str, text, int32(s.pos)
	return nil
}

// identBody reads "…" that opens at i.
func (s *Scanner) identBody(start, i int) (string, *sqlstate.Error) {
	src := s.src
	j := strings.IndexByte(src[i+1:], '"')
	if j < 0 {
		s.pos = len(src)
		return "", s.errAt(start, len(src), "unterminated quoted identifier")
	}
	j += i + 1
	if j+1 >= len(src) || src[j+1] != '"' {
		s.pos = j + 1
		if j == i+1 {
			return "", s.errAt(start, j+1, "zero-length delimited identifier")
		}
		return src[i+1 : j], nil
	}
	var b []byte
	from := i + 1
	for {
		b = append(b, src[from:j]...)
		if j+1 >= len(src) || src[j+1] != '"' {
			s.pos = j + 1
			return string(b), nil
		}
		b = append(b, '"')
		from = j + 2
		n := strings.IndexByte(src[from:], '"')
		if n < 0 {
			s.pos = len(src)
			return "", s.errAt(start, len(src), "unterminated quoted identifier")
		}
		j = from + n
	}
}

func (s *Scanner) quotedIdent(t *Token, i int) *sqlstate.Error {
	body, err := s.identBody(i, i)
	if err != nil {
		return err
	}
	t.Kind, t.Text, t.End = QuotedIdent, cut(body), int32(s.pos)
	return nil
}

func (s *Scanner) unicodeIdent(t *Token, i int) *sqlstate.Error {
	body, err := s.identBody(i-2, i)
	if err != nil {
		return err
	}
	text, err := s.decodeUnicode(i-2, body)
	if err != nil {
		return err
	}
	t.Kind, t.Text, t.End = QuotedIdent, cut(text), int32(s.pos)
	return nil
}
