package expr

import (
	"strconv"
	"time"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// Reset prepares ec for one execution with the given constants and parameters:
// everything remembered from an earlier one is dropped, memory is reused.
func (ec *EvalContext) Reset(consts []pgast.Value, params []types.Datum) {
	ec.Consts, ec.Params = consts, params
	if cap(ec.ConstCache) < len(consts) || cap(ec.constType) < len(consts) {
		ec.ConstCache = make([]types.Datum, len(consts))
		ec.constType = make([]types.OID, len(consts))
	} else {
		ec.ConstCache = ec.ConstCache[:len(consts)]
		ec.constType = ec.constType[:len(consts)]
		clear(ec.constType)
	}
	ec.Outer = ec.Outer[:0]
	if len(ec.once) > 0 {
		clear(ec.once)
	}
	if len(ec.scratch) > 0 {
		clear(ec.scratch)
	}
	ec.Format = nil
}

// format returns the settings for conversions from and to text.
func (ec *EvalContext) format() *types.FormatSettings {
	if ec.Format != nil {
		return ec.Format
	}
	fs := types.DefaultFormat
	fs.Location = ec.Location
	if !ec.TransactionTime.IsZero() {
		t := ec.TransactionTime
		fs.Now = func() time.Time { return t }
	}
	if s := ec.Session; s != nil {
		if v, ok := s.Setting("datestyle"); ok {
			fs.DateStyle = v
		}
		if v, ok := s.Setting("extra_float_digits"); ok {
			if n, err := strconv.Atoi(v); err == nil {
				fs.ExtraFloatDigits = n
			}
		}
		if v, ok := s.Setting("bytea_output"); ok {
			fs.ByteaHex = v != "escape"
		}
		fs.Names = regNames{s}
	}
	ec.Format = &fs
	return ec.Format
}

func (ec *EvalContext) location() *time.Location {
	if ec.Location == nil {
		return time.UTC
	}
	return ec.Location
}

// remember is the memory of e in this execution, made by fresh when first asked for.
func remember[T any](ec *EvalContext, e Expr, fresh func() *T) *T {
	if v, ok := ec.scratch[e]; ok {
		return v.(*T)
	}
	v := fresh()
	if ec.scratch == nil {
		ec.scratch = make(map[Expr]any)
	}
	ec.scratch[e] = v
	return v
}

// canceled reports the context's end as PostgreSQL does.
func (ec *EvalContext) canceled() error {
	if ec.Ctx != nil && ec.Ctx.Err() != nil {
		return &sqlstate.Error{Code: sqlstate.QueryCanceled, Message: "canceling statement due to user request", Cause: ec.Ctx.Err()}
	}
	return nil
}

// ConstClass says what of a constant's value its type depends on: statements of
// one shape may share a plan when all their constants' classes agree.
func ConstClass(v pgast.Value) uint8 {
	if v.Kind != pgast.Integer {
		return 0
	}
	t, neg := v.Text, false
	if t != "" && (t[0] == '-' || t[0] == '+') { // a sign that the parser folded in
		neg, t = t[0] == '-', t[1:]
	}
	for len(t) > 1 && t[0] == '0' {
		t = t[1:]
	}
	const (
		max32, min32 = "2147483647", "2147483648"
		max64, min64 = "9223372036854775807", "9223372036854775808"
	)
	atMost := func(limit string) bool { return len(t) < len(limit) || len(t) == len(limit) && t <= limit }
	switch {
	case atMost(max32), t == min32 && neg:
		return classInt4
	case t == min32:
		return classMinInt4
	case atMost(max64), t == min64 && neg:
		return classInt8
	case t == min64:
		return classMinInt8
	}
	return classNumeric
}

// Classes of integer literals. The two in between fit the narrower type when
// a minus stands before them, as PostgreSQL's grammar folds it in.
const (
	classInt4 uint8 = iota
	classMinInt4
	classInt8
	classMinInt8
	classNumeric
)

// regNames resolves reg* types through the session.
type regNames struct{ s Session }

func (r regNames) RegName(t, v types.OID) (string, bool) {
	switch t {
	case types.OIDRegclass:
		schema, name, ok := r.s.RelationName(v)
		if !ok {
			return "", false
		}
		// Qualified only when the name alone would not find it.
		for _, s := range searchPath(r.s) {
			if oid, ok := r.s.RelationOID(s, name); ok {
				if oid == v {
					return quoteIdent(name), true
				}
				break
			}
		}
		return quoteIdent(schema) + "." + quoteIdent(name), true
	case types.OIDRegNamespace:
		if n, ok := namespaceNames[v]; ok {
			return n, true
		}
	case types.OIDRegRole:
		if v == 10 {
			return quoteIdent(r.s.User()), true
		}
	}
	return "", false
}

var namespaceNames = map[types.OID]string{11: "pg_catalog", 2200: "public", 99: "pg_toast"}

func searchPath(s Session) []string {
	return append([]string{"pg_catalog"}, s.SearchPath()...)
}

func (r regNames) RegOID(t types.OID, name string) (types.OID, error) {
	parts, err := splitIdents(name)
	if err != nil {
		return 0, err
	}
	switch t {
	case types.OIDRegclass:
		switch len(parts) {
		case 1:
			for _, s := range searchPath(r.s) {
				if oid, ok := r.s.RelationOID(s, parts[0]); ok {
					return oid, nil
				}
			}
		case 2:
			if oid, ok := r.s.RelationOID(parts[0], parts[1]); ok {
				return oid, nil
			}
		case 3:
			if oid, ok := r.s.RelationOID(parts[1], parts[2]); ok && parts[0] == r.s.Database() {
				return oid, nil
			}
		}
		return 0, sqlstate.Newf(sqlstate.UndefinedTable, "relation \"%s\" does not exist", joinDots(parts))
	case types.OIDRegtype:
		return 0, sqlstate.Newf(sqlstate.UndefinedObject, "type \"%s\" does not exist", joinDots(parts))
	case types.OIDRegNamespace:
		for oid, n := range namespaceNames {
			if len(parts) == 1 && n == parts[0] {
				return oid, nil
			}
		}
		return 0, sqlstate.Newf(sqlstate.InvalidSchemaName, "schema \"%s\" does not exist", joinDots(parts))
	case types.OIDRegRole:
		if len(parts) == 1 && parts[0] == r.s.User() {
			return 10, nil
		}
		return 0, sqlstate.Newf(sqlstate.UndefinedObject, "role \"%s\" does not exist", joinDots(parts))
	case types.OIDRegproc, types.OIDRegProcedure:
		return 0, sqlstate.Newf(sqlstate.UndefinedFunction, "function \"%s\" does not exist", joinDots(parts))
	}
	return 0, sqlstate.Newf(sqlstate.UndefinedObject, "\"%s\" does not exist", joinDots(parts))
}

func joinDots(parts []string) string {
	out := ""
	for i, p := range parts {
		if i > 0 {
			out += "."
		}
		out += p
	}
	return out
}

// splitIdents splits a qualified name as SQL reads it: folded unless quoted.
func splitIdents(s string) ([]string, error) {
	var parts []string
	bad := sqlstate.Newf("42602", "invalid name syntax")
	for i := 0; ; i++ {
		var b []byte
		if i < len(s) && s[i] == '"' {
			for i++; ; i++ {
				if i >= len(s) {
					return nil, bad
				}
				if s[i] == '"' {
					if i+1 < len(s) && s[i+1] == '"' {
						i++
					} else {
						i++
						break
					}
				}
				b = append(b, s[i])
			}
		} else {
			for i < len(s) && s[i] != '.' {
				c := s[i]
				if c >= 'A' && c <= 'Z' {
					c += 'a' - 'A'
				}
				b = append(b, c)
				i++
			}
		}
		if len(b) == 0 {
			return nil, bad
		}
		parts = append(parts, string(b))
		if i >= len(s) {
			return parts, nil
		}
		if s[i] != '.' {
			return nil, bad
		}
	}
}
