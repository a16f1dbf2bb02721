package lift

import (
	"github.com/pingcap/tidb/pkg/parser/ast"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/respell"
)

func (l *Lifter) createTable(n *ast.CreateTableStmt) *pgast.CreateTable {
	_, v := l.note(n.Table.Name.O)
	note, ok := v.(*respell.CreateTableNote)
	if !ok {
		l.fail("CREATE TABLE has no note")
	}
	t := note.Table
	for _, c := range n.Cols {
		if _, cn := l.note(c.Name.Name.O); cn != nil {
			t.Columns = append(t.Columns, *l.columnDef(c))
		}
	}
	for _, c := range n.Constraints {
		t.Constraints = append(t.Constraints, l.constraint(c))
	}
	if note.As > 0 {
		t.As = l.Query(note.As)
	}
	return &t
}

func (l *Lifter) columnDef(n *ast.ColumnDef) *pgast.ColumnDef {
	_, v := l.note(n.Name.Name.O)
	note, ok := v.(*respell.ColumnDefNote)
	if !ok {
		l.fail("column %q has no note", n.Name.Name.O)
	}
	d := note.Def
	next := 0
	take := func(kind string) pgast.Constraint {
		if next >= len(note.Constraints) {
			l.fail("column %q lacks a constraint's note", d.Name)
		}
		cn := note.Constraints[next]
		next++
		c := attrs(cn)
		c.Kind = kind
		return c
	}
	for _, o := range n.Options {
		switch o.Tp {
		case ast.ColumnOptionDefaultValue:
			d.Default = l.expr(o.Expr)
		case ast.ColumnOptionGenerated:
			d.Generated = l.expr(o.Expr)
		case ast.ColumnOptionPrimaryKey:
			c := take("primary key")
			c.Columns = []string{d.Name}
			d.Constraints = append(d.Constraints, c)
		case ast.ColumnOptionUniqKey:
			c := take("unique")
			c.Columns = []string{d.Name}
			d.Constraints = append(d.Constraints, c)
		case ast.ColumnOptionCheck:
			c := take("check")
			c.Check = l.expr(o.Expr)
			d.Constraints = append(d.Constraints, c)
		case ast.ColumnOptionReference:
			c := take("foreign key")
			c.Columns = []string{d.Name}
			l.reference(&c, o.Refer)
			d.Constraints = append(d.Constraints, c)
		default:
			l.fail("unexpected column option %d", o.Tp)
		}
	}
	return &d
}

func attrs(n respell.ConstraintNote) pgast.Constraint {
	return pgast.Constraint{
		Name: n.Name, CheckText: n.CheckText, Deferrable: n.Deferrable, Deferred: n.Deferred,
		NotValid: n.NotValid, UsingIndex: n.UsingIndex, Include: n.Include, RefTable: n.RefTable,
	}
}

func (l *Lifter) constraint(n *ast.Constraint) pgast.Constraint {
	_, v := l.note(n.Name)
	note, ok := v.(*respell.ConstraintNote)
	if !ok {
		l.fail("constraint has no note")
	}
	c := attrs(*note)
	switch n.Tp {
	case ast.ConstraintPrimaryKey:
		c.Kind = "primary key"
	case ast.ConstraintUniq, ast.ConstraintUniqKey, ast.ConstraintUniqIndex:
		c.Kind = "unique"
	case ast.ConstraintCheck:
		c.Kind = "check"
		c.Check = l.expr(n.Expr)
	case ast.ConstraintForeignKey:
		c.Kind = "foreign key"
		l.reference(&c, n.Refer)
	default:
		l.fail("unexpected constraint %d", n.Tp)
	}
	if c.UsingIndex == "" {
		c.Columns = l.keyColumns(n.Keys)
	}
	return c
}

func (l *Lifter) keyColumns(keys []*ast.IndexPartSpecification) []string {
	var out []string
	for _, k := range keys {
		if k.Column == nil {
			l.fail("expression in a key")
		}
		out = append(out, k.Column.Name.O)
	}
	return out
}

func (l *Lifter) reference(c *pgast.Constraint, r *ast.ReferenceDef) {
	c.RefColumns = l.keyColumns(r.IndexPartSpecifications)
	action := func(t ast.ReferOptionType) string {
		switch t {
		case ast.ReferOptionRestrict:
			return "restrict"
		case ast.ReferOptionCascade:
			return "cascade"
		case ast.ReferOptionSetNull:
			return "set null"
		case ast.ReferOptionNoAction:
			return "no action"
		case ast.ReferOptionSetDefault:
			return "set default"
		}
		return ""
	}
	c.OnDelete, c.OnUpdate = action(r.OnDelete.ReferOpt), action(r.OnUpdate.ReferOpt)
}

func (l *Lifter) createIndex(n *ast.CreateIndexStmt) *pgast.CreateIndex {
	_, v := l.note(n.IndexName)
	note, ok := v.(*respell.IndexNote)
	if !ok {
		l.fail("CREATE INDEX has no note")
	}
	x := note.Index
	if len(n.IndexPartSpecifications) != len(x.Items) {
		l.fail("index has %d keys instead of %d", len(n.IndexPartSpecifications), len(x.Items))
	}
	x.Items = append([]pgast.IndexItem(nil), x.Items...)
	for i, k := range n.IndexPartSpecifications {
		if k.Column == nil {
			x.Items[i].Expr = l.expr(k.Expr)
		}
	}
	if note.Where > 0 {
		x.Where = l.Exprs(note.Where)[0]
	}
	return &x
}

func (l *Lifter) alterTable(n *ast.AlterTableStmt) *pgast.AlterTable {
	_, v := l.note(n.Table.Name.O)
	note, ok := v.(*respell.AlterNote)
	if !ok {
		l.fail("ALTER TABLE has no note")
	}
	if len(n.Specs) != len(note.Actions) {
		l.fail("ALTER TABLE has %d actions instead of %d", len(n.Specs), len(note.Actions))
	}
	t := &pgast.AlterTable{Name: note.Name, IfExists: note.IfExists, Only: note.Only}
	for i, s := range n.Specs {
		a := note.Actions[i].Action
		switch a.Kind {
		case "add column", "alter type":
			if len(s.NewColumns) != 1 {
				l.fail("action without its column")
			}
			a.Column = l.columnDef(s.NewColumns[0])
			if a.Kind == "alter type" {
				a.Using, a.Column.Default = a.Column.Default, nil
			}
		case "add constraint":
			c := l.constraint(s.Constraint)
			a.Constraint = &c
		case "set default":
			if len(s.NewColumns) != 1 || len(s.NewColumns[0].Options) != 1 {
				l.fail("SET DEFAULT without its expression")
			}
			a.Column = &pgast.ColumnDef{
				Name: a.Name, Default: l.expr(s.NewColumns[0].Options[0].Expr), DefaultText: a.NewName, Pos: -1,
			}
			a.NewName = ""
		}
		t.Actions = append(t.Actions, a)
	}
	return t
}

func (l *Lifter) splitTable(n *ast.SplitRegionStmt) *pgast.SplitTable {
	_, v := l.note(n.Table.Name.O)
	note, ok := v.(*respell.TableNote)
	if !ok {
		l.fail("SPLIT TABLE has no note")
	}
	s := &pgast.SplitTable{Table: note.Name, Index: n.IndexName.O, Regions: int(n.SplitOpt.Num)}
	for _, v := range n.SplitOpt.ValueLists {
		s.By = append(s.By, l.exprs(v))
	}
	s.Lo, s.Hi = l.exprs(n.SplitOpt.Lower), l.exprs(n.SplitOpt.Upper)
	return s
}
