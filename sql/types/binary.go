package types

import (
	"encoding/binary"
	"math"
	"unicode/utf8"

	"github.com/spandb/spand/sql/sqlstate"
)

// AppendBinary appends d's binary form as PostgreSQL's send functions make it. d
// must not be NULL (the protocol has a sign of its own for it).
func AppendBinary(dst []byte, d Datum, t Type) ([]byte, error) {
	switch d.k {
	case KindBool:
		return append(dst, byte(d.n)), nil
	case KindInt:
		switch Size(t.OID) {
		case 2:
			return binary.BigEndian.AppendUint16(dst, uint16(d.n)), nil
		case 4:
			return binary.BigEndian.AppendUint32(dst, uint32(d.n)), nil
		}
		return binary.BigEndian.AppendUint64(dst, uint64(d.n)), nil
	case KindFloat:
		if t.OID == OIDFloat4 {
			f := math.Float32bits(float32(d.Float()))
			if f&0x7fffffff > 0x7f800000 {
				f = 0x7fc00000
			}
			return binary.BigEndian.AppendUint32(dst, f), nil
		}
		if math.IsNaN(d.Float()) { // one NaN for all
			return binary.BigEndian.AppendUint64(dst, 0x7ff8<<48), nil
		}
		return binary.BigEndian.AppendUint64(dst, uint64(d.n)), nil
	case KindText:
		return append(dst, d.s...), nil
	case KindBytes:
		if t.OID == OIDJSONB {
			dst = append(dst, 1) // jsonb's version
		}
		return append(dst, d.s...), nil
	case KindNumeric:
		return appendNumericBinary(dst, d.s), nil
	case KindTimestamp, KindTime:
		return binary.BigEndian.AppendUint64(dst, uint64(d.n)), nil
	case KindDate:
		return binary.BigEndian.AppendUint32(dst, uint32(d.n)), nil
	case KindInterval:
		m, days, us := d.IntervalParts()
		dst = binary.BigEndian.AppendUint64(dst, uint64(us))
		dst = binary.BigEndian.AppendUint32(dst, uint32(days))
		return binary.BigEndian.AppendUint32(dst, uint32(m)), nil
	case KindUUID:
		return append(dst, d.s...), nil
	case KindArray:
		return appendArrayBinary(dst, d, t)
	}
	return dst, sqlstate.Newf(sqlstate.FeatureNotSupported, "no binary output function available for type %s", BaseName(t.OID))
}

func appendArrayBinary(dst []byte, d Datum, t Type) ([]byte, error) {
	it := d.Iter()
	et := ElemType(t)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(it.Dims())))
	flag := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(et.OID))
	for _, dim := range it.Dims() {
		dst = binary.BigEndian.AppendUint32(dst, uint32(dim.Len))
		dst = binary.BigEndian.AppendUint32(dst, uint32(int32(dim.Lower)))
	}
	for {
		e, ok := it.Next()
		if !ok {
			return dst, nil
		}
		if e.k == KindNull {
			dst[flag+3] = 1
			dst = binary.BigEndian.AppendUint32(dst, math.MaxUint32)
			continue
		}
		at := len(dst)
		dst = binary.BigEndian.AppendUint32(dst, 0)
		var err error
		if dst, err = AppendBinary(dst, e, et); err != nil {
			return dst, err
		}
		binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	}
}

func errBinary(t Type) error {
	return sqlstate.Newf(sqlstate.InvalidBinaryRepresentation, "incorrect binary data format for type %s", BaseName(t.OID))
}

// ParseBinary reads the binary form that clients send. The datum does not alias b.
func ParseBinary(b []byte, t Type) (Datum, error) {
	d, err := parseBinary(b, t, 0)
	if err != nil || t.Mod < 0 {
		return d, err
	}
	return CoerceMod(d, t, false)
}

// CheckUTF8 refuses what is not valid text: bad UTF-8 and NUL (22021).
func CheckUTF8(s string) error {
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if c == 0 {
				return sqlstate.Newf(sqlstate.CharacterNotInRepertoire, "invalid byte sequence for encoding \"UTF8\": 0x00")
			}
			i++
			continue
		}
		r, w := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && w <= 1 {
			n := 1
			switch c := s[i]; {
			case c >= 0xf0 && c < 0xf8:
				n = 4
			case c >= 0xe0:
				n = 3
			case c >= 0xc0:
				n = 2
			}
			if s[i] >= 0xf8 {
				n = 1
			}
			hex := ""
			for j := i; j < min(i+n, len(s)); j++ {
				if j > i {
					hex += " "
				}
				hex += "0x" + string("0123456789abcdef"[s[j]>>4]) + string("0123456789abcdef"[s[j]&15])
			}
			return sqlstate.Newf(sqlstate.CharacterNotInRepertoire, "invalid byte sequence for encoding \"UTF8\": %s", hex)
		}
		i += w
	}
	return nil
}

