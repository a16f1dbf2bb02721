package sql

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/tablet"
)

func itoa(n int) string { return strconv.Itoa(n) }

// alterTable applies the actions in order to one locked descriptor, each written
// before the next, so that an action sees its predecessors.
func (c *Conn) alterTable(ctx context.Context, r *request, x *pgast.AlterTable) error {
	d, err := c.lockTable(ctx, x.Name)
	if err != nil {
		if x.IfExists && sqlstate.CodeOf(err) == sqlstate.UndefinedTable {
			return r.sink.notice("NOTICE", sqlstate.Newf(sqlstate.SuccessfulCompletion, "relation %q does not exist, skipping", x.Name.Last()))
		}
		return err
	}
	for i := range x.Actions {
		if err := c.alter(ctx, r, d, &x.Actions[i]); err != nil {
			return err
		}
		if d, err = c.txn.view.LockTable(ctx, c.locking(), d.ID); err != nil {
			return err
		}
	}
	return nil
}

func (c *Conn) alter(ctx context.Context, r *request, d *catalog.Table, a *pgast.AlterAction) error {
	put := func() error { return c.txn.view.PutTable(ctx, c.locking(), d) }
	column := func() (*catalog.Column, error) {
		o := d.ColumnByName(a.Name)
		if o < 0 {
			return nil, sqlstate.Newf(sqlstate.UndefinedColumn, "column %q of relation %q does not exist", a.Name, d.Name)
		}
		return &d.Columns[o], nil
	}
	switch a.Kind {
	case "add constraint":
		def, err := c.constraint(d, a.Constraint)
		if err != nil {
			return err
		}
		if def.primary {
			return c.addPrimaryKey(ctx, d, def)
		}
		return c.addIndex(ctx, d, def)
	case "add column":
		return c.addColumn(ctx, r, d, a)
	case "drop column":
		return c.dropColumn(ctx, r, d, a)
	case "drop constraint":
		i := slices.IndexFunc(d.Indexes, func(ix catalog.Index) bool { return ix.Constraint && ix.Name == a.Name })
		switch {
		case i < 0 && a.IfExists:
			return r.sink.notice("NOTICE", sqlstate.Newf(sqlstate.SuccessfulCompletion, "constraint %q of relation %q does not exist, skipping", a.Name, d.Name))
		case i < 0:
			return sqlstate.Newf(sqlstate.UndefinedObject, "constraint %q of relation %q does not exist", a.Name, d.Name)
		case i == 0:
			return unsupported("dropping a primary key is not supported")
		}
		return c.removeIndex(ctx, d, i)
	case "set default", "drop default":
		col, err := column()
		if err != nil {
			return err
		}
		col.Default = ""
		if a.Kind == "set default" {
			if a.Column == nil || a.Column.DefaultText == "" {
				return unsupported("this default expression is not supported")
			}
			if err := c.planCatalog().CheckDefault(ctx, a.Column.DefaultText, col.Type, col.Name); err != nil {
				return err
			}
			col.Default = a.Column.DefaultText
		}
		return put()
	case "set not null":
		col, err := column()
		if err != nil {
			return err
		}
		if err := c.checkNoNulls(ctx, d, []string{col.Name}); err != nil {
			return err
		}
		col.NotNull = true
		return put()
	case "drop not null":
		col, err := column()
		if err != nil {
			return err
		}
		for _, ic := range d.Primary().Columns {
			if ic.Column == col.ID {
				return sqlstate.Newf(sqlstate.InvalidTableDefinition, "column %q is in a primary key", col.Name)
			}
		}
		col.NotNull = false
		return put()
	case "rename column":
		col, err := column()
		if err != nil {
			return err
		}
		if d.ColumnByName(a.NewName) >= 0 {
			return sqlstate.Newf(sqlstate.DuplicateColumn, "column %q of relation %q already exists", a.NewName, d.Name)
		}
		col.Name = types.TruncateName(a.NewName)
		return put()
	case "rename":
		return c.renameTable(ctx, d, a.NewName)
	case "owner":
		if a.Name != "" && a.Name != c.opts.User && a.NewName != c.opts.User {
			return sqlstate.Newf(sqlstate.UndefinedObject, "role %q does not exist", a.Name)
		}
		return nil
	case "set options", "reset options":
		changed, err := tableOptions(d, a.Options, a.Kind == "reset options")
		if err != nil || !changed {
			return err
		}
		return put()
	}
	return unsupported("ALTER TABLE ... %s is not supported", strings.ToUpper(a.Kind))
}

