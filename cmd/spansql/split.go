package main

import "strings"

// splitter cuts SQL text, which comes line by line, into statements at
// semicolons, by PostgreSQL's lexical rules: not within quotes, dollar quotes,
// comments and parentheses. Each byte is looked at once.
type splitter struct {
	buf   strings.Builder
	mode  splitMode
	depth int    // of parentheses, or of nested comments
	saved int    // parentheses while in a comment
	tag   string // of a dollar quote, with its dollars
	empty bool   // only blanks and comments so far
	last  byte   // the byte before, in plain mode: is a quote prefixed by E?
	prev  byte   // the one before that
}

type splitMode uint8

const (
	plain    splitMode = iota
	quoted             // '…', a doubled quote enters it anew
	escaped            // E'…'
	ident              // "…"
	dollar             // $tag$…$tag$
	lineCmt            // -- …
	blockCmt           // /* … */
)

func newSplitter() *splitter { return &splitter{empty: true} }

// pending reports whether a statement has begun.
func (s *splitter) pending() bool { return !s.empty || s.mode != plain }

func (s *splitter) reset() { *s = splitter{empty: true} }

// rest returns what has come of a statement that has no semicolon yet, "" if
// that is blank.
func (s *splitter) rest() string {
	t := s.buf.String()
	if s.empty {
		t = ""
	}
	s.reset()
	return strings.TrimSpace(t)
}

// add takes text, normally a line with its newline, and returns the statements
// that it completes, without their semicolons.
func (s *splitter) add(text string) []string {
	var out []string
	for i := 0; i < len(text); i++ {
		c := text[i]
		rest := text[i:]
		switch s.mode {
		case plain:
			switch {
			case c == ';' && s.depth == 0:
				if st := s.rest(); st != "" {
					out = append(out, st)
				}
				continue
			case c == '\'' && (s.last == 'e' || s.last == 'E') && !isIdent(s.prev):
				s.mode, s.empty = escaped, false
			case c == '\'':
				s.mode, s.empty = quoted, false
			case c == '"':
				s.mode, s.empty = ident, false
			case c == '(' || c == '[':
				s.depth++
				s.empty = false
			case c == ')' || c == ']':
				s.depth = max(s.depth-1, 0)
				s.empty = false
			case strings.HasPrefix(rest, "--"):
				s.mode = lineCmt
			case strings.HasPrefix(rest, "/*"):
				s.mode, s.saved, s.depth = blockCmt, s.depth, 1
				s.buf.WriteByte(c)
				i++
				c = text[i]
			case c == '$' && !isIdent(s.last):
				s.empty = false
				if tag := dollarTag(rest); tag != "" {
					s.mode, s.tag = dollar, tag
					s.buf.WriteString(tag)
					i += len(tag) - 1
					s.prev, s.last = 0, 0
					continue
				}
			case c != ' ' && c != '\t' && c != '\n' && c != '\r' && c != '\f' && c != '\v':
				s.empty = false
			}
			s.prev, s.last = s.last, c
			if s.mode != plain {
				s.prev, s.last = 0, 0
			}
		case quoted:
			if c == '\'' {
				s.mode = plain
			}
		case escaped:
			if c == '\\' && i+1 < len(text) {
				s.buf.WriteByte(c)
				i++
				c = text[i]
			} else if c == '\'' {
				s.mode = plain
				if i+1 < len(text) && text[i+1] == '\'' { // doubled: still escaped
					s.mode = escaped
					s.buf.WriteByte(c)
					i++
				}
			}
		case ident:
			if c == '"' {
				s.mode = plain
			}
		case dollar:
			if c == '$' && strings.HasPrefix(rest, s.tag) {
				s.buf.WriteString(s.tag)
				i += len(s.tag) - 1
				s.mode = plain
				continue
			}
		case lineCmt:
			if c == '\n' {
				s.mode = plain
				if s.empty { // a comment before the statement is not part of it
					s.buf.Reset()
					continue
				}
			}
		case blockCmt:
			switch {
			case strings.HasPrefix(rest, "/*"):
				s.depth++
				s.buf.WriteByte(c)
				i++
				c = text[i]
			case strings.HasPrefix(rest, "*/"):
				s.depth--
				s.buf.WriteByte(c)
				i++
				c = text[i]
				if s.depth == 0 {
					s.mode, s.depth = plain, s.saved
				}
			}
		}
		s.buf.WriteByte(c)
	}
	return out
}

// dollarTag returns the opening $tag$ at the start of s, "" if there is none.
func dollarTag(s string) string {
	for i := 1; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '$':
			return s[:i+1]
		case c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80:
		case c >= '0' && c <= '9' && i > 1:
		default:
			return ""
		}
	}
	return ""
}

func isIdent(c byte) bool {
	return c == '_' || c == '$' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}
