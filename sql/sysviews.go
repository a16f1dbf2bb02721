package sql

import (
	"context"
	"strings"

	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// The system relations that psql, pgbench and drivers look at, computed from the
// catalog view of the statement. Those that PostgreSQL has and that are always empty
// here are listed by their columns alone.

// sysTypes are the column types of system relations, by the letters used below.
var sysTypes = map[string]types.OID{
	"oid": types.OIDOid, "name": types.OIDName, "text": types.OIDText, "char": types.OIDChar, "bool": types.OIDBool,
	"int2": types.OIDInt2, "int4": types.OIDInt4, "int8": types.OIDInt8, "float4": types.OIDFloat4, "float8": types.OIDFloat8,
	"text[]": types.OIDTextArray, "oid[]": types.OIDOidArray, "int2[]": types.OIDInt2Array, "int4[]": types.OIDInt4Array,
	"char[]": types.OIDTextArray, "tstz": types.OIDTimestampTZ, "node": types.OIDPgNodeTree, "xid": types.OIDInt8,
}

// sysColumns parses "oid oid, relname name, …".
func sysColumns(spec string) []plan.VirtualColumn {
	var out []plan.VirtualColumn
	for _, f := range strings.Split(spec, ",") {
		p := strings.Fields(f)
		oid, ok := sysTypes[p[1]]
		if !ok {
			panic("sql: unknown type in system relation: " + f) // a mistake in the tables below
		}
		out = append(out, plan.VirtualColumn{Name: p[0], Type: types.T(oid)})
	}
	return out
}

type sysRows func(s *sysContext, emit func(...types.Datum) error) error

// sysContext is what the generators work with.
type sysContext struct {
	rc  *plan.RowsContext
	ctx context.Context
}

func (s *sysContext) tables() ([]*catalog.Table, error) { return s.rc.View.Tables(s.ctx, s.rc.DB.ID) }

func (s *sysContext) schemas() ([]*catalog.Schema, error) {
	return s.rc.View.Schemas(s.ctx, s.rc.DB.ID)
}

// schemaNames by id, the system's own included.
func (s *sysContext) schemaNames() (map[catalog.ID]string, error) {
	out := make(map[catalog.ID]string)
	for n, id := range plan.SystemSchemas {
		out[id] = n
	}
	ss, err := s.schemas()
	for _, sc := range ss {
		out[sc.ID] = sc.Name
	}
	return out, err
}

func (e *Engine) sysView(schema, name string, oid types.OID, columns string, rows sysRows) {
	t := &plan.VirtualTable{OID: oid, Schema: schema, Name: name, Columns: sysColumns(columns)}
	t.Rows = func(rc *plan.RowsContext, emit func([]types.Datum) error) error {
		if rows == nil {
			return nil
		}
		return rows(&sysContext{rc, rc.Context}, func(row ...types.Datum) error {
			if len(row) != len(t.Columns) {
				return sqlstate.Newf(sqlstate.InternalError, "%s.%s: %d values for %d columns", schema, name, len(row), len(t.Columns))
			}
			return emit(row)
		})
	}
	e.views.Add(t)
}

// Short hands for rows.
func tx(s string) types.Datum     { return types.Text(s) }
func in(n int) types.Datum        { return types.Int(int64(n)) }
func id(n catalog.ID) types.Datum { return types.Int(int64(n)) }

var (
	yes, no = types.Bool(true), types.Bool(false)
	null    = types.Null
)

func (e *Engine) registerSystemViews() {
	e.registerCatalogTables()
	e.registerEmptyTables()
	e.registerInformationSchema()
}

func (e *Engine) registerCatalogTables() {
	const pg = "pg_catalog"
	e.sysView(pg, "pg_namespace", 2615, "oid oid, nspname name, nspowner oid, nspacl text[]", func(s *sysContext, emit func(...types.Datum) error) error {
		names, err := s.schemaNames()
		if err != nil {
			return err
		}
		for i, n := range names {
			if err := emit(id(i), tx(n), id(catalog.RootUserID), null); err != nil {
				return err
			}
		}
		return nil
	})
	e.sysView(pg, "pg_class", 1259, "oid oid, relname name, relnamespace oid, reltype oid, reloftype oid, relowner oid, relam oid, relfilenode oid, reltablespace oid, relpages int4, reltuples float4, relallvisible int4, reltoastrelid oid, relhasindex bool, relisshared bool, relpersistence char, relkind char, relnatts int2, relchecks int2, relhasrules bool, relhastriggers bool, relhassubclass bool, relrowsecurity bool, relforcerowsecurity bool, relispopulated bool, relreplident char, relispartition bool, relrewrite oid, relfrozenxid xid, relminmxid xid, relacl text[], reloptions text[], relpartbound node", e.pgClass)
	e.sysView(pg, "pg_attribute", 1249, "attrelid oid, attname name, atttypid oid, attstattarget int4, attlen int2, attnum int2, attndims int4, attcacheoff int4, atttypmod int4, attbyval bool, attalign char, attstorage char, attcompression char, attnotnull bool, atthasdef bool, atthasmissing bool, attidentity char, attgenerated char, attisdropped bool, attislocal bool, attinhcount int4, attcollation oid, attacl text[], attoptions text[], attfdwoptions text[], attmissingval text", e.pgAttribute)
	e.sysView(pg, "pg_attrdef", 2604, "oid oid, adrelid oid, adnum int2, adbin node", func(s *sysContext, emit func(...types.Datum) error) error {
		ts, err := s.tables()
		if err != nil {
			return err
		}
		for _, t := range ts {
			for _, c := range t.Columns {
				if c.Default == "" {
					continue
				}
				// Made of the table's oid and the column: nothing else has it.
				if err := emit(types.Int(int64(t.ID)<<11|int64(c.ID)), id(t.ID), in(int(c.ID)), tx(c.Default)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	e.sysView(pg, "pg_index", 2610, "indexrelid oid, indrelid oid, indnatts int2, indnkeyatts int2, indisunique bool, indnullsnotdistinct bool, indisprimary bool, indisexclusion bool, indimmediate bool, indisclustered bool, indisvalid bool, indcheckxmin bool, indisready bool, indislive bool, indisreplident bool, indkey int2[], indcollation oid[], indclass oid[], indoption int2[], indexprs node, indpred node", func(s *sysContext, emit func(...types.Datum) error) error {
		return s.indexes(func(t *catalog.Table, ix *catalog.Index) error {
			var key, coll, class, opt []types.Datum
			for _, ic := range ix.Columns {
				key, coll, class = append(key, in(int(ic.Column))), append(coll, in(0)), append(class, in(0))
				o := 0
				if ic.Desc {
					o = 3
				}
				opt = append(opt, in(o))
			}
			n := in(len(ix.Columns))
			return emit(id(ix.ID), id(t.ID), n, n, types.Bool(ix.Unique), no, types.Bool(ix.Primary), no, yes, no, yes, no, yes, yes, no,
				types.NewArray(key), types.NewArray(coll), types.NewArray(class), types.NewArray(opt), null, null)
		})
	})
	e.sysView(pg, "pg_constraint", 2606, "oid oid, conname name, connamespace oid, contype char, condeferrable bool, condeferred bool, convalidated bool, conrelid oid, contypid oid, conindid oid, conparentid oid, confrelid oid, confupdtype char, confdeltype char, confmatchtype char, conislocal bool, coninhcount int4, connoinherit bool, conkey int2[], confkey int2[], conpfeqop oid[], conppeqop oid[], conffeqop oid[], confdelsetcols int2[], conexclop oid[], conbin node", func(s *sysContext, emit func(...types.Datum) error) error {
		return s.indexes(func(t *catalog.Table, ix *catalog.Index) error {
			if !ix.Constraint {
				return nil
			}
			kind := "u"
			if ix.Primary {
				kind = "p"
			}
			var key []types.Datum
			for _, ic := range ix.Columns {
				key = append(key, in(int(ic.Column)))
			}
			return emit(id(ix.ID), tx(ix.Name), id(t.Schema), tx(kind), no, no, yes, id(t.ID), in(0), id(ix.ID), in(0), in(0),
				tx(" "), tx(" "), tx(" "), yes, in(0), yes, types.NewArray(key), null, null, null, null, null, null, null)
		})
	})
	e.sysView(pg, "pg_type", 1247, "oid oid, typname name, typnamespace oid, typowner oid, typlen int2, typbyval bool, typtype char, typcategory char, typispreferred bool, typisdefined bool, typdelim char, typrelid oid, typsubscript text, typelem oid, typarray oid, typinput text, typoutput text, typreceive text, typsend text, typmodin text, typmodout text, typanalyze text, typalign char, typstorage char, typnotnull bool, typbasetype oid, typtypmod int4, typndims int4, typcollation oid, typdefaultbin node, typdefault text, typacl text[]", pgType)
	e.sysView(pg, "pg_database", 1262, "oid oid, datname name, datdba oid, encoding int4, datlocprovider char, datistemplate bool, datallowconn bool, datconnlimit int4, datfrozenxid xid, datminmxid xid, dattablespace oid, datcollate text, datctype text, daticulocale text, datcollversion text, datacl text[]", func(s *sysContext, emit func(...types.Datum) error) error {
		ds, err := s.rc.View.Databases(s.ctx)
		if err != nil {
			return err
		}
		for _, d := range ds {
			if err := emit(id(d.ID), tx(d.Name), id(catalog.RootUserID), in(6), tx("c"), no, yes, in(-1), in(0), in(0), in(1663), tx("C"), tx("C.UTF-8"), null, null, null); err != nil {
				return err
			}
		}
		return nil
	})
	role := func(s *sysContext, emit func(...types.Datum) error) error {
		return emit(tx(catalog.RootUser), yes, yes, yes, yes, yes, no, in(-1), tx("********"), null, yes, null, id(catalog.RootUserID))
	}
	e.sysView(pg, "pg_roles", 0, "rolname name, rolsuper bool, rolinherit bool, rolcreaterole bool, rolcreatedb bool, rolcanlogin bool, rolreplication bool, rolconnlimit int4, rolpassword text, rolvaliduntil tstz, rolbypassrls bool, rolconfig text[], oid oid", role)
	e.sysView(pg, "pg_authid", 1260, "rolname name, rolsuper bool, rolinherit bool, rolcreaterole bool, rolcreatedb bool, rolcanlogin bool, rolreplication bool, rolconnlimit int4, rolpassword text, rolvaliduntil tstz, rolbypassrls bool, rolconfig text[], oid oid", role)
	e.sysView(pg, "pg_user", 0, "usename name, usesysid oid, usecreatedb bool, usesuper bool, userepl bool, usebypassrls bool, passwd text, valuntil tstz, useconfig text[]", func(s *sysContext, emit func(...types.Datum) error) error {
		return emit(tx(catalog.RootUser), id(catalog.RootUserID), yes, yes, no, yes, tx("********"), null, null)
	})
	e.sysView(pg, "pg_settings", 0, "name text, setting text, unit text, category text, short_desc text, extra_desc text, context text, vartype text, source text, min_val text, max_val text, enumvals text[], boot_val text, reset_val text, sourcefile text, sourceline int4, pending_restart bool", func(s *sysContext, emit func(...types.Datum) error) error {
		for _, n := range settingNames() {
			d := settingDefs[n]
			v, _ := s.rc.Session.Setting(n)
			where := "user"
			if d.readOnly {
				where = "internal"
			}
			if err := emit(tx(d.name), tx(v), null, null, tx(d.desc), null, tx(where), tx("string"), tx("default"), null, null, null, tx(d.def), tx(v), null, null, no); err != nil {
				return err
			}
		}
		return nil
	})
	e.sysView(pg, "pg_am", 2601, "oid oid, amname name, amhandler text, amtype char", func(s *sysContext, emit func(...types.Datum) error) error {
		if err := emit(in(2), tx("heap"), tx("heap_tableam_handler"), tx("t")); err != nil {
			return err
		}
		return emit(in(403), tx("btree"), tx("bthandler"), tx("i"))
	})
	e.sysView(pg, "pg_collation", 3456, "oid oid, collname name, collnamespace oid, collowner oid, collprovider char, collisdeterministic bool, collencoding int4, collcollate text, collctype text, colliculocale text, collversion text", func(s *sysContext, emit func(...types.Datum) error) error {
		if err := emit(in(100), tx("default"), id(catalog.PGCatalogID), id(catalog.RootUserID), tx("d"), yes, in(-1), null, null, null, null); err != nil {
			return err
		}
		return emit(in(950), tx("C"), id(catalog.PGCatalogID), id(catalog.RootUserID), tx("c"), yes, in(-1), tx("C"), tx("C"), null, null)
	})
	e.sysView(pg, "pg_tablespace", 1213, "oid oid, spcname name, spcowner oid, spcacl text[], spcoptions text[]", func(s *sysContext, emit func(...types.Datum) error) error {
		return emit(in(1663), tx("pg_default"), id(catalog.RootUserID), null, null)
	})
	e.sysView(pg, "pg_tables", 0, "schemaname name, tablename name, tableowner name, tablespace name, hasindexes bool, hasrules bool, hastriggers bool, rowsecurity bool", func(s *sysContext, emit func(...types.Datum) error) error {
		ts, err := s.tables()
		if err != nil {
			return err
		}
		names, err := s.schemaNames()
		for _, t := range ts {
			if err := emit(tx(names[t.Schema]), tx(t.Name), tx(catalog.RootUser), null, types.Bool(hasIndex(t)), no, no, no); err != nil {
				return err
			}
		}
		return err
	})
	e.sysView(pg, "pg_indexes", 0, "schemaname name, tablename name, indexname name, tablespace name, indexdef text", func(s *sysContext, emit func(...types.Datum) error) error {
		names, err := s.schemaNames()
		if err != nil {
			return err
		}
		return s.indexes(func(t *catalog.Table, ix *catalog.Index) error {
			def, _, err := s.rc.Session.Extra(s.ctx, "pg_get_indexdef", []types.Datum{id(ix.ID)})
			if err != nil {
				return err
			}
			return emit(tx(names[t.Schema]), tx(t.Name), tx(ix.Name), null, def)
		})
	})
}

func hasIndex(t *catalog.Table) bool { return t.HasPrimaryKey() || len(t.Indexes) > 1 }

// indexes calls f for every index that has a name.
func (s *sysContext) indexes(f func(*catalog.Table, *catalog.Index) error) error {
	ts, err := s.tables()
	if err != nil {
		return err
	}
	for _, t := range ts {
		for i := range t.Indexes {
			if t.Indexes[i].Name == "" {
				continue
			}
			if err := f(t, &t.Indexes[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *Engine) pgClass(s *sysContext, emit func(...types.Datum) error) error {
	row := func(oid types.Datum, name string, schema catalog.ID, am int, kind string, natts int, indexed bool, owner catalog.ID, options types.Datum) error {
		return emit(oid, tx(name), id(schema), in(0), in(0), id(owner), in(am), oid, in(0), in(0), types.Float(-1), in(0), in(0),
			types.Bool(indexed), no, tx("p"), tx(kind), in(natts), in(0), no, no, no, no, no, yes, tx("d"), no, in(0), in(0), in(0), null, options, null)
	}
	ts, err := s.tables()
	if err != nil {
		return err
	}
	for _, t := range ts {
		n := 0
		for _, c := range t.Columns {
			if !c.Hidden {
				n++
			}
		}
		if err := row(id(t.ID), t.Name, t.Schema, 2, "r", n, hasIndex(t), catalog.RootUserID, relOptions(t)); err != nil {
			return err
		}
	}
	if err := s.indexes(func(t *catalog.Table, ix *catalog.Index) error {
		return row(id(ix.ID), ix.Name, t.Schema, 403, "i", len(ix.Columns), false, catalog.RootUserID, null)
	}); err != nil {
		return err
	}
	for _, v := range e.views.All() {
		kind := "v"
		if v.Schema == "pg_catalog" && v.OID < 13600 {
			kind = "r"
		}
		if err := row(types.Int(int64(v.OID)), v.Name, plan.SystemSchemas[v.Schema], 0, kind, len(v.Columns), false, catalog.RootUserID, null); err != nil {
			return err
		}
	}
	return nil
}

// relOptions is pg_class.reloptions: what WITH (…) of the table would say.
func relOptions(t *catalog.Table) types.Datum {
	if t.FencedBy == "" {
		return null
	}
	return types.NewArray([]types.Datum{tx(fencedByOption + "=" + t.FencedBy)})
}

func (e *Engine) pgAttribute(s *sysContext, emit func(...types.Datum) error) error {
	row := func(rel types.Datum, name string, num int, t types.Type, notNull, hasDef bool) error {
		size := types.Size(t.OID)
		storage, collation := "p", 0
		if size < 0 {
			storage = "x"
		}
		if k := types.KindOf(t.OID); k == types.KindText {
			collation = 100
		}
		ndims := 0
		if types.IsArray(t.OID) {
			ndims = 1
		}
		return emit(rel, tx(name), types.Int(int64(t.OID)), in(-1), in(int(size)), in(num), in(ndims), in(-1), types.Int(int64(t.Mod)),
			types.Bool(size > 0 && size <= 8), tx("i"), tx(storage), tx(""), types.Bool(notNull), types.Bool(hasDef), no, tx(""), tx(""), no, yes, in(0), in(collation), null, null, null, null)
	}
	ts, err := s.tables()
	if err != nil {
		return err
	}
	for _, t := range ts {
		for _, c := range t.Columns {
			if c.Hidden {
				continue
			}
			if err := row(id(t.ID), c.Name, int(c.ID), c.Type, c.NotNull, c.Default != ""); err != nil {
				return err
			}
		}
	}
	if err := s.indexes(func(t *catalog.Table, ix *catalog.Index) error {
		for i, ic := range ix.Columns {
			c := t.Columns[t.Ordinal(ic.Column)]
			if err := row(id(ix.ID), c.Name, i+1, c.Type, false, false); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, v := range e.views.All() {
		for i, c := range v.Columns {
			if err := row(types.Int(int64(v.OID)), c.Name, i+1, c.Type, false, false); err != nil {
				return err
			}
		}
	}
	return nil
}

func pgType(s *sysContext, emit func(...types.Datum) error) error {
	var err error
	types.All(func(t *types.Info) {
		if err != nil {
			return
		}
		size := int(types.Size(t.OID))
		category := string(t.Category)
		collation := 0
		if types.KindOf(t.OID) == types.KindText {
			collation = 100
		}
		typtype := "b"
		if category == "P" {
			typtype = "p"
		}
		err = emit(types.Int(int64(t.OID)), tx(t.Name), id(catalog.PGCatalogID), id(catalog.RootUserID), in(size), types.Bool(size > 0 && size <= 8), tx(typtype), tx(category),
			types.Bool(t.Preferred), yes, tx(","), in(0), tx("-"), types.Int(int64(types.ElemOf(t.OID))), types.Int(int64(types.ArrayOf(t.OID))), tx(t.Name+"in"), tx(t.Name+"out"), tx(t.Name+"recv"), tx(t.Name+"send"), tx("-"), tx("-"), tx("-"),
			tx("i"), tx("p"), no, in(0), in(-1), in(0), in(collation), null, null, null)
	})
	return err
}
