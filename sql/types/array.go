package types

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"
	"unsafe"

	"github.com/spandb/spand/sql/sqlstate"
)

// An array Datum holds, in s: the number of dimensions (a byte, 0 for the empty
// array), per dimension its length (uvarint) and lower bound (varint), then the
// elements in row-major order, each a kind byte and its payload. The form says
// what it holds without the type, so that it can be walked by itself, and it is
// what row values store.

// MaxDims is PostgreSQL's limit on dimensions.
const MaxDims = 6

// maxArrayElems bounds what one array may hold, as PostgreSQL's MaxArraySize.
const maxArrayElems = 1 << 27

// Dim is one dimension of an array.
type Dim struct {
	Len   int
	Lower int // of subscripts, usually 1
}

// ArrayBuilder puts an array together element by element.
type ArrayBuilder struct {
	buf []byte
	n   int
}

// Append adds an element.
func (b *ArrayBuilder) Append(d Datum) {
	b.buf = appendElem(b.buf, d)
	b.n++
}

// Len is the number of elements so far.
func (b *ArrayBuilder) Len() int { return b.n }

// Size is the number of bytes so far, for memory budgets.
func (b *ArrayBuilder) Size() int { return len(b.buf) }

// Array returns the one-dimensional array of the elements, with lower bound 1.
func (b *ArrayBuilder) Array() Datum {
	if b.n == 0 {
		return EmptyArray
	}
	return makeArray([]Dim{{b.n, 1}}, b.buf)
}

// EmptyArray is '{}'.
var EmptyArray = Datum{s: "\x00", k: KindArray}

func makeArray(dims []Dim, elems []byte) Datum {
	out := make([]byte, 0, 1+len(dims)*4+len(elems))
	out = append(out, byte(len(dims)))
	for _, d := range dims {
		out = binary.AppendUvarint(out, uint64(d.Len))
		out = binary.AppendVarint(out, int64(d.Lower))
	}
	out = append(out, elems...)
	return Datum{s: unsafe.String(unsafe.SliceData(out), len(out)), k: KindArray}
}

// NewArray makes a one-dimensional array.
func NewArray(elems []Datum) Datum {
	var b ArrayBuilder
	for _, e := range elems {
		b.Append(e)
	}
	return b.Array()
}

// NewVector makes an int2vector or oidvector: its subscripts begin at 0.
func NewVector(elems []Datum) Datum {
	var b ArrayBuilder
	for _, e := range elems {
		b.Append(e)
	}
	return b.vector()
}

func (b *ArrayBuilder) vector() Datum {
	if b.n == 0 {
		return EmptyArray
	}
	return makeArray([]Dim{{b.n, 0}}, b.buf)
}

// NewArrayDims makes an array of several dimensions; the product of the lengths
// must be len(elems).
func NewArrayDims(dims []Dim, elems []Datum) Datum {
	if len(elems) == 0 {
		return EmptyArray
	}
	var buf []byte
	for _, e := range elems {
		buf = appendElem(buf, e)
	}
	return makeArray(dims, buf)
}

func appendElem(b []byte, d Datum) []byte {
	b = append(b, byte(d.k))
	switch d.k {
	case KindNull:
	case KindBool, KindInt, KindTimestamp, KindDate, KindTime:
		b = binary.AppendVarint(b, d.n)
	case KindFloat:
		b = binary.BigEndian.AppendUint64(b, uint64(d.n))
	case KindInterval:
		m, dd, u := d.IntervalParts()
		b = binary.AppendVarint(b, u)
		b = binary.BigEndian.AppendUint32(b, uint32(m))
		b = binary.BigEndian.AppendUint32(b, uint32(dd))
	default:
		b = binary.AppendUvarint(b, uint64(len(d.s)))
		b = append(b, d.s...)
	}
	return b
}

// ArrayIter walks an array's elements.
type ArrayIter struct {
	nd    int
	dims  [MaxDims]Dim
	rest  string
	left  int
	total int
}

// Iter starts walking d, which must be an array. A damaged one yields nothing.
func (d Datum) Iter() ArrayIter {
	var it ArrayIter
	it.init(d.s)
	return it
}

func (it *ArrayIter) init(s string) {
	if len(s) == 0 || s[0] == 0 || s[0] > MaxDims {
		return
	}
	nd := int(s[0])
	s = s[1:]
	total := 1
	for i := 0; i < nd; i++ {
		n, w := uvarint(s)
		if w <= 0 || n == 0 || n > maxArrayElems {
			return
		}
		s = s[w:]
		lo, w := varint(s)
		if w <= 0 {
			return
		}
		s = s[w:]
		it.dims[i] = Dim{int(n), int(lo)}
		if total *= int(n); total > maxArrayElems {
			return
		}
	}
	if total > len(s) { // every element takes at least its kind byte
		return
	}
	it.rest, it.left, it.total = s, total, total
	it.nd = nd
}

