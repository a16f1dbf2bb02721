package types

// More OIDs from pg_type.dat; type.go has the commonest.
const (
	OIDInt2Vector   OID = 22
	OIDTid          OID = 27
	OIDXid          OID = 28
	OIDCid          OID = 29
	OIDOidVector    OID = 30
	OIDPgNodeTree   OID = 194
	OIDTimeTZ       OID = 1266
	OIDACLItem      OID = 1033
	OIDRegProcedure OID = 2202
	OIDRegOper      OID = 2203
	OIDRegOperator  OID = 2204
	OIDRegRole      OID = 4096
	OIDRegNamespace OID = 4089
	OIDXid8         OID = 5069
	OIDCString      OID = 2275
	OIDAny          OID = 2276
	OIDAnyArray     OID = 2277
	OIDAnyElement   OID = 2283

	OIDByteaArray       OID = 1001
	OIDCharArray        OID = 1002
	OIDRegprocArray     OID = 1008
	OIDXidArray         OID = 1011
	OIDInt2VectorArray  OID = 1006
	OIDOidVectorArray   OID = 1013
	OIDBPCharArray      OID = 1014
	OIDVarcharArray     OID = 1015
	OIDFloat4Array      OID = 1021
	OIDFloat8Array      OID = 1022
	OIDACLItemArray     OID = 1034
	OIDTimestampArray   OID = 1115
	OIDDateArray        OID = 1182
	OIDTimeArray        OID = 1183
	OIDTimestampTZArray OID = 1185
	OIDIntervalArray    OID = 1187
	OIDNumericArray     OID = 1231
	OIDJSONArray        OID = 199
	OIDRegclassArray    OID = 2210
	OIDRegtypeArray     OID = 2211
	OIDUUIDArray        OID = 2951
	OIDJSONBArray       OID = 3807
	OIDRecordArray      OID = 2287
	OIDRegNamespaceArr  OID = 4090
	OIDRegRoleArray     OID = 4097
	OIDXid8Array        OID = 271
)

// Category is pg_type.typcategory, which operator and function resolution uses.
type Category byte

// The categories of PostgreSQL's built-in types.
const (
	CatArray    Category = 'A'
	CatBoolean  Category = 'B'
	CatDateTime Category = 'D'
	CatNumeric  Category = 'N'
	CatPseudo   Category = 'P'
	CatString   Category = 'S'
	CatTimespan Category = 'T'
	CatUser     Category = 'U'
	CatUnknown  Category = 'X'
	CatInternal Category = 'Z'
)

// Info describes one built-in type: the columns of pg_type that matter.
type Info struct {
	OID       OID
	Name      string // typname
	Display   string // format_type's spelling
	Size      int16  // typlen
	Kind      Kind   // of its datums
	Category  Category
	Preferred bool // typispreferred
	Elem      OID  // typelem of arrays
	Array     OID  // typarray
	ByValue   bool // typbyval
	Align     byte // typalign
}

