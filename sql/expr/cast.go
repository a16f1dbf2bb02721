package expr

import (
	"math"
	"strings"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// CastContext says how far a conversion may go, as pg_cast.castcontext.
type CastContext uint8

const (
	CastImplicit   CastContext = iota // in any expression
	CastAssignment                    // to a column's type in INSERT and UPDATE
	CastExplicit                      // CAST, ::
)

// castDef is a row of pg_cast; a nil fn means that the representation is the same.
type castDef struct {
	ctx CastContext
	fn  fn1
	vol Volatility
}

type castKey struct{ from, to types.OID }

var casts = map[castKey]castDef{}

func defCast(from, to types.OID, ctx CastContext, fn fn1) {
	casts[castKey{from, to}] = castDef{ctx: ctx, fn: fn}
}

// Short names for the tables of this package.
const (
	tBool   = types.OIDBool
	tBytea  = types.OIDBytea
	tChar   = types.OIDChar
	tName   = types.OIDName
	tInt2   = types.OIDInt2
	tInt4   = types.OIDInt4
	tInt8   = types.OIDInt8
	tText   = types.OIDText
	tOid    = types.OIDOid
	tXid    = types.OIDXid
	tXid8   = types.OIDXid8
	tJSON   = types.OIDJSON
	tJSONB  = types.OIDJSONB
	tFloat4 = types.OIDFloat4
	tFloat8 = types.OIDFloat8
	tUnk    = types.OIDUnknown
	tBP     = types.OIDBPChar
	tVar    = types.OIDVarchar
	tDate   = types.OIDDate
	tTime   = types.OIDTime
	tTS     = types.OIDTimestamp
	tTSTZ   = types.OIDTimestampTZ
	tIval   = types.OIDInterval
	tNum    = types.OIDNumeric
	tUUID   = types.OIDUUID
	tVoid   = types.OIDVoid
	tAny    = types.OIDAny
	tElem   = types.OIDAnyElement
	tArr    = types.OIDAnyArray
	tRec    = types.OIDRecord
	tClass  = types.OIDRegclass
	tType   = types.OIDRegtype
)

func init() {
	ints := []types.OID{tInt2, tInt4, tInt8}
	for i, f := range ints {
		for j, t := range ints {
			switch {
			case i < j:
				defCast(f, t, CastImplicit, nil)
			case i > j:
				t := t
				defCast(f, t, CastAssignment, func(_ *EvalContext, a types.Datum) (types.Datum, error) {
					if !fitsInt(a.Int(), t) {
						return types.Null, errOutOfRange(t)
					}
					return a, nil
				})
			}
		}
		toFloat := func(_ *EvalContext, a types.Datum) (types.Datum, error) { return types.Float(float64(a.Int())), nil }
		toFloat4 := func(_ *EvalContext, a types.Datum) (types.Datum, error) {
			return types.Float(float64(float32(a.Int()))), nil
		}
		defCast(f, tFloat4, CastImplicit, toFloat4)
		defCast(f, tFloat8, CastImplicit, toFloat)
		defCast(f, tNum, CastImplicit, func(_ *EvalContext, a types.Datum) (types.Datum, error) {
			return types.NumericFromInt(a.Int()), nil
		})
		defCast(tFloat4, f, CastAssignment, floatToInt(f))
		defCast(tFloat8, f, CastAssignment, floatToInt(f))
		f := f
		numToInt := func(_ *EvalContext, a types.Datum) (types.Datum, error) {
			v, ok := types.NumericToInt64(a)
			if !ok || !fitsInt(v, f) {
				switch {
				case types.NumericIsNaN(a):
					return types.Null, sqlstate.Newf(sqlstate.FeatureNotSupported, "cannot convert NaN to %s", types.BaseName(f))
				case a.Str() == "Infinity" || a.Str() == "-Infinity":
					return types.Null, sqlstate.Newf(sqlstate.FeatureNotSupported, "cannot convert infinity to %s", types.BaseName(f))
				}
				return types.Null, errOutOfRange(f)
			}
			return types.Int(v), nil
		}
		defCast(tNum, f, CastAssignment, numToInt)
		defCast(tJSONB, f, CastExplicit, jsonbNumber(types.BaseName(f), numToInt))
	}
	defCast(tFloat4, tFloat8, CastImplicit, nil)
	defCast(tFloat8, tFloat4, CastAssignment, toFloat4)
	defCast(tFloat4, tNum, CastAssignment, func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		return types.NumericFromFloat(a.Float(), 6), nil
	})
	defCast(tFloat8, tNum, CastAssignment, func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		return types.NumericFromFloat(a.Float(), 15), nil
	})
	numToFloat := func(single bool) fn1 {
		t := types.T(tFloat8)
		if single {
			t = types.T(tFloat4)
		}
		return func(_ *EvalContext, a types.Datum) (types.Datum, error) { return types.ParseText(a.Str(), t, nil) }
	}
	defCast(tNum, tFloat4, CastImplicit, numToFloat(true))
	defCast(tNum, tFloat8, CastImplicit, numToFloat(false))
	same := func(_ *EvalContext, a types.Datum) (types.Datum, error) { return a, nil }
	defCast(tJSONB, tNum, CastExplicit, jsonbNumber("numeric", same))
	defCast(tJSONB, tFloat4, CastExplicit, jsonbNumber("real", numToFloat(true)))
	defCast(tJSONB, tFloat8, CastExplicit, jsonbNumber("double precision", numToFloat(false)))
	defCast(tJSONB, tBool, CastExplicit, func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		switch a.Str() {
		case "true":
			return types.Bool(true), nil
		case "false":
			return types.Bool(false), nil
		}
		return types.Null, errJSONCast(a, "boolean")
	})

	defCast(tInt4, tBool, CastExplicit, func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		return types.Bool(a.Int() != 0), nil
	})
	defCast(tBool, tInt4, CastExplicit, func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		return types.Int(a.Int()), nil
	})
	boolText := func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		if a.Bool() {
			return types.Text("true"), nil
		}
		return types.Text("false"), nil
	}
	for _, t := range []types.OID{tText, tVar, tBP} {
		defCast(tBool, t, CastAssignment, boolText)
	}

	regs := []types.OID{tClass, tType, types.OIDRegproc, types.OIDRegProcedure, types.OIDRegOper, types.OIDRegOperator, types.OIDRegNamespace, types.OIDRegRole}
	for _, t := range append([]types.OID{tOid}, regs...) {
		t := t
		toOID := func(_ *EvalContext, a types.Datum) (types.Datum, error) {
			if v := a.Int(); v < 0 || v > math.MaxUint32 {
				return types.Null, sqlstate.Newf(sqlstate.NumericValueOutOfRange, "OID out of range")
			}
			return a, nil
		}
		defCast(tInt8, t, CastImplicit, toOID)
		wrap := func(_ *EvalContext, a types.Datum) (types.Datum, error) {
			return types.Int(int64(uint32(a.Int()))), nil
		}
		defCast(tInt2, t, CastImplicit, wrap)
		defCast(tInt4, t, CastImplicit, wrap)
		defCast(t, tInt4, CastAssignment, func(_ *EvalContext, a types.Datum) (types.Datum, error) {
			return types.Int(int64(int32(a.Int()))), nil
		})
		defCast(t, tInt8, CastAssignment, nil)
		if t != tOid {
			defCast(t, tOid, CastImplicit, nil)
			defCast(tOid, t, CastImplicit, nil)
		}
	}
	defCast(types.OIDRegproc, types.OIDRegProcedure, CastImplicit, nil)
	defCast(types.OIDRegProcedure, types.OIDRegproc, CastImplicit, nil)
	textToClass := castDef{ctx: CastImplicit, vol: Stable, fn: func(ec *EvalContext, a types.Datum) (types.Datum, error) {
		return types.ParseText(a.Str(), types.T(tClass), ec.format())
	}}
	casts[castKey{tText, tClass}] = textToClass
	casts[castKey{tVar, tClass}] = textToClass
	defCast(tXid8, tXid, CastExplicit, func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		return types.Int(int64(uint32(a.Int()))), nil
	})

	// Strings. bpchar loses its padding on the way out.
	trim := func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		return types.Text(strings.TrimRight(a.Str(), " ")), nil
	}
	toName := func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		return types.Text(types.TruncateName(a.Str())), nil
	}
	toChar := func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		if s := a.Str(); len(s) > 1 {
			return types.Text(s[:1]), nil
		}
		return a, nil
	}
	defCast(tText, tVar, CastImplicit, nil)
	defCast(tVar, tText, CastImplicit, nil)
	defCast(tText, tBP, CastImplicit, nil)
	defCast(tVar, tBP, CastImplicit, nil)
	defCast(tBP, tText, CastImplicit, trim)
	defCast(tBP, tVar, CastImplicit, trim)
	defCast(tName, tText, CastImplicit, nil)
	defCast(tName, tVar, CastAssignment, nil)
	defCast(tName, tBP, CastAssignment, nil)
	defCast(tText, tName, CastImplicit, toName)
	defCast(tVar, tName, CastImplicit, toName)
	defCast(tBP, tName, CastImplicit, func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		return types.Text(types.TruncateName(strings.TrimRight(a.Str(), " "))), nil
	})
	for _, t := range []types.OID{tText, tVar, tBP} {
		defCast(t, tChar, CastAssignment, toChar)
	}
	defCast(tChar, tText, CastImplicit, nil)
	defCast(tChar, tVar, CastAssignment, nil)
	defCast(tChar, tBP, CastAssignment, nil)
	defCast(tChar, tInt4, CastExplicit, func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		if a.Str() == "" {
			return types.Int(0), nil
		}
		return types.Int(int64(int8(a.Str()[0]))), nil
	})
	defCast(tInt4, tChar, CastExplicit, func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		if v := a.Int(); v < -128 || v > 127 {
			return types.Null, sqlstate.Newf(sqlstate.NumericValueOutOfRange, "\"char\" out of range")
		}
		if a.Int() == 0 {
			return types.Text(""), nil
		}
		return types.Text(string([]byte{byte(a.Int())})), nil
	})
	defCast(types.OIDPgNodeTree, tText, CastImplicit, nil)

	defCast(tJSON, tJSONB, CastAssignment, func(_ *EvalContext, a types.Datum) (types.Datum, error) { return types.ParseJSONB(a.Str()) })
	defCast(tJSONB, tJSON, CastAssignment, func(_ *EvalContext, a types.Datum) (types.Datum, error) { return types.Text(a.Str()), nil })

	// Dates and times.
	dateToTS := func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		us, err := types.DateToTimestamp(a.Int())
		return types.Timestamp(us), err
	}
	defCast(tDate, tTS, CastImplicit, dateToTS)
	stable := func(from, to types.OID, ctx CastContext, fn fn1) {
		casts[castKey{from, to}] = castDef{ctx: ctx, fn: fn, vol: Stable}
	}
	stable(tDate, tTSTZ, CastImplicit, func(ec *EvalContext, a types.Datum) (types.Datum, error) {
		us, err := types.DateToTimestamp(a.Int())
		if err != nil {
			return types.Null, err
		}
		return types.Timestamp(types.FromLocal(us, ec.location())), nil
	})
	stable(tTS, tTSTZ, CastImplicit, func(ec *EvalContext, a types.Datum) (types.Datum, error) {
		return types.Timestamp(types.FromLocal(a.Int(), ec.location())), nil
	})
	stable(tTSTZ, tTS, CastAssignment, func(ec *EvalContext, a types.Datum) (types.Datum, error) {
		return types.Timestamp(types.ToLocal(a.Int(), ec.location())), nil
	})
	defCast(tTS, tDate, CastAssignment, func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		return types.Date(types.TimestampToDate(a.Int())), nil
	})
	stable(tTSTZ, tDate, CastAssignment, func(ec *EvalContext, a types.Datum) (types.Datum, error) {
		return types.Date(types.TimestampToDate(types.ToLocal(a.Int(), ec.location()))), nil
	})
	timeOf := func(us int64) types.Datum {
		if us == types.TimestampInfinity || us == types.TimestampNegInfinity {
			return types.Null
		}
		return types.Time(modDay(us))
	}
	defCast(tTS, tTime, CastAssignment, func(_ *EvalContext, a types.Datum) (types.Datum, error) { return timeOf(a.Int()), nil })
	stable(tTSTZ, tTime, CastAssignment, func(ec *EvalContext, a types.Datum) (types.Datum, error) {
		return timeOf(types.ToLocal(a.Int(), ec.location())), nil
	})
	defCast(tTime, tIval, CastImplicit, func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		return types.Interval(0, 0, a.Int()), nil
	})
	defCast(tIval, tTime, CastAssignment, func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		_, _, us := a.IntervalParts()
		return types.Time(modDay(us)), nil
	})
}

