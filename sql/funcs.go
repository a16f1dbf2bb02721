package sql

import (
	"context"
	"slices"
	"strings"

	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/sql/xact"
)

// userFunction resolves the few functions that package expr leaves to the engine
// because their types or rows need it.
func (c *Conn) userFunction(name pgast.Name, args []expr.Expr) (expr.Expr, error) {
	switch name.Last() {
	case "pg_partition_ancestors":
		if len(args) != 1 {
			return nil, nil
		}
		a, err := expr.Cast(args[0], types.T(types.OIDRegclass), expr.CastImplicit)
		if err != nil {
			return nil, err
		}
		// No table is partitioned: each is its only ancestor.
		return &plan.UserCall{Name: "pg_partition_ancestors", Args: []expr.Expr{a}, Result: types.T(types.OIDRegclass), Strict: true,
			Fn: func(_ *expr.EvalContext, v []types.Datum) (types.Datum, error) { return v[0], nil }}, nil
	}
	return nil, nil
}

// Extra answers the functions that need the engine or the catalog.
func (c *Conn) Extra(ctx context.Context, name string, args []types.Datum) (types.Datum, bool, error) {
	text := func(s string, err error) (types.Datum, bool, error) { return types.Text(s), true, err }
	switch name {
	case "version":
		return text("PostgreSQL "+c.eng.serverVersion()+", a strictly serializable distributed SQL database", nil)
	case "pg_get_expr":
		return args[0], true, nil // stored as text
	case "pg_get_indexdef":
		n := int64(0)
		if len(args) > 1 {
			n = args[1].Int()
		}
		d, err := c.indexDef(ctx, catalog.ID(args[0].Int()), int(n))
		return d, true, err
	case "pg_get_constraintdef":
		d, err := c.constraintDef(ctx, catalog.ID(args[0].Int()))
		return d, true, err
	case "pg_get_viewdef", "pg_get_functiondef", "pg_get_triggerdef", "pg_get_statisticsobjdef_columns", "pg_get_partkeydef",
		"pg_get_function_result", "pg_get_function_arguments", "pg_get_function_identity_arguments", "pg_get_serial_sequence":
		return types.Null, true, nil // there are no such objects
	case "pg_relation_size", "pg_total_relation_size", "pg_table_size", "pg_indexes_size", "pg_database_size", "pg_tablespace_size":
		return types.Null, true, nil // not known here
	case "pg_postmaster_start_time", "pg_conf_load_time":
		return types.Timestamp(types.TimestampFromTime(c.eng.started)), true, nil
	case "pg_cancel_backend", "pg_terminate_backend":
		return types.Bool(c.eng.interrupt(int32(args[0].Int()), name == "pg_terminate_backend")), true, nil
	case "spand.commit_timestamp":
		if c.lastCommit == 0 {
			return types.Null, true, nil
		}
		return types.Timestamp(types.TimestampFromTime(c.lastCommit.Time())), true, nil
	case "pg_current_xact_id", "txid_current":
		d, err := c.currentXact(ctx)
		return d, true, err
	case "pg_current_xact_id_if_assigned", "txid_current_if_assigned":
		if id := c.txn.xact.id; id != 0 {
			return types.Int(int64(id)), true, nil
		}
		return types.Null, true, nil
	case "pg_xact_status", "txid_status":
		d, err := c.xactStatus(ctx, xact.ID(args[0].Int()))
		return d, true, err
	case "nextval", "currval", "lastval", "setval":
		return types.Null, true, unsupported("sequences are not supported")
	case "pg_notify":
		return types.Null, true, unsupported("LISTEN and NOTIFY are not supported")
	}
	if strings.HasPrefix(name, "pg_advisory") || strings.HasPrefix(name, "pg_try_advisory") {
		return types.Null, true, unsupported("advisory locks are not supported")
	}
	return types.Null, false, nil
}

