package expr_test

import (
	"bufio"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/types"
)

// FuzzEval: whatever parses binds or fails, and evaluates or fails, without a panic;
// so do its analyses.
func FuzzEval(f *testing.F) {
	files, _ := filepath.Glob("testdata/postgres/*.txt")
	for _, name := range files {
		data, _ := os.ReadFile(name)
		sc := bufio.NewScanner(strings.NewReader(string(data)))
		for sc.Scan() {
			if l := sc.Text(); l != "" && !strings.HasPrefix(l, "= ") && !strings.HasPrefix(l, "! ") && !strings.HasPrefix(l, "# ") {
				f.Add(l)
			}
		}
	}
	w := newWorld(f, "America/New_York")
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // pg_sleep returns at once
	f.Fuzz(func(t *testing.T, text string) {
		stmts, err := parse.Parse("SELECT " + text + " FROM r")
		if err != nil || len(stmts) != 1 || len(text) > 200 {
			return
		}
		sel, ok := stmts[0].Tree.(*pgast.Select)
		if !ok || len(sel.Targets) == 0 {
			return
		}
		e, err := expr.Bind(sel.Targets[0].Expr, &testEnv{cols: w.cols, stmt: stmts[0]}, types.Type{})
		if err != nil {
			return
		}
		expr.Key(expr.Shift(e, 1))
		expr.IsConst(e)
		ec := w.context(stmts[0])
		ec.Ctx = ctx
		ec.Params = make([]types.Datum, stmts[0].NumParams)
		d, err := e.Eval(ec, w.row)
		if err == nil && !d.IsNull() {
			if k := types.KindOf(e.Type().OID); k != d.Kind() {
				t.Fatalf("%s: kind %d of type %s", text, d.Kind(), types.BaseName(e.Type().OID))
			}
			types.AppendText(nil, d, e.Type(), nil)
		}
	})
}
