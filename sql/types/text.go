package types

import (
	"encoding/hex"
	"errors"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spandb/spand/sql/sqlstate"
)

// AppendText appends d's text form, as PostgreSQL's output functions print it. A
// NULL appends nothing: the protocols have their own sign for it. Allocates only
// to grow dst.
func AppendText(dst []byte, d Datum, t Type, fs *FormatSettings) []byte {
	switch d.k {
	case KindNull:
		return dst
	case KindBool:
		if d.n != 0 {
			return append(dst, 't')
		}
		return append(dst, 'f')
	case KindInt:
		if IsReg(t.OID) {
			return appendReg(dst, d, t.OID, fs)
		}
		if t.OID == OIDXid8 {
			return strconv.AppendUint(dst, uint64(d.n), 10)
		}
		return strconv.AppendInt(dst, d.n, 10)
	case KindFloat:
		extra := 1
		if fs != nil {
			extra = fs.ExtraFloatDigits
		}
		return appendFloat(dst, d.Float(), t.OID == OIDFloat4, extra)
	case KindText, KindNumeric:
		return append(dst, d.s...)
	case KindBytes:
		if t.OID == OIDJSONB {
			return append(dst, d.s...)
		}
		return appendBytea(dst, d.s, fs == nil || fs.ByteaHex)
	case KindTimestamp:
		if t.OID == OIDTimestampTZ {
			return appendTimestampTZ(dst, d.n, fs.location())
		}
		return appendTimestamp(dst, d.n)
	case KindDate:
		return appendDate(dst, d.n)
	case KindTime:
		return appendTime(dst, d.n)
	case KindInterval:
		return appendInterval(dst, d)
	case KindArray:
		return appendArrayText(dst, d, t, fs)
	case KindUUID:
		return appendUUID(dst, d.s)
	}
	return dst
}

// String is AppendText as a string, for messages and names.
func String(d Datum, t Type, fs *FormatSettings) string {
	if d.k == KindText || d.k == KindNumeric {
		return d.s
	}
	var tmp [64]byte
	return string(AppendText(tmp[:0], d, t, fs))
}

func appendReg(dst []byte, d Datum, oid OID, fs *FormatSettings) []byte {
	if d.n == 0 {
		return append(dst, '-')
	}
	if oid == OIDRegtype {
		if in := Lookup(OID(d.n)); in != nil {
			return append(dst, BaseName(in.OID)...)
		}
	}
	if fs != nil && fs.Names != nil {
		if n, ok := fs.Names.RegName(oid, OID(d.n)); ok {
			return append(dst, n...)
		}
	}
	return strconv.AppendInt(dst, d.n, 10)
}

func appendFloat(dst []byte, f float64, single bool, extra int) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, "NaN"...)
	case math.IsInf(f, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(f, -1):
		return append(dst, "-Infinity"...)
	}
	bits, top, digits := 64, 1e15, 15
	if single {
		bits, top, digits = 32, 1e6, 6
	}
	if extra > 0 {
		if a := math.Abs(f); a == 0 || a >= 1e-4 && a < top {
			return strconv.AppendFloat(dst, f, 'f', -1, bits)
		}
		return strconv.AppendFloat(dst, f, 'e', -1, bits)
	}
	// %.*g of C, which drops trailing zeros and picks the form by the exponent
	// after rounding.
	prec := max(digits+extra, 1)
	var tmp [40]byte
	e := strconv.AppendFloat(tmp[:0], f, 'e', prec-1, 64)
	ei := len(e) - 1
	for e[ei] != 'e' {
		ei--
	}
	exp, _ := strconv.Atoi(string(e[ei+1:]))
	start := len(dst)
	if exp < -4 || exp >= prec {
		m := e[:ei]
		if strings.IndexByte(string(m), '.') >= 0 {
			for m[len(m)-1] == '0' {
				m = m[:len(m)-1]
			}
			if m[len(m)-1] == '.' {
				m = m[:len(m)-1]
			}
		}
		dst = append(dst, m...)
		return append(dst, e[ei:]...)
	}
	dst = strconv.AppendFloat(dst, f, 'f', max(prec-1-exp, 0), 64)
	if strings.IndexByte(string(dst[start:]), '.') >= 0 {
		for dst[len(dst)-1] == '0' {
			dst = dst[:len(dst)-1]
		}
		if dst[len(dst)-1] == '.' {
			dst = dst[:len(dst)-1]
		}
	}
	return dst
}