func modDay(us int64) int64 {
	if us %= types.Day; us < 0 {
		us += types.Day
	}
	return us
}

func toFloat4(_ *EvalContext, a types.Datum) (types.Datum, error) {
	f := a.Float()
	g := float64(float32(f))
	if math.IsInf(g, 0) && !math.IsInf(f, 0) {
		return types.Null, errFloatOverflow()
	}
	if g == 0 && f != 0 {
		return types.Null, errFloatUnderflow()
	}
	return types.Float(g), nil
}

func floatToInt(t types.OID) fn1 {
	lim := map[types.OID]float64{tInt2: 1 << 15, tInt4: 1 << 31, tInt8: 1 << 63}[t]
	return func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		f := math.RoundToEven(a.Float())
		if !(f >= -lim && f < lim) {
			return types.Null, errOutOfRange(t)
		}
		return types.Int(int64(f)), nil
	}
}

func errJSONCast(a types.Datum, to string) error {
	what := "object"
	switch s := a.Str(); {
	case s == "null":
		what = "null"
	case s == "true" || s == "false":
		what = "boolean"
	case s[0] == '"':
		what = "string"
	case s[0] == '[':
		what = "array"
	case s[0] != '{':
		what = "numeric"
	}
	return sqlstate.Newf(sqlstate.InvalidParameterValue, "cannot cast jsonb %s to type %s", what, to)
}

