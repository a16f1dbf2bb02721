package sql

import (
	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/types"
)

func (e *Engine) registerInformationSchema() {
	const is = "information_schema"
	word := func(b bool) types.Datum {
		if b {
			return tx("YES")
		}
		return tx("NO")
	}
	e.sysView(is, "schemata", 0, "catalog_name name, schema_name name, schema_owner name, default_character_set_catalog name, default_character_set_schema name, default_character_set_name name, sql_path text", func(s *sysContext, emit func(...types.Datum) error) error {
		names, err := s.schemaNames()
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := emit(tx(s.rc.DB.Name), tx(n), tx(catalog.RootUser), null, null, null, null); err != nil {
				return err
			}
		}
		return nil
	})
	e.sysView(is, "tables", 0, "table_catalog name, table_schema name, table_name name, table_type text, self_referencing_column_name name, reference_generation text, user_defined_type_catalog name, user_defined_type_schema name, user_defined_type_name name, is_insertable_into text, is_typed text, commit_action text", func(s *sysContext, emit func(...types.Datum) error) error {
		names, err := s.schemaNames()
		if err != nil {
			return err
		}
		ts, err := s.tables()
		if err != nil {
			return err
		}
		row := func(schema, name, kind string, insertable bool) error {
			return emit(tx(s.rc.DB.Name), tx(schema), tx(name), tx(kind), null, null, null, null, null, word(insertable), word(false), null)
		}
		for _, t := range ts {
			if err := row(names[t.Schema], t.Name, "BASE TABLE", true); err != nil {
				return err
			}
		}
		for _, v := range e.views.All() {
			if err := row(v.Schema, v.Name, "VIEW", false); err != nil {
				return err
			}
		}
		return nil
	})
	e.sysView(is, "columns", 0, "table_catalog name, table_schema name, table_name name, column_name name, ordinal_position int4, column_default text, is_nullable text, data_type text, character_maximum_length int4, character_octet_length int4, numeric_precision int4, numeric_precision_radix int4, numeric_scale int4, datetime_precision int4, udt_catalog name, udt_schema name, udt_name name, is_identity text, is_generated text, is_updatable text", func(s *sysContext, emit func(...types.Datum) error) error {
		names, err := s.schemaNames()
		if err != nil {
			return err
		}
		ts, err := s.tables()
		if err != nil {
			return err
		}
		for _, t := range ts {
			n := 0
			for _, c := range t.Columns {
				if c.Hidden {
					continue
				}
				n++
				def := null
				if c.Default != "" {
					def = tx(c.Default)
				}
				length, octets, precision, radix, scale, fraction := typeFacts(c.Type)
				data, udt := types.BaseName(c.Type.OID), ""
				if info := types.Lookup(c.Type.OID); info != nil {
					udt = info.Name
				}
				if types.IsArray(c.Type.OID) {
					data = "ARRAY"
				}
				if err := emit(tx(s.rc.DB.Name), tx(names[t.Schema]), tx(t.Name), tx(c.Name), in(n), def, word(!c.NotNull), tx(data), length, octets,
					precision, radix, scale, fraction, tx(s.rc.DB.Name), tx("pg_catalog"), tx(udt), word(false), tx("NEVER"), word(true)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	e.sysView(is, "table_constraints", 0, "constraint_catalog name, constraint_schema name, constraint_name name, table_catalog name, table_schema name, table_name name, constraint_type text, is_deferrable text, initially_deferred text, enforced text", func(s *sysContext, emit func(...types.Datum) error) error {
		names, err := s.schemaNames()
		if err != nil {
			return err
		}
		return s.indexes(func(t *catalog.Table, ix *catalog.Index) error {
			if !ix.Constraint {
				return nil
			}
			kind := "UNIQUE"
			if ix.Primary {
				kind = "PRIMARY KEY"
			}
			db, schema := tx(s.rc.DB.Name), tx(names[t.Schema])
			return emit(db, schema, tx(ix.Name), db, schema, tx(t.Name), tx(kind), word(false), word(false), word(true))
		})
	})
	e.sysView(is, "key_column_usage", 0, "constraint_catalog name, constraint_schema name, constraint_name name, table_catalog name, table_schema name, table_name name, column_name name, ordinal_position int4, position_in_unique_constraint int4", func(s *sysContext, emit func(...types.Datum) error) error {
		names, err := s.schemaNames()
		if err != nil {
			return err
		}
		return s.indexes(func(t *catalog.Table, ix *catalog.Index) error {
			if !ix.Constraint {
				return nil
			}
			db, schema := tx(s.rc.DB.Name), tx(names[t.Schema])
			for i, ic := range ix.Columns {
				if err := emit(db, schema, tx(ix.Name), db, schema, tx(t.Name), tx(t.Columns[t.Ordinal(ic.Column)].Name), in(i+1), null); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// typeFacts are the columns of information_schema.columns that describe a type.
func typeFacts(t types.Type) (length, octets, precision, radix, scale, fraction types.Datum) {
	switch types.KindOf(t.OID) {
	case types.KindText:
		if t.Mod >= 4 {
			length, octets = in(int(t.Mod)-4), in(4*(int(t.Mod)-4))
		} else if t.OID != types.OIDBPChar {
			octets = in(1 << 30)
		}
	case types.KindInt:
		switch t.OID {
		case types.OIDInt2:
			precision = in(16)
		case types.OIDInt4:
			precision = in(32)
		case types.OIDInt8:
			precision = in(64)
		default:
			return
		}
		radix, scale = in(2), in(0)
	case types.KindFloat:
		precision, radix = in(53), in(2)
		if t.OID == types.OIDFloat4 {
			precision = in(24)
		}
	case types.KindNumeric:
		radix = in(10)
		if t.Mod >= 4 {
			p, s := types.NumericMod(t.Mod)
			precision, scale = in(p), in(s)
		}
	case types.KindTimestamp, types.KindTime, types.KindInterval:
		fraction = in(6)
		if t.Mod >= 0 && t.Mod <= 6 {
			fraction = in(int(t.Mod))
		}
	case types.KindDate:
		fraction = in(0)
	}
	return
}