func appendBytea(dst []byte, s string, asHex bool) []byte {
	if asHex {
		const digits = "0123456789abcdef"
		dst = append(dst, '\\', 'x')
		for i := 0; i < len(s); i++ {
			dst = append(dst, digits[s[i]>>4], digits[s[i]&15])
		}
		return dst
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			dst = append(dst, '\\', '\\')
		case c < 0x20 || c > 0x7e:
			dst = append(dst, '\\', '0'+c>>6, '0'+c>>3&7, '0'+c&7)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

func appendUUID(dst []byte, s string) []byte {
	const digits = "0123456789abcdef"
	for i := 0; i < len(s); i++ {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			dst = append(dst, '-')
		}
		dst = append(dst, digits[s[i]>>4], digits[s[i]&15])
	}
	return dst
}

// ParseText reads a value's text form, as PostgreSQL's input functions do, and
// applies t's modifier. Errors carry PostgreSQL's SQLSTATE and message. The datum
// may alias s.
func ParseText(s string, t Type, fs *FormatSettings) (Datum, error) {
	d, err := parseText(s, t, fs)
	if err != nil || t.Mod < 0 {
		return d, err
	}
	return CoerceMod(d, t, false)
}

func parseText(s string, t Type, fs *FormatSettings) (Datum, error) {
	switch t.OID {
	case OIDBool:
		return parseBool(s)
	case OIDInt2:
		return parseInt(s, 16, "smallint")
	case OIDInt4:
		return parseInt(s, 32, "integer")
	case OIDInt8:
		return parseInt(s, 64, "bigint")
	case OIDOid, OIDXid, OIDCid:
		return parseOID(s, t.OID)
	case OIDXid8:
		return parseXid8(s)
	case OIDFloat4, OIDFloat8:
		return parseFloat(s, t.OID == OIDFloat4)
	case OIDNumeric:
		return ParseNumeric(s)
	case OIDText, OIDVarchar, OIDBPChar, OIDUnknown, OIDCString, OIDPgNodeTree, OIDACLItem:
		return Text(s), nil
	case OIDName:
		return Text(TruncateName(s)), nil
	case OIDChar:
		return Text(firstByte(s)), nil
	case OIDBytea:
		return parseBytea(s)
	case OIDJSON:
		if err := ValidateJSON(s); err != nil {
			return Null, err
		}
		return Text(s), nil
	case OIDJSONB:
		return ParseJSONB(s)
	case OIDUUID:
		return parseUUID(s)
	case OIDDate:
		return parseDate(s, fs)
	case OIDTime:
		return parseTime(s, fs)
	case OIDTimestamp:
		return parseTimestamp(s, false, fs)
	case OIDTimestampTZ:
		return parseTimestamp(s, true, fs)
	case OIDInterval:
		return parseInterval(s, t.Mod)
	case OIDVoid:
		return Text(""), nil
	}
	if IsReg(t.OID) {
		return parseReg(s, t.OID, fs)
	}
	if e := ElemOf(t.OID); e != 0 {
		return parseArrayText(s, t, fs)
	}
	if t.OID == OIDRecord {
		return Null, sqlstate.Newf(sqlstate.FeatureNotSupported, "input of anonymous composite types is not implemented")
	}
	return Null, sqlstate.Newf(sqlstate.FeatureNotSupported, "cannot accept a value of type %s", BaseName(t.OID))
}

// TruncateName cuts an identifier to 63 bytes at a character boundary, as the
// type name does.
func TruncateName(s string) string {
	if len(s) <= 63 {
		return s
	}
	n := 63
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func firstByte(s string) string {
	if len(s) <= 1 {
		return s
	}
	return s[:1]
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

func trimSpace(s string) string {
	for len(s) > 0 && isSpace(s[0]) {
		s = s[1:]
	}
	for len(s) > 0 && isSpace(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

func badInput(typ, s string) error {
	return sqlstate.Newf(sqlstate.InvalidTextRepresentation, "invalid input syntax for type %s: \"%s\"", typ, s)
}

func parseBool(in string) (Datum, error) {
	s := trimSpace(in)
	is := func(word string, least int) bool {
		return len(s) >= least && len(s) <= len(word) && strings.EqualFold(s, word[:len(s)])
	}
	switch {
	case is("true", 1), is("yes", 1), is("on", 2), s == "1":
		return Bool(true), nil
	case is("false", 1), is("no", 1), is("off", 2), s == "0":
		return Bool(false), nil
	}
	return Null, badInput("boolean", in)
}

func parseInt(in string, bits int, typ string) (Datum, error) {
	s := trimSpace(in)
	i, neg := 0, false
	if len(s) > 0 && (s[0] == '-' || s[0] == '+') {
		neg = s[0] == '-'
		i = 1
	}
	if i == len(s) {
		return Null, badInput(typ, in)
	}
	var v uint64
	over := false
	for ; i < len(s); i++ {
		c := s[i] - '0'
		if c > 9 {
			return Null, badInput(typ, in)
		}
		if v > (math.MaxUint64-9)/10 {
			over = true
			continue
		}
		v = v*10 + uint64(c)
	}
	limit := uint64(1) << (bits - 1)
	if over || v > limit || v == limit && !neg {
		return Null, sqlstate.Newf(sqlstate.NumericValueOutOfRange, "value \"%s\" is out of range for type %s", in, typ)
	}
	if neg {
		return Int(-int64(v)), nil
	}
	return Int(int64(v)), nil
}

func parseOID(in string, oid OID) (Datum, error) {
	s := trimSpace(in)
	neg := strings.HasPrefix(s, "-")
	v, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimPrefix(s, "-"), "+"), 10, 64)
	if err != nil {
		if ne, ok := err.(*strconv.NumError); ok && ne.Err == strconv.ErrRange {
			return Null, sqlstate.Newf(sqlstate.NumericValueOutOfRange, "value \"%s\" is out of range for type %s", in, BaseName(oid))
		}
		return Null, badInput(BaseName(oid), in)
	}
	if neg && v <= 1<<31 { // strtoul wraps; PostgreSQL accepts down to -2^31
		return Int(int64(uint32(-int64(v)))), nil
	}
	if neg || v > math.MaxUint32 {
		return Null, sqlstate.Newf(sqlstate.NumericValueOutOfRange, "value \"%s\" is out of range for type %s", in, BaseName(oid))
	}
	return Int(int64(v)), nil
}

// parseXid8 reads an unsigned number, of which a negative one is the complement.
func parseXid8(in string) (Datum, error) {
	s := trimSpace(in)
	digits, neg := strings.CutPrefix(s, "-")
	if !neg {
		digits = strings.TrimPrefix(s, "+")
	}
	v, err := strconv.ParseUint(digits, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return Null, sqlstate.Newf(sqlstate.NumericValueOutOfRange, "value \"%s\" is out of range for type xid8", in)
	case err != nil:
		return Null, badInput("xid8", in)
	case neg:
		v = -v
	}
	return Int(int64(v)), nil
}

func parseFloat(in string, single bool) (Datum, error) {
	s := trimSpace(in)
	typ, bits := "double precision", 64
	if single {
		typ, bits = "real", 32
	}
	body := s
	if body != "" && (body[0] == '-' || body[0] == '+') {
		body = body[1:]
	}
	switch {
	case strings.EqualFold(body, "infinity"), strings.EqualFold(body, "inf"):
		if s[0] == '-' {
			return Float(math.Inf(-1)), nil
		}
		return Float(math.Inf(1)), nil
	case strings.EqualFold(body, "nan"):
		return Float(math.NaN()), nil
	}
	if body == "" || body[0] != '.' && (body[0] < '0' || body[0] > '9') || strings.ContainsAny(body, "_xXpP") {
		return Null, badInput(typ, in)
	}
	f, err := strconv.ParseFloat(s, bits)
	if err != nil {
		if ne, ok := err.(*strconv.NumError); ok && ne.Err == strconv.ErrRange {
			return Null, sqlstate.Newf(sqlstate.NumericValueOutOfRange, "\"%s\" is out of range for type %s", in, typ)
		}
		return Null, badInput(typ, in)
	}
	if f == 0 { // strtod's underflow: a non-zero digit in the mantissa
		for i := 0; i < len(body) && body[i] != 'e' && body[i] != 'E'; i++ {
			if body[i] >= '1' && body[i] <= '9' {
				return Null, sqlstate.Newf(sqlstate.NumericValueOutOfRange, "\"%s\" is out of range for type %s", in, typ)
			}
		}
	}
	return Float(f), nil
}

func parseBytea(s string) (Datum, error) {
	if strings.HasPrefix(s, `\x`) {
		h := s[2:]
		if strings.ContainsAny(h, " \n\t\r") {
			h = strings.NewReplacer(" ", "", "\n", "", "\t", "", "\r", "").Replace(h)
		}
		b, err := hex.DecodeString(h)
		if err != nil {
			if ib, ok := err.(hex.InvalidByteError); ok {
				r := string(rune(ib))
				if i := strings.IndexByte(h, byte(ib)); i >= 0 {
					c, n := utf8.DecodeRuneInString(h[i:])
					if c != utf8.RuneError {
						r = h[i : i+n]
					}
				}
				return Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "invalid hexadecimal digit: \"%s\"", r)
			}
			return Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "invalid hexadecimal data: odd number of digits")
		}
		return Bytes(string(b)), nil
	}
	if strings.IndexByte(s, '\\') < 0 {
		return Bytes(s), nil
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == '\\' {
			out = append(out, '\\')
			i++
			continue
		}
		if i+3 < len(s) && s[i+1] >= '0' && s[i+1] <= '3' && s[i+2] >= '0' && s[i+2] <= '7' && s[i+3] >= '0' && s[i+3] <= '7' {
			out = append(out, (s[i+1]-'0')<<6|(s[i+2]-'0')<<3|(s[i+3]-'0'))
			i += 3
			continue
		}
		return Null, sqlstate.Newf(sqlstate.InvalidTextRepresentation, "invalid input syntax for type bytea")
	}
	return Bytes(string(out)), nil
}

func parseUUID(in string) (Datum, error) {
	s := in
	if len(s) > 1 && s[0] == '{' {
		if s[len(s)-1] != '}' {
			return Null, badInput("uuid", in)
		}
		s = s[1 : len(s)-1]
	}
	var out [16]byte
	i := 0
	for n := range out {
		if i+2 > len(s) {
			return Null, badInput("uuid", in)
		}
		hi, lo := unhex(s[i]), unhex(s[i+1])
		if hi > 15 || lo > 15 {
			return Null, badInput("uuid", in)
		}
		out[n] = hi<<4 | lo
		i += 2
		// A hyphen may follow every group of four digits.
		if i < len(s) && s[i] == '-' && n%2 == 1 && n < 15 {
			i++
		}
	}
	if i != len(s) {
		return Null, badInput("uuid", in)
	}
	return Datum{s: string(out[:]), k: KindUUID}, nil
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}

func parseReg(in string, oid OID, fs *FormatSettings) (Datum, error) {
	s := trimSpace(in)
	if s == "-" {
		return Int(0), nil
	}
	if s != "" && s[0] >= '0' && s[0] <= '9' {
		return parseOID(s, OIDOid)
	}
	if oid == OIDRegtype {
		if t, ok := typeByDisplay(s); ok {
			return Int(int64(t)), nil
		}
	}
	if fs != nil && fs.Names != nil {
		v, err := fs.Names.RegOID(oid, s)
		if err != nil {
			return Null, err
		}
		return Int(int64(v)), nil
	}
	switch oid {
	case OIDRegclass:
		return Null, sqlstate.Newf(sqlstate.UndefinedTable, "relation \"%s\" does not exist", s)
	case OIDRegtype:
		return Null, sqlstate.Newf(sqlstate.UndefinedObject, "type \"%s\" does not exist", s)
	}
	return Null, sqlstate.Newf(sqlstate.UndefinedObject, "\"%s\" does not exist", s)
}

// typeByDisplay finds a built-in type by any common spelling.
func typeByDisplay(s string) (OID, bool) {
	s = strings.ToLower(strings.TrimPrefix(strings.TrimSpace(s), "pg_catalog."))
	array := false
	if strings.HasSuffix(s, "[]") {
		array, s = true, strings.TrimSuffix(s, "[]")
	}
	if alias, ok := typeAliases[s]; ok {
		s = alias
	}
	in := byName[strings.Trim(s, `"`)]
	if in == nil {
		for i := range infos {
			if infos[i].Display == s {
				in = &infos[i]
			}
		}
	}
	if in == nil {
		return 0, false
	}
	if array {
		return in.Array, in.Array != 0
	}
	return in.OID, true
}

var typeAliases = map[string]string{
	"int": "int4", "integer": "int4", "bigint": "int8", "smallint": "int2", "real": "float4", "float": "float8",
	"double precision": "float8", "decimal": "numeric", "dec": "numeric", "boolean": "bool", "character varying": "varchar",
	"character": "bpchar", "char": "bpchar", "timestamp without time zone": "timestamp", "timestamp with time zone": "timestamptz",
	"time without time zone": "time",
}

// CoerceMod applies t's modifier to a value of t's type: lengths of strings,
// precision of numerics and times. An explicit cast cuts strings off where an
// assignment refuses (but for trailing blanks).
func CoerceMod(d Datum, t Type, explicit bool) (Datum, error) {
	if t.Mod < 0 || d.k == KindNull {
		return d, nil
	}
	switch t.OID {
	case OIDVarchar, OIDBPChar:
		return coerceLength(d, t, explicit)
	case OIDNumeric:
		return applyNumericMod(d, t.Mod)
	case OIDTimestamp, OIDTimestampTZ, OIDTime:
		if d.n == math.MaxInt64 || d.n == math.MinInt64 {
			return d, nil
		}
		d.n = roundMicros(d.n, t.Mod)
		return d, nil
	case OIDInterval:
		return coerceIntervalMod(d, t.Mod), nil
	}
	if e := ElemOf(t.OID); e != 0 {
		return mapArray(d, func(x Datum) (Datum, error) { return CoerceMod(x, Type{e, t.Mod}, explicit) })
	}
	return d, nil
}

func roundMicros(us int64, mod int32) int64 {
	if mod >= 6 {
		return us
	}
	p := pow10tab[6-mod]
	half := p / 2
	if us >= 0 {
		return (us + half) / p * p
	}
	return -((-us + half) / p * p)
}

const blanks = "                                                                                                                                " +
	"                                                                                                                                "

// Blanks returns a string of n spaces, without allocating for the usual n.
func Blanks(n int) string {
	if n <= len(blanks) {
		return blanks[:n]
	}
	return strings.Repeat(" ", n)
}

func coerceLength(d Datum, t Type, explicit bool) (Datum, error) {
	n := int(t.Mod) - 4
	if len(d.s) < n || len(d.s) == n {
		if t.OID == OIDVarchar {
			return d, nil
		}
		if len(d.s) == n && isASCII(d.s) {
			return d, nil
		}
	}
	c := utf8.RuneCountInString(d.s)
	if c > n {
		cut := 0
		for i := 0; i < n; i++ {
			_, w := utf8.DecodeRuneInString(d.s[cut:])
			cut += w
		}
		if !explicit && strings.TrimRight(d.s[cut:], " ") != "" {
			return Null, sqlstate.Newf(sqlstate.StringDataRightTruncation, "value too long for type %s", Name(t))
		}
		return Text(d.s[:cut]), nil
	}
	if t.OID == OIDBPChar && c < n {
		if d.s == "" {
			return Text(Blanks(n)), nil
		}
		return Text(d.s + Blanks(n-c)), nil
	}
	return d, nil
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