func parseBinary(b []byte, t Type, depth int) (Datum, error) {
	want := func(n int) bool { return len(b) == n }
	switch KindOf(t.OID) {
	case KindBool:
		if !want(1) {
			return Null, errBinary(t)
		}
		return Bool(b[0] != 0), nil
	case KindInt:
		switch Size(t.OID) {
		case 2:
			if !want(2) {
				return Null, errBinary(t)
			}
			return Int(int64(int16(binary.BigEndian.Uint16(b)))), nil
		case 4:
			if !want(4) {
				return Null, errBinary(t)
			}
			v := binary.BigEndian.Uint32(b)
			if t.OID == OIDInt4 {
				return Int(int64(int32(v))), nil
			}
			return Int(int64(v)), nil
		}
		if !want(8) {
			return Null, errBinary(t)
		}
		return Int(int64(binary.BigEndian.Uint64(b))), nil
	case KindFloat:
		if t.OID == OIDFloat4 {
			if !want(4) {
				return Null, errBinary(t)
			}
			return Float(float64(math.Float32frombits(binary.BigEndian.Uint32(b)))), nil
		}
		if !want(8) {
			return Null, errBinary(t)
		}
		return Float(math.Float64frombits(binary.BigEndian.Uint64(b))), nil
	case KindText:
		s := string(b)
		if t.OID == OIDChar {
			return Text(firstByte(s)), nil
		}
		if err := CheckUTF8(s); err != nil {
			return Null, err
		}
		if t.OID == OIDJSON {
			if err := ValidateJSON(s); err != nil {
				return Null, err
			}
		}
		if t.OID == OIDName {
			s = TruncateName(s)
		}
		return Text(s), nil
	case KindBytes:
		if t.OID == OIDJSONB {
			if len(b) == 0 || b[0] != 1 {
				return Null, sqlstate.Newf(sqlstate.InvalidBinaryRepresentation, "unsupported jsonb version number")
			}
			s := string(b[1:])
			if err := CheckUTF8(s); err != nil {
				return Null, err
			}
			return ParseJSONB(s)
		}
		return Bytes(string(b)), nil
	case KindNumeric:
		return parseNumericBinary(b)
	case KindTimestamp:
		if !want(8) {
			return Null, errBinary(t)
		}
		us := int64(binary.BigEndian.Uint64(b))
		if us != TimestampInfinity && us != TimestampNegInfinity && !ValidTimestamp(us) {
			return Null, ErrTimestampRange()
		}
		return Timestamp(us), nil
	case KindTime:
		if !want(8) {
			return Null, errBinary(t)
		}
		us := int64(binary.BigEndian.Uint64(b))
		if us < 0 || us > Day {
			return Null, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "time out of range")
		}
		return Time(us), nil
	case KindDate:
		if !want(4) {
			return Null, errBinary(t)
		}
		v := int64(int32(binary.BigEndian.Uint32(b)))
		if v != DateInfinity && v != DateNegInfinity && (v < minDate || v >= endDate) {
			return Null, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "date out of range")
		}
		return Date(v), nil
	case KindInterval:
		if !want(16) {
			return Null, errBinary(t)
		}
		return Interval(int32(binary.BigEndian.Uint32(b[12:])), int32(binary.BigEndian.Uint32(b[8:])), int64(binary.BigEndian.Uint64(b))), nil
	case KindUUID:
		if !want(16) {
			return Null, errBinary(t)
		}
		return Datum{s: string(b), k: KindUUID}, nil
	case KindArray:
		return parseArrayBinary(b, t, depth)
	}
	return Null, sqlstate.Newf(sqlstate.FeatureNotSupported, "no binary input function available for type %s", BaseName(t.OID))
}

func parseArrayBinary(b []byte, t Type, depth int) (Datum, error) {
	if depth > 0 || len(b) < 12 {
		return Null, errBinary(t)
	}
	et := Type{ElemOf(t.OID), -1}
	nd := binary.BigEndian.Uint32(b)
	flags := binary.BigEndian.Uint32(b[4:])
	elem := OID(binary.BigEndian.Uint32(b[8:]))
	if nd > MaxDims {
		return Null, sqlstate.Newf(sqlstate.ProgramLimitExceeded, "number of array dimensions (%d) exceeds the maximum allowed (%d)", nd, MaxDims)
	}
	if flags > 1 {
		return Null, sqlstate.Newf(sqlstate.InvalidBinaryRepresentation, "invalid array flags")
	}
	if elem != et.OID {
		return Null, sqlstate.Newf(sqlstate.DatatypeMismatch, "binary data has array element type %d (%s) instead of expected %d (%s)", elem, BaseName(elem), et.OID, BaseName(et.OID))
	}
	b = b[12:]
	if len(b) < int(nd)*8 {
		return Null, errBinary(t)
	}
	dims := make([]Dim, nd)
	total := 1
	for i := range dims {
		n, lo := int32(binary.BigEndian.Uint32(b)), int32(binary.BigEndian.Uint32(b[4:]))
		b = b[8:]
		if n < 0 || int64(lo)+int64(n) > math.MaxInt32 {
			return Null, errBinary(t)
		}
		dims[i] = Dim{int(n), int(lo)}
		if total *= int(n); total > maxArrayElems || total > len(b) {
			return Null, errBinary(t)
		}
	}
	if nd == 0 || total == 0 {
		return EmptyArray, nil
	}
	var buf []byte
	for i := 0; i < total; i++ {
		if len(b) < 4 {
			return Null, errBinary(t)
		}
		n := int32(binary.BigEndian.Uint32(b))
		b = b[4:]
		if n < 0 {
			buf = appendElem(buf, Null)
			continue
		}
		if int(n) > len(b) {
			return Null, errBinary(t)
		}
		e, err := parseBinary(b[:n], et, depth+1)
		if err != nil {
			return Null, err
		}
		buf = appendElem(buf, e)
		b = b[n:]
	}
	if len(b) != 0 {
		return Null, errBinary(t)
	}
	return makeArray(dims, buf), nil
}
