package rowcodec

import (
	"encoding/binary"
	"math"
	"math/bits"
	"strings"
	"unsafe"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// First bytes of encoded columns. Every kind keeps to 0x02…0xfd, also when
// complemented for descending order, so that the terminator stays below and
// prefix ends stay simple.
const (
	terminator = 0x00

	tagNullFirst = 0x02 // NULL below all values, in stored order
	tagFalse     = 0x10
	tagTrue      = 0x11
	tagFloat     = 0x12
	tagText      = 0x13
	tagUUID      = 0x14
	tagInterval  = 0x15
	tagArray     = 0x16
	tagNumNegInf = 0x18
	tagNumNeg    = 0x19
	tagNumZero   = 0x1a
	tagNumPos    = 0x1b
	tagNumInf    = 0x1c
	tagNumNaN    = 0x1d
	tagIntNeg8   = 0x20 // negative integers of 8 … 1 bytes: 0x20 … 0x27
	tagInt0      = 0x28 // 0 … 127: 0x28 … 0xa7
	tagIntPos1   = 0xa8 // larger ones of 1 … 8 bytes: 0xa8 … 0xaf
	tagNullLast  = 0xfd // NULL above all values, in stored order

	intSmallMax = tagIntPos1 - tagInt0 - 1
)

// Order is one key column's direction. PostgreSQL's default is NULLS LAST for
// ascending and NULLS FIRST for descending columns.
type Order struct {
	Desc       bool
	NullsFirst bool
}

// Asc and Desc are the orders with PostgreSQL's default place of NULLs.
var (
	Asc  = Order{}
	Desc = Order{Desc: true, NullsFirst: true}
)

// KeyType reports whether values of a type can stand in a key.
func KeyType(oid types.OID) bool {
	if e := types.ElemOf(oid); e != 0 {
		return KeyType(e)
	}
	return types.Comparable(oid) && oid != types.OIDJSONB
}

// Lossless reports whether a key column of type t decodes to the very value that
// was stored. Columns of other types (numeric's display scale, the parts of an
// interval, minus zero, an unpadded bpchar) must be stored in the row's value too.
func Lossless(t types.Type) bool {
	switch types.KindOf(t.OID) {
	case types.KindNumeric:
		return t.Mod >= 0 // the scale comes from the type
	case types.KindInterval, types.KindFloat, types.KindArray:
		return false
	case types.KindText:
		return t.OID != types.OIDBPChar || t.Mod >= 0
	}
	return true
}

func corrupt(what string) error {
	return sqlstate.Newf(sqlstate.DataCorrupted, "damaged key: %s", what)
}

// AppendUint appends an order-preserving self-delimiting unsigned number below
// 2^63: one byte up to 127.
func AppendUint(dst []byte, v uint64) []byte { return appendInt(dst, int64(v)) }

func appendInt(dst []byte, v int64) []byte {
	if v >= 0 {
		if v <= intSmallMax {
			return append(dst, byte(tagInt0+v))
		}
		n := (bits.Len64(uint64(v)) + 7) / 8
		dst = append(dst, byte(tagIntPos1+n-1))
		for i := n - 1; i >= 0; i-- {
			dst = append(dst, byte(v>>(8*i)))
		}
		return dst
	}
	// Negative numbers in as many bytes as ^v needs; more bytes sort lower.
	n := max((bits.Len64(uint64(^v))+7)/8, 1)
	dst = append(dst, byte(tagIntNeg8+8-n))
	for i := n - 1; i >= 0; i-- {
		dst = append(dst, byte(v>>(8*i)))
	}
	return dst
}

func decodeInt(b []byte) (int64, []byte, bool) {
	if len(b) == 0 {
		return 0, nil, false
	}
	t := int(b[0])
	switch {
	case t >= tagInt0 && t < tagIntPos1:
		return int64(t - tagInt0), b[1:], true
	case t >= tagIntPos1 && t < tagIntPos1+8:
		n := t - tagIntPos1 + 1
		if len(b) < 1+n {
			return 0, nil, false
		}
		var v uint64
		for _, c := range b[1 : 1+n] {
			v = v<<8 | uint64(c)
		}
		if v > math.MaxInt64 {
			return 0, nil, false
		}
		return int64(v), b[1+n:], true
	case t >= tagIntNeg8 && t < tagInt0:
		n := 8 - (t - tagIntNeg8)
		if len(b) < 1+n {
			return 0, nil, false
		}
		v := uint64(math.MaxUint64)
		for _, c := range b[1 : 1+n] {
			v = v<<8 | uint64(c)
		}
		if int64(v) >= 0 {
			return 0, nil, false
		}
		return int64(v), b[1+n:], true
	}
	return 0, nil, false
}

// DecodeUint undoes AppendUint.
func DecodeUint(b []byte) (uint64, []byte, error) {
	v, rest, ok := decodeInt(b)
	if !ok || v < 0 {
		return 0, nil, corrupt("id")
	}
	return uint64(v), rest, nil
}

// AppendColumn appends one key column. d must be of type t, which must be a
// KeyType.
func AppendColumn(dst []byte, d types.Datum, t types.Type, o Order) []byte {
	if d.IsNull() {
		if o.NullsFirst {
			return append(dst, tagNullFirst)
		}
		return append(dst, tagNullLast)
	}
	start := len(dst)
	dst = appendValue(dst, d, t)
	if o.Desc {
		for i := start; i < len(dst); i++ {
			dst[i] = ^dst[i]
		}
	}
	return dst
}

func appendValue(dst []byte, d types.Datum, t types.Type) []byte {
	switch d.Kind() {
	case types.KindBool:
		if d.Bool() {
			return append(dst, tagTrue)
		}
		return append(dst, tagFalse)
	case types.KindInt, types.KindTimestamp, types.KindDate, types.KindTime:
		if t.OID == types.OIDXid8 && d.Int() < 0 { // unsigned, hence above all others
			return binary.BigEndian.AppendUint64(append(dst, tagIntPos1+7), uint64(d.Int()))
		}
		return appendInt(dst, d.Int())
	case types.KindFloat:
		f := d.Float()
		u := math.Float64bits(f)
		switch {
		case f == 0:
			u = 1 << 63 // plus and minus zero are equal
		case math.IsNaN(f):
			u = math.MaxUint64
		case u>>63 != 0:
			u = ^u
		default:
			u |= 1 << 63
		}
		return binary.BigEndian.AppendUint64(append(dst, tagFloat), u)
	case types.KindText:
		s := d.Str()
		if t.OID == types.OIDBPChar {
			s = strings.TrimRight(s, " ")
		}
		return appendString(append(dst, tagText), s)
	case types.KindBytes:
		return appendString(append(dst, tagText), d.Str())
	case types.KindUUID:
		return append(append(dst, tagUUID), d.Str()...)
	case types.KindNumeric:
		return appendNumeric(dst, d.Str())
	case types.KindInterval:
		days, us := types.IntervalSpan(d)
		dst = binary.BigEndian.AppendUint64(append(dst, tagInterval), uint64(days)^1<<63)
		return binary.BigEndian.AppendUint64(dst, uint64(us))
	case types.KindArray:
		dst = append(dst, tagArray)
		it := d.Iter()
		et := types.ElemType(t)
		for {
			e, ok := it.Next()
			if !ok {
				break
			}
			dst = AppendColumn(dst, e, et, Asc)
		}
		// The end sorts below any further element; then what Compare looks at last.
		dst = append(dst, 0x01)
		dims := it.Dims()
		dst = appendInt(dst, int64(len(dims)))
		for _, dim := range dims {
			dst = appendInt(dst, int64(dim.Len))
			dst = appendInt(dst, int64(dim.Lower))
		}
		return dst
	}
	return dst
}

// appendString escapes 0x00 as 0x00 0xff and ends with 0x00 0x01.
func appendString(dst []byte, s string) []byte {
	for {
		i := strings.IndexByte(s, 0)
		if i < 0 {
			dst = append(dst, s...)
			return append(dst, 0x00, 0x01)
		}
		dst = append(dst, s[:i]...)
		dst = append(dst, 0x00, 0xff)
		s = s[i+1:]
	}
}

// appendNumeric encodes 0.d1d2… * 10^e by sign, exponent and pairs of digits
// without trailing zeros, so that equal numbers of any scale have one key.
func appendNumeric(dst []byte, s string) []byte {
	switch s[0] {
	case 'N':
		return append(dst, tagNumNaN)
	case 'I':
		return append(dst, tagNumInf)
	}
	neg := s[0] == '-'
	if neg {
		s = s[1:]
		if s[0] == 'I' {
			return append(dst, tagNumNegInf)
		}
	}
	point := strings.IndexByte(s, '.')
	ip, fp := s, ""
	if point >= 0 {
		ip, fp = s[:point], s[point+1:]
		fp = strings.TrimRight(fp, "0")
	}
	if fp == "" {
		e := len(ip)
		ip = strings.TrimRight(ip, "0")
		if ip == "" {
			return append(dst, tagNumZero)
		}
		return appendDigits(dst, neg, e, ip, "")
	}
	if ip == "0" {
		e := 0
		for fp[0] == '0' {
			fp = fp[1:]
			e--
		}
		return appendDigits(dst, neg, e, "", fp)
	}
	return appendDigits(dst, neg, len(ip), ip, fp)
}

func appendDigits(dst []byte, neg bool, e int, a, b string) []byte {
	start := len(dst) + 1
	if neg {
		dst = append(dst, tagNumNeg)
	} else {
		dst = append(dst, tagNumPos)
	}
	dst = appendInt(dst, int64(e))
	n := len(a) + len(b)
	digit := func(i int) byte {
		switch {
		case i < len(a):
			return a[i] - '0'
		case i < n:
			return b[i-len(a)] - '0'
		}
		return 0
	}
	for i := 0; i < n; i += 2 {
		dst = append(dst, digit(i)*10+digit(i+1)+1)
	}
	dst = append(dst, 0)
	if neg {
		for i := start; i < len(dst); i++ {
			dst[i] = ^dst[i]
		}
	}
	return dst
}

// DecodeColumn reads one key column and returns what follows it. Text and bytea
// may alias b.
func DecodeColumn(b []byte, t types.Type, o Order) (types.Datum, []byte, error) {
	if len(b) == 0 {
		return types.Null, nil, corrupt("column missing")
	}
	if b[0] == tagNullFirst || b[0] == tagNullLast {
		return types.Null, b[1:], nil
	}
	if o.Desc {
		// Complement what the column may span; only the length of the column is
		// consumed from b.
		c := make([]byte, len(b))
		for i, x := range b {
			c[i] = ^x
		}
		d, rest, err := decodeValue(c, t, 0)
		if err != nil {
			return types.Null, nil, err
		}
		return d, b[len(b)-len(rest):], nil
	}
	return decodeValue(b, t, 0)
}

func decodeValue(b []byte, t types.Type, depth int) (types.Datum, []byte, error) {
	bad := func() (types.Datum, []byte, error) {
		return types.Null, nil, corrupt("column of type " + types.BaseName(t.OID))
	}
	k := types.KindOf(t.OID)
	if len(b) == 0 {
		return bad()
	}
	switch k {
	case types.KindBool:
		if b[0] != tagFalse && b[0] != tagTrue {
			return bad()
		}
		return types.Bool(b[0] == tagTrue), b[1:], nil
	case types.KindInt, types.KindTimestamp, types.KindDate, types.KindTime:
		if t.OID == types.OIDXid8 && len(b) >= 9 && b[0] == tagIntPos1+7 {
			return types.Int(int64(binary.BigEndian.Uint64(b[1:]))), b[9:], nil
		}
		v, rest, ok := decodeInt(b)
		if !ok {
			return bad()
		}
		return types.Raw(k, v, ""), rest, nil
	case types.KindFloat:
		if b[0] != tagFloat || len(b) < 9 {
			return bad()
		}
		u := binary.BigEndian.Uint64(b[1:])
		switch {
		case u == math.MaxUint64:
			return types.Float(math.NaN()), b[9:], nil
		case u>>63 != 0:
			u &^= 1 << 63
		default:
			u = ^u
		}
		return types.Float(math.Float64frombits(u)), b[9:], nil
	case types.KindText, types.KindBytes:
		if b[0] != tagText {
			return bad()
		}
		s, rest, ok := decodeString(b[1:])
		if !ok {
			return bad()
		}
		d := types.Raw(k, 0, s)
		if t.OID == types.OIDBPChar && t.Mod >= 0 {
			p, err := types.CoerceMod(d, t, false)
			if err != nil {
				return bad()
			}
			d = p
		}
		return d, rest, nil
	case types.KindUUID:
		if b[0] != tagUUID || len(b) < 17 {
			return bad()
		}
		return types.Raw(k, 0, alias(b[1:17])), b[17:], nil
	case types.KindNumeric:
		return decodeNumeric(b, t)
	case types.KindInterval:
		if b[0] != tagInterval || len(b) < 17 {
			return bad()
		}
		days, us := int64(binary.BigEndian.Uint64(b[1:])^1<<63), int64(binary.BigEndian.Uint64(b[9:]))
		if us < 0 || us >= types.Day || days > math.MaxInt32*31 || days < math.MinInt32*31 {
			return bad()
		}
		months := int64(0)
		if days != int64(int32(days)) {
			months, days = days/30, days%30
		}
		if months != int64(int32(months)) {
			return bad()
		}
		return types.Interval(int32(months), int32(days), us), b[17:], nil
	case types.KindArray:
		return decodeArray(b, t, depth)
	}
	return bad()
}

func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func decodeString(b []byte) (string, []byte, bool) {
	var out []byte
	for i := 0; ; {
		s := alias(b[i:])
		j := strings.IndexByte(s, 0)
		if j < 0 || i+j+1 >= len(b) {
			return "", nil, false
		}
		j += i
		switch b[j+1] {
		case 0x01:
			if out == nil {
				return alias(b[:j]), b[j+2:], true
			}
			return alias(append(out, b[i:j]...)), b[j+2:], true
		case 0xff:
			out = append(out, b[i:j+1]...)
			i = j + 2
		default:
			return "", nil, false
		}
	}
}

func decodeNumeric(b []byte, t types.Type) (types.Datum, []byte, error) {
	bad := func() (types.Datum, []byte, error) { return types.Null, nil, corrupt("numeric column") }
	scaled := func(s string) types.Datum {
		d := types.NumericText(s)
		if t.Mod >= 0 {
			if _, sc := types.NumericMod(t.Mod); sc > 0 {
				return types.NumericRound(d, sc)
			}
		}
		return d
	}
	switch b[0] {
	case tagNumNaN:
		return types.NumericText("NaN"), b[1:], nil
	case tagNumInf:
		return types.NumericText("Infinity"), b[1:], nil
	case tagNumNegInf:
		return types.NumericText("-Infinity"), b[1:], nil
	case tagNumZero:
		return scaled("0"), b[1:], nil
	case tagNumPos, tagNumNeg:
	default:
		return bad()
	}
	neg := b[0] == tagNumNeg
	b = b[1:]
	var inv byte
	if neg {
		inv = 0xff
	}
	var head [9]byte
	for i := 0; i < len(head) && i < len(b); i++ {
		head[i] = b[i] ^ inv
	}
	e, rest, ok := decodeInt(head[:min(len(b), len(head))])
	if !ok || e > 200000 || e < -200000 {
		return bad()
	}
	b = b[min(len(b), len(head))-len(rest):]
	var digits []byte
	for i := 0; ; i++ {
		if i == len(b) {
			return bad()
		}
		c := b[i] ^ inv
		if c == 0 {
			b = b[i+1:]
			break
		}
		if c > 100 {
			return bad()
		}
		digits = append(digits, '0'+(c-1)/10, '0'+(c-1)%10)
	}
	for len(digits) > 0 && digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
	}
	if len(digits) == 0 {
		return bad()
	}
	out := make([]byte, 0, len(digits)+8)
	if neg {
		out = append(out, '-')
	}
	switch {
	case e <= 0:
		out = append(out, '0', '.')
		for ; e < 0; e++ {
			out = append(out, '0')
		}
		out = append(out, digits...)
	case int(e) >= len(digits):
		out = append(out, digits...)
		for i := len(digits); i < int(e); i++ {
			out = append(out, '0')
		}
	default:
		out = append(out, digits[:e]...)
		out = append(out, '.')
		out = append(out, digits[e:]...)
	}
	return scaled(alias(out)), b, nil
}

