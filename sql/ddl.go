package sql

import (
	"context"
	"slices"
	"strings"

	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/rowcodec"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

func unsupported(format string, args ...any) error {
	return sqlstate.Newf(sqlstate.FeatureNotSupported, format, args...)
}

// ddl runs a statement that changes the schema, in the open transaction.
func (c *Conn) ddl(ctx context.Context, r *request) (string, error) {
	t := &c.txn
	if t.readOnly {
		return "", sqlstate.Newf(sqlstate.ReadOnlyTransaction, "cannot execute a schema change in a read-only transaction")
	}
	if err := t.view.Begin(ctx); err != nil {
		return "", err
	}
	if _, err := c.needKV(ctx, withLocks); err != nil {
		return "", err
	}
	if err := c.underFence(nil); err != nil {
		return "", err
	}
	switch x := r.tree.(type) {
	case *pgast.CreateTable:
		return c.createTable(ctx, r, x)
	case *pgast.DropTable:
		return "DROP " + strings.ToUpper(x.Kind), c.drop(ctx, r, x)
	case *pgast.Truncate:
		return "TRUNCATE TABLE", c.truncate(ctx, x)
	case *pgast.AlterTable:
		return "ALTER TABLE", c.alterTable(ctx, r, x)
	case *pgast.CreateIndex:
		return "CREATE INDEX", c.createIndex(ctx, r, x)
	case *pgast.CreateSchema:
		return "CREATE SCHEMA", c.createSchema(ctx, r, x)
	case *pgast.CreateDatabase:
		return "CREATE DATABASE", c.createDatabase(ctx, x)
	}
	return "", unsupported("this statement is not supported")
}

// targetSchema is where a new relation of this name goes.
func (c *Conn) targetSchema(ctx context.Context, name pgast.Name) (*catalog.Schema, error) {
	find := func(n string) (*catalog.Schema, error) {
		if _, system := plan.SystemSchemas[n]; system {
			return nil, sqlstate.Newf(sqlstate.InsufficientPrivilege, "permission denied to create in schema %q", n)
		}
		return c.txn.view.Schema(ctx, c.db.ID, n)
	}
	if len(name) > 3 || len(name) == 3 && name[0] != c.dbName {
		return nil, unsupported("cross-database references are not implemented")
	}
	if len(name) > 1 {
		s, err := find(name[len(name)-2])
		if err == nil && s == nil {
			err = sqlstate.Newf(sqlstate.InvalidSchemaName, "schema %q does not exist", name[len(name)-2])
		}
		return s, err
	}
	for _, n := range c.set.searchPath {
		if s, err := find(n); err != nil || s != nil {
			return s, err
		}
	}
	return nil, sqlstate.Newf(sqlstate.InvalidSchemaName, "no schema has been selected to create in")
}

// resolveTable finds a stored table.
func (c *Conn) resolveTable(ctx context.Context, name pgast.Name) (*catalog.Table, error) {
	rel, err := c.planCatalog().Resolve(ctx, name)
	if err != nil {
		return nil, err
	}
	if rel.Table == nil {
		return nil, sqlstate.Newf(sqlstate.InsufficientPrivilege, "permission denied: %q is a system catalog", name.Last())
	}
	return rel.Table, nil
}

// lockTable finds a table, takes its descriptor's exclusive lock and returns a copy
// to change.
func (c *Conn) lockTable(ctx context.Context, name pgast.Name) (*catalog.Table, error) {
	t, err := c.resolveTable(ctx, name)
	if err != nil {
		return nil, err
	}
	return c.txn.view.LockTable(ctx, c.locking(), t.ID)
}

// indexDef is an index to be made.
type indexDef struct {
	name       string // "": to be chosen
	columns    []catalog.IndexColumn
	unique     bool
	primary    bool
	constraint bool
}

func (c *Conn) createTable(ctx context.Context, r *request, x *pgast.CreateTable) (string, error) {
	switch {
	case x.Temporary:
		return "", unsupported("temporary tables are not supported")
	case len(x.Like) > 0:
		return "", unsupported("CREATE TABLE ... LIKE is not supported")
	case x.Interleave != nil:
		return "", unsupported("INTERLEAVE IN PARENT is not supported")
	}
	t := new(catalog.Table)
	if _, err := tableOptions(t, x.Options, false); err != nil {
		return "", err
	}
	schema, err := c.targetSchema(ctx, x.Name)
	if err != nil {
		return "", err
	}
	name := types.TruncateName(x.Name.Last())
	exists := sqlstate.Newf(sqlstate.DuplicateTable, "relation %q already exists", name)
	if _, ok, err := c.txn.view.Name(ctx, schema.ID, name); err != nil {
		return "", err
	} else if ok {
		if x.IfNotExists {
			return "CREATE TABLE", r.sink.notice("NOTICE", sqlstate.Newf(sqlstate.DuplicateTable, "relation %q already exists, skipping", name))
		}
		return "", exists
	}
	t.DB, t.Schema, t.Name, t.NextColumn = c.db.ID, schema.ID, name, 1
	var defs []indexDef
	var source *compiled
	if x.As != nil {
		if source, err = c.tableAs(ctx, r, x, t); err != nil {
			return "", err
		}
	} else if defs, err = c.tableColumns(ctx, x, t); err != nil {
		return "", err
	}
	if err := c.newTable(ctx, t, defs, exists); err != nil {
		return "", err
	}
	if source == nil {
		return "CREATE TABLE", nil
	}
	if x.WithNoData {
		return "CREATE TABLE AS", nil
	}
	n, err := c.fillTable(ctx, r, t, source)
	return countTag(selectTags[:], "SELECT ", n), err
}

// newTable gives a table its ids, writes its descriptor and claims its names.
func (c *Conn) newTable(ctx context.Context, t *catalog.Table, defs []indexDef, exists error) error {
	view, txn := c.txn.view, c.locking()
	if !slices.ContainsFunc(defs, func(d indexDef) bool { return d.primary }) {
		id := addColumn(t, catalog.Column{Name: "rowid", Type: types.T(types.OIDInt8), NotNull: true, Hidden: true})
		defs = append([]indexDef{{columns: []catalog.IndexColumn{{Column: id}}, unique: true, primary: true}}, defs...)
	}
	// The primary index comes first.
	slices.SortStableFunc(defs, func(a, b indexDef) int {
		if a.primary == b.primary {
			return 0
		} else if a.primary {
			return -1
		}
		return 1
	})
	var phys []int
	for i := range defs {
		phys = append(phys, 2+2*i)
	}
	first, err := view.Allocate(ctx, 1+2*len(defs), t.DB, 0, true, phys...)
	if err != nil {
		return err
	}
	t.ID = first
	if err := view.ClaimName(ctx, txn, t.Schema, t.Name, catalog.Entry{Kind: catalog.KindTable, ID: t.ID, Table: t.ID}, exists); err != nil {
		return err
	}
	for i, d := range defs {
		ix := d.index(first+catalog.ID(1+2*i), first+catalog.ID(2+2*i))
		if err := c.nameIndex(ctx, t, &ix, d.name); err != nil {
			return err
		}
		t.Indexes = append(t.Indexes, ix)
	}
	return view.PutTable(ctx, txn, t)
}

func (d indexDef) index(id, phys catalog.ID) catalog.Index {
	return catalog.Index{ID: id, Phys: phys, Columns: d.columns, Unique: d.unique, Primary: d.primary, Constraint: d.constraint}
}

// nameIndex claims an index's name: the one given, or one made of the table's and its
// columns' that is free. The index of a hidden row id has none.
func (c *Conn) nameIndex(ctx context.Context, t *catalog.Table, ix *catalog.Index, name string) error {
	if ix.Primary && !ix.Constraint {
		return nil
	}
	given := name != ""
	if !given {
		var cols []string
		for _, col := range ix.Columns {
			cols = append(cols, t.Columns[t.Ordinal(col.Column)].Name)
		}
		switch {
		case ix.Primary:
			name = t.Name + "_pkey"
		case ix.Constraint:
			name = t.Name + "_" + strings.Join(cols, "_") + "_key"
		default:
			name = t.Name + "_" + strings.Join(cols, "_") + "_idx"
		}
	}
	base := types.TruncateName(name)
	for i := 0; ; i++ {
		ix.Name = base
		if i > 0 {
			ix.Name = base + itoa(i)
		}
		if _, taken, err := c.txn.view.Name(ctx, t.Schema, ix.Name); err != nil {
			return err
		} else if taken && !given {
			continue
		}
		dup := sqlstate.Newf(sqlstate.DuplicateTable, "relation %q already exists", ix.Name)
		return c.txn.view.ClaimName(ctx, c.locking(), t.Schema, ix.Name, catalog.Entry{Kind: catalog.KindIndex, ID: ix.ID, Table: t.ID}, dup)
	}
}

func addColumn(t *catalog.Table, col catalog.Column) uint32 {
	col.ID = t.NextColumn
	t.NextColumn++
	t.Columns = append(t.Columns, col)
	return col.ID
}

// maxColumns of a table, as in PostgreSQL.
const maxColumns = 1600

// tableColumns reads a column list and its constraints into t.
func (c *Conn) tableColumns(ctx context.Context, x *pgast.CreateTable, t *catalog.Table) ([]indexDef, error) {
	if len(x.Columns) > maxColumns {
		return nil, sqlstate.Newf(sqlstate.TooManyColumns, "tables can have at most %d columns", maxColumns)
	}
	var cons []pgast.Constraint
	for i := range x.Columns {
		col, own, err := c.column(ctx, t, &x.Columns[i])
		if err != nil {
			return nil, err
		}
		addColumn(t, col)
		cons = append(cons, own...)
	}
	cons = append(cons, x.Constraints...)
	var defs []indexDef
	for i := range cons {
		d, err := c.constraint(t, &cons[i])
		if err != nil {
			return nil, err
		}
		if d.primary && slices.ContainsFunc(defs, func(o indexDef) bool { return o.primary }) {
			return nil, sqlstate.Newf(sqlstate.InvalidTableDefinition, "multiple primary keys for table %q are not allowed", t.Name)
		}
		if !d.primary && slices.ContainsFunc(defs, func(o indexDef) bool { return slices.Equal(o.columns, d.columns) && o.name == d.name && !o.primary }) {
			continue // UNIQUE twice over the same columns is one index
		}
		defs = append(defs, d)
	}
	return defs, nil
}

// column reads a column definition; constraints over it come back apart.
func (c *Conn) column(ctx context.Context, t *catalog.Table, d *pgast.ColumnDef) (catalog.Column, []pgast.Constraint, error) {
	col := catalog.Column{Name: types.TruncateName(d.Name), NotNull: d.NotNull}
	fail := func(err error) (catalog.Column, []pgast.Constraint, error) { return col, nil, err }
	if t.ColumnByName(col.Name) >= 0 {
		return fail(sqlstate.Newf(sqlstate.DuplicateColumn, "column %q specified more than once", col.Name))
	}
	switch col.Name {
	case "ctid", "xmin", "xmax", "cmin", "cmax", "tableoid":
		return fail(sqlstate.Newf(sqlstate.DuplicateColumn, "column name %q conflicts with a system column name", col.Name))
	}
	if d.NotNull && d.Null {
		return fail(sqlstate.Newf(sqlstate.SyntaxError, "conflicting NULL/NOT NULL declarations for column %q of table %q", col.Name, t.Name))
	}
	if _, serial := types.LookupSerial(d.Type); serial {
		return fail(unsupported("type %s needs sequences, which are not supported", d.Type.Name.Last()))
	}
	if d.Identity != "" {
		return fail(unsupported("identity columns are not supported"))
	}
	if d.Generated != nil {
		return fail(unsupported("generated columns are not supported"))
	}
	if n := len(d.Collation); n > 0 && d.Collation.Last() != "default" && d.Collation.Last() != "C" && d.Collation.Last() != "POSIX" {
		return fail(unsupported("collation %q is not supported", d.Collation.Last()))
	}
	var err error
	if col.Type, err = types.LookupName(d.Type); err != nil {
		return fail(err)
	}
	switch col.Type.OID {
	case types.OIDUnknown, types.OIDVoid, types.OIDRecord:
		return fail(sqlstate.Newf(sqlstate.InvalidTableDefinition, "column %q has pseudo-type %s", col.Name, types.Name(col.Type)))
	}
	if d.Default != nil {
		if d.DefaultText == "" {
			return fail(unsupported("this default expression is not supported"))
		}
		col.Default = d.DefaultText
		if err := c.planCatalog().CheckDefault(ctx, col.Default, col.Type, col.Name); err != nil {
			return fail(err)
		}
		if strings.EqualFold(strings.TrimSpace(col.Default), "null") {
			col.Default = ""
		}
	}
	cons := slices.Clone(d.Constraints)
	for i := range cons {
		if len(cons[i].Columns) == 0 && (cons[i].Kind == "primary key" || cons[i].Kind == "unique") {
			cons[i].Columns = []string{d.Name}
		}
	}
	return col, cons, nil
}

// constraint turns a PRIMARY KEY or UNIQUE constraint into an index of t.
func (c *Conn) constraint(t *catalog.Table, x *pgast.Constraint) (indexDef, error) {
	d := indexDef{name: x.Name, unique: true, constraint: true}
	switch x.Kind {
	case "primary key":
		d.primary = true
	case "unique":
	case "check":
		return d, unsupported("CHECK constraints are not supported")
	case "foreign key":
		return d, unsupported("FOREIGN KEY constraints are not supported")
	default:
		return d, unsupported("%s constraints are not supported", strings.ToUpper(x.Kind))
	}
	switch {
	case x.Deferrable:
		return d, unsupported("deferrable constraints are not supported")
	case x.UsingIndex != "":
		return d, unsupported("constraints USING INDEX are not supported")
	case len(x.Include) > 0:
		return d, unsupported("INCLUDE is not supported")
	}
	for _, name := range x.Columns {
		ic, err := keyColumn(t, name, false)
		if err != nil {
			return d, err
		}
		if slices.Contains(d.columns, ic) {
			return d, sqlstate.Newf(sqlstate.DuplicateColumn, "column %q appears twice in %s constraint", name, x.Kind)
		}
		d.columns = append(d.columns, ic)
		if d.primary {
			t.Columns[t.Ordinal(ic.Column)].NotNull = true
		}
	}
	return d, nil
}

// keyColumn finds a column that is to stand in a key.
func keyColumn(t *catalog.Table, name string, desc bool) (catalog.IndexColumn, error) {
	o := t.ColumnByName(name)
	if o < 0 {
		return catalog.IndexColumn{}, sqlstate.Newf(sqlstate.UndefinedColumn, "column %q named in key does not exist", name)
	}
	if !rowcodec.KeyType(t.Columns[o].Type.OID) {
		return catalog.IndexColumn{}, sqlstate.Newf(sqlstate.UndefinedObject, "data type %s has no default operator class for access method \"btree\"", types.Name(t.Columns[o].Type))
	}
	return catalog.IndexColumn{Column: t.Columns[o].ID, Desc: desc}, nil
}

// storageOptions are PostgreSQL's storage parameters, which say nothing here.
var storageOptions = map[string]bool{
	"fillfactor": true, "parallel_workers": true, "toast_tuple_target": true, "user_catalog_table": true,
	"vacuum_index_cleanup": true, "vacuum_truncate": true, "log_autovacuum_min_duration": true, "deduplicate_items": true,
	"fastupdate": true, "buffering": true,
}

func checkStorageOptions(opts []pgast.Option) error {
	for _, o := range opts {
		n := strings.ToLower(o.Name)
		switch {
		case storageOptions[n], strings.HasPrefix(n, "autovacuum_"), strings.HasPrefix(n, "toast."):
		case n == "oids" && (strings.EqualFold(o.Value, "false") || strings.EqualFold(o.Value, "off")):
		default:
			return sqlstate.Newf(sqlstate.InvalidParameterValue, "unrecognized parameter %q", o.Name)
		}
	}
	return nil
}

// drop runs DROP TABLE, INDEX and the like. Of most kinds of objects there are none,
// so that only IF EXISTS is to be honoured.
func (c *Conn) drop(ctx context.Context, r *request, x *pgast.DropTable) error {
	view, txn := c.txn.view, c.locking()
	missing := func(name pgast.Name) error {
		kind := x.Kind
		if x.IfExists {
			return r.sink.notice("NOTICE", sqlstate.Newf(sqlstate.SuccessfulCompletion, "%s %q does not exist, skipping", kind, name.Last()))
		}
		code := sqlstate.UndefinedTable
		switch kind {
		case "index", "type", "domain", "function", "extension":
			code = sqlstate.UndefinedObject
		case "database":
			code = sqlstate.InvalidCatalogName
		case "schema":
			code = sqlstate.InvalidSchemaName
		}
		return sqlstate.Newf(code, "%s %q does not exist", kind, strings.Join(name, "."))
	}
	for _, name := range x.Names {
		switch x.Kind {
		case "table":
			t, err := c.resolveTable(ctx, name)
			if sqlstate.CodeOf(err) == sqlstate.UndefinedTable {
				if err := missing(name); err != nil {
					return err
				}
				continue
			}
			if err != nil {
				return err
			}
			d, err := view.LockTable(ctx, txn, t.ID)
			if err != nil {
				return err
			}
			if err := view.DropTable(ctx, txn, d); err != nil {
				return err
			}
		case "index":
			e, schema, err := c.findIndex(ctx, name)
			if err != nil {
				return err
			}
			if e == nil {
				if err := missing(name); err != nil {
					return err
				}
				continue
			}
			if err := c.dropIndex(ctx, e, schema, name.Last()); err != nil {
				return err
			}
		case "database":
			d, err := view.Database(ctx, name.Last())
			if err != nil {
				return err
			}
			if d != nil {
				return unsupported("DROP DATABASE is not supported")
			}
			if err := missing(name); err != nil {
				return err
			}
		case "schema":
			s, err := view.Schema(ctx, c.db.ID, name.Last())
			if err != nil {
				return err
			}
			if s != nil {
				return unsupported("DROP SCHEMA is not supported")
			}
			if err := missing(name); err != nil {
				return err
			}
		default:
			if err := missing(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// findIndex looks an index up along the search path; nil: there is none.
func (c *Conn) findIndex(ctx context.Context, name pgast.Name) (*catalog.Entry, *catalog.Schema, error) {
	path := c.set.searchPath
	if len(name) > 1 {
		path = []string{name[len(name)-2]}
	}
	for _, n := range path {
		s, err := c.txn.view.Schema(ctx, c.db.ID, n)
		if err != nil {
			return nil, nil, err
		}
		if s == nil {
			continue
		}
		e, ok, err := c.txn.view.Name(ctx, s.ID, name.Last())
		if err != nil {
			return nil, nil, err
		}
		if ok {
			if e.Kind != catalog.KindIndex {
				return nil, nil, sqlstate.Newf(sqlstate.WrongObjectType, "%q is not an index", name.Last())
			}
			return &e, s, nil
		}
	}
	return nil, nil, nil
}

func (c *Conn) dropIndex(ctx context.Context, e *catalog.Entry, schema *catalog.Schema, name string) error {
	d, err := c.txn.view.LockTable(ctx, c.locking(), e.Table)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(d.Indexes, func(ix catalog.Index) bool { return ix.ID == e.ID })
	if i < 0 {
		return sqlstate.Newf(sqlstate.UndefinedObject, "index %q does not exist", name)
	}
	if d.Indexes[i].Constraint {
		return sqlstate.Newf(sqlstate.DependentObjectsStillExist, "cannot drop index %s because constraint %s on table %s requires it", name, name, d.Name).
			WithHint("You can drop constraint %s on table %s instead.", name, d.Name)
	}
	return c.removeIndex(ctx, d, i)
}

// removeIndex takes a secondary index out of a locked table.
func (c *Conn) removeIndex(ctx context.Context, d *catalog.Table, i int) error {
	ix := d.Indexes[i]
	if err := c.txn.view.RetirePhys(ctx, c.locking(), d, ix.Phys); err != nil {
		return err
	}
	if err := c.txn.view.FreeName(ctx, c.locking(), d.Schema, ix.Name); err != nil {
		return err
	}
	d.Indexes = slices.Delete(d.Indexes, i, i+1)
	return c.txn.view.PutTable(ctx, c.locking(), d)
}

// truncate gives the tables new, empty storage; the old rows go once nobody can
// read them any more.
func (c *Conn) truncate(ctx context.Context, x *pgast.Truncate) error {
	done := make(map[catalog.ID]bool)
	for _, name := range x.Names {
		d, err := c.lockTable(ctx, name)
		if err != nil {
			return err
		}
		if done[d.ID] {
			continue
		}
		done[d.ID] = true
		if err := c.underFence(d); err != nil {
			return err
		}
		if err := c.renewPhys(ctx, d); err != nil {
			return err
		}
		if err := c.txn.view.PutTable(ctx, c.locking(), d); err != nil {
			return err
		}
	}
	return nil
}

// renewPhys gives every index of a locked table a new physical id.
func (c *Conn) renewPhys(ctx context.Context, d *catalog.Table) error {
	var phys []int
	for i := range d.Indexes {
		phys = append(phys, i)
	}
	first, err := c.txn.view.Allocate(ctx, len(d.Indexes), d.DB, d.ID, false, phys...)
	if err != nil {
		return err
	}
	for i := range d.Indexes {
		if err := c.txn.view.RetirePhys(ctx, c.locking(), d, d.Indexes[i].Phys); err != nil {
			return err
		}
		d.Indexes[i].Phys = first + catalog.ID(i)
	}
	return nil
}

func (c *Conn) createSchema(ctx context.Context, r *request, x *pgast.CreateSchema) error {
	s, err := c.txn.view.Schema(ctx, c.db.ID, x.Name)
	if err != nil {
		return err
	}
	_, system := plan.SystemSchemas[x.Name]
	if s != nil || system {
		if x.IfNotExists {
			return r.sink.notice("NOTICE", sqlstate.Newf(sqlstate.DuplicateSchema, "schema %q already exists, skipping", x.Name))
		}
		return sqlstate.Newf(sqlstate.DuplicateSchema, "schema %q already exists", x.Name)
	}
	if strings.HasPrefix(x.Name, "pg_") {
		return sqlstate.Newf(sqlstate.ReservedName, "unacceptable schema name %q", x.Name).WithDetail("The prefix \"pg_\" is reserved for system schemas.")
	}
	return c.txn.view.CreateSchema(ctx, c.locking(), c.db.ID, x.Name)
}

func (c *Conn) createDatabase(ctx context.Context, x *pgast.CreateDatabase) error {
	if c.txn.explicit {
		return sqlstate.Newf(sqlstate.ActiveTransaction, "CREATE DATABASE cannot run inside a transaction block")
	}
	return c.txn.view.CreateDatabase(ctx, c.locking(), x.Name)
}
