package types

import (
	"cmp"
	"hash/maphash"
	"math"
	"strings"
)

// Compare orders two values of type t as PostgreSQL's btree operators do: a total
// order in which equal is SQL's =. NULL is equal to NULL and above everything, as
// ORDER BY has it by default.
func Compare(a, b Datum, t Type) int {
	if a.k != b.k { // one is NULL: equal types have equal kinds
		switch {
		case a.k == KindNull:
			return 1
		case b.k == KindNull:
			return -1
		}
		return cmp.Compare(a.k, b.k)
	}
	switch a.k {
	case KindNull:
		return 0
	case KindBool, KindInt, KindTimestamp, KindDate, KindTime:
		x, y := a.n, b.n
		if t.OID == OIDXid8 { // unsigned
			x, y = x^math.MinInt64, y^math.MinInt64
		}
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	case KindText:
		if t.OID == OIDBPChar {
			return strings.Compare(strings.TrimRight(a.s, " "), strings.TrimRight(b.s, " "))
		}
		return strings.Compare(a.s, b.s)
	case KindBytes:
		if t.OID == OIDJSONB {
			return compareJSONB(a.s, b.s)
		}
		return strings.Compare(a.s, b.s)
	case KindUUID:
		return strings.Compare(a.s, b.s)
	case KindFloat:
		return CompareFloat(a.Float(), b.Float())
	case KindNumeric:
		return NumericCompare(a, b)
	case KindInterval:
		d1, u1 := IntervalSpan(a)
		d2, u2 := IntervalSpan(b)
		if c := cmp.Compare(d1, d2); c != 0 {
			return c
		}
		return cmp.Compare(u1, u2)
	case KindArray:
		return compareArrays(a, b, t)
	}
	return 0
}

// CompareFloat orders floats with NaN equal to itself and above infinity.
func CompareFloat(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	case a == b:
		return 0
	}
	an, bn := math.IsNaN(a), math.IsNaN(b)
	switch {
	case an && bn:
		return 0
	case an:
		return 1
	}
	return -1
}

func compareJSONB(a, b string) int {
	if a == b {
		return 0
	}
	x, err1 := ParseJSON(a)
	y, err2 := ParseJSON(b)
	if err1 != nil || err2 != nil {
		return strings.Compare(a, b)
	}
	return CompareJSON(x, y)
}

func compareArrays(a, b Datum, t Type) int {
	if a.s == b.s {
		return 0
	}
	x, y := a.Iter(), b.Iter()
	et := ElemType(t)
	for {
		e1, ok1 := x.Next()
		e2, ok2 := y.Next()
		if !ok1 || !ok2 {
			break
		}
		if c := Compare(e1, e2, et); c != 0 {
			return c
		}
	}
	if c := cmp.Compare(x.Len(), y.Len()); c != 0 {
		return c
	}
	if c := cmp.Compare(len(x.Dims()), len(y.Dims())); c != 0 {
		return c
	}
	for i := range x.Dims() {
		if c := cmp.Compare(x.Dims()[i].Len, y.Dims()[i].Len); c != 0 {
			return c
		}
		if c := cmp.Compare(x.Dims()[i].Lower, y.Dims()[i].Lower); c != 0 {
			return c
		}
	}
	return 0
}

// Comparable reports whether a type has a default order (json has none).
func Comparable(oid OID) bool {
	if e := ElemOf(oid); e != 0 {
		return Comparable(e)
	}
	switch oid {
	case OIDJSON, OIDVoid, OIDPgNodeTree, OIDACLItem, OIDRecord, OIDUnknown, OIDAny, OIDAnyArray, OIDAnyElement, OIDCString:
		return false
	}
	return Lookup(oid) != nil
}

// Hash hashes a value so that values which Compare equal hash equally, under seed.
func Hash(seed maphash.Seed, d Datum, t Type) uint64 {
	switch d.k {
	case KindNull:
		return 0x9e3779b97f4a7c15
	case KindBool, KindInt, KindTimestamp, KindDate, KindTime:
		return mix(uint64(d.n))
	case KindFloat:
		f := d.Float()
		switch {
		case f == 0:
			return mix(0)
		case math.IsNaN(f):
			return mix(math.MaxUint64)
		}
		return mix(uint64(d.n))
	case KindText:
		if t.OID == OIDBPChar {
			return maphash.String(seed, strings.TrimRight(d.s, " "))
		}
	case KindNumeric:
		return maphash.String(seed, NumericTrim(d).s)
	case KindInterval:
		days, us := IntervalSpan(d)
		return mix(uint64(days)*31 + uint64(us))
	case KindArray:
		h := uint64(17)
		et := ElemType(t)
		it := d.Iter()
		for {
			e, ok := it.Next()
			if !ok {
				return h
			}
			h = mix(h*31 + Hash(seed, e, et))
		}
	case KindBytes:
		if t.OID == OIDJSONB { // 1 and 1.0 are equal
			if v, err := ParseJSON(d.s); err == nil {
				return hashJSON(seed, v)
			}
		}
	}
	return maphash.String(seed, d.s)
}

func hashJSON(seed maphash.Seed, v JSONValue) uint64 {
	h := mix(uint64(v.Kind))
	switch v.Kind {
	case JSONString:
		return h ^ maphash.String(seed, v.Str)
	case JSONNumber:
		return h ^ maphash.String(seed, NumericTrim(NumericText(v.Str)).s)
	case JSONBool:
		if v.Bool {
			return h + 1
		}
		return h
	}
	for i, e := range v.Elems {
		if v.Kind == JSONObject {
			h = mix(h ^ maphash.String(seed, v.Keys[i]))
		}
		h = mix(h*31 + hashJSON(seed, e))
	}
	return h
}

// mix is the finaliser of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
