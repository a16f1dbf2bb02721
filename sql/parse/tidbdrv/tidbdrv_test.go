package tidbdrv

import (
	"errors"
	"strings"
	"testing"

	"github.com/pingcap/tidb/pkg/parser/ast"
)

func TestParse(t *testing.T) {
	stmts, err := Parse("SELECT `a` ; SELECT 'it''s \\' , @3 LIMIT 9223372036854775810")
	if err != nil || len(stmts) != 2 {
		t.Fatal(stmts, err)
	}
	s := stmts[1].(*ast.SelectStmt)
	if v := s.Fields.Fields[0].Expr.(*Value); v.GetString() != "it's \\" {
		t.Errorf("backslash or quote is special: %q", v.GetString())
	}
	if v := s.Limit.Count.(*Value); v.GetValue() != uint64(9223372036854775810) {
		t.Errorf("got %v", v.GetValue())
	}
	// The first result must survive the parser's next run.
	if _, err := Parse("DELETE FROM `t`"); err != nil {
		t.Fatal(err)
	}
	if _, ok := stmts[0].(*ast.SelectStmt); !ok {
		t.Errorf("result was overwritten by %T", stmts[0])
	}
}

// TestLongDecimal: values the parser's own test driver panics on.
func TestLongDecimal(t *testing.T) {
	for _, lit := range []string{strings.Repeat("9", 5000), strings.Repeat("9", 90) + "." + strings.Repeat("9", 90), "X'ff'", "B'01'"} {
		if _, err := Parse("SELECT " + lit); err != nil {
			t.Errorf("%.20s: %v", lit, err)
		}
	}
}

func TestErrorOffset(t *testing.T) {
	for _, c := range []struct {
		text string
		at   int
	}{{"SELECT `a` FROM FROM `t`", 16}, {"SELECT ( `a`", 12}} {
		_, err := Parse(c.text)
		var e *SyntaxError
		if !errors.As(err, &e) || e.Offset != c.at {
			t.Errorf("%s: %v at %d", c.text, err, e.Offset)
		}
	}
}