func decodeArray(b []byte, t types.Type, depth int) (types.Datum, []byte, error) {
	bad := func() (types.Datum, []byte, error) { return types.Null, nil, corrupt("array column") }
	if b[0] != tagArray || depth > 0 {
		return bad()
	}
	b = b[1:]
	et := types.ElemType(t)
	var elems []types.Datum
	for {
		if len(b) == 0 {
			return bad()
		}
		if b[0] == 0x01 {
			b = b[1:]
			break
		}
		var d types.Datum
		var err error
		if b[0] == tagNullLast {
			b = b[1:]
		} else if d, b, err = decodeValue(b, et, depth+1); err != nil {
			return types.Null, nil, err
		}
		elems = append(elems, d)
	}
	nd, b, ok := decodeInt(b)
	if !ok || nd < 0 || nd > types.MaxDims {
		return bad()
	}
	dims := make([]types.Dim, nd)
	total := int64(1)
	for i := range dims {
		var n, lo int64
		if n, b, ok = decodeInt(b); !ok || n <= 0 || n > int64(len(elems)) {
			return bad()
		}
		if lo, b, ok = decodeInt(b); !ok || lo != int64(int32(lo)) {
			return bad()
		}
		dims[i] = types.Dim{Len: int(n), Lower: int(lo)}
		if total *= n; total > int64(len(elems)) {
			return bad()
		}
	}
	if nd == 0 {
		if len(elems) > 0 {
			return bad()
		}
		return types.EmptyArray, b, nil
	}
	if total != int64(len(elems)) {
		return bad()
	}
	return types.NewArrayDims(dims, elems), b, nil
}
