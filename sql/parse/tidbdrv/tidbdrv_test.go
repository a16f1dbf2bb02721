package tidbdrv

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/pingcap/tidb/pkg/parser/ast"
)

func TestParse(t *testing.T) {
	used := 0
	err := Parse("SELECT `a` ; SELECT 'it''s \\' , @3 LIMIT 9223372036854775810", func(stmts []ast.StmtNode) {
		used = len(stmts)
		// A run in between uses another parser.
		if err := Parse("SELECT ( `x` + `y` )", func([]ast.StmtNode) {}); err != nil {
			t.Error(err)
		}
		s := stmts[1].(*ast.SelectStmt)
		if v := s.Fields.Fields[0].Expr.(*Value); v.GetString() != "it's \\" {
			t.Errorf("backslash or quote is special: %q", v.GetString())
		}
		if at := s.Fields.Fields[0].Expr.OriginTextPosition(); at != 20 {
			t.Errorf("position %d", at)
		}
		if v := s.Limit.Count.(*Value); v.GetValue() != uint64(9223372036854775810) {
			t.Errorf("got %v", v.GetValue())
		}
	})
	if err != nil || used != 2 {
		t.Fatal(used, err)
	}
}

// TestConcurrent is for the race detector: a pooled parser must not touch nodes
// that somebody still reads.
func TestConcurrent(t *testing.T) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				err := Parse("SELECT ( `a` + `b` )", func(stmts []ast.StmtNode) {
					e := stmts[0].(*ast.SelectStmt).Fields.Fields[0].Expr
					if at := e.OriginTextPosition(); at != 7 {
						t.Errorf("position %d", at)
					}
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestLongDecimal: values the parser's own test driver panics on.
func TestLongDecimal(t *testing.T) {
	for _, lit := range []string{strings.Repeat("9", 5000), strings.Repeat("9", 90) + "." + strings.Repeat("9", 90), "X'ff'", "B'01'"} {
		if err := Parse("SELECT "+lit, func([]ast.StmtNode) {}); err != nil {
			t.Errorf("%.20s: %v", lit, err)
		}
	}
}

func TestErrorOffset(t *testing.T) {
	for _, c := range []struct {
		text string
		at   int
	}{{"SELECT `a` FROM FROM `t`", 16}, {"SELECT ( `a`", 12}} {
		err := Parse(c.text, func([]ast.StmtNode) { t.Errorf("%s: accepted", c.text) })
		var e *SyntaxError
		if !errors.As(err, &e) || e.Offset != c.at {
			t.Errorf("%s: %v at %d", c.text, err, e.Offset)
		}
	}
}
