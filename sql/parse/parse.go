package parse

import (
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/pingcap/tidb/pkg/parser/ast"

	"github.com/spandb/spand/sql/parse/lift"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
	"github.com/spandb/spand/sql/parse/respell"
	"github.com/spandb/spand/sql/parse/tidbdrv"
	"github.com/spandb/spand/sql/parse/utility"
	"github.com/spandb/spand/sql/sqlstate"
)

// Parse reads a query string: statements separated by semicolons. Empty
// statements are left out; an empty result is an empty query. Errors are
// *sqlstate.Error with a position in sql; one bad statement refuses them all,
// as in PostgreSQL.
func Parse(sql string) ([]*pgast.Statement, error) {
	return parseAll(sql, nil)
}

func checkText(sql string) error {
	if i := strings.IndexByte(sql, 0); i >= 0 {
		return sqlstate.Newf(sqlstate.CharacterNotInRepertoire, "invalid byte sequence for encoding \"UTF8\": 0x00").At(sql, i)
	}
	if !utf8.ValidString(sql) {
		for i, r := range sql {
			if r == utf8.RuneError {
				if _, n := utf8.DecodeRuneInString(sql[i:]); n <= 1 {
					return sqlstate.Newf(sqlstate.CharacterNotInRepertoire, "invalid byte sequence for encoding \"UTF8\": 0x%02x", sql[i])
				}
			}
		}
	}
	return nil
}

// parseAll splits sql and parses every statement, through c if it is not nil.
func parseAll(sql string, c *Cache) ([]*pgast.Statement, error) {
	if err := checkText(sql); err != nil {
		return nil, err
	}
	var out []*pgast.Statement
	toks, lexErr := pglex.All(sql, nil)
	if lexErr != nil {
		if err := beforeBadToken(sql, toks); err != nil {
			return nil, err
		}
		return nil, lexErr
	}
	for from := 0; from < len(toks)-1; {
		to := statementEnd(toks, from)
		if to > from {
			start, end := int(toks[from].Start), int(toks[to-1].End)
			st, err := parseOne(sql[start:end], toks[from:to], start, c)
			if err != nil {
				return nil, rebase(err, sql, start, &toks[to])
			}
			out = append(out, st)
		}
		from = to + 1
	}
	return out, nil
}

// beforeBadToken parses the tokens that were read before the lexer failed: an
// error among them comes first, as it does in a parser that reads as it goes.
func beforeBadToken(sql string, toks []pglex.Token) error {
	if len(toks) == 0 {
		return nil
	}
	end := int(toks[len(toks)-1].End)
	toks = append(toks, pglex.Token{Kind: pglex.EOF, Start: int32(end), End: int32(end)})
	for from := 0; from < len(toks)-1; {
		to := statementEnd(toks, from)
		if to > from {
			start := int(toks[from].Start)
			_, err := parseOne(sql[start:toks[to-1].End], toks[from:to], start, nil)
			var e *sqlstate.Error
			if errors.As(err, &e) && (e.Message != endOfInput || to < len(toks)-1) {
				return rebase(err, sql, start, &toks[to])
			}
		}
		from = to + 1
	}
	return nil
}

// statementEnd finds the semicolon, outside parentheses, that ends the
// statement beginning at token from, or the end of the text.
func statementEnd(toks []pglex.Token, from int) int {
	depth := 0
	for i := from; i < len(toks)-1; i++ {
		if toks[i].Kind != pglex.Punct {
			continue
		}
		switch toks[i].Text {
		case "(":
			depth++
		case ")":
			depth--
		case ";":
			if depth <= 0 {
				return i
			}
		}
	}
	return len(toks) - 1
}

// rebase moves an error's position from a statement to the whole text; where
// the statement ended too early, the semicolon behind it is to blame, or the
// text's very end.
func rebase(err error, sql string, start int, end *pglex.Token) error {
	var e *sqlstate.Error
	if !errors.As(err, &e) || e.Position == 0 {
		return err
	}
	if e.Message == endOfInput {
		r := *respell.SyntaxError(sql, end)
		r.Cause = e.Cause
		return &r
	}
	if start == 0 {
		return err
	}
	c := *e
	c.Position += utf8.RuneCountInString(sql[:start])
	return &c
}

const endOfInput = "syntax error at end of input"

// parseOne parses one statement. toks are its tokens with offsets from base.
func parseOne(sql string, toks []pglex.Token, base int, c *Cache) (*pgast.Statement, error) {
	own := make([]pglex.Token, len(toks)+1)
	copy(own, toks)
	if base != 0 {
		for i := range own {
			own[i].Start -= int32(base)
			own[i].End -= int32(base)
		}
	}
	own[len(toks)] = pglex.Token{Kind: pglex.EOF, Start: int32(len(sql)), End: int32(len(sql))}
	sh, err := compile(sql, own)
	if err != nil {
		return nil, err
	}
	if c != nil {
		c.put(sh)
	}
	return sh.first(sql, own), nil
}

// inner parses the statement inside PREPARE.
func inner(text string) (*pgast.Statement, error) {
	sts, err := Parse(text)
	if err != nil {
		return nil, err
	}
	if len(sts) != 1 {
		return nil, sqlstate.Newf(sqlstate.SyntaxError, "syntax error at end of input")
	}
	return sts[0], nil
}

// compile turns one statement's tokens into a shape.
func compile(sql string, toks []pglex.Token) (*shape, error) {
	p := respell.NewParser(sql, toks)
	var root respell.Frag
	var ut utility.Result
	isUtility := false
	if err := respell.Run(func() {
		if f, ok := p.Statement(); ok {
			p.End()
			root = f
			return
		}
		isUtility = true
		ut = utility.Parse(p, inner)
		if ut.HasRoot {
			root = ut.Root
		} else {
			root = p.Nothing()
		}
	}); err != nil {
		return nil, err
	}
	sh := &shape{}
	if isUtility && !ut.HasRoot && !p.HasParts() {
		sh.slots, sh.params = p.Slots()
		tree, err := lift.Run(func() pgast.Stmt { return ut.Build(nil) })
		if err != nil {
			return nil, err
		}
		sh.tree = tree
		sh.finish(toks)
		return sh, nil
	}
	res := p.Finish(root)
	var tree pgast.Stmt
	var liftErr error
	err := tidbdrv.Parse(res.Text, func(stmts []ast.StmtNode) {
		l := lift.New(res, stmts)
		tree, liftErr = lift.Run(func() pgast.Stmt {
			switch {
			case isUtility:
				return ut.Build(l)
			case p.Other() != "":
				return &pgast.Other{Tag: p.Other(), Text: sql}
			}
			return l.Root()
		})
		sh.asOf = l.AsOf
	})
	if err != nil {
		return nil, grammarError(sql, toks, res, err)
	}
	if liftErr != nil {
		return nil, liftErr
	}
	sh.tree, sh.slots, sh.params = tree, res.Slots, res.Params
	sh.finish(toks)
	return sh, nil
}

// grammarError gives a refusal of the TiDB grammar PostgreSQL's form.
func grammarError(sql string, toks []pglex.Token, res *respell.Result, err error) error {
	var se *tidbdrv.SyntaxError
	pos := -1
	if errors.As(err, &se) && se.Offset >= 0 {
		pos = res.Pos(se.Offset)
	}
	t := &toks[len(toks)-1]
	for i := range toks {
		if pos >= 0 && int(toks[i].Start) >= pos {
			t = &toks[i]
			break
		}
	}
	e := *respell.SyntaxError(sql, t)
	e.Cause = err
	return &e
}