var infos = []Info{
	{OID: OIDBool, Name: "bool", Display: "boolean", Size: 1, Kind: KindBool, Category: CatBoolean, Preferred: true, Array: OIDBoolArray, ByValue: true, Align: 'c'},
	{OID: OIDBytea, Name: "bytea", Display: "bytea", Size: -1, Kind: KindBytes, Category: CatUser, Array: OIDByteaArray, Align: 'i'},
	{OID: OIDChar, Name: "char", Display: `"char"`, Size: 1, Kind: KindText, Category: CatInternal, Array: OIDCharArray, ByValue: true, Align: 'c'},
	{OID: OIDName, Name: "name", Display: "name", Size: 64, Kind: KindText, Category: CatString, Array: OIDNameArray, Align: 'c'},
	{OID: OIDInt8, Name: "int8", Display: "bigint", Size: 8, Kind: KindInt, Category: CatNumeric, Array: OIDInt8Array, ByValue: true, Align: 'd'},
	{OID: OIDInt2, Name: "int2", Display: "smallint", Size: 2, Kind: KindInt, Category: CatNumeric, Array: OIDInt2Array, ByValue: true, Align: 's'},
	{OID: OIDInt2Vector, Name: "int2vector", Display: "int2vector", Size: -1, Kind: KindArray, Category: CatArray, Elem: OIDInt2, Array: OIDInt2VectorArray, Align: 'i'},
	{OID: OIDInt4, Name: "int4", Display: "integer", Size: 4, Kind: KindInt, Category: CatNumeric, Array: OIDInt4Array, ByValue: true, Align: 'i'},
	{OID: OIDRegproc, Name: "regproc", Display: "regproc", Size: 4, Kind: KindInt, Category: CatNumeric, Array: OIDRegprocArray, ByValue: true, Align: 'i'},
	{OID: OIDText, Name: "text", Display: "text", Size: -1, Kind: KindText, Category: CatString, Preferred: true, Array: OIDTextArray, Align: 'i'},
	{OID: OIDOid, Name: "oid", Display: "oid", Size: 4, Kind: KindInt, Category: CatNumeric, Preferred: true, Array: OIDOidArray, ByValue: true, Align: 'i'},
	{OID: OIDXid, Name: "xid", Display: "xid", Size: 4, Kind: KindInt, Category: CatUser, Array: OIDXidArray, ByValue: true, Align: 'i'},
	{OID: OIDOidVector, Name: "oidvector", Display: "oidvector", Size: -1, Kind: KindArray, Category: CatArray, Elem: OIDOid, Array: OIDOidVectorArray, Align: 'i'},
	{OID: OIDJSON, Name: "json", Display: "json", Size: -1, Kind: KindText, Category: CatUser, Array: OIDJSONArray, Align: 'i'},
	{OID: OIDPgNodeTree, Name: "pg_node_tree", Display: "pg_node_tree", Size: -1, Kind: KindText, Category: CatInternal, Align: 'i'},
	{OID: OIDFloat4, Name: "float4", Display: "real", Size: 4, Kind: KindFloat, Category: CatNumeric, Array: OIDFloat4Array, ByValue: true, Align: 'i'},
	{OID: OIDFloat8, Name: "float8", Display: "double precision", Size: 8, Kind: KindFloat, Category: CatNumeric, Preferred: true, Array: OIDFloat8Array, ByValue: true, Align: 'd'},
	{OID: OIDUnknown, Name: "unknown", Display: "unknown", Size: -2, Kind: KindText, Category: CatUnknown, Align: 'c'},
	{OID: OIDACLItem, Name: "aclitem", Display: "aclitem", Size: 12, Kind: KindText, Category: CatUser, Array: OIDACLItemArray, Align: 'i'},
	{OID: OIDBPChar, Name: "bpchar", Display: "character", Size: -1, Kind: KindText, Category: CatString, Array: OIDBPCharArray, Align: 'i'},
	{OID: OIDVarchar, Name: "varchar", Display: "character varying", Size: -1, Kind: KindText, Category: CatString, Array: OIDVarcharArray, Align: 'i'},
	{OID: OIDDate, Name: "date", Display: "date", Size: 4, Kind: KindDate, Category: CatDateTime, Array: OIDDateArray, ByValue: true, Align: 'i'},
	{OID: OIDTime, Name: "time", Display: "time without time zone", Size: 8, Kind: KindTime, Category: CatDateTime, Array: OIDTimeArray, ByValue: true, Align: 'd'},
	{OID: OIDTimestamp, Name: "timestamp", Display: "timestamp without time zone", Size: 8, Kind: KindTimestamp, Category: CatDateTime, Array: OIDTimestampArray, ByValue: true, Align: 'd'},
	{OID: OIDTimestampTZ, Name: "timestamptz", Display: "timestamp with time zone", Size: 8, Kind: KindTimestamp, Category: CatDateTime, Preferred: true, Array: OIDTimestampTZArray, ByValue: true, Align: 'd'},
	{OID: OIDInterval, Name: "interval", Display: "interval", Size: 16, Kind: KindInterval, Category: CatTimespan, Preferred: true, Array: OIDIntervalArray, Align: 'd'},
	{OID: OIDNumeric, Name: "numeric", Display: "numeric", Size: -1, Kind: KindNumeric, Category: CatNumeric, Array: OIDNumericArray, Align: 'i'},
	{OID: OIDRegProcedure, Name: "regprocedure", Display: "regprocedure", Size: 4, Kind: KindInt, Category: CatNumeric, ByValue: true, Align: 'i'},
	{OID: OIDRegOper, Name: "regoper", Display: "regoper", Size: 4, Kind: KindInt, Category: CatNumeric, ByValue: true, Align: 'i'},
	{OID: OIDRegOperator, Name: "regoperator", Display: "regoperator", Size: 4, Kind: KindInt, Category: CatNumeric, ByValue: true, Align: 'i'},
	{OID: OIDRegclass, Name: "regclass", Display: "regclass", Size: 4, Kind: KindInt, Category: CatNumeric, Array: OIDRegclassArray, ByValue: true, Align: 'i'},
	{OID: OIDRegtype, Name: "regtype", Display: "regtype", Size: 4, Kind: KindInt, Category: CatNumeric, Array: OIDRegtypeArray, ByValue: true, Align: 'i'},
	{OID: OIDRegNamespace, Name: "regnamespace", Display: "regnamespace", Size: 4, Kind: KindInt, Category: CatNumeric, Array: OIDRegNamespaceArr, ByValue: true, Align: 'i'},
	{OID: OIDRegRole, Name: "regrole", Display: "regrole", Size: 4, Kind: KindInt, Category: CatNumeric, Array: OIDRegRoleArray, ByValue: true, Align: 'i'},
	{OID: OIDRecord, Name: "record", Display: "record", Size: -1, Kind: KindText, Category: CatPseudo, Array: OIDRecordArray, Align: 'd'},
	{OID: OIDCString, Name: "cstring", Display: "cstring", Size: -2, Kind: KindText, Category: CatPseudo, Align: 'c'},
	{OID: OIDAny, Name: "any", Display: `"any"`, Size: 4, Kind: KindText, Category: CatPseudo, ByValue: true, Align: 'i'},
	{OID: OIDAnyArray, Name: "anyarray", Display: "anyarray", Size: -1, Kind: KindArray, Category: CatPseudo, Align: 'd'},
	{OID: OIDVoid, Name: "void", Display: "void", Size: 4, Kind: KindText, Category: CatPseudo, ByValue: true, Align: 'i'},
	{OID: OIDAnyElement, Name: "anyelement", Display: "anyelement", Size: 4, Kind: KindText, Category: CatPseudo, ByValue: true, Align: 'i'},
	{OID: OIDUUID, Name: "uuid", Display: "uuid", Size: 16, Kind: KindUUID, Category: CatUser, Array: OIDUUIDArray, Align: 'c'},
	{OID: OIDJSONB, Name: "jsonb", Display: "jsonb", Size: -1, Kind: KindBytes, Category: CatUser, Array: OIDJSONBArray, Align: 'i'},
	{OID: OIDXid8, Name: "xid8", Display: "xid8", Size: 8, Kind: KindInt, Category: CatUser, Array: OIDXid8Array, ByValue: true, Align: 'd'},
}