func (c *Conn) renameTable(ctx context.Context, d *catalog.Table, to string) error {
	to = types.TruncateName(to)
	dup := sqlstate.Newf(sqlstate.DuplicateTable, "relation %q already exists", to)
	e := catalog.Entry{Kind: catalog.KindTable, ID: d.ID, Table: d.ID}
	if err := c.txn.view.ClaimName(ctx, c.locking(), d.Schema, to, e, dup); err != nil {
		return err
	}
	if err := c.txn.view.FreeName(ctx, c.locking(), d.Schema, d.Name); err != nil {
		return err
	}
	d.Name = to
	return c.txn.view.PutTable(ctx, c.locking(), d)
}

func (c *Conn) createIndex(ctx context.Context, r *request, x *pgast.CreateIndex) error {
	switch {
	case x.Using != "" && x.Using != "btree":
		return unsupported("access method %q is not supported", x.Using)
	case x.Where != nil:
		return unsupported("partial indexes are not supported")
	case len(x.Include) > 0:
		return unsupported("INCLUDE is not supported")
	}
	if err := checkStorageOptions(x.Options); err != nil {
		return err
	}
	d, err := c.lockTable(ctx, x.Table)
	if err != nil {
		return err
	}
	if x.Name != "" {
		if _, ok, err := c.txn.view.Name(ctx, d.Schema, types.TruncateName(x.Name)); err != nil {
			return err
		} else if ok && x.IfNotExists {
			return r.sink.notice("NOTICE", sqlstate.Newf(sqlstate.DuplicateTable, "relation %q already exists, skipping", x.Name))
		}
	}
	def := indexDef{name: x.Name, unique: x.Unique}
	for _, it := range x.Items {
		if it.Expr != nil || it.Column == "" {
			return unsupported("indexes on expressions are not supported")
		}
		if it.Nulls != nil && *it.Nulls != it.Desc {
			return unsupported("NULLS FIRST or LAST against the default order is not supported")
		}
		ic, err := keyColumn(d, it.Column, it.Desc)
		if err != nil {
			return sqlstate.Newf(sqlstate.CodeOf(err), "%s", strings.Replace(err.(*sqlstate.Error).Message, " named in key", "", 1))
		}
		def.columns = append(def.columns, ic)
	}
	return c.addIndex(ctx, d, def)
}

// addIndex adds a secondary index to a locked table and fills it from the rows there.
// The scan's exclusive lock keeps writers out until the change has committed.
func (c *Conn) addIndex(ctx context.Context, d *catalog.Table, def indexDef) error {
	first, err := c.txn.view.Allocate(ctx, 2, d.DB, d.ID, false, 1)
	if err != nil {
		return err
	}
	ix := def.index(first, first+1)
	if err := c.nameIndex(ctx, d, &ix, def.name); err != nil {
		return err
	}
	old := plan.NewTableInfo(d)
	next := d.Clone()
	next.Indexes = append(next.Indexes, ix)
	// Only the new index's entries are written: an inserter over it alone.
	ti := plan.NewTableInfo(next)
	only := *ti
	only.Indexes = ti.Indexes[len(ti.Indexes)-1:]
	if err := c.rewrite(ctx, old, &only, func(row, _ []types.Datum) error { return nil }); err != nil {
		return indexBuildError(err, ix.Name)
	}
	return c.txn.view.PutTable(ctx, c.locking(), next)
}

// addPrimaryKey rewrites a locked table under a new key. Its secondary indexes point
// to rows by primary key, so they are made anew too.
func (c *Conn) addPrimaryKey(ctx context.Context, d *catalog.Table, def indexDef) error {
	if d.HasPrimaryKey() {
		return sqlstate.Newf(sqlstate.InvalidTableDefinition, "multiple primary keys for table %q are not allowed", d.Name)
	}
	old := plan.NewTableInfo(d)
	next := d.Clone()
	if h := next.HiddenColumn(); h >= 0 {
		next.Columns = slices.Delete(next.Columns, h, h+1)
	}
	retired := make([]catalog.ID, len(next.Indexes))
	phys := []int{1}
	for i := range next.Indexes {
		retired[i] = next.Indexes[i].Phys
		if i > 0 {
			phys = append(phys, 1+i)
		}
	}
	first, err := c.txn.view.Allocate(ctx, 1+len(next.Indexes), d.DB, d.ID, false, phys...)
	if err != nil {
		return err
	}
	next.Indexes[0] = def.index(first, first+1)
	for i := 1; i < len(next.Indexes); i++ {
		next.Indexes[i].Phys = first + catalog.ID(1+i)
	}
	if err := c.nameIndex(ctx, next, &next.Indexes[0], def.name); err != nil {
		return err
	}
	if err := c.rewrite(ctx, old, plan.NewTableInfo(next), copyByID(d, next)); err != nil {
		return indexBuildError(err, next.Indexes[0].Name)
	}
	for _, p := range retired {
		if err := c.txn.view.RetirePhys(ctx, c.locking(), d, p); err != nil {
			return err
		}
	}
	return c.txn.view.PutTable(ctx, c.locking(), next)
}

