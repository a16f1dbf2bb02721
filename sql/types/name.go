package types

import (
	"strconv"
	"strings"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
)

// Name spells a type as PostgreSQL's format_type does: "character varying(10)".
func Name(t Type) string {
	in := Lookup(t.OID)
	if in == nil {
		if t.OID == 0 {
			return "unknown"
		}
		return "???"
	}
	if in.Elem != 0 && t.OID != OIDInt2Vector && t.OID != OIDOidVector {
		return Name(Type{in.Elem, t.Mod}) + "[]"
	}
	if t.Mod < 0 {
		return in.Display
	}
	switch t.OID {
	case OIDVarchar, OIDBPChar:
		return in.Display + "(" + strconv.Itoa(int(t.Mod)-4) + ")"
	case OIDNumeric:
		p, s := NumericMod(t.Mod)
		return "numeric(" + strconv.Itoa(p) + "," + strconv.Itoa(s) + ")"
	case OIDTimestamp:
		return "timestamp(" + strconv.Itoa(int(t.Mod)) + ") without time zone"
	case OIDTimestampTZ:
		return "timestamp(" + strconv.Itoa(int(t.Mod)) + ") with time zone"
	case OIDTime:
		return "time(" + strconv.Itoa(int(t.Mod)) + ") without time zone"
	case OIDInterval:
		return "interval" + intervalModText(t.Mod)
	}
	return in.Display
}

// BaseName is Name without the modifier, as error messages have it.
func BaseName(oid OID) string { return Name(T(oid)) }

// NumericMod splits numeric's modifier (which must not be negative) into
// precision and scale; the scale may be negative (11 bits, signed).
func NumericMod(mod int32) (precision, scale int) {
	m := mod - 4
	return int(m>>16) & 0xffff, int(int32(m<<21) >> 21)
}

// Types that PostgreSQL has and spand has not: a clear refusal beats "does not exist".
var notYet = map[string]bool{
	"timetz": true, "bit": true, "varbit": true, "money": true, "inet": true, "cidr": true, "macaddr": true, "macaddr8": true,
	"point": true, "line": true, "lseg": true, "box": true, "path": true, "polygon": true, "circle": true,
	"tsvector": true, "tsquery": true, "xml": true, "int4range": true, "int8range": true, "numrange": true,
	"tsrange": true, "tstzrange": true, "daterange": true, "jsonpath": true, "pg_lsn": true, "txid_snapshot": true,
}

// LookupSerial reports the integer type behind serial, bigserial and smallserial,
// which only column definitions know.
func LookupSerial(n pgast.TypeName) (Type, bool) {
	if len(n.Name) != 1 || n.Array != 0 {
		return Type{}, false
	}
	switch n.Name[0] {
	case "serial", "serial4":
		return T(OIDInt4), true
	case "bigserial", "serial8":
		return T(OIDInt8), true
	case "smallserial", "serial2":
		return T(OIDInt2), true
	}
	return Type{}, false
}

// LookupName finds the type that n names, with its modifier. Errors have no
// position; the caller knows n.Pos.
func LookupName(n pgast.TypeName) (Type, error) {
	if len(n.Name) == 0 {
		return Type{}, sqlstate.Newf(sqlstate.SyntaxError, "type name is empty")
	}
	name := n.Name.Last()
	if len(n.Name) > 1 {
		if s := n.Name[len(n.Name)-2]; s != "pg_catalog" {
			return Type{}, sqlstate.Newf(sqlstate.UndefinedObject, "type \"%s\" does not exist", strings.Join(n.Name, "."))
		}
	}
	in := byName[name]
	if in == nil {
		if notYet[name] {
			return Type{}, sqlstate.Newf(sqlstate.FeatureNotSupported, "type %s is not supported yet", name)
		}
		return Type{}, sqlstate.Newf(sqlstate.UndefinedObject, "type \"%s\" does not exist", strings.Join(n.Name, "."))
	}
	if n.SetOf {
		return Type{}, sqlstate.Newf(sqlstate.FeatureNotSupported, "SETOF is not supported here")
	}
	t := T(in.OID)
	if len(n.Mods) > 0 {
		m, err := typmodIn(in, n.Mods)
		if err != nil {
			return Type{}, err
		}
		t.Mod = m
	}
	if n.Array > 0 && in.Elem == 0 {
		// int[][] is int[]: PostgreSQL does not keep the number of dimensions.
		if t.OID = in.Array; t.OID == 0 {
			return Type{}, sqlstate.Newf(sqlstate.UndefinedObject, "type \"%s[]\" does not exist", name)
		}
	}
	return t, nil
}

// typmodIn is a type's typmodin function.
func typmodIn(in *Info, mods []string) (int32, error) {
	bad := func(format string, args ...any) (int32, error) {
		return 0, sqlstate.Newf(sqlstate.InvalidParameterValue, format, args...)
	}
	base := in.OID
	if in.Elem != 0 {
		base = in.Elem
	}
	if base == OIDInterval {
		return intervalModIn(mods)
	}
	ints := make([]int, len(mods))
	for i, m := range mods {
		v, err := strconv.Atoi(strings.TrimSpace(m))
		if err != nil {
			return bad("type modifiers must be simple constants or identifiers")
		}
		ints[i] = v
	}
	switch base {
	case OIDVarchar, OIDBPChar:
		word := "varchar"
		if base == OIDBPChar {
			word = "char"
		}
		if len(ints) != 1 {
			return bad("invalid type modifier")
		}
		if ints[0] < 1 {
			return bad("length for type %s must be at least 1", word)
		}
		if ints[0] > 10485760 {
			return bad("length for type %s cannot exceed 10485760", word)
		}
		return int32(ints[0]) + 4, nil
	case OIDNumeric:
		scale := 0
		switch len(ints) {
		case 1:
		case 2:
			scale = ints[1]
		default:
			return bad("invalid NUMERIC type modifier")
		}
		if ints[0] < 1 || ints[0] > 1000 {
			return bad("NUMERIC precision %d must be between 1 and 1000", ints[0])
		}
		if scale < -1000 || scale > 1000 {
			return bad("NUMERIC scale %d must be between -1000 and 1000", scale)
		}
		return int32(ints[0]<<16|scale&0x7ff) + 4, nil
	case OIDTimestamp, OIDTimestampTZ, OIDTime:
		if len(ints) != 1 {
			return bad("invalid type modifier")
		}
		if ints[0] < 0 {
			return bad("%s(%d) precision must not be negative", strings.ToUpper(strings.TrimSuffix(in.Name, "tz")), ints[0])
		}
		// PostgreSQL reduces what is too precise, with a warning.
		return int32(min(ints[0], 6)), nil
	}
	return 0, sqlstate.Newf(sqlstate.SyntaxError, "type modifier is not allowed for type \"%s\"", in.Name)
}
