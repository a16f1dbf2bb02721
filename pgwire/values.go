package pgwire

import (
	"encoding/binary"
	"errors"
	"math"
	"strconv"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// Format codes of parameters and results.
const (
	formatText   int16 = 0
	formatBinary int16 = 1
)

// encoding of one result column.
type encoding struct {
	typ    types.Type
	format int16
}

// appendText encodes d; the types that most rows consist of without a call.
func appendText(dst []byte, d types.Datum, t types.Type, fs *types.FormatSettings) []byte {
	switch t.OID {
	case types.OIDInt4, types.OIDInt8, types.OIDInt2:
		if d.Kind() == types.KindInt {
			return strconv.AppendInt(dst, d.Int(), 10)
		}
	case types.OIDText, types.OIDVarchar, types.OIDBPChar:
		if d.Kind() == types.KindText {
			return append(dst, d.Str()...)
		}
	}
	return types.AppendText(dst, d, t, fs)
}

func appendBinary(dst []byte, d types.Datum, t types.Type) ([]byte, error) {
	switch t.OID {
	case types.OIDInt4:
		if d.Kind() == types.KindInt {
			return binary.BigEndian.AppendUint32(dst, uint32(d.Int())), nil
		}
	case types.OIDInt8:
		if d.Kind() == types.KindInt {
			return binary.BigEndian.AppendUint64(dst, uint64(d.Int())), nil
		}
	case types.OIDText, types.OIDVarchar, types.OIDBPChar:
		if d.Kind() == types.KindText {
			return append(dst, d.Str()...), nil
		}
	}
	return types.AppendBinary(dst, d, t)
}

// parseParameter decodes a parameter that is not NULL. The datum keeps nothing
// of b, which is part of the read buffer.
func parseParameter(b []byte, oid types.OID, format int16, fs *types.FormatSettings) (types.Datum, error) {
	if format == formatText {
		switch oid {
		case types.OIDInt4:
			if n, ok := parseInt(b, math.MinInt32, math.MaxInt32); ok {
				return types.Int(n), nil
			}
		case types.OIDInt8:
			if n, ok := parseInt(b, math.MinInt64, math.MaxInt64); ok {
				return types.Int(n), nil
			}
		}
		if err := checkText(b); err != nil {
			return types.Null, err
		}
		if oid == types.OIDText {
			return types.Text(string(b)), nil
		}
		return types.ParseText(string(b), types.T(oid), fs)
	}
	switch oid {
	case types.OIDInt4:
		if len(b) == 4 {
			return types.Int(int64(int32(binary.BigEndian.Uint32(b)))), nil
		}
	case types.OIDInt8:
		if len(b) == 8 {
			return types.Int(int64(binary.BigEndian.Uint64(b))), nil
		}
	case types.OIDText, types.OIDVarchar, types.OIDBPChar, types.OIDName, types.OIDUnknown, types.OIDJSON:
		if err := checkText(b); err != nil {
			return types.Null, err
		}
	}
	// The copy is the datum's own: it may alias what it was parsed from.
	d, err := types.ParseBinary(append([]byte(nil), b...), types.T(oid))
	if err != nil {
		var e *sqlstate.Error
		if !errors.As(err, &e) {
			err = &sqlstate.Error{Code: sqlstate.InvalidBinaryRepresentation, Message: err.Error(), Cause: err}
		}
	}
	return d, err
}

// parseInt reads plain digits with an optional minus sign. Everything else,
// what is out of range included, is left to types.ParseText and its messages.
func parseInt(b []byte, lo, hi int64) (int64, bool) {
	neg := len(b) > 0 && b[0] == '-'
	if neg {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 18 { // 18 digits cannot overflow
		return 0, false
	}
	n := int64(0)
	for _, ch := range b {
		if ch < '0' || ch > '9' {
			return 0, false
		}
		n = n*10 + int64(ch-'0')
	}
	if neg {
		n = -n
	}
	return n, n >= lo && n <= hi
}
