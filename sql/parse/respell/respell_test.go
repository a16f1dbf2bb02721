package respell

import (
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/spandb/spand/sql/parse/pglex"
	"github.com/spandb/spand/sql/sqlstate"
)

func respell(sql string) (*Result, *sqlstate.Error) {
	toks, err := pglex.All(sql, nil)
	if err != nil {
		return nil, err
	}
	p := NewParser(sql, toks)
	var res *Result
	err = Run(func() {
		f, ok := p.Statement()
		if !ok {
			p.Unexpected()
		}
		p.End()
		res = p.Finish(f)
	})
	return res, err
}

// TestRespell shows the text that the TiDB grammar gets; NUL is shown as ^.
func TestRespell(t *testing.T) {
	datadriven.RunTest(t, "testdata/respell", func(t *testing.T, d *datadriven.TestData) string {
		res, err := respell(d.Input)
		if err != nil {
			return err.Error() + "\n"
		}
		return strings.ReplaceAll(res.Text, "\x00", "^") + "\n"
	})
}

// TestPos: what stands at an offset of the output leads back to its place in the source.
func TestPos(t *testing.T) {
	const sql = "select  foo + bar from  t"
	res, err := respell(sql)
	if err != nil {
		t.Fatal(err)
	}
	for out, src := range map[string]string{"`foo`": "foo", "`bar`": "bar", "( `foo`": "+"} {
		at := res.Exact(strings.Index(res.Text, out))
		if at < 0 || !strings.HasPrefix(sql[at:], src) {
			t.Errorf("%s is at %d", out, at)
		}
	}
	if res.Exact(strings.Index(res.Text, "SELECT")) != -1 || res.Pos(0) != -1 || res.Pos(len(res.Text)+5) < 0 {
		t.Error("positions that stand for nothing")
	}
}

// TestSlotNumbers: a slot's number survives the trip through the grammar.
func TestSlotNumbers(t *testing.T) {
	res, err := respell("select 1 limit 7 offset $3")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(res.Text, "LIMIT 9223372036854775810 OFFSET 9223372036854775815") {
		t.Fatal(res.Text)
	}
	if n, param, ok := SlotNumber(9223372036854775810); n != 1 || param || !ok {
		t.Error(n, param, ok)
	}
	if n, param, ok := SlotNumber(9223372036854775815); n != 3 || !param || !ok {
		t.Error(n, param, ok)
	}
	if _, _, ok := SlotNumber(12); ok {
		t.Error("12 is a slot")
	}
}

// TestForeignPanic: only our own errors are caught.
func TestForeignPanic(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("swallowed")
		}
	}()
	_ = Run(func() { panic("other") })
}