// indexBuildError turns a duplicate or a NULL met while an index is built into
// PostgreSQL's messages for that.
func indexBuildError(err error, index string) error {
	var e *sqlstate.Error
	if !errors.As(err, &e) {
		return err
	}
	out := *e
	switch e.Code {
	case sqlstate.UniqueViolation:
		out.Message = "could not create unique index \"" + index + "\""
		out.Detail = strings.Replace(e.Detail, " already exists.", " is duplicated.", 1)
	case sqlstate.NotNullViolation:
		out.Message, out.Detail = "column \""+e.Column+"\" of relation \""+e.Table+"\" contains null values", ""
	default:
		return err
	}
	return &out
}

// copyByID copies the columns that both tables have.
func copyByID(from, to *catalog.Table) func(old, new []types.Datum) error {
	var pairs [][2]int
	for i := range to.Columns {
		if o := from.Ordinal(to.Columns[i].ID); o >= 0 {
			pairs = append(pairs, [2]int{o, i})
		}
	}
	return func(old, new []types.Datum) error {
		for _, p := range pairs {
			new[p[1]] = old[p[0]]
		}
		return nil
	}
}

// rewrite reads every row of a table under an exclusive lock of the whole, and
// inserts what convert makes of it into the indexes of to, which are new. When to
// has the very columns of from, convert has nothing to do and the row itself is used.
func (c *Conn) rewrite(ctx context.Context, from, to *plan.TableInfo, convert func(old, new []types.Datum) error) error {
	x := c.execContext(ctx)
	defer c.release(x)
	x.Eval.Reset(nil, nil)
	x.Eval.Format = c.format()
	ins := x.NewInserter(to)
	all := make([]int, len(from.Types))
	for i := range all {
		all[i] = i
	}
	rd := plan.NewReader(from, from.Primary(), all)
	row := make([]types.Datum, len(from.Types))
	scratch := make([]types.Datum, len(from.Types))
	next := row
	if !sameColumns(from.Desc, to.Desc) {
		next = make([]types.Datum, len(to.Types))
	}
	it := c.locking().Scan(ctx, kv.ScanRequest{Span: from.Primary().Codec.Span(), Lock: tablet.LockExclusive})
	defer it.Close()
	for it.Next() {
		if err := rd.Read(it.Key(), it.Value(), row, scratch); err != nil {
			return err
		}
		if err := convert(row, next); err != nil {
			return err
		}
		if err := ins.Add(next); err != nil {
			return err
		}
	}
	if err := it.Err(); err != nil {
		return err
	}
	return ins.Flush()
}

func sameColumns(a, b *catalog.Table) bool {
	return slices.EqualFunc(a.Columns, b.Columns, func(x, y catalog.Column) bool { return x.ID == y.ID })
}

func (c *Conn) addColumn(ctx context.Context, r *request, d *catalog.Table, a *pgast.AlterAction) error {
	if d.ColumnByName(a.Column.Name) >= 0 {
		if a.IfExists {
			return r.sink.notice("NOTICE", sqlstate.Newf(sqlstate.DuplicateColumn, "column %q of relation %q already exists, skipping", a.Column.Name, d.Name))
		}
		return sqlstate.Newf(sqlstate.DuplicateColumn, "column %q of relation %q already exists", a.Column.Name, d.Name)
	}
	if len(d.Columns) >= maxColumns {
		return sqlstate.Newf(sqlstate.TooManyColumns, "tables can have at most %d columns", maxColumns)
	}
	col, cons, err := c.column(ctx, d, a.Column)
	if err != nil {
		return err
	}
	if len(cons) > 0 {
		return unsupported("ADD COLUMN with a constraint is not supported").(*sqlstate.Error).WithHint("Add the column first and the constraint with ADD CONSTRAINT.")
	}
	next := d.Clone()
	addColumn(next, col)
	if col.Default == "" && !col.NotNull {
		return c.txn.view.PutTable(ctx, c.locking(), next) // absent from a stored row is NULL
	}
	return c.rewriteWith(ctx, d, next, col)
}