// Len is the total number of elements.
func (it *ArrayIter) Len() int { return it.total }

// Next returns the next element; ok is false at the end.
func (it *ArrayIter) Next() (d Datum, ok bool) {
	if it.left == 0 {
		return Null, false
	}
	it.left--
	d, rest, ok := readElem(it.rest)
	if !ok {
		it.left = 0
		return Null, false
	}
	it.rest = rest
	return d, true
}

func readElem(s string) (d Datum, rest string, ok bool) {
	if s == "" {
		return Null, "", false
	}
	k := Kind(s[0])
	s = s[1:]
	switch k {
	case KindNull:
		return Null, s, true
	case KindBool, KindInt, KindTimestamp, KindDate, KindTime:
		n, w := varint(s)
		if w <= 0 {
			return Null, "", false
		}
		return Datum{n: n, k: k}, s[w:], true
	case KindFloat:
		if len(s) < 8 {
			return Null, "", false
		}
		return Datum{n: int64(be64(s)), k: k}, s[8:], true
	case KindInterval:
		n, w := varint(s)
		if w <= 0 || len(s) < w+8 {
			return Null, "", false
		}
		return Datum{s: s[w : w+8], n: n, k: k}, s[w+8:], true
	case KindText, KindBytes, KindNumeric, KindUUID, KindArray:
		n, w := uvarint(s)
		if w <= 0 || n > uint64(len(s)-w) {
			return Null, "", false
		}
		return Datum{s: s[w : w+int(n)], k: k}, s[w+int(n):], true
	}
	return Null, "", false
}

func uvarint(s string) (uint64, int) {
	return binary.Uvarint(unsafe.Slice(unsafe.StringData(s), min(len(s), binary.MaxVarintLen64)))
}

func varint(s string) (int64, int) {
	return binary.Varint(unsafe.Slice(unsafe.StringData(s), min(len(s), binary.MaxVarintLen64)))
}

func be64(s string) uint64 {
	return binary.BigEndian.Uint64(unsafe.Slice(unsafe.StringData(s), 8))
}

// ArrayElems returns all elements in order.
func ArrayElems(d Datum) []Datum {
	it := d.Iter()
	out := make([]Datum, 0, it.Len())
	for {
		e, ok := it.Next()
		if !ok {
			return out
		}
		out = append(out, e)
	}
}

// ArrayAt returns the element with the given subscripts, NULL when they lie
// outside or are not as many as the dimensions.
func ArrayAt(d Datum, subs ...int) Datum {
	it := d.Iter()
	if len(subs) != len(it.Dims()) || len(subs) == 0 {
		return Null
	}
	pos := 0
	for i, dim := range it.Dims() {
		j := subs[i] - dim.Lower
		if j < 0 || j >= dim.Len {
			return Null
		}
		pos = pos*dim.Len + j
	}
	for ; pos > 0; pos-- {
		it.Next()
	}
	e, _ := it.Next()
	return e
}

// mapArray applies f to every element.
func mapArray(d Datum, f func(Datum) (Datum, error)) (Datum, error) {
	it := d.Iter()
	if it.Len() == 0 {
		return d, nil
	}
	var buf []byte
	for {
		e, ok := it.Next()
		if !ok {
			return makeArray(it.Dims(), buf), nil
		}
		if e.k != KindNull {
			var err error
			if e, err = f(e); err != nil {
				return Null, err
			}
		}
		buf = appendElem(buf, e)
	}
}

// MapArray converts an array's elements one by one; NULLs stay.
func MapArray(d Datum, f func(Datum) (Datum, error)) (Datum, error) { return mapArray(d, f) }

func appendArrayText(dst []byte, d Datum, t Type, fs *FormatSettings) []byte {
	it := d.Iter()
	et := ElemType(t)
	if t.OID == OIDInt2Vector || t.OID == OIDOidVector {
		for i := 0; ; i++ {
			e, ok := it.Next()
			if !ok {
				return dst
			}
			if i > 0 {
				dst = append(dst, ' ')
			}
			dst = strconv.AppendInt(dst, e.n, 10)
		}
	}
	if it.Len() == 0 {
		return append(dst, '{', '}')
	}
	for _, dim := range it.Dims() {
		if dim.Lower != 1 {
			for _, x := range it.Dims() {
				dst = append(dst, '[')
				dst = strconv.AppendInt(dst, int64(x.Lower), 10)
				dst = append(dst, ':')
				dst = strconv.AppendInt(dst, int64(x.Lower+x.Len-1), 10)
				dst = append(dst, ']')
			}
			dst = append(dst, '=')
			break
		}
	}
	return appendArrayDim(dst, &it, 0, et, fs)
}

