package expr

import (
	"crypto/rand"
	"strconv"
	"strings"
	"time"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

func errNoSession() error {
	return sqlstate.Newf(sqlstate.InternalError, "function needs a session")
}

// withSession makes a stable function of what the session says.
func withSession(f func(s Session) (D, error)) fn0 {
	return func(ec *EvalContext) (D, error) {
		if ec.Session == nil {
			return types.Null, errNoSession()
		}
		return f(ec.Session)
	}
}

// extra hands a call to the engine, under its bare name.
func extra(ec *EvalContext, name string, args []D) (D, error) {
	if ec.Session == nil {
		return types.Null, errNoSession()
	}
	d, ok, err := ec.Session.Extra(ec.Ctx, name, args)
	if err == nil && !ok {
		return types.Null, sqlstate.Newf(sqlstate.FeatureNotSupported, "function %s is not supported", name)
	}
	return d, err
}

// defExtra registers a function that the engine implements (Session.Extra).
func defExtra(name string, result types.OID, vol Volatility, args ...types.OID) {
	var fn any
	switch len(args) {
	case 0:
		fn = func(ec *EvalContext) (D, error) { return extra(ec, name, nil) }
	case 1:
		fn = func(ec *EvalContext, a D) (D, error) { return extra(ec, name, []D{a}) }
	case 2:
		fn = func(ec *EvalContext, a, b D) (D, error) { return extra(ec, name, []D{a, b}) }
	case 3:
		fn = func(ec *EvalContext, a, b, c D) (D, error) { return extra(ec, name, []D{a, b, c}) }
	default:
		fn = fnN(func(ec *EvalContext, v []D) (D, error) { return extra(ec, name, v) })
	}
	defFunc(name, result, fn, args...).vol = vol
}

func init() {
	user := withSession(func(s Session) (D, error) { return types.Text(s.User()), nil })
	for _, n := range []string{"current_user", "session_user", "user", "current_role"} {
		defFunc(n, tName, user).stable()
	}
	database := withSession(func(s Session) (D, error) { return types.Text(s.Database()), nil })
	defFunc("current_database", tName, database).stable()
	defFunc("current_catalog", tName, database).stable()
	defFunc("current_schema", tName, withSession(func(s Session) (D, error) {
		p := s.SearchPath()
		if len(p) == 0 {
			return types.Null, nil
		}
		return types.Text(p[0]), nil
	})).stable()
	defFunc("current_schemas", types.OIDNameArray, func(ec *EvalContext, implicit D) (D, error) {
		if ec.Session == nil {
			return types.Null, errNoSession()
		}
		var ab types.ArrayBuilder
		if implicit.Bool() {
			ab.Append(types.Text("pg_catalog"))
		}
		for _, s := range ec.Session.SearchPath() {
			if implicit.Bool() && s == "pg_catalog" {
				continue
			}
			ab.Append(types.Text(s))
		}
		return ab.Array(), nil
	}, tBool).stable()
	defFunc("pg_backend_pid", tInt4, withSession(func(s Session) (D, error) { return types.Int(int64(s.BackendPID())), nil })).stable()
	defFunc("version", tText, func(ec *EvalContext) (D, error) {
		if ec.Session != nil {
			if d, ok, err := ec.Session.Extra(ec.Ctx, "version", nil); ok || err != nil {
				return d, err
			}
			if v, ok := ec.Session.Setting("server_version"); ok {
				return types.Text("PostgreSQL " + v), nil
			}
		}
		return types.Text("PostgreSQL 15.0 (spand)"), nil
	}).stable()
	setting := func(ec *EvalContext, name string, missing bool) (D, error) {
		if ec.Session == nil {
			return types.Null, errNoSession()
		}
		v, ok := ec.Session.Setting(strings.ToLower(name))
		if !ok {
			if missing {
				return types.Null, nil
			}
			return types.Null, sqlstate.Newf(sqlstate.UndefinedObject, "unrecognized configuration parameter \"%s\"", name)
		}
		return types.Text(v), nil
	}
	defFunc("current_setting", tText, func(ec *EvalContext, n D) (D, error) { return setting(ec, n.Str(), false) }, tText).stable()
	defFunc("current_setting", tText, func(ec *EvalContext, n, m D) (D, error) { return setting(ec, n.Str(), m.Bool()) }, tText, tBool).stable()
	defFunc("set_config", tText, func(ec *EvalContext, n, v, local D) (D, error) {
		if n.IsNull() {
			return types.Null, sqlstate.Newf(sqlstate.NullValueNotAllowed, "SET requires parameter name")
		}
		if ec.Session == nil {
			return types.Null, errNoSession()
		}
		if err := ec.Session.SetSetting(strings.ToLower(n.Str()), v.Str(), !local.IsNull() && local.Bool()); err != nil {
			return types.Null, err
		}
		return setting(ec, n.Str(), true)
	}, tText, tText, tBool).volatile().nullable()
	defFunc("pg_sleep", tVoid, func(ec *EvalContext, s D) (D, error) {
		t := time.NewTimer(time.Duration(min(max(s.Float(), 0), 1e9) * float64(time.Second)))
		defer t.Stop()
		if ec.Ctx == nil {
			<-t.C
			return types.Text(""), nil
		}
		select {
		case <-t.C:
			return types.Text(""), nil
		case <-ec.Ctx.Done():
			return types.Null, ec.canceled()
		}
	}, tFloat8).volatile()
	for _, n := range []string{"gen_random_uuid"} {
		defFunc(n, tUUID, func(*EvalContext) (D, error) {
			var b [16]byte
			if _, err := rand.Read(b[:]); err != nil {
				return types.Null, err
			}
			b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
			return types.Raw(types.KindUUID, 0, string(b[:])), nil
		}).volatile()
	}

	// Catalog functions that psql and drivers call.
	constant := func(name string, res types.OID, d D, args ...types.OID) {
		var fn any
		switch len(args) {
		case 0:
			fn = func(*EvalContext) (D, error) { return d, nil }
		case 1:
			fn = func(*EvalContext, D) (D, error) { return d, nil }
		case 2:
			fn = func(*EvalContext, D, D) (D, error) { return d, nil }
		default:
			fn = func(*EvalContext, D, D, D) (D, error) { return d, nil }
		}
		defFunc(name, res, fn, args...).stable()
	}
	defFunc("pg_table_is_visible", tBool, func(ec *EvalContext, a D) (D, error) {
		if ec.Session == nil {
			return types.Null, errNoSession()
		}
		_, name, ok := ec.Session.RelationName(types.OID(a.Int()))
		if !ok {
			return types.Null, nil
		}
		for _, s := range searchPath(ec.Session) {
			if oid, ok := ec.Session.RelationOID(s, name); ok {
				return types.Bool(int64(oid) == a.Int()), nil
			}
		}
		return types.Bool(false), nil
	}, tOid).stable()
	for _, n := range []string{"pg_type_is_visible", "pg_function_is_visible", "pg_operator_is_visible", "pg_opclass_is_visible", "pg_opfamily_is_visible",
		"pg_collation_is_visible", "pg_conversion_is_visible", "pg_ts_config_is_visible", "pg_ts_dict_is_visible", "pg_ts_parser_is_visible", "pg_ts_template_is_visible", "pg_statistics_obj_is_visible"} {
		constant(n, tBool, types.Bool(true), tOid)
	}
	defFunc("format_type", tText, func(_ *EvalContext, a, m D) (D, error) {
		if a.IsNull() {
			return types.Null, nil
		}
		if a.Int() == 0 {
			return types.Text("-"), nil
		}
		mod := int32(-1)
		if !m.IsNull() {
			mod = int32(m.Int())
			if mod < 0 && types.OID(a.Int()) == tBP {
				return types.Text("bpchar"), nil
			}
		}
		return types.Text(types.Name(types.Type{OID: types.OID(a.Int()), Mod: mod})), nil
	}, tOid, tInt4).nullable()
	defFunc("pg_get_userbyid", tName, func(ec *EvalContext, a D) (D, error) {
		if a.Int() == 10 {
			return types.Text("root"), nil
		}
		return types.Text("unknown (OID=" + strconv.FormatInt(a.Int(), 10) + ")"), nil
	}, tOid).stable()
	for _, n := range []string{"obj_description", "shobj_description"} {
		constant(n, tText, types.Null, tOid, tName)
	}
	constant("obj_description", tText, types.Null, tOid)
	constant("col_description", tText, types.Null, tOid, tInt4)
	constant("pg_encoding_to_char", tName, types.Text("UTF8"), tInt4)
	constant("pg_client_encoding", tName, types.Text("UTF8"))
	constant("getdatabaseencoding", tName, types.Text("UTF8"))
	constant("pg_is_in_recovery", tBool, types.Bool(false))
	constant("pg_is_other_temp_schema", tBool, types.Bool(false), tOid)
	constant("pg_my_temp_schema", tOid, types.Int(0))
	constant("inet_server_addr", tText, types.Null)
	constant("inet_client_addr", tText, types.Null)
	constant("inet_server_port", tInt4, types.Null)
	constant("inet_client_port", tInt4, types.Null)
	constant("pg_relation_is_publishable", tBool, types.Bool(false), tClass)
	constant("pg_tablespace_location", tText, types.Text(""), tOid)
	for _, n := range []string{"has_table_privilege", "has_schema_privilege", "has_database_privilege", "has_column_privilege", "has_function_privilege", "has_sequence_privilege", "has_any_column_privilege", "pg_has_role", "has_type_privilege", "has_tablespace_privilege"} {
		for _, first := range []types.OID{tText, tOid} {
			constant(n, tBool, types.Bool(true), first, tText)
			constant(n, tBool, types.Bool(true), tName, first, tText)
		}
	}
	defFunc("pg_size_pretty", tText, func(_ *EvalContext, a D) (D, error) { return types.Text(sizePretty(a.Int())), nil }, tInt8)
	defFunc("pg_column_size", tInt4, func(_ *EvalContext, a D) (D, error) { return types.Int(int64(max(len(a.Str()), 8))), nil }, tAny)

	// What needs the catalog or the engine: Session.Extra dispatches by name.
	defExtra("pg_get_expr", tText, Stable, types.OIDPgNodeTree, tOid)
	defExtra("pg_get_expr", tText, Stable, types.OIDPgNodeTree, tOid, tBool)
	defExtra("pg_get_expr", tText, Stable, tText, tOid)
	defExtra("pg_get_expr", tText, Stable, tText, tOid, tBool)
	defExtra("pg_get_indexdef", tText, Stable, tOid)
	defExtra("pg_get_indexdef", tText, Stable, tOid, tInt4, tBool)
	defExtra("pg_get_constraintdef", tText, Stable, tOid)
	defExtra("pg_get_constraintdef", tText, Stable, tOid, tBool)
	defExtra("pg_get_viewdef", tText, Stable, tOid)
	defExtra("pg_get_viewdef", tText, Stable, tOid, tBool)
	defExtra("pg_get_functiondef", tText, Stable, tOid)
	defExtra("pg_get_triggerdef", tText, Stable, tOid, tBool)
	defExtra("pg_get_statisticsobjdef_columns", tText, Stable, tOid)
	defExtra("pg_get_partkeydef", tText, Stable, tOid)
	defExtra("pg_get_function_result", tText, Stable, tOid)
	defExtra("pg_get_function_arguments", tText, Stable, tOid)
	defExtra("pg_get_function_identity_arguments", tText, Stable, tOid)
	defExtra("pg_get_serial_sequence", tText, Stable, tText, tText)
	for _, n := range []string{"pg_relation_size", "pg_total_relation_size", "pg_table_size", "pg_indexes_size"} {
		defExtra(n, tInt8, VolatileFunc, tClass)
	}
	defExtra("pg_get_ruledef", tText, Stable, tOid)
	defExtra("pg_get_ruledef", tText, Stable, tOid, tBool)
	defExtra("pg_get_function_sqlbody", tText, Stable, tOid)
	defExtra("pg_describe_object", tText, Stable, tOid, tOid, tInt4)
	defExtra("pg_tablespace_size", tInt8, VolatileFunc, tOid)
	defExtra("pg_tablespace_size", tInt8, VolatileFunc, tName)
	defExtra("pg_index_column_has_property", tBool, Stable, tClass, tInt4, tText)
	defFunc("pg_char_to_encoding", tInt4, func(_ *EvalContext, a D) (D, error) {
		if utf8Name(a.Str()) {
			return types.Int(6), nil
		}
		return types.Int(-1), nil
	}, tName).stable()
	defExtra("pg_database_size", tInt8, VolatileFunc, tName)
	defExtra("pg_cancel_backend", tBool, VolatileFunc, tInt4)
	defExtra("pg_terminate_backend", tBool, VolatileFunc, tInt4)
	defExtra("pg_current_xact_id", tXid8, Stable)
	defExtra("pg_current_xact_id_if_assigned", tXid8, Stable)
	defExtra("pg_xact_status", tText, VolatileFunc, tXid8)
	defExtra("txid_current", tInt8, Stable)
	defExtra("txid_current_if_assigned", tInt8, Stable)
	defExtra("txid_status", tText, VolatileFunc, tInt8)
	defExtra("pg_postmaster_start_time", tTSTZ, Stable)
	defExtra("pg_conf_load_time", tTSTZ, Stable)
	defExtra("nextval", tInt8, VolatileFunc, tClass)
	defExtra("currval", tInt8, VolatileFunc, tClass)
	defExtra("lastval", tInt8, VolatileFunc)
	defExtra("setval", tInt8, VolatileFunc, tClass, tInt8)
	defExtra("setval", tInt8, VolatileFunc, tClass, tInt8, tBool)
	for _, n := range []string{"pg_advisory_lock", "pg_advisory_xact_lock"} {
		defExtra(n, tVoid, VolatileFunc, tInt8)
		defExtra(n, tVoid, VolatileFunc, tInt4, tInt4)
	}
	for _, n := range []string{"pg_try_advisory_lock", "pg_try_advisory_xact_lock", "pg_advisory_unlock"} {
		defExtra(n, tBool, VolatileFunc, tInt8)
		defExtra(n, tBool, VolatileFunc, tInt4, tInt4)
	}
	defExtra("pg_advisory_unlock_all", tVoid, VolatileFunc)
	defExtra("pg_notify", tVoid, VolatileFunc, tText, tText)
	defExtra("spand.commit_timestamp", tTSTZ, VolatileFunc)
	defExtra("pg_options_to_table", tText, Stable, types.OIDTextArray)

	defFunc("to_regclass", tClass, func(ec *EvalContext, a D) (D, error) { return regOrNull(ec, tClass, a) }, tText).stable()
	defFunc("to_regtype", tType, func(ec *EvalContext, a D) (D, error) { return regOrNull(ec, tType, a) }, tText).stable()
	defFunc("to_regnamespace", types.OIDRegNamespace, func(ec *EvalContext, a D) (D, error) { return regOrNull(ec, types.OIDRegNamespace, a) }, tText).stable()
	defFunc("to_regproc", types.OIDRegproc, func(ec *EvalContext, a D) (D, error) { return regOrNull(ec, types.OIDRegproc, a) }, tText).stable()
}

func regOrNull(ec *EvalContext, t types.OID, a D) (D, error) {
	d, err := types.ParseText(a.Str(), types.T(t), ec.format())
	if err != nil {
		return types.Null, nil
	}
	return d, nil
}

func sizePretty(n int64) string {
	units := []string{"bytes", "kB", "MB", "GB", "TB", "PB"}
	limit := int64(10 * 1024)
	i := 0
	abs := func(v int64) int64 {
		if v < 0 {
			return -v
		}
		return v
	}
	half := func(v int64) int64 { // round half away from zero
		if v < 0 {
			return (v - 1) / 2
		}
		return (v + 1) / 2
	}
	if abs(n) < limit {
		return strconv.FormatInt(n, 10) + " bytes"
	}
	limit = 2*10*1024 - 1
	n >>= 9 // keep one bit more than kB, to round by
	for i = 1; i < len(units)-1 && abs(n) >= limit; i++ {
		n >>= 10
	}
	return strconv.FormatInt(half(n), 10) + " " + units[i]
}