func jsonbNumber(to string, f fn1) fn1 {
	return func(ec *EvalContext, a types.Datum) (types.Datum, error) {
		if c := a.Str()[0]; c != '-' && (c < '0' || c > '9') {
			return types.Null, errJSONCast(a, to)
		}
		return f(ec, types.NumericText(a.Str()))
	}
}

func isString(oid types.OID) bool {
	c, _ := types.CategoryOf(oid)
	return c == types.CatString
}

// findCast finds the way from one base type to another within ctx.
func findCast(from, to types.OID, ctx CastContext) (castDef, bool) {
	if from == to {
		return castDef{}, true
	}
	if d, ok := casts[castKey{from, to}]; ok {
		return d, d.ctx <= ctx
	}
	if fe, te := types.ElemOf(from), types.ElemOf(to); fe != 0 && te != 0 {
		d, ok := findCast(fe, te, ctx)
		if !ok {
			return d, false
		}
		if d.fn == nil {
			return d, true
		}
		f := d.fn
		return castDef{ctx: d.ctx, vol: d.vol, fn: func(ec *EvalContext, a types.Datum) (types.Datum, error) {
			return types.MapArray(a, func(x types.Datum) (types.Datum, error) { return f(ec, x) })
		}}, true
	}
	fi, ti := types.Lookup(from), types.Lookup(to)
	if fi == nil || ti == nil || fi.Category == types.CatPseudo && from != tRec || ti.Category == types.CatPseudo {
		return castDef{}, false
	}
	// Conversions through text: to strings by assignment, from them only explicitly.
	if ti.Category == types.CatString && ctx >= CastAssignment {
		ft := types.T(from)
		return castDef{ctx: CastAssignment, vol: ioVolatility(from), fn: func(ec *EvalContext, a types.Datum) (types.Datum, error) {
			s := types.String(a, ft, ec.format())
			if to == tName {
				s = types.TruncateName(s)
			}
			return types.Text(s), nil
		}}, true
	}
	if fi.Category == types.CatString && ctx >= CastExplicit {
		tt := types.T(to)
		bp := from == tBP
		return castDef{ctx: CastExplicit, vol: ioVolatility(to), fn: func(ec *EvalContext, a types.Datum) (types.Datum, error) {
			s := a.Str()
			if bp {
				s = strings.TrimRight(s, " ")
			}
			return types.ParseText(s, tt, ec.format())
		}}, true
	}
	return castDef{}, false
}

