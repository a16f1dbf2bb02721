package expr

import (
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// D keeps the tables readable.
type D = types.Datum

const maxResult = 1 << 28 // bytes that one string function may produce

func errTooLong() error {
	return sqlstate.Newf(sqlstate.ProgramLimitExceeded, "requested length too large")
}

func text1(f func(s string) string) fn1 {
	return func(_ *EvalContext, a D) (D, error) { return types.Text(f(a.Str())), nil }
}

func runeLen(s string) int { return utf8.RuneCountInString(s) }

// substr is PostgreSQL's substring: positions from 1, a window that may begin before the text.
func substr(s string, start, n int64, all bool) (string, error) {
	if !all && n < 0 {
		return "", sqlstate.Newf("22011", "negative substring length not allowed")
	}
	end := int64(1 << 62)
	if !all {
		if end = start + n; end < start {
			end = 1 << 62
		}
	}
	start = max(start, 1)
	if end <= start {
		return "", nil
	}
	i, pos := 0, int64(1)
	for pos < start && i < len(s) {
		_, w := utf8.DecodeRuneInString(s[i:])
		i += w
		pos++
	}
	from := i
	for pos < end && i < len(s) {
		_, w := utf8.DecodeRuneInString(s[i:])
		i += w
		pos++
	}
	return s[from:i], nil
}

// firstRunes returns the byte length of the first n characters.
func firstRunes(s string, n int) int {
	i := 0
	for ; n > 0 && i < len(s); n-- {
		_, w := utf8.DecodeRuneInString(s[i:])
		i += w
	}
	return i
}

func quoteIdent(s string) string {
	safe := s != "" && (s[0] == '_' || s[0] >= 'a' && s[0] <= 'z')
	for i := 0; safe && i < len(s); i++ {
		c := s[i]
		safe = c == '_' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
	}
	if safe && !reservedWords[s] {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}

var reservedWords = func() map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(`all analyse analyze and any array as asc asymmetric authorization between bigint binary bit boolean both case cast char
		character check coalesce collate collation column concurrently constraint create cross current_catalog current_date current_role current_schema
		current_time current_timestamp current_user dec decimal default deferrable desc distinct do else end except exists extract false fetch float for foreign
		freeze from full grant greatest group grouping having ilike in initially inner inout int integer intersect interval into is isnull join lateral leading
		least left like limit localtime localtimestamp national natural nchar none normalize not notnull null nullif numeric offset on only or order out outer overlaps
		overlay placing position precision primary real references returning right row select session_user setof similar smallint some substring symmetric table
		tablesample then time timestamp to trailing treat trim true union unique user using values varchar variadic verbose when where window with xmlattributes
		xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable`) {
		m[w] = true
	}
	return m
}()

func quoteLiteral(s string) string {
	e := ""
	if strings.IndexByte(s, '\\') >= 0 {
		e = "E"
		s = strings.ReplaceAll(s, `\`, `\\`)
	}
	return e + "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

func pad(s string, n int64, fill string, left bool) (string, error) {
	if n > maxResult {
		return "", errTooLong()
	}
	k := int(max(n, 0))
	have := runeLen(s)
	if have >= k {
		return s[:firstRunes(s, k)], nil
	}
	if fill == "" {
		return s, nil
	}
	fr := []rune(fill)
	var b strings.Builder
	if !left {
		b.WriteString(s)
	}
	for i := 0; i < k-have; i++ {
		b.WriteRune(fr[i%len(fr)])
	}
	if left {
		b.WriteString(s)
	}
	return b.String(), nil
}

// textOut is an argument as its type's output function prints it, for functions
// that take anything (concat, format).
func textOut(e Expr) (Expr, error) {
	t := e.Type()
	switch t.OID {
	case tUnk, 0:
		return coerceUnknown(e, types.T(tText), false)
	case tText, tVar, tName, tBP:
		return e, nil
	}
	return &call1{call: call{name: "textout", typ: types.T(tText), vol: ioVolatility(t.OID)}, a: e, fn: func(ec *EvalContext, a D) (D, error) {
		return types.Text(types.String(a, t, ec.format())), nil
	}}, nil
}

func textOuts(args []Expr) ([]Expr, error) {
	out := make([]Expr, len(args))
	for i, a := range args {
		x, err := textOut(a)
		if err != nil {
			return nil, err
		}
		out[i] = x
	}
	return out, nil
}

func lowerText(s string) string { return strings.ToLower(s) }

func init() {
	for _, n := range []string{"length", "char_length", "character_length"} {
		defFunc(n, tInt4, func(_ *EvalContext, a D) (D, error) { return types.Int(int64(runeLen(a.Str()))), nil }, tText)
	}
	for _, n := range []string{"length", "char_length", "character_length"} {
		defFunc(n, tInt4, func(_ *EvalContext, a D) (D, error) {
			return types.Int(int64(runeLen(strings.TrimRight(a.Str(), " ")))), nil
		}, tBP)
	}
	byteLen := func(_ *EvalContext, a D) (D, error) { return types.Int(int64(len(a.Str()))), nil }
	defFunc("length", tInt4, byteLen, tBytea)
	for _, t := range []types.OID{tText, tBP, tBytea} {
		defFunc("octet_length", tInt4, byteLen, t)
		defFunc("bit_length", tInt4, func(_ *EvalContext, a D) (D, error) { return types.Int(int64(len(a.Str())) * 8), nil }, t)
	}
	defFunc("lower", tText, text1(lowerText), tText)
	defFunc("upper", tText, text1(strings.ToUpper), tText)
	defFunc("initcap", tText, text1(func(s string) string {
		in := false
		return strings.Map(func(r rune) rune {
			word := unicode.IsLetter(r) || unicode.IsDigit(r)
			if word && !in {
				r = unicode.ToUpper(r)
			} else if word {
				r = unicode.ToLower(r)
			}
			in = word
			return r
		}, s)
	}), tText)
	sub := func(_ *EvalContext, a, b D) (D, error) {
		s, err := substr(a.Str(), b.Int(), 0, true)
		return types.Text(s), err
	}
	subn := func(_ *EvalContext, a, b, c D) (D, error) {
		s, err := substr(a.Str(), b.Int(), c.Int(), false)
		return types.Text(s), err
	}
	bsub := func(s string, start, n int64, all bool) (D, error) {
		if !all && n < 0 {
			return types.Null, sqlstate.Newf("22011", "negative substring length not allowed")
		}
		end := int64(len(s)) + 1
		if !all && start+n < end {
			end = start + n
		}
		start = max(start, 1)
		if start >= end {
			return types.Bytes(""), nil
		}
		return types.Bytes(s[start-1 : end-1]), nil
	}
	for _, n := range []string{"substr", "substring"} {
		defFunc(n, tText, sub, tText, tInt4)
		defFunc(n, tText, subn, tText, tInt4, tInt4)
		defFunc(n, tBytea, func(_ *EvalContext, a, b D) (D, error) { return bsub(a.Str(), b.Int(), 0, true) }, tBytea, tInt4)
		defFunc(n, tBytea, func(_ *EvalContext, a, b, c D) (D, error) { return bsub(a.Str(), b.Int(), c.Int(), false) }, tBytea, tInt4, tInt4)
	}
	defFunc("substring", tText, func(_ *EvalContext, a, p D) (D, error) {
		re, err := compileRegex(p.Str(), "")
		if err != nil {
			return types.Null, err
		}
		m := re.FindStringSubmatch(a.Str())
		switch {
		case m == nil:
			return types.Null, nil
		case len(m) > 1:
			return types.Text(m[1]), nil
		}
		return types.Text(m[0]), nil
	}, tText, tText)
	defFunc("left", tText, func(_ *EvalContext, a, n D) (D, error) {
		k := clampInt(n.Int())
		if k < 0 {
			k = max(runeLen(a.Str())+k, 0)
		}
		return types.Text(a.Str()[:firstRunes(a.Str(), k)]), nil
	}, tText, tInt4)
	defFunc("right", tText, func(_ *EvalContext, a, n D) (D, error) {
		k := clampInt(n.Int())
		l := runeLen(a.Str())
		if k < 0 {
			k = max(l+k, 0)
		}
		return types.Text(a.Str()[firstRunes(a.Str(), max(l-k, 0)):]), nil
	}, tText, tInt4)
	for _, x := range []struct {
		names []string
		f     func(s, cut string) string
	}{
		{[]string{"btrim", "trim"}, strings.Trim}, {[]string{"ltrim"}, strings.TrimLeft}, {[]string{"rtrim"}, strings.TrimRight},
	} {
		f := x.f
		for _, n := range x.names {
			defFunc(n, tText, text1(func(s string) string { return f(s, " ") }), tText)
			defFunc(n, tText, func(_ *EvalContext, a, b D) (D, error) {
				if b.Str() == "" { // Trim of nothing
					return a, nil
				}
				return types.Text(f(a.Str(), b.Str())), nil
			}, tText, tText)
		}
	}
	for _, left := range []bool{true, false} {
		left, n := left, "rpad"
		if left {
			n = "lpad"
		}
		defFunc(n, tText, func(_ *EvalContext, a, k D) (D, error) {
			s, err := pad(a.Str(), k.Int(), " ", left)
			return types.Text(s), err
		}, tText, tInt4)
		defFunc(n, tText, func(_ *EvalContext, a, k, f D) (D, error) {
			s, err := pad(a.Str(), k.Int(), f.Str(), left)
			return types.Text(s), err
		}, tText, tInt4, tText)
	}
	defFunc("replace", tText, func(_ *EvalContext, a, b, c D) (D, error) {
		if b.Str() == "" {
			return a, nil
		}
		if strings.Count(a.Str(), b.Str())*len(c.Str()) > maxResult {
			return types.Null, errTooLong()
		}
		return types.Text(strings.ReplaceAll(a.Str(), b.Str(), c.Str())), nil
	}, tText, tText, tText)
	pos := func(_ *EvalContext, a, b D) (D, error) {
		i := strings.Index(a.Str(), b.Str())
		if i < 0 {
			return types.Int(0), nil
		}
		return types.Int(int64(runeLen(a.Str()[:i]) + 1)), nil
	}
	defFunc("position", tInt4, pos, tText, tText)
	defFunc("strpos", tInt4, pos, tText, tText)
	defFunc("repeat", tText, func(_ *EvalContext, a, n D) (D, error) {
		k := max(n.Int(), 0)
		if k > 0 && int64(len(a.Str())) > maxResult/k {
			return types.Null, errTooLong()
		}
		return types.Text(strings.Repeat(a.Str(), int(k))), nil
	}, tText, tInt4)
	defFunc("reverse", tText, text1(func(s string) string {
		r := []rune(s)
		for i, j := 0, len(r)-1; i < j; i, j = i+1, j-1 {
			r[i], r[j] = r[j], r[i]
		}
		return string(r)
	}), tText)
	defFunc("split_part", tText, func(_ *EvalContext, a, d, n D) (D, error) {
		k := clampInt(n.Int())
		if k == 0 {
			return types.Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "field position must not be zero")
		}
		parts := []string{a.Str()}
		if d.Str() != "" {
			parts = strings.Split(a.Str(), d.Str())
		}
		if a.Str() == "" {
			return types.Text(""), nil
		}
		if k < 0 {
			k = len(parts) + k + 1
		}
		if k < 1 || k > len(parts) {
			return types.Text(""), nil
		}
		return types.Text(parts[k-1]), nil
	}, tText, tText, tInt4)
	for _, t := range []types.OID{tText, tBytea} {
		defFunc("md5", tText, func(_ *EvalContext, a D) (D, error) {
			h := md5.Sum([]byte(a.Str()))
			return types.Text(hex.EncodeToString(h[:])), nil
		}, t)
	}
	defFunc("sha256", tBytea, func(_ *EvalContext, a D) (D, error) {
		h := sha256.Sum256([]byte(a.Str()))
		return types.Bytes(string(h[:])), nil
	}, tBytea)
	defFunc("sha512", tBytea, func(_ *EvalContext, a D) (D, error) {
		h := sha512.Sum512([]byte(a.Str()))
		return types.Bytes(string(h[:])), nil
	}, tBytea)
	defFunc("quote_ident", tText, text1(quoteIdent), tText)
	defFunc("quote_literal", tText, text1(quoteLiteral), tText)
	built["quote_literal"] = func(_ *binder, args []Expr) (Expr, error) { return quoteCall("quote_literal", args, false) }
	built["quote_nullable"] = func(_ *binder, args []Expr) (Expr, error) { return quoteCall("quote_nullable", args, true) }
	defFunc("ascii", tInt4, func(_ *EvalContext, a D) (D, error) {
		if a.Str() == "" {
			return types.Int(0), nil
		}
		r, _ := utf8.DecodeRuneInString(a.Str())
		return types.Int(int64(r)), nil
	}, tText)
	defFunc("chr", tText, func(_ *EvalContext, a D) (D, error) {
		switch v := a.Int(); {
		case v == 0:
			return types.Null, sqlstate.Newf(sqlstate.ProgramLimitExceeded, "null character not permitted")
		case v < 0:
			return types.Null, sqlstate.Newf(sqlstate.ProgramLimitExceeded, "character number must be positive")
		case v > 0x10ffff || !utf8.ValidRune(rune(v)):
			return types.Null, sqlstate.Newf(sqlstate.ProgramLimitExceeded, "requested character too large for encoding: %d", v)
		}
		return types.Text(string(rune(a.Int()))), nil
	}, tInt4)
	defFunc("to_hex", tText, func(_ *EvalContext, a D) (D, error) {
		return types.Text(strconv.FormatUint(uint64(uint32(a.Int())), 16)), nil
	}, tInt4)
	defFunc("to_hex", tText, func(_ *EvalContext, a D) (D, error) { return types.Text(strconv.FormatUint(uint64(a.Int()), 16)), nil }, tInt8)
	defFunc("starts_with", tBool, func(_ *EvalContext, a, b D) (D, error) {
		return types.Bool(strings.HasPrefix(a.Str(), b.Str())), nil
	}, tText, tText)
	defFunc("translate", tText, func(_ *EvalContext, a, from, to D) (D, error) {
		f, t := []rune(from.Str()), []rune(to.Str())
		m := make(map[rune]rune, len(f))
		for i, r := range f {
			if _, dup := m[r]; dup {
				continue
			}
			if i < len(t) {
				m[r] = t[i]
			} else {
				m[r] = -1
			}
		}
		return types.Text(strings.Map(func(r rune) rune {
			if x, ok := m[r]; ok {
				return x
			}
			return r
		}, a.Str())), nil
	}, tText, tText, tText)
	defFunc("overlay", tText, overlay, tText, tText, tInt4)
	defFunc("overlay", tText, overlay, tText, tText, tInt4, tInt4)
	funcs["overlay"][0].fn = fn3(func(ec *EvalContext, a, b, c D) (D, error) { return overlay(ec, []D{a, b, c}) })
	initEncode()
	initRegexFuncs()
	initConcat()
}

func quoteCall(name string, args []Expr, nullable bool) (Expr, error) {
	if len(args) != 1 {
		return nil, errNoFunction(name, typesOf(args), false)
	}
	a, err := textOut(args[0])
	if err != nil {
		return nil, err
	}
	return &call1{call: call{name: name, typ: types.T(tText), lax: nullable}, a: a, fn: func(_ *EvalContext, a D) (D, error) {
		if a.IsNull() {
			return types.Text("NULL"), nil
		}
		return types.Text(quoteLiteral(a.Str())), nil
	}}, nil
}

var overlay fnN = func(_ *EvalContext, v []D) (D, error) {
	s, r, start := v[0].Str(), v[1].Str(), v[2].Int()
	n := int64(runeLen(r))
	if len(v) == 4 {
		n = v[3].Int()
	}
	if start <= 0 {
		return types.Null, sqlstate.Newf("22011", "negative substring length not allowed")
	}
	head, err := substr(s, 1, start-1, false)
	if err != nil {
		return types.Null, err
	}
	tail, _ := substr(s, start+n, 0, true)
	return types.Text(head + r + tail), nil
}