func appendArrayDim(dst []byte, it *ArrayIter, depth int, et Type, fs *FormatSettings) []byte {
	dst = append(dst, '{')
	for i := 0; i < it.Dims()[depth].Len; i++ {
		if i > 0 {
			dst = append(dst, ',')
		}
		if depth+1 < len(it.Dims()) {
			dst = appendArrayDim(dst, it, depth+1, et, fs)
			continue
		}
		e, _ := it.Next()
		if e.k == KindNull {
			dst = append(dst, "NULL"...)
			continue
		}
		switch e.k {
		case KindText, KindBytes, KindTimestamp, KindInterval, KindDate, KindTime:
			start := len(dst)
			dst = AppendText(dst, e, et, fs)
			dst = quoteElem(dst, start)
		default:
			dst = AppendText(dst, e, et, fs)
		}
	}
	return append(dst, '}')
}

// quoteElem quotes dst[start:] in place when array syntax needs it.
func quoteElem(dst []byte, start int) []byte {
	s := dst[start:]
	need := len(s) == 0 || len(s) == 4 && strings.EqualFold(string(s), "null")
	esc := 0
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			esc++
			need = true
		case c == '{' || c == '}' || c == ',' || isSpace(c):
			need = true
		}
	}
	if !need {
		return dst
	}
	n := len(s)
	for i := 0; i < esc+2; i++ {
		dst = append(dst, 0)
	}
	s = dst[start:]
	w := len(s) - 1
	s[w] = '"'
	w--
	for r := n - 1; r >= 0; r-- {
		c := s[r]
		s[w] = c
		w--
		if c == '"' || c == '\\' {
			s[w] = '\\'
			w--
		}
	}
	s[0] = '"'
	return dst
}

type arrayParser struct {
	in, s string
	i     int
	et    Type
	fs    *FormatSettings
	elems []byte
	n     int
	dims  []int // length per depth, -1 while unknown
}

func (p *arrayParser) bad(detail string) error {
	return sqlstate.Newf(sqlstate.InvalidTextRepresentation, "malformed array literal: \"%s\"", p.in).WithDetail("%s", detail)
}

func (p *arrayParser) space() {
	for p.i < len(p.s) && isSpace(p.s[p.i]) {
		p.i++
	}
}

func parseArrayText(in string, t Type, fs *FormatSettings) (Datum, error) {
	et := Type{ElemOf(t.OID), -1}
	if t.OID == OIDInt2Vector || t.OID == OIDOidVector {
		var b ArrayBuilder
		for _, f := range strings.Fields(in) {
			d, err := parseText(f, et, fs)
			if err != nil {
				return Null, err
			}
			b.Append(d)
		}
		return b.vector(), nil
	}
	p := arrayParser{in: in, s: in, et: et, fs: fs}
	p.space()
	var lower []Dim
	for p.i < len(p.s) && p.s[p.i] == '[' {
		end := strings.IndexByte(p.s[p.i:], ']')
		if end < 0 || len(lower) == MaxDims {
			return Null, p.bad("Missing \"]\" after array dimensions.")
		}
		spec := p.s[p.i+1 : p.i+end]
		lo, hi, both := strings.Cut(spec, ":")
		l, h := 1, 0
		var err1, err2 error
		if both {
			l, err1 = strconv.Atoi(strings.TrimSpace(lo))
			h, err2 = strconv.Atoi(strings.TrimSpace(hi))
		} else {
			h, err2 = strconv.Atoi(strings.TrimSpace(lo))
		}
		if err1 != nil || err2 != nil {
			return Null, p.bad("\"[\" must introduce explicitly-specified array dimensions.")
		}
		if h < l {
			return Null, sqlstate.Newf("2202E", "upper bound cannot be less than lower bound")
		}
		if l < math.MinInt32 || h > math.MaxInt32 || h-l >= maxArrayElems {
			return Null, sqlstate.Newf(sqlstate.ProgramLimitExceeded, "array size exceeds the maximum allowed (%d)", maxArrayElems-1)
		}
		lower = append(lower, Dim{h - l + 1, l})
		p.i += end + 1
		p.space()
	}
	if lower != nil {
		if p.i == len(p.s) || p.s[p.i] != '=' {
			return Null, p.bad("Missing \"=\" after array dimensions.")
		}
		p.i++
		p.space()
	}
	if p.i == len(p.s) || p.s[p.i] != '{' {
		return Null, p.bad("Array value must start with \"{\" or dimension information.")
	}
	if err := p.dim(0); err != nil {
		return Null, err
	}
	p.space()
	if p.i != len(p.s) {
		return Null, p.bad("Junk after closing right brace.")
	}
	if p.n == 0 {
		return EmptyArray, nil
	}
	dims := make([]Dim, len(p.dims))
	for i, n := range p.dims {
		dims[i] = Dim{n, 1}
	}
	if lower != nil {
		if len(lower) != len(dims) {
			return Null, p.bad("Specified array dimensions do not match array contents.")
		}
		for i := range dims {
			if lower[i].Len != dims[i].Len {
				return Null, p.bad("Specified array dimensions do not match array contents.")
			}
			dims[i].Lower = lower[i].Lower
		}
	}
	return makeArray(dims, p.elems), nil
}