// ioVolatility: the text forms of these types depend on settings.
func ioVolatility(oid types.OID) Volatility {
	if e := types.ElemOf(oid); e != 0 {
		oid = e
	}
	switch oid {
	case tDate, tTS, tTSTZ, tTime, tIval, tFloat4, tFloat8, tBytea:
		return Stable
	}
	if types.IsReg(oid) {
		return Stable
	}
	return Immutable
}

// coercible reports whether a value of type from goes where to is expected.
func coercible(from, to types.OID, ctx CastContext) bool {
	if from == to || from == tUnk || from == 0 {
		return true
	}
	switch to {
	case tAny, tElem:
		return true
	case tArr:
		return types.IsArray(from)
	}
	_, ok := findCast(from, to, ctx)
	return ok
}

// Cast converts e to a type within ctx, typmod included. When there is no way it
// says so as CAST does (42846), without a position.
func Cast(e Expr, to types.Type, ctx CastContext) (Expr, error) {
	from := e.Type().OID
	if from == tUnk || from == 0 {
		return coerceUnknown(e, to, ctx == CastExplicit)
	}
	if to.OID == tUnk || to.OID == 0 {
		return e, nil
	}
	d, ok := findCast(from, to.OID, ctx)
	if !ok {
		return nil, sqlstate.Newf(sqlstate.CannotCoerce, "cannot cast type %s to %s", types.BaseName(from), types.BaseName(to.OID))
	}
	if from != to.OID {
		if d.fn == nil {
			e = relabel(e, types.T(to.OID))
		} else {
			e = &call1{call: call{name: "cast", typ: types.T(to.OID), vol: d.vol}, fn: d.fn, a: e}
		}
	}
	return coerceMod(e, to, ctx == CastExplicit), nil
}

