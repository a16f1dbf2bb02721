package rowcodec

import (
	"bytes"
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/types"
)

// samples are values of every key type, duplicates and neighbours included.
func samples(r *rand.Rand) map[types.Type][]types.Datum {
	text := func(t types.OID, ss ...string) []types.Datum {
		var out []types.Datum
		for _, s := range ss {
			d, err := types.ParseText(s, types.T(t), nil)
			if err != nil {
				panic(fmt.Sprint(t, s, err))
			}
			out = append(out, d)
		}
		return out
	}
	m := map[types.Type][]types.Datum{}
	ints := text(types.OIDInt8, "0", "1", "-1", "127", "128", "-128", "-129", "255", "256", "-256", "-257", "32767", "65535", "65536", "-65536", "-65537",
		"2147483647", "-2147483648", "4294967296", "9223372036854775807", "-9223372036854775808")
	for i := 0; i < 100; i++ {
		ints = append(ints, types.Int(int64(r.Uint64())>>r.Intn(64)))
	}
	m[types.T(types.OIDInt8)] = ints
	m[types.T(types.OIDXid8)] = text(types.OIDXid8, "0", "1", "127", "128", "65536", "9223372036854775807", "9223372036854775808", "9223372036854775809", "18446744073709551360", "18446744073709551614", "18446744073709551615")
	m[types.T(types.OIDBool)] = text(types.OIDBool, "t", "f")
	floats := text(types.OIDFloat8, "0", "-0", "1", "-1", "1.5", "1e300", "-1e300", "1e-300", "NaN", "Infinity", "-Infinity")
	for i := 0; i < 50; i++ {
		floats = append(floats, types.Float(math.Float64frombits(r.Uint64())))
	}
	m[types.T(types.OIDFloat8)] = floats
	strs := []string{"", "a", "aa", "ab", "b", "ä", "a b", "\x01", "a\x01", "zzz\xff"}
	var ts, bs []types.Datum
	for _, s := range strs {
		ts = append(ts, types.Text(s))
	}
	for _, s := range append(strs, "\x00", "\x00\x00", "\x00\x01", "\x00\xff", "\xff", "\xff\xff", "a\x00", "a\x00b") {
		bs = append(bs, types.Bytes(s))
	}
	m[types.T(types.OIDText)] = ts
	m[types.T(types.OIDBytea)] = bs
	m[types.Type{OID: types.OIDBPChar, Mod: 9}] = []types.Datum{types.Text("     "), types.Text("a    "), types.Text("a b  "), types.Text("ab   ")}
	nums := text(types.OIDNumeric, "0", "0.00", "1", "1.0", "1.00", "-1", "-1.0", "10", "100", "99", "101", "0.1", "0.01", "0.10", "0.011", "-0.1", "-0.01", "-0.011",
		"123.456", "123.4560", "-123.456", "12345678901234567890", "-12345678901234567890", "1e100", "1e-100", "-1e100", "-1e-100", "NaN", "Infinity", "-Infinity", "9.99", "9.999", "10.001", "1000", "0.5", "0.501", "0.55")
	for i := 0; i < 100; i++ {
		d, _ := types.ParseNumeric(fmt.Sprintf("%d.%0*d", r.Intn(2000)-1000, 1+r.Intn(4), r.Intn(10)))
		nums = append(nums, d)
	}
	m[types.T(types.OIDNumeric)] = nums
	m[types.T(types.OIDDate)] = text(types.OIDDate, "2000-01-01", "1999-12-31", "2024-02-29", "infinity", "-infinity", "0044-03-15 BC")
	m[types.T(types.OIDTimestamp)] = text(types.OIDTimestamp, "2000-01-01", "2026-11-22 10:11:12.5", "infinity", "-infinity", "1969-01-01")
	m[types.T(types.OIDTime)] = text(types.OIDTime, "00:00", "23:59:59.999999", "24:00", "12:00")
	m[types.T(types.OIDInterval)] = text(types.OIDInterval, "0", "1 day", "24 hours", "-1 day", "1 month", "30 days", "31 days", "1 month -1 day", "29 days", "-1 hour", "1 year", "1 us", "-1 us")
	m[types.T(types.OIDUUID)] = text(types.OIDUUID, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff")
	m[types.T(types.OIDInt4Array)] = text(types.OIDInt4Array, "{}", "{1}", "{1,2}", "{1,2,3}", "{2}", "{NULL}", "{1,NULL}", "{{1,2},{3,4}}", "{1,2,3,4}", "[2:3]={1,2}", "{-1}")
	m[types.T(types.OIDTextArray)] = text(types.OIDTextArray, "{}", "{a}", `{""}`, "{a,b}", "{ab}", "{NULL,a}")
	for t := range m {
		m[t] = append(m[t], types.Null)
	}
	return m
}

// TestKeyOrder: the order of keys is the order of values, in every direction, and
// keys decode to equal values.
func TestKeyOrder(t *testing.T) {
	for typ, vals := range samples(rand.New(rand.NewSource(1))) {
		for _, o := range []Order{Asc, Desc, {NullsFirst: true}, {Desc: true}} {
			enc := make([][]byte, len(vals))
			for i, v := range vals {
				enc[i] = AppendColumn(nil, v, typ, o)
				if c := enc[i][0]; c == terminator || c == 0xff {
					t.Fatalf("%s: first byte %x", types.Name(typ), c)
				}
				// What follows a column does not disturb it.
				d, rest, err := DecodeColumn(append(append([]byte(nil), enc[i]...), 0x17), typ, o)
				if err != nil || len(rest) != 1 || types.Compare(d, v, typ) != 0 {
					t.Fatalf("%s %q: decoded %v rest %d %v", types.Name(typ), types.String(v, typ, nil), d, len(rest), err)
				}
				if Lossless(typ) && d != v {
					t.Fatalf("%s %q: lossless but %q", types.Name(typ), types.String(v, typ, nil), types.String(d, typ, nil))
				}
			}
			for i, a := range vals {
				for j, b := range vals {
					want := types.Compare(a, b, typ)
					if o.Desc {
						want = -want
					}
					if a.IsNull() != b.IsNull() {
						want = 1
						if a.IsNull() == o.NullsFirst {
							want = -1
						}
					}
					if got := bytes.Compare(enc[i], enc[j]); sign(got) != sign(want) {
						t.Fatalf("%s %+v: %q vs %q: keys %d (%x %x), values %d", types.Name(typ), o, types.String(a, typ, nil), types.String(b, typ, nil), got, enc[i], enc[j], want)
					}
				}
			}
		}
	}
}

func sign(v int) int {
	switch {
	case v < 0:
		return -1
	case v > 0:
		return 1
	}
	return 0
}

// TestKeysPrefixFree: no key of an index is a prefix of another (internal/keys).
func TestKeysPrefixFree(t *testing.T) {
	r := rand.New(rand.NewSource(2))
	s := samples(r)
	tt, it := types.T(types.OIDText), types.T(types.OIDInt8)
	x := NewIndex(false, 1, 200, 3, []KeyColumn{{tt, Asc}, {it, Desc}})
	var all [][]byte
	for _, a := range s[tt] {
		for _, b := range s[it] {
			k := x.Key(nil, []types.Datum{a, b})
			out := make([]types.Datum, 2)
			if err := x.Decode(k, out); err != nil || out[0] != a || out[1] != b {
				t.Fatal(err, out, a, b)
			}
			ids, _, err := DecodeIDs(k)
			if err != nil || ids != (IDs{false, 1, 200, 3}) {
				t.Fatal(ids, err)
			}
			if !x.Span().Contains(k) || !TableSpan(false, 1, 200).Contains(k) || TableSpan(false, 1, 201).Contains(k) {
				t.Fatal("span")
			}
			all = append(all, k)
		}
	}
	for i, a := range all {
		for j, b := range all {
			if i != j && !bytes.Equal(a, b) && bytes.HasPrefix(b, a) {
				t.Fatalf("%x is a prefix of %x", a, b)
			}
		}
	}
}

// TestRangeSpan: spans hold exactly the keys whose values satisfy the bounds.
func TestRangeSpan(t *testing.T) {
	s := samples(rand.New(rand.NewSource(3)))
	it := types.T(types.OIDInt4)
	for typ, vals := range s {
		if len(vals) > 25 {
			vals = append(vals[:24:24], types.Null)
		}
		for _, o := range []Order{Asc, Desc, {NullsFirst: true}, {Desc: true}} {
			x := NewIndex(false, 1, 2, 3, []KeyColumn{{it, Asc}, {typ, o}, {it, Asc}})
			eq := []types.Datum{types.Int(5)}
			check := func(lo, hi *Bound) {
				span, empty := x.RangeSpan(eq, lo, hi)
				for _, v := range vals {
					for _, first := range []int64{4, 5, 6} {
						k := x.Key(nil, []types.Datum{types.Int(first), v, types.Int(9)})
						want := first == 5
						if lo != nil {
							c := types.Compare(v, lo.Value, typ)
							want = want && !v.IsNull() && (c > 0 || c == 0 && lo.Inclusive)
						}
						if hi != nil {
							c := types.Compare(v, hi.Value, typ)
							want = want && !v.IsNull() && (c < 0 || c == 0 && hi.Inclusive)
						}
						if got := !empty && span.Contains(k); got != want {
							t.Fatalf("%s %+v: %q in %v %v: %v", types.Name(typ), o, types.String(v, typ, nil), lo, hi, got)
						}
					}
				}
			}
			check(nil, nil)
			for _, b := range vals {
				if b.IsNull() {
					continue
				}
				for _, inc := range []bool{true, false} {
					check(&Bound{b, inc}, nil)
					check(nil, &Bound{b, inc})
				}
			}
			for _, a := range vals[:min(3, len(vals))] {
				for _, b := range vals[:min(5, len(vals))] {
					if !a.IsNull() && !b.IsNull() {
						check(&Bound{a, true}, &Bound{b, false})
						check(&Bound{a, false}, &Bound{b, true})
					}
				}
			}
		}
	}
	x := NewIndex(true, 1, 2, 3, []KeyColumn{{it, Asc}})
	if p := x.PrefixSpan([]types.Datum{types.Int(1)}); !p.IsPoint() || p.Start[0] != keys.SystemPrefix {
		t.Fatal(p)
	}
}

func TestRows(t *testing.T) {
	var cols []Column
	var ids []uint32
	var vals []types.Datum
	id := uint32(1)
	for typ, vs := range samples(rand.New(rand.NewSource(4))) {
		for _, v := range vs {
			cols, ids, vals = append(cols, Column{id, typ}), append(ids, id), append(vals, v)
			id += 1 + id%3
		}
	}
	row := AppendRow(nil, ids, vals)
	out := make([]types.Datum, len(cols))
	if err := NewDecoder(cols).Decode(row, out); err != nil {
		t.Fatal(err)
	}
	for i := range out {
		if out[i] != vals[i] && !(vals[i].Kind() == types.KindFloat && math.IsNaN(vals[i].Float())) {
			t.Fatalf("%s: %q became %q", types.Name(cols[i].Type), types.String(vals[i], cols[i].Type, nil), types.String(out[i], cols[i].Type, nil))
		}
	}
	// Any subset in any order; columns added later are NULL.
	r := rand.New(rand.NewSource(5))
	for n := 0; n < 200; n++ {
		p := r.Perm(len(cols))[:1+r.Intn(8)]
		var want []Column
		for _, i := range p {
			want = append(want, cols[i])
		}
		want = append(want, Column{ID: id + 100, Type: types.T(types.OIDText)}, Column{})
		out := make([]types.Datum, len(want))
		out[len(out)-1] = types.Int(77)
		if err := NewDecoder(want).Decode(row, out); err != nil {
			t.Fatal(err)
		}
		for k, i := range p {
			if types.Compare(out[k], vals[i], cols[i].Type) != 0 {
				t.Fatal(k, i)
			}
		}
		if !out[len(p)].IsNull() || out[len(p)+1].Int() != 77 {
			t.Fatal("missing column or untouched one")
		}
	}
	if len(AppendRow(nil, []uint32{1, 2}, []types.Datum{types.Null, types.Null})) != 1 {
		t.Fatal("NULLs must cost nothing")
	}
	if err := NewDecoder(cols).Decode([]byte{RowVersion + 1}, out); err == nil {
		t.Fatal("a newer version must be refused")
	}
}

func TestNoAllocs(t *testing.T) {
	cols, row, key, x := account()
	out := make([]types.Datum, 4)
	d := NewDecoder(cols)
	if n := testing.AllocsPerRun(100, func() {
		if x.Decode(key, out[:1]) != nil || d.Decode(row, out) != nil {
			t.Fatal("decode")
		}
	}); n != 0 {
		t.Fatal(n, "allocations per decoded row")
	}
	buf := make([]byte, 0, 256)
	ids := []uint32{2, 3, 4}
	if n := testing.AllocsPerRun(100, func() {
		buf = AppendRow(buf[:0], ids, out[1:])
		buf = x.Key(buf, out[:1])
	}); n != 0 {
		t.Fatal(n, "allocations per encoded row")
	}
}

// account is a row of pgbench_accounts.
func account() ([]Column, []byte, []byte, *Index) {
	i4 := types.T(types.OIDInt4)
	cols := []Column{{0, i4}, {2, i4}, {3, i4}, {4, types.Type{OID: types.OIDBPChar, Mod: 88}}}
	x := NewIndex(false, 1, 104, 1, []KeyColumn{{i4, Asc}})
	row := AppendRow(nil, []uint32{2, 3, 4}, []types.Datum{types.Int(1), types.Int(-3708), types.Text(types.Blanks(84))})
	return cols, row, x.Key(nil, []types.Datum{types.Int(56093)}), x
}

func FuzzDecodeRow(f *testing.F) {
	_, row, _, _ := account()
	f.Add(row)
	var cols []Column
	id := uint32(1)
	types.All(func(in *types.Info) {
		cols = append(cols, Column{id, types.T(in.OID)})
		id++
	})
	d := NewDecoder(cols)
	f.Fuzz(func(t *testing.T, b []byte) {
		out := make([]types.Datum, len(cols))
		if d.Decode(b, out) != nil {
			return
		}
		for i, v := range out { // what decodes can be printed without a panic
			types.AppendText(nil, v, cols[i].Type, nil)
		}
	})
}

func FuzzDecodeKey(f *testing.F) {
	for typ, vals := range samples(rand.New(rand.NewSource(6))) {
		for _, v := range vals {
			f.Add(uint32(typ.OID), typ.Mod, false, AppendColumn(nil, v, typ, Asc))
			f.Add(uint32(typ.OID), typ.Mod, true, AppendColumn(nil, v, typ, Desc))
		}
	}
	f.Fuzz(func(t *testing.T, oid uint32, mod int32, desc bool, b []byte) {
		typ := types.Type{OID: types.OID(oid), Mod: mod}
		if !KeyType(typ.OID) || mod > 1000 && typ.OID == types.OIDBPChar {
			return
		}
		o := Asc
		if desc {
			o = Desc
		}
		d, rest, err := DecodeColumn(b, typ, o)
		if err != nil || typ.OID == types.OIDNumeric && mod >= 0 || types.ElemOf(typ.OID) != 0 || typ.OID == types.OIDBPChar {
			return
		}
		// What was decoded encodes to a key that decodes to the same.
		k := AppendColumn(nil, d, typ, o)
		d2, _, err := DecodeColumn(k, typ, o)
		if err != nil || types.Compare(d, d2, typ) != 0 {
			t.Fatalf("%v %x: %v then %v %v", typ, b[:len(b)-len(rest)], d, d2, err)
		}
	})
}

func BenchmarkDecodeAccount(b *testing.B) {
	cols, row, key, x := account()
	d := NewDecoder(cols)
	out := make([]types.Datum, 4)
	for b.Loop() {
		if x.Decode(key, out[:1]) != nil || d.Decode(row, out) != nil {
			b.Fatal("decode")
		}
	}
}

func BenchmarkEncodeAccount(b *testing.B) {
	_, _, _, x := account()
	vals := []types.Datum{types.Int(56093), types.Int(1), types.Int(-3708), types.Text(types.Blanks(84))}
	ids := []uint32{2, 3, 4}
	buf := make([]byte, 0, 256)
	for b.Loop() {
		buf = AppendRow(buf[:0], ids, vals[1:])
		buf = x.Key(buf, vals[:1])
	}
}