const unequalDims = "Multidimensional arrays must have sub-arrays with matching dimensions."

// dim parses one {…}; p.s[p.i] is the brace.
func (p *arrayParser) dim(depth int) error {
	if depth >= MaxDims {
		return sqlstate.Newf(sqlstate.ProgramLimitExceeded, "number of array dimensions (%d) exceeds the maximum allowed (%d)", depth+1, MaxDims)
	}
	if depth == len(p.dims) {
		if p.n > 0 {
			return p.bad(unequalDims)
		}
		p.dims = append(p.dims, -1)
	}
	p.i++
	count := 0
	p.space()
	if p.i < len(p.s) && p.s[p.i] == '}' {
		p.i++
		if depth > 0 && p.n > 0 {
			return p.bad(unequalDims)
		}
		return nil
	}
	for {
		p.space()
		if p.i == len(p.s) {
			return p.bad("Unexpected end of input.")
		}
		if p.s[p.i] == '{' {
			if err := p.dim(depth + 1); err != nil {
				return err
			}
		} else {
			if depth+1 != len(p.dims) {
				return p.bad(unequalDims)
			}
			if err := p.elem(); err != nil {
				return err
			}
		}
		count++
		p.space()
		if p.i == len(p.s) {
			return p.bad("Unexpected end of input.")
		}
		c := p.s[p.i]
		if c == ',' {
			p.i++
			continue
		}
		if c != '}' {
			return p.bad("Unexpected array element.")
		}
		p.i++
		break
	}
	if p.dims[depth] < 0 {
		p.dims[depth] = count
	} else if p.dims[depth] != count {
		return p.bad(unequalDims)
	}
	return nil
}

func (p *arrayParser) elem() error {
	var text string
	if p.s[p.i] == '"' {
		p.i++
		var b []byte
		for {
			if p.i == len(p.s) {
				return p.bad("Unexpected end of input.")
			}
			c := p.s[p.i]
			p.i++
			if c == '"' {
				break
			}
			if c == '\\' {
				if p.i == len(p.s) {
					return p.bad("Unexpected end of input.")
				}
				c = p.s[p.i]
				p.i++
			}
			b = append(b, c)
		}
		text = string(b)
	} else {
		var b []byte
		keep := 0 // trailing blanks go, unless escaped
		escaped := false
	scan:
		for p.i < len(p.s) {
			c := p.s[p.i]
			switch c {
			case ',', '}':
				break scan
			case '{':
				return p.bad("Unexpected \"{\" character.")
			case '"':
				return p.bad("Unexpected array element.")
			case '\\':
				p.i++
				if p.i == len(p.s) {
					return p.bad("Unexpected end of input.")
				}
				b = append(b, p.s[p.i])
				keep, escaped = len(b), true
			default:
				b = append(b, c)
				if !isSpace(c) {
					keep = len(b)
				}
			}
			p.i++
		}
		if keep == 0 {
			if p.i < len(p.s) {
				return p.bad("Unexpected \"" + string(p.s[p.i]) + "\" character.")
			}
			return p.bad("Unexpected end of input.")
		}
		text = string(b[:keep])
		if !escaped && strings.EqualFold(text, "null") {
			p.elems = appendElem(p.elems, Null)
			p.n++
			return nil
		}
	}
	d, err := parseText(text, p.et, p.fs)
	if err != nil {
		return err
	}
	if p.n++; p.n > maxArrayElems {
		return sqlstate.Newf(sqlstate.ProgramLimitExceeded, "array size exceeds the maximum allowed (%d)", maxArrayElems)
	}
	p.elems = appendElem(p.elems, d)
	return nil
}

// Dims returns the array's dimensions, none for the empty array. Valid while it is.
func (it *ArrayIter) Dims() []Dim { return it.dims[:it.nd] }
