package lift

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pingcap/tidb/pkg/parser/ast"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/respell"
	"github.com/spandb/spand/sql/sqlstate"
)

// Lifter reads one statement and its parts.
type Lifter struct {
	res   *respell.Result
	stmts []ast.StmtNode
	// AsOf collects the timestamps of the AS OF TIMESTAMP clauses lifted.
	AsOf []pgast.Expr
}

type liftPanic struct{ err *sqlstate.Error }

// New prepares to lift stmts, the grammar's reading of res.Text.
func New(res *respell.Result, stmts []ast.StmtNode) *Lifter {
	return &Lifter{res: res, stmts: stmts}
}

// Run calls f and returns what went wrong in it.
func Run(f func() pgast.Stmt) (s pgast.Stmt, err error) {
	defer func() {
		if r := recover(); r != nil {
			lp, ok := r.(liftPanic)
			if !ok {
				panic(r)
			}
			s, err = nil, lp.err
		}
	}()
	return f(), nil
}

func (l *Lifter) fail(format string, args ...any) {
	panic(liftPanic{sqlstate.Newf(sqlstate.InternalError, "parser: "+format, args...)})
}

func (l *Lifter) unsupported(format string, args ...any) {
	panic(liftPanic{sqlstate.Newf(sqlstate.FeatureNotSupported, format, args...)})
}

// note splits a name from the note behind it; note is nil for a plain name.
func (l *Lifter) note(name string) (string, any) {
	i := strings.IndexByte(name, 0)
	if i < 0 {
		return name, nil
	}
	n, err := strconv.Atoi(name[i+1:])
	if err != nil || n < 0 || n >= len(l.res.Notes) {
		l.fail("note %q is unknown", name)
	}
	return name[:i], l.res.Notes[n]
}

// Stmt is the n-th statement of the text.
func (l *Lifter) stmt(n int) ast.StmtNode {
	if n < 0 || n >= len(l.stmts) {
		l.fail("part %d is missing", n)
	}
	return l.stmts[n]
}

// Root lifts the first statement.
func (l *Lifter) Root() pgast.Stmt { return l.Part(0) }

// Part lifts the n-th statement.
func (l *Lifter) Part(n int) pgast.Stmt {
	switch s := l.stmt(n).(type) {
	case *ast.SelectStmt, *ast.SetOprStmt:
		return l.query(s)
	case *ast.InsertStmt:
		return l.insert(s)
	case *ast.UpdateStmt:
		return l.update(s)
	case *ast.DeleteStmt:
		return l.delete(s)
	case *ast.CreateTableStmt:
		return l.createTable(s)
	case *ast.CreateIndexStmt:
		return l.createIndex(s)
	case *ast.AlterTableStmt:
		return l.alterTable(s)
	case *ast.SplitRegionStmt:
		return l.splitTable(s)
	default:
		l.fail("unexpected statement %T", s)
		return nil
	}
}

// Query lifts part n, which is a query.
func (l *Lifter) Query(n int) *pgast.Select {
	q, ok := l.Part(n).(*pgast.Select)
	if !ok {
		l.fail("part %d is not a query", n)
	}
	return q
}

// Exprs lifts the select list of part n as plain expressions.
func (l *Lifter) Exprs(n int) []pgast.Expr {
	s, ok := l.stmt(n).(*ast.SelectStmt)
	if !ok {
		l.fail("part %d is not a list", n)
	}
	out := make([]pgast.Expr, 0, len(s.Fields.Fields))
	for _, f := range s.Fields.Fields {
		if f.Expr == nil {
			l.fail("part %d has a star", n)
		}
		out = append(out, l.expr(f.Expr))
	}
	return out
}

func (l *Lifter) pos(n ast.Node) int { return l.res.Exact(n.OriginTextPosition()) }

func describe(n any) string { return fmt.Sprintf("%T", n) }