// byOID is dense over the small OIDs; the few large ones cost a bit of space and
// make every look-up an index, as the wire does one per value.
var (
	byOID  [5072]*Info
	byName = map[string]*Info{}
)

func init() {
	for i := range infos {
		in := &infos[i]
		byOID[in.OID] = in
		byName[in.Name] = in
	}
	for i, n := 0, len(infos); i < n; i++ {
		in := &infos[i]
		if in.Array == 0 {
			continue
		}
		align := byte('i')
		if in.Align == 'd' {
			align = 'd'
		}
		a := &Info{OID: in.Array, Name: "_" + in.Name, Display: in.Display + "[]", Size: -1, Kind: KindArray, Category: CatArray, Elem: in.OID, Align: align}
		byOID[a.OID] = a
		byName[a.Name] = a
	}
}

// Lookup returns what is known of a type; nil: no such type.
func Lookup(oid OID) *Info {
	if int(oid) >= len(byOID) {
		return nil
	}
	return byOID[oid]
}

// All calls f for every built-in type, arrays included, in the order of OIDs.
func All(f func(*Info)) {
	for _, in := range byOID {
		if in != nil {
			f(in)
		}
	}
}

// KindOf returns the kind of a type's non-null datums; KindNull: no such type.
func KindOf(oid OID) Kind {
	if in := Lookup(oid); in != nil {
		return in.Kind
	}
	return KindNull
}

// Size is pg_type.typlen: bytes, -1 for varying, -2 for C strings.
func Size(oid OID) int16 {
	if in := Lookup(oid); in != nil {
		return in.Size
	}
	return -1
}

// ArrayOf returns the array type over oid; 0: it has none.
func ArrayOf(oid OID) OID {
	if in := Lookup(oid); in != nil {
		return in.Array
	}
	return 0
}

// ElemOf returns the element type of an array type; 0: not an array.
func ElemOf(oid OID) OID {
	if in := Lookup(oid); in != nil {
		return in.Elem
	}
	return 0
}

// IsArray reports whether oid is an array type.
func IsArray(oid OID) bool { return ElemOf(oid) != 0 }

// ElemType is the element's Type: an array's modifier is its elements'.
func ElemType(t Type) Type { return Type{OID: ElemOf(t.OID), Mod: t.Mod} }

// CategoryOf returns a type's category and whether it is the preferred one in it.
func CategoryOf(oid OID) (Category, bool) {
	if in := Lookup(oid); in != nil {
		return in.Category, in.Preferred
	}
	return CatUser, false
}

// IsReg reports whether oid is one of the reg* types.
func IsReg(oid OID) bool {
	switch oid {
	case OIDRegclass, OIDRegtype, OIDRegproc, OIDRegProcedure, OIDRegOper, OIDRegOperator, OIDRegNamespace, OIDRegRole:
		return true
	}
	return false
}