// interrupt cancels the statement of the session with a pid, or ends the session.
func (e *Engine) interrupt(pid int32, terminate bool) bool {
	e.mu.Lock()
	var found *Conn
	for c := range e.mu.sessions {
		if c.opts.BackendPID == pid {
			found = c
		}
	}
	e.mu.Unlock()
	if found == nil || terminate {
		return false // sessions end at their front end
	}
	found.Cancel()
	return true
}

// findIndexByID looks for an index of the session's database.
func (c *Conn) findIndexByID(ctx context.Context, id catalog.ID) (*catalog.Table, *catalog.Index, error) {
	ts, err := c.txn.view.Tables(ctx, c.db.ID)
	if err != nil {
		return nil, nil, err
	}
	for _, t := range ts {
		for i := range t.Indexes {
			if ix := &t.Indexes[i]; ix.ID == id && ix.Name != "" {
				return t, ix, nil
			}
		}
	}
	return nil, nil, nil
}

func columnList(t *catalog.Table, cols []catalog.IndexColumn) string {
	var out []string
	for _, ic := range cols {
		s := quoteIdent(t.Columns[t.Ordinal(ic.Column)].Name)
		if ic.Desc {
			s += " DESC"
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

// indexDef is pg_get_indexdef: the whole index, or its n-th column.
func (c *Conn) indexDef(ctx context.Context, id catalog.ID, n int) (types.Datum, error) {
	t, ix, err := c.findIndexByID(ctx, id)
	if err != nil || ix == nil {
		return types.Null, err
	}
	if n > 0 {
		if n > len(ix.Columns) {
			return types.Null, nil
		}
		return types.Text(quoteIdent(t.Columns[t.Ordinal(ix.Columns[n-1].Column)].Name)), nil
	}
	schema, _, _ := c.RelationName(types.OID(t.ID))
	s := "CREATE "
	if ix.Unique {
		s += "UNIQUE "
	}
	return types.Text(s + "INDEX " + quoteIdent(ix.Name) + " ON " + quoteIdent(schema) + "." + quoteIdent(t.Name) +
		" USING btree (" + columnList(t, ix.Columns) + ")"), nil
}

// constraintDef is pg_get_constraintdef. A constraint's oid is its index's.
func (c *Conn) constraintDef(ctx context.Context, id catalog.ID) (types.Datum, error) {
	t, ix, err := c.findIndexByID(ctx, id)
	if err != nil || ix == nil || !ix.Constraint {
		return types.Null, err
	}
	kind := "UNIQUE"
	if ix.Primary {
		kind = "PRIMARY KEY"
	}
	return types.Text(kind + " (" + columnList(t, ix.Columns) + ")"), nil
}

// schemaName of a schema of the session's database, "" when there is none.
func (c *Conn) schemaName(ctx context.Context, id catalog.ID) string {
	ss, err := c.txn.view.Schemas(ctx, c.db.ID)
	if err != nil {
		return ""
	}
	i := slices.IndexFunc(ss, func(s *catalog.Schema) bool { return s.ID == id })
	if i < 0 {
		return ""
	}
	return ss[i].Name
}

// context of the running statement, for the look-ups that have none of their own.
func (c *Conn) lookupContext() (context.Context, bool) {
	ctx := c.stmtCtx
	if ctx == nil {
		ctx = c.ctx
	}
	if c.txn.view.Pinned() {
		return ctx, true
	}
	return ctx, c.txn.view.Begin(ctx) == nil
}

// RelationName finds a relation's names by oid.
func (c *Conn) RelationName(oid types.OID) (schema, name string, ok bool) {
	for _, v := range c.eng.views.All() {
		if v.OID == oid {
			return v.Schema, v.Name, true
		}
	}
	ctx, usable := c.lookupContext()
	if !usable {
		return "", "", false
	}
	t, err := c.txn.view.Table(ctx, catalog.ID(oid))
	if err != nil {
		return "", "", false
	}
	if t != nil && t.DB == c.db.ID {
		return c.schemaName(ctx, t.Schema), t.Name, true
	}
	t, ix, err := c.findIndexByID(ctx, catalog.ID(oid))
	if err != nil || ix == nil {
		return "", "", false
	}
	return c.schemaName(ctx, t.Schema), ix.Name, true
}

// RelationOID finds a relation by name.
func (c *Conn) RelationOID(schema, name string) (types.OID, bool) {
	if v := c.eng.views.Lookup(schema, name); v != nil {
		return v.OID, true
	}
	ctx, usable := c.lookupContext()
	if !usable {
		return 0, false
	}
	s, err := c.txn.view.Schema(ctx, c.db.ID, schema)
	if err != nil || s == nil {
		return 0, false
	}
	e, ok, err := c.txn.view.Name(ctx, s.ID, name)
	return types.OID(e.ID), ok && err == nil
}

// RegName names what a reg* value stands for, qualified where its name alone would
// not find it.
func (c *Conn) RegName(t, v types.OID) (string, bool) {
	switch t {
	case types.OIDRegclass:
		schema, name, ok := c.RelationName(v)
		if !ok {
			return "", false
		}
		for _, s := range append([]string{"pg_catalog"}, c.set.searchPath...) {
			if oid, ok := c.RelationOID(s, name); ok {
				if oid == v {
					return quoteIdent(name), true
				}
				break
			}
		}
		return quoteIdent(schema) + "." + quoteIdent(name), true
	case types.OIDRegNamespace:
		for n, id := range plan.SystemSchemas {
			if types.OID(id) == v {
				return n, true
			}
		}
		if ctx, usable := c.lookupContext(); usable {
			if n := c.schemaName(ctx, catalog.ID(v)); n != "" {
				return quoteIdent(n), true
			}
		}
	case types.OIDRegRole:
		if catalog.ID(v) == catalog.RootUserID {
			return catalog.RootUser, true
		}
	}
	return "", false
}

// RegOID finds what a reg* name stands for.
func (c *Conn) RegOID(t types.OID, name string) (types.OID, error) {
	parts := splitName(name)
	switch t {
	case types.OIDRegclass:
		path := append([]string{"pg_catalog"}, c.set.searchPath...)
		if len(parts) > 1 {
			path = parts[len(parts)-2 : len(parts)-1]
		}
		for _, s := range path {
			if oid, ok := c.RelationOID(s, parts[len(parts)-1]); ok {
				return oid, nil
			}
		}
		return 0, sqlstate.Newf(sqlstate.UndefinedTable, "relation %q does not exist", name)
	case types.OIDRegNamespace:
		if id, ok := plan.SystemSchemas[parts[0]]; ok {
			return types.OID(id), nil
		}
		if ctx, usable := c.lookupContext(); usable {
			if s, err := c.txn.view.Schema(ctx, c.db.ID, parts[0]); err == nil && s != nil {
				return types.OID(s.ID), nil
			}
		}
		return 0, sqlstate.Newf(sqlstate.InvalidSchemaName, "schema %q does not exist", name)
	case types.OIDRegRole:
		if parts[0] == catalog.RootUser {
			return types.OID(catalog.RootUserID), nil
		}
		return 0, sqlstate.Newf(sqlstate.UndefinedObject, "role %q does not exist", name)
	}
	return 0, sqlstate.Newf(sqlstate.UndefinedObject, "%q does not exist", name)
}

// splitName splits a qualified name, folding what is not quoted.
func splitName(s string) []string {
	var out []string
	var cur strings.Builder
	quoted := false
	for i := 0; i < len(s); i++ {
		switch ch := s[i]; {
		case ch == '"' && quoted && i+1 < len(s) && s[i+1] == '"':
			cur.WriteByte('"')
			i++
		case ch == '"':
			quoted = !quoted
		case ch == '.' && !quoted:
			out = append(out, cur.String())
			cur.Reset()
		case !quoted && ch >= 'A' && ch <= 'Z':
			cur.WriteByte(ch + 'a' - 'A')
		default:
			cur.WriteByte(ch)
		}
	}
	return append(out, cur.String())
}