func relabel(e Expr, t types.Type) Expr {
	if r, ok := e.(*relabelNode); ok {
		e = r.a
		if e.Type() == t {
			return e
		}
	}
	if l, ok := e.(*litNode); ok {
		return &litNode{d: l.d, typ: t}
	}
	return &relabelNode{e, t}
}

// coerceMod applies to's modifier when e does not have it already.
func coerceMod(e Expr, to types.Type, explicit bool) Expr {
	if to.Mod < 0 || e.Type().Mod == to.Mod {
		return e
	}
	if l, ok := e.(*litNode); ok && l.d.IsNull() {
		return &litNode{d: l.d, typ: to}
	}
	name := "typmod"
	if explicit {
		name = "typmodx"
	}
	return &call1{call: call{name: name, typ: to}, a: e, fn: func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		return types.CoerceMod(a, to, explicit)
	}}
}

// coerceUnknown gives a literal or parameter of unknown type the type to.
func coerceUnknown(e Expr, to types.Type, explicit bool) (Expr, error) {
	if to.OID == tUnk || to.OID == 0 {
		return e, nil
	}
	if in := types.Lookup(to.OID); in == nil || in.Category == types.CatPseudo && to.OID != tVoid && to.OID != types.OIDCString && to.OID != tRec {
		to = types.T(tText)
	}
	switch n := e.(type) {
	case *constNode:
		c := *n
		c.typ = types.T(to.OID)
		if to.OID == tIval { // its fields decide what a bare number means
			c.typ = to
		}
		return coerceMod(&c, to, explicit), nil
	case *litNode:
		if n.d.IsNull() {
			return &litNode{d: n.d, typ: to}, nil
		}
	case *paramNode:
		t, err := n.env.Param(n.n, types.T(to.OID))
		if err != nil {
			return nil, err
		}
		if t.OID == 0 || t.OID == tUnk {
			t = types.T(to.OID)
		}
		p := &paramNode{n: n.n, typ: t}
		if t.OID == to.OID {
			return coerceMod(p, to, explicit), nil
		}
		return Cast(p, to, CastExplicit)
	}
	// A computed value of unknown type is text in disguise.
	ctx := CastImplicit
	if explicit {
		ctx = CastExplicit
	}
	return Cast(relabel(e, types.T(tText)), to, max(ctx, CastExplicit))
}

