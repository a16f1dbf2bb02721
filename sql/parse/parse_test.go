package parse

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
)

// TestData shows trees and errors. Commands: "parse" prints each statement's
// constants and tree, "positions" the tree with source offsets, "shape" shapes only.
func TestData(t *testing.T) {
	datadriven.Walk(t, "testdata/trees", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			sts, err := Parse(d.Input)
			if err != nil {
				return showError(err)
			}
			if len(sts) == 0 {
				return "empty\n"
			}
			var b strings.Builder
			for _, s := range sts {
				switch d.Cmd {
				case "shape":
					fmt.Fprintf(&b, "%s\n", s.Shape)
				case "parse", "positions":
					if len(s.Consts) > 0 || s.NumParams > 0 {
						fmt.Fprintf(&b, "consts %v", s.Consts)
						if s.NumParams > 0 {
							fmt.Fprintf(&b, " params %d", s.NumParams)
						}
						b.WriteByte('\n')
					}
					b.WriteString(pgast.Print(s.Tree, d.Cmd == "positions"))
				default:
					d.Fatalf(t, "unknown command %s", d.Cmd)
				}
			}
			return b.String()
		})
	})
}

func showError(err error) string {
	var e *sqlstate.Error
	if !errors.As(err, &e) {
		return "not an sqlstate.Error: " + err.Error() + "\n"
	}
	s := fmt.Sprintf("%s at %d: %s\n", e.Code, e.Position, e.Message)
	if e.Hint != "" {
		s += "hint: " + e.Hint + "\n"
	}
	return s
}

func code(err error) sqlstate.Code { return sqlstate.CodeOf(err) }

// TestDepth shows that nesting is refused before it can exhaust a stack, and
// that long flat statements are not (F1).
func TestDepth(t *testing.T) {
	const n = 10000
	rep := strings.Repeat
	for name, sql := range map[string]string{
		"parens":         "select " + rep("(", n) + "1" + rep(")", n),
		"open parens":    "select " + rep("(", n),
		"queries":        rep("(", n) + "select 1" + rep(")", n),
		"subqueries":     "select " + rep("(select ", n) + "1" + rep(")", n),
		"from":           "select * from " + rep("(select * from ", n) + "t" + rep(") x", n),
		"joins in paren": "select * from " + rep("(", n) + "a",
		"not":            "select " + rep("not ", n) + "true",
		"minus":          "select " + rep("- ", n) + "a",
		"prefix":         "select " + rep("@ ", n) + "a",
		"case":           "select " + rep("case when ", n) + "1",
		"calls":          "select " + rep("f(", n) + rep(")", n),
		"array":          "select array" + rep("[", n) + rep("]", n),
		"subscripts":     "select a" + rep("[1]", n),
		"casts":          "select a" + rep("::int", n),
		"plus":           "select 1" + rep("+1", n),
		"concat":         "select ''" + rep("||''", n),
		"unions":         "select 1" + rep(" union select 1", n),
		"joins":          "select * from t" + rep(" join t on true", n),
		"right joins":    "select * from t" + rep(" join t", n),
		"with":           rep("with a as (", n) + "select 1",
		"with dml":       rep("with a as (insert into t ", n) + "select 1",
		"explain":        rep("explain ", n) + "select 1",
		"prepare":        rep("prepare a as ", n) + "select 1",
		"is null":        "select a" + rep(" is null", n),
		"collate":        "select a" + rep(" collate b", n),
		"fields":         "select (a)" + rep(".b", n),
		"grouping sets":  "select 1 group by " + rep("grouping sets (", n),
		"rows":           "select " + rep("(1,", n) + "1" + rep(")", n),
	} {
		_, err := Parse(sql)
		if c := code(err); c != sqlstate.StatementTooComplex && c != sqlstate.SyntaxError {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, sql := range map[string]string{
		"and":    "select a" + rep(" and a", 10000),
		"or":     "select a where a = 1" + rep(" or a = 1", 10000),
		"in":     "select a in (1" + rep(",1", 10000) + ")",
		"values": "insert into t values (1)" + rep(",(1)", 10000),
		"select": "select 1" + rep(",1", 10000),
		"parens": "select " + rep("(", 700) + "1" + rep(")", 700),
		"plus":   "select 1" + rep("+1", 1200),
	} {
		if _, err := Parse(sql); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBadText shows that bytes a text value cannot hold never reach the lexer.
func TestBadText(t *testing.T) {
	for _, sql := range []string{"select 1\x00", "select '\xff'", "select \"\xc3\"", "\xf0\x28"} {
		if _, err := Parse(sql); code(err) != sqlstate.CharacterNotInRepertoire {
			t.Errorf("%q: %v", sql, err)
		}
		if _, err := NewCache(16, 0).Parse(sql); code(err) != sqlstate.CharacterNotInRepertoire {
			t.Errorf("%q: %v", sql, err)
		}
	}
}

// TestStatements checks the split of a query string and positions in it.
func TestStatements(t *testing.T) {
	sts, err := Parse(" ;; select ';' ; ; /* x; */ insert into t values (1) -- ;\n ; begin;")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range sts {
		got = append(got, s.SQL)
	}
	want := []string{"select ';'", "insert into t values (1)", "begin"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got %q", got)
	}
	_, err = Parse("select 'é'; select from from x")
	var e *sqlstate.Error
	if !errors.As(err, &e) || e.Position != 25 || e.Message != `syntax error at or near "from"` {
		t.Fatalf("got %+v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, file := range corpusFiles {
		for i, s := range readCorpus(f, file) {
			if i%7 == 0 && len(s.sql) < 400 {
				f.Add(s.sql)
			}
		}
	}
	c := NewCache(256, 1<<20)
	f.Fuzz(func(t *testing.T, sql string) {
		if len(sql) > 4096 {
			return
		}
		sts, err := Parse(sql)
		if err != nil {
			var e *sqlstate.Error
			if !errors.As(err, &e) {
				t.Fatalf("%q: %v is not an sqlstate.Error", sql, err)
			}
			if e.Code == sqlstate.InternalError {
				t.Fatalf("%q: %v", sql, err)
			}
			if n := len([]rune(sql)); e.Position < 0 || e.Position > n+1 {
				t.Fatalf("%q: position %d of %d", sql, e.Position, n)
			}
		}
		for range 2 {
			got, cerr := c.Parse(sql)
			if (cerr == nil) != (err == nil) || len(got) != len(sts) {
				t.Fatalf("%q: cache gives %d, %v instead of %d, %v", sql, len(got), cerr, len(sts), err)
			}
			for i := range got {
				sameStatement(t, got[i], sts[i])
			}
		}
	})
}