// rewriteWith fills a new column of every row with its default.
func (c *Conn) rewriteWith(ctx context.Context, d, next *catalog.Table, col catalog.Column) error {
	e, err := c.planCatalog().DefaultExpr(ctx, &next.Columns[len(next.Columns)-1])
	if err != nil {
		return err
	}
	old := make([]catalog.ID, len(next.Indexes))
	var phys []int
	for i := range next.Indexes {
		old[i] = next.Indexes[i].Phys
		phys = append(phys, i)
	}
	first, err := c.txn.view.Allocate(ctx, len(next.Indexes), d.DB, d.ID, false, phys...)
	if err != nil {
		return err
	}
	for i := range next.Indexes {
		next.Indexes[i].Phys = first + catalog.ID(i)
	}
	x := c.execContext(ctx)
	x.Eval.Reset(nil, nil)
	x.Eval.Format = c.format()
	defer c.release(x)
	copyRow := copyByID(d, next)
	last := len(next.Columns) - 1
	err = c.rewrite(ctx, plan.NewTableInfo(d), plan.NewTableInfo(next), func(o, n []types.Datum) (err error) {
		if err = copyRow(o, n); err == nil {
			n[last], err = e.Eval(&x.Eval, nil)
		}
		return err
	})
	if err != nil {
		return indexBuildError(err, "")
	}
	for _, p := range old {
		if err := c.txn.view.RetirePhys(ctx, c.locking(), d, p); err != nil {
			return err
		}
	}
	return c.txn.view.PutTable(ctx, c.locking(), next)
}

func (c *Conn) dropColumn(ctx context.Context, r *request, d *catalog.Table, a *pgast.AlterAction) error {
	o := d.ColumnByName(a.Name)
	if o < 0 {
		if a.IfExists {
			return r.sink.notice("NOTICE", sqlstate.Newf(sqlstate.SuccessfulCompletion, "column %q of relation %q does not exist, skipping", a.Name, d.Name))
		}
		return sqlstate.Newf(sqlstate.UndefinedColumn, "column %q of relation %q does not exist", a.Name, d.Name)
	}
	id := d.Columns[o].ID
	for _, ix := range d.Indexes {
		if slices.ContainsFunc(ix.Columns, func(ic catalog.IndexColumn) bool { return ic.Column == id }) {
			return unsupported("dropping column %q, on which index %q depends, is not supported", a.Name, ix.Name).(*sqlstate.Error).
				WithHint("Drop the index first.")
		}
	}
	d.Columns = slices.Delete(d.Columns, o, o+1)
	return c.txn.view.PutTable(ctx, c.locking(), d)
}

// checkNoNulls reads a locked table through and refuses NULLs in the columns.
func (c *Conn) checkNoNulls(ctx context.Context, d *catalog.Table, names []string) error {
	ti := plan.NewTableInfo(d)
	var ords []int
	for _, n := range names {
		ords = append(ords, d.ColumnByName(n))
	}
	rd := plan.NewReader(ti, ti.Primary(), ords)
	row := make([]types.Datum, len(ti.Types))
	scratch := make([]types.Datum, len(ti.Types))
	it := c.locking().Scan(ctx, kv.ScanRequest{Span: ti.Primary().Codec.Span(), Lock: tablet.LockExclusive})
	defer it.Close()
	for it.Next() {
		if err := rd.Read(it.Key(), it.Value(), row, scratch); err != nil {
			return err
		}
		for i, o := range ords {
			if row[o].IsNull() {
				return &sqlstate.Error{Code: sqlstate.NotNullViolation, Table: d.Name, Column: names[i],
					Message: "column \"" + names[i] + "\" of relation \"" + d.Name + "\" contains null values"}
			}
		}
	}
	return it.Err()
}

// tableAs plans the query of CREATE TABLE AS and takes its columns.
func (c *Conn) tableAs(ctx context.Context, r *request, x *pgast.CreateTable, t *catalog.Table) (*compiled, error) {
	var p *plan.Plan
	err := c.stable(func() (err error) {
		p, err = plan.Build(ctx, c.planCatalog(), r.st, x.As, nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(x.Columns) > len(p.Columns) {
		return nil, sqlstate.Newf(sqlstate.SyntaxError, "too many column names were specified")
	}
	for i, pc := range p.Columns {
		name := pc.Name
		if i < len(x.Columns) {
			name = x.Columns[i].Name
		}
		if t.ColumnByName(name) >= 0 {
			return nil, sqlstate.Newf(sqlstate.DuplicateColumn, "column %q specified more than once", name)
		}
		addColumn(t, catalog.Column{Name: name, Type: pc.Type})
	}
	return compile(p), nil
}

// fillTable inserts the rows of CREATE TABLE AS.
func (c *Conn) fillTable(ctx context.Context, r *request, t *catalog.Table, source *compiled) (int64, error) {
	x := c.execContext(ctx)
	defer c.release(x)
	x.Eval.Reset(r.st.Consts, r.params)
	x.Eval.Format = c.format()
	c.txn.view.Used(source.plan.Uses)
	rows, err := x.Open(source.plan)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	ti := plan.NewTableInfo(t)
	ins := x.NewInserter(ti)
	row := make([]types.Datum, len(ti.Types))
	for {
		src, err := rows.Next()
		if err != nil {
			return 0, err
		}
		if src == nil {
			err := ins.Flush()
			return ins.Count, err
		}
		copy(row, src)
		row[ti.Hidden] = types.Int(c.NextRowID())
		if err := ins.Add(row); err != nil {
			return 0, err
		}
	}
}
