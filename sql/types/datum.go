package types

import (
	"math"
	"unsafe"
)

// Kind says how a Datum holds its value. Several SQL types share a kind.
type Kind uint8

const (
	KindNull      Kind = iota
	KindBool           // n: 0 or 1
	KindInt            // n; smallint, integer, bigint, oid, regclass …; of xid8, which is unsigned, the same bits
	KindFloat          // n: IEEE bits
	KindText           // s: text, varchar, bpchar (blank-padded as stored), name, json text
	KindBytes          // s: bytea, jsonb
	KindNumeric        // s: canonical decimal text as PostgreSQL prints it, or "NaN", "Infinity"; see numeric.go
	KindTimestamp      // n: microseconds since 2000-01-01 00:00 (UTC for timestamptz); math.MaxInt64/MinInt64 are ±infinity
	KindDate           // n: days since 2000-01-01
	KindTime           // n: microseconds since midnight
	KindInterval       // n: microseconds; s: 8 bytes, months and days as big-endian int32
	KindArray          // s: our own encoding, see array.go
	KindUUID           // s: 16 bytes
)

// Datum is one SQL value: a compact tagged struct of 32 bytes, never boxed. The
// zero Datum is NULL. Which SQL type it is of is known statically from the
// plan (Type), not from the value. Datums are immutable; those with a string
// part may alias a buffer when made by the unsafe constructors, whose caller
// says for how long they are valid.
type Datum struct {
	s string
	n int64
	k Kind
}

// Null is SQL's NULL.
var Null = Datum{}

func Bool(v bool) Datum {
	if v {
		return Datum{n: 1, k: KindBool}
	}
	return Datum{k: KindBool}
}
func Int(v int64) Datum        { return Datum{n: v, k: KindInt} }
func Float(v float64) Datum    { return Datum{n: int64(math.Float64bits(v)), k: KindFloat} }
func Text(v string) Datum      { return Datum{s: v, k: KindText} }
func Bytes(v string) Datum     { return Datum{s: v, k: KindBytes} }
func Timestamp(us int64) Datum { return Datum{n: us, k: KindTimestamp} }
func Date(days int64) Datum    { return Datum{n: days, k: KindDate} }
func Time(us int64) Datum      { return Datum{n: us, k: KindTime} }

// Raw makes a datum from its parts; for codecs.
func Raw(k Kind, n int64, s string) Datum { return Datum{s: s, n: n, k: k} }

// TextAlias makes a text datum that aliases b, valid while b is unchanged.
func TextAlias(b []byte) Datum {
	return Datum{s: unsafe.String(unsafe.SliceData(b), len(b)), k: KindText}
}

func (d Datum) Kind() Kind     { return d.k }
func (d Datum) IsNull() bool   { return d.k == KindNull }
func (d Datum) Bool() bool     { return d.n != 0 }
func (d Datum) Int() int64     { return d.n }
func (d Datum) Float() float64 { return math.Float64frombits(uint64(d.n)) }
func (d Datum) Str() string    { return d.s }
