package plan

import (
	"context"
	"sort"

	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// Registry holds the virtual tables by schema and name. It is filled before the
// engine serves and read-only afterwards.
type Registry struct {
	byName map[[2]string]*VirtualTable
	next   types.OID
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry {
	return &Registry{byName: make(map[[2]string]*VirtualTable), next: 13600}
}

// Add registers t, giving it an oid when it has none.
func (r *Registry) Add(t *VirtualTable) {
	if t.OID == 0 {
		t.OID = r.next
		r.next++
	}
	r.byName[[2]string{t.Schema, t.Name}] = t
}

// Lookup finds a virtual table, nil when there is none.
func (r *Registry) Lookup(schema, name string) *VirtualTable {
	if r == nil {
		return nil
	}
	return r.byName[[2]string{schema, name}]
}

// All lists the virtual tables by oid.
func (r *Registry) All() []*VirtualTable {
	out := make([]*VirtualTable, 0, len(r.byName))
	for _, t := range r.byName {
		out = append(out, t)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].OID < out[j].OID })
	return out
}

// SystemSchemas are the schemas that only hold virtual tables.
var SystemSchemas = map[string]catalog.ID{
	"pg_catalog":         catalog.PGCatalogID,
	"information_schema": catalog.InformationID,
	"spand":              catalog.SpandSchemaID,
}

// Relation is what a table name resolves to: one of both is set.
type Relation struct {
	Table   *catalog.Table
	Virtual *VirtualTable
	Schema  string
}

// Resolve finds the relation called name along the search path.
func (c *Catalog) Resolve(ctx context.Context, name pgast.Name) (*Relation, error) {
	schemas, table, err := c.candidates(name)
	if err != nil {
		return nil, err
	}
	for _, s := range schemas {
		if v := c.Virtual.Lookup(s, table); v != nil {
			return &Relation{Virtual: v, Schema: s}, nil
		}
		if _, system := SystemSchemas[s]; system {
			continue
		}
		d, err := c.View.Schema(ctx, c.DB.ID, s)
		if err != nil {
			return nil, err
		}
		if d == nil {
			continue
		}
		e, ok, err := c.View.Name(ctx, d.ID, table)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if e.Kind != catalog.KindTable {
			return nil, sqlstate.Newf(sqlstate.WrongObjectType, "%q is an index", table)
		}
		t, err := c.View.Table(ctx, e.ID)
		if err != nil {
			return nil, err
		}
		if t != nil {
			return &Relation{Table: t, Schema: s}, nil
		}
	}
	return nil, undefinedTable(name)
}

func undefinedTable(name pgast.Name) error {
	text := name.Last()
	if len(name) > 1 {
		text = name[len(name)-2] + "." + text
	}
	return sqlstate.Newf(sqlstate.UndefinedTable, "relation %q does not exist", text)
}

// candidates lists the schemas to look in. pg_catalog is searched first, as in
// PostgreSQL, unless the path names it.
func (c *Catalog) candidates(name pgast.Name) ([]string, string, error) {
	switch len(name) {
	case 1:
		path := c.SearchPath
		for _, s := range path {
			if s == "pg_catalog" {
				return path, name[0], nil
			}
		}
		return append([]string{"pg_catalog"}, path...), name[0], nil
	case 2:
		return name[:1], name[1], nil
	case 3:
		if name[0] != c.DB.Name {
			return nil, "", sqlstate.Newf(sqlstate.FeatureNotSupported, "cross-database references are not implemented: \"%s.%s.%s\"", name[0], name[1], name[2])
		}
		return name[1:2], name[2], nil
	}
	return nil, "", sqlstate.Newf(sqlstate.SyntaxError, "improper qualified name (too many dotted names)")
}

// table resolves name to a stored table and notes its use.
func (b *builder) table(name pgast.Name, pos int) (*catalog.Table, error) {
	r, err := b.cat.Resolve(b.ctx, name)
	if err != nil {
		return nil, at(err, b.st.SQL, pos)
	}
	if r.Table == nil {
		return nil, sqlstate.Newf(sqlstate.InsufficientPrivilege, "permission denied: %q is a system catalog", name.Last()).At(b.st.SQL, pos)
	}
	b.use(r.Table)
	return r.Table, nil
}

func (b *builder) use(t *catalog.Table) {
	for _, u := range b.uses {
		if u.Table == t.ID {
			return
		}
	}
	b.uses = append(b.uses, catalog.Use{Table: t.ID, Version: t.Version})
}

// at gives err a position when it is a *sqlstate.Error without one.
func at(err error, sql string, pos int) error {
	if e, ok := err.(*sqlstate.Error); ok && e.Position == 0 {
		return e.At(sql, pos)
	}
	return err
}
