// Package types holds SQL's values and their text and binary forms, as
// PostgreSQL 15 reads and prints them. It knows no expressions and no storage.
package types

// OID is PostgreSQL's object id of a type.
type OID uint32

// OIDs of the built-in types, from PostgreSQL's pg_type.dat.
const (
	OIDBool        OID = 16
	OIDBytea       OID = 17
	OIDChar        OID = 18
	OIDName        OID = 19
	OIDInt8        OID = 20
	OIDInt2        OID = 21
	OIDInt4        OID = 23
	OIDRegproc     OID = 24
	OIDText        OID = 25
	OIDOid         OID = 26
	OIDJSON        OID = 114
	OIDFloat4      OID = 700
	OIDFloat8      OID = 701
	OIDUnknown     OID = 705
	OIDBPChar      OID = 1042
	OIDVarchar     OID = 1043
	OIDDate        OID = 1082
	OIDTime        OID = 1083
	OIDTimestamp   OID = 1114
	OIDTimestampTZ OID = 1184
	OIDInterval    OID = 1186
	OIDNumeric     OID = 1700
	OIDRegclass    OID = 2205
	OIDRegtype     OID = 2206
	OIDRecord      OID = 2249
	OIDVoid        OID = 2278
	OIDUUID        OID = 2950
	OIDJSONB       OID = 3802

	OIDBoolArray OID = 1000
	OIDInt2Array OID = 1005
	OIDInt4Array OID = 1007
	OIDTextArray OID = 1009
	OIDInt8Array OID = 1016
	OIDNameArray OID = 1003
	OIDOidArray  OID = 1028
)

// Type is a type with its modifier. Mod is PostgreSQL's typmod: -1 for none;
// for varchar and bpchar length+4; for numeric ((precision<<16)|scale)+4; for
// timestamps the number of fractional digits.
type Type struct {
	OID OID
	Mod int32
}

// T returns the type without a modifier.
func T(oid OID) Type { return Type{OID: oid, Mod: -1} }
