package parse

import (
	"strconv"
	"strings"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
	"github.com/spandb/spand/sql/parse/respell"
)

// shape is what statements that differ in their constants only have in common.
// It is immutable once made.
type shape struct {
	tree   pgast.Stmt
	slots  []respell.Slot // literals in the source's order, then fixed constants
	nlit   int            // how many of them are literals
	asOf   []pgast.Expr   // of the tree's AS OF TIMESTAMP clauses
	params int
	pinned []int    // slots whose values belong to the shape
	pins   []string // those values
	key    string   // the tokens, constants by kind
	name   string   // key and pins: Statement.Shape
	offs   []int32  // the tokens' offsets in the text the tree was made from
}

// finish fills in what follows from the tokens.
func (s *shape) finish(toks []pglex.Token) {
	s.nlit = len(s.slots)
	for i := range s.slots {
		sl := &s.slots[i]
		if sl.Tok < 0 {
			if s.nlit == len(s.slots) {
				s.nlit = i
			}
			continue
		}
		if sl.Pin {
			s.pinned = append(s.pinned, i)
			s.pins = append(s.pins, toks[sl.Tok].Text)
		}
	}
	b := make([]byte, 0, 256)
	for i := range toks {
		b = appendKey(b, &toks[i])
	}
	s.key = string(b)
	s.name = strings.TrimSpace(s.key)
	if len(s.pinned) > 0 {
		var nb strings.Builder
		nb.WriteString(s.name)
		nb.WriteString(" --")
		for i, n := range s.pinned {
			nb.WriteByte(' ')
			nb.WriteString(strconv.Itoa(n))
			nb.WriteByte('=')
			nb.WriteString(strconv.Quote(s.pins[i]))
		}
		s.name = nb.String()
	}
	s.offs = make([]int32, len(toks))
	for i := range toks {
		s.offs[i] = toks[i].Start
	}
}

// appendKey adds a token to a key: names folded, constants by their kind. No
// two token lists share a key, because only quoted names hold spaces and their
// quotes are doubled.
func appendKey(b []byte, t *pglex.Token) []byte {
	switch t.Kind {
	case pglex.Ident:
		b = t.AppendName(b)
	case pglex.QuotedIdent:
		b = append(b, '"')
		for i := 0; i < len(t.Text); i++ {
			if t.Text[i] == '"' {
				b = append(b, '"')
			}
			b = append(b, t.Text[i])
		}
		b = append(b, '"')
	case pglex.Op, pglex.Punct:
		b = append(b, t.Text...)
	case pglex.Int:
		b = append(b, "?i"...)
	case pglex.Num:
		b = append(b, "?n"...)
	case pglex.Str:
		b = append(b, "?s"...)
	case pglex.Bit:
		b = append(b, "?b"...)
	case pglex.Param:
		b = append(append(b, '$'), t.Text...)
	case pglex.EOF:
		return b
	}
	return append(b, ' ')
}

// first makes the Statement of the text the shape was made from.
func (s *shape) first(sql string, toks []pglex.Token) *pgast.Statement {
	st := &pgast.Statement{SQL: sql, Shape: s.name, Tree: s.tree, AsOf: s.asOf, NumParams: s.params}
	if len(s.slots) > 0 {
		st.Consts = make([]pgast.Value, len(s.slots))
		for i := range s.slots {
			sl := &s.slots[i]
			if sl.Tok < 0 {
				st.Consts[i] = pgast.Value{Kind: sl.Kind, Text: sl.Text}
				continue
			}
			v := pgast.Value{Kind: sl.Kind, Text: toks[sl.Tok].Text}
			if sl.Neg {
				v.Text = negative(sql, &toks[sl.NegAt], &toks[sl.Tok])
			}
			st.Consts[i] = v
		}
	}
	return st
}

// negative is the text of a literal with its minus sign.
func negative(sql string, minus, lit *pglex.Token) string {
	if minus.End == lit.Start {
		return sql[minus.Start:lit.End]
	}
	return "-" + lit.Text
}