// CoerceForAssignment converts the value of a column's assignment, as INSERT and
// UPDATE do: 42804 when that would need a cast.
func CoerceForAssignment(e Expr, to types.Type, column string) (Expr, error) {
	from := e.Type().OID
	if from == to.OID && (to.Mod < 0 || e.Type().Mod == to.Mod) {
		return e, nil
	}
	if !coercible(from, to.OID, CastAssignment) {
		return nil, sqlstate.Newf(sqlstate.DatatypeMismatch, "column \"%s\" is of type %s but expression is of type %s",
			column, types.BaseName(to.OID), types.BaseName(from)).WithHint("You will need to rewrite or cast the expression.")
	}
	return Cast(e, to, CastAssignment)
}

// CommonType is the type that the branches of construct (CASE, UNION, VALUES …)
// agree on, by PostgreSQL's rules; unknown branches adapt, all unknown is text.
func CommonType(construct string, exprs []Expr) (types.Type, error) {
	best := types.Type{}
	mod, modSet := int32(-1), false
	for _, e := range exprs {
		t := e.Type()
		if t.OID == tUnk || t.OID == 0 {
			continue
		}
		if best.OID == 0 {
			best, mod, modSet = t, t.Mod, true
			continue
		}
		if t.OID == best.OID {
			if t.Mod != mod {
				mod = -1
			}
			continue
		}
		bc, bp := types.CategoryOf(best.OID)
		tc, _ := types.CategoryOf(t.OID)
		if bc != tc {
			return types.Type{}, sqlstate.Newf(sqlstate.DatatypeMismatch, "%s types %s and %s cannot be matched", construct, types.BaseName(best.OID), types.BaseName(t.OID))
		}
		mod = -1
		if !bp && coercible(best.OID, t.OID, CastImplicit) && !coercible(t.OID, best.OID, CastImplicit) {
			best = t
		}
	}
	if best.OID == 0 {
		return types.T(tText), nil
	}
	if !modSet {
		mod = -1
	}
	return types.Type{OID: best.OID, Mod: mod}, nil
}

// CoerceCommon converts a branch to the type that CommonType found.
func CoerceCommon(construct string, e Expr, t types.Type) (Expr, error) {
	if e.Type().OID != t.OID && !coercible(e.Type().OID, t.OID, CastImplicit) {
		return nil, sqlstate.Newf(sqlstate.CannotCoerce, "%s could not convert type %s to %s", construct, types.BaseName(e.Type().OID), types.BaseName(t.OID))
	}
	return Cast(e, types.T(t.OID), CastImplicit)
}
