package lift

import (
	"github.com/pingcap/tidb/pkg/parser/ast"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/respell"
	"github.com/spandb/spand/sql/sqlstate"
)

func windowDefined(name string) *sqlstate.Error {
	return sqlstate.Newf("42P20", "window \"%s\" is already defined", name)
}

// withPart lifts the WITH list that was put into a part of its own.
func (l *Lifter) withPart(n int) ([]pgast.CTE, bool) {
	if n == 0 {
		return nil, false
	}
	s, ok := l.stmt(n).(*ast.SelectStmt)
	if !ok {
		l.fail("part %d is not a WITH list", n)
	}
	return l.with(s.With)
}

// returning lifts the select list of a RETURNING part.
func (l *Lifter) returning(n int) []pgast.Target {
	if n == 0 {
		return nil
	}
	s, ok := l.stmt(n).(*ast.SelectStmt)
	if !ok {
		l.fail("part %d is not a RETURNING list", n)
	}
	return l.targets(s.Fields.Fields)
}

func (l *Lifter) insert(n *ast.InsertStmt) *pgast.Insert {
	ts, ok := n.Table.TableRefs.Left.(*ast.TableSource)
	if !ok {
		l.fail("INSERT into %s", describe(n.Table.TableRefs.Left))
	}
	tn, ok := ts.Source.(*ast.TableName)
	if !ok {
		l.fail("INSERT into %s", describe(ts.Source))
	}
	_, v := l.note(tn.Name.O)
	note, ok := v.(*respell.InsertNote)
	if !ok {
		l.fail("INSERT has no note")
	}
	s := &pgast.Insert{
		Table: note.Table, Alias: note.Alias, Defaults: note.Defaults, Overriding: note.Overriding,
		ColumnsPos: note.ColumnsPos, Pos: note.Pos,
	}
	s.With, s.Recursive = l.withPart(note.With)
	for _, c := range n.Columns {
		s.Columns = append(s.Columns, c.Name.O)
	}
	if !note.Defaults {
		s.Source = l.query(n.Select)
	}
	if note.Conflict > 0 {
		s.OnConflict = l.onConflict(note.Conflict, n)
	}
	s.Returning = l.returning(note.Returning)
	return s
}

func (l *Lifter) onConflict(part int, n *ast.InsertStmt) *pgast.OnConflict {
	s, ok := l.stmt(part).(*ast.SelectStmt)
	if !ok || len(s.Fields.Fields) != 1 {
		l.fail("part %d is not a conflict target", part)
	}
	call, v := l.carrier(s.Fields.Fields[0].Expr)
	note, ok := v.(*respell.ConflictNote)
	if !ok {
		l.fail("part %d is not a conflict target", part)
	}
	args := l.exprs(call.Args)
	c := &pgast.OnConflict{Constraint: note.Constraint, DoNothing: note.DoNothing}
	c.Columns = args[:note.NTarget:note.NTarget]
	args = args[note.NTarget:]
	if note.Where {
		c.Where, args = args[0], args[1:]
	}
	if note.SetWhere {
		c.SetWhere = args[0]
	}
	c.Set = l.assignments(n.OnDuplicate)
	return c
}

func (l *Lifter) assignments(as []*ast.Assignment) []pgast.Assignment {
	var out []pgast.Assignment
	for _, a := range as {
		_, v := l.note(a.Column.Name.O)
		note, ok := v.(*respell.SetNote)
		if !ok {
			l.fail("assignment to %q has no note", a.Column.Name.O)
		}
		as := pgast.Assignment{Columns: note.Columns, Pos: note.Pos}
		if c, v := l.carrier(a.Expr); v != nil {
			if _, ok := v.(*respell.PartNote); ok {
				as.Value, as.Part = l.expr(c.Args[0]), l.expr(c.Args[1])
				out = append(out, as)
				continue
			}
		}
		as.Value = l.expr(a.Expr)
		out = append(out, as)
	}
	return out
}

// target splits the changed table from the further ones and finds its note.
func (l *Lifter) target(refs *ast.TableRefsClause) (pgast.Table, []pgast.TableExpr, *respell.DMLNote) {
	list := l.fromList(refs.TableRefs)
	var rest []pgast.TableExpr
	if len(list) > 1 {
		rest = list[1:]
	}
	if len(list) == 0 {
		l.fail("statement without a target")
	}
	t, ok := list[0].(*pgast.Table)
	if !ok {
		l.fail("target is %s", describe(list[0]))
	}
	var n ast.ResultSetNode = refs.TableRefs
	for {
		j, ok := n.(*ast.Join)
		if !ok {
			break
		}
		n = j.Left
	}
	if ts, ok := n.(*ast.TableSource); ok {
		if tn, ok := ts.Source.(*ast.TableName); ok {
			_, v := l.note(tn.Name.O)
			if note, ok := v.(*respell.DMLNote); ok {
				return *t, rest, note
			}
		}
	}
	l.fail("target has no note")
	return pgast.Table{}, nil, nil
}

func (l *Lifter) update(n *ast.UpdateStmt) *pgast.Update {
	s := &pgast.Update{}
	var note *respell.DMLNote
	s.Table, s.From, note = l.target(n.TableRefs)
	s.With, s.Recursive = l.withPart(note.With)
	s.Set = l.assignments(n.List)
	if n.Where != nil {
		s.Where = l.expr(n.Where)
	}
	s.Returning = l.returning(note.Returning)
	return s
}

func (l *Lifter) delete(n *ast.DeleteStmt) *pgast.Delete {
	s := &pgast.Delete{}
	var note *respell.DMLNote
	s.Table, s.Using, note = l.target(n.TableRefs)
	s.With, s.Recursive = l.withPart(note.With)
	if n.Where != nil {
		s.Where = l.expr(n.Where)
	}
	s.Returning = l.returning(note.Returning)
	return s
}
