package expr

import (
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"regexp"
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

func initEncode() {
	defFunc("encode", tText, func(_ *EvalContext, a, f D) (D, error) {
		switch strings.ToLower(f.Str()) {
		case "hex":
			return types.Text(hex.EncodeToString([]byte(a.Str()))), nil
		case "base64":
			e := base64.StdEncoding.EncodeToString([]byte(a.Str()))
			var b strings.Builder
			for len(e) > 76 { // as MIME breaks lines
				b.WriteString(e[:76] + "\n")
				e = e[76:]
			}
			return types.Text(b.String() + e), nil
		case "escape":
			var b strings.Builder
			for i := 0; i < len(a.Str()); i++ {
				switch c := a.Str()[i]; {
				case c == 0 || c >= 0x80:
					b.WriteString("\\" + strconv.FormatInt(int64(c)|1<<9, 8)[1:])
				case c == '\\':
					b.WriteString(`\\`)
				default:
					b.WriteByte(c)
				}
			}
			return types.Text(b.String()), nil
		}
		return types.Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "unrecognized encoding: \"%s\"", f.Str())
	}, tBytea, tText)
	defFunc("decode", tBytea, func(_ *EvalContext, a, f D) (D, error) {
		switch strings.ToLower(f.Str()) {
		case "hex":
			return types.ParseText(`\x`+a.Str(), types.T(tBytea), nil)
		case "base64":
			s := strings.NewReplacer("\n", "", "\r", "", " ", "", "\t", "").Replace(a.Str())
			b, err := base64.StdEncoding.DecodeString(s)
			if err != nil {
				return types.Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "invalid base64 end sequence")
			}
			return types.Bytes(string(b)), nil
		case "escape":
			if strings.HasPrefix(a.Str(), `\x`) {
				return types.Null, sqlstate.Newf(sqlstate.InvalidTextRepresentation, "invalid input syntax for type bytea")
			}
			return types.ParseText(a.Str(), types.T(tBytea), nil)
		}
		return types.Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "unrecognized encoding: \"%s\"", f.Str())
	}, tText, tText)
	defFunc("convert_from", tText, func(_ *EvalContext, a, e D) (D, error) {
		if !utf8Name(e.Str()) {
			return types.Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "invalid source encoding name \"%s\"", e.Str())
		}
		return types.Text(a.Str()), types.CheckUTF8(a.Str())
	}, tBytea, tName)
	defFunc("convert_to", tBytea, func(_ *EvalContext, a, e D) (D, error) {
		if !utf8Name(e.Str()) {
			return types.Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "invalid destination encoding name \"%s\"", e.Str())
		}
		return types.Bytes(a.Str()), nil
	}, tText, tName)
}

func utf8Name(s string) bool {
	s = strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(s))
	return s == "utf8" || s == "unicode"
}

func initRegexFuncs() {
	replace := func(s, p, r, flags string) (D, error) {
		re, err := compileRegex(p, strings.ReplaceAll(flags, "g", ""))
		if err != nil {
			return types.Null, err
		}
		global := strings.Contains(flags, "g")
		var b strings.Builder
		last := 0
		for _, m := range re.FindAllStringSubmatchIndex(s, -1) {
			b.WriteString(s[last:m[0]])
			expandReplacement(&b, r, s, m)
			last = m[1]
			if !global {
				break
			}
		}
		if b.Len() > maxResult {
			return types.Null, errTooLong()
		}
		b.WriteString(s[last:])
		return types.Text(b.String()), nil
	}
	defFunc("regexp_replace", tText, func(_ *EvalContext, a, b, c D) (D, error) { return replace(a.Str(), b.Str(), c.Str(), "") }, tText, tText, tText)
	defFunc("regexp_replace", tText, fnN(func(_ *EvalContext, v []D) (D, error) {
		for _, f := range v[3].Str() {
			if f >= '0' && f <= '9' {
				return types.Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "invalid regular expression option: \"%c\"", f).
					WithHint("If you meant to use regexp_replace() with a start parameter, cast the fourth argument to integer explicitly.")
			}
		}
		return replace(v[0].Str(), v[1].Str(), v[2].Str(), v[3].Str())
	}), tText, tText, tText, tText)
	match := func(s, p, flags string) (D, error) {
		if strings.Contains(flags, "g") {
			return types.Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "regexp_match() does not support the \"global\" option").
				WithHint("Use the regexp_matches function instead.")
		}
		re, err := compileRegex(p, flags)
		if err != nil {
			return types.Null, err
		}
		return regexMatchArray(re, s, re.FindStringSubmatchIndex(s)), nil
	}
	defFunc("regexp_match", types.OIDTextArray, func(_ *EvalContext, a, b D) (D, error) { return match(a.Str(), b.Str(), "") }, tText, tText)
	defFunc("regexp_match", types.OIDTextArray, func(_ *EvalContext, a, b, c D) (D, error) { return match(a.Str(), b.Str(), c.Str()) }, tText, tText, tText)
	defFunc("regexp_like", tBool, func(_ *EvalContext, a, b D) (D, error) {
		re, err := compileRegex(b.Str(), "")
		if err != nil {
			return types.Null, err
		}
		return types.Bool(re.MatchString(a.Str())), nil
	}, tText, tText)
	defFunc("regexp_count", tInt4, func(_ *EvalContext, a, b D) (D, error) {
		re, err := compileRegex(b.Str(), "")
		if err != nil {
			return types.Null, err
		}
		return types.Int(int64(len(re.FindAllStringIndex(a.Str(), -1)))), nil
	}, tText, tText)
	defFunc("regexp_split_to_array", types.OIDTextArray, func(_ *EvalContext, a, b D) (D, error) {
		re, err := compileRegex(b.Str(), "")
		if err != nil {
			return types.Null, err
		}
		var ab types.ArrayBuilder
		for _, p := range re.Split(a.Str(), -1) {
			ab.Append(types.Text(p))
		}
		return ab.Array(), nil
	}, tText, tText)
}

func regexMatchArray(re *regexp.Regexp, s string, m []int) D {
	if m == nil {
		return types.Null
	}
	var ab types.ArrayBuilder
	first := 2
	if len(m) == 2 {
		first = 0
	}
	for i := first; i < len(m); i += 2 {
		if m[i] < 0 {
			ab.Append(types.Null)
		} else {
			ab.Append(types.Text(s[m[i]:m[i+1]]))
		}
	}
	return ab.Array()
}

// expandReplacement writes regexp_replace's replacement: \1 … \9, \& and \\.
func expandReplacement(b *strings.Builder, r, s string, m []int) {
	for i := 0; i < len(r); i++ {
		if r[i] != '\\' || i+1 == len(r) {
			b.WriteByte(r[i])
			continue
		}
		i++
		switch c := r[i]; {
		case c >= '1' && c <= '9':
			if k := 2 * int(c-'0'); k+1 < len(m) && m[k] >= 0 {
				b.WriteString(s[m[k]:m[k+1]])
			}
		case c == '&':
			b.WriteString(s[m[0]:m[1]])
		case c == '\\':
			b.WriteByte('\\')
		default:
			b.WriteByte('\\')
			b.WriteByte(c)
		}
	}
}

func initConcat() {
	built["concat"] = func(_ *binder, args []Expr) (Expr, error) {
		ks, err := textOuts(args)
		if err != nil {
			return nil, err
		}
		return &callN{call: call{name: "concat", typ: types.T(tText), lax: true}, args: ks, fn: func(_ *EvalContext, v []D) (D, error) {
			var b strings.Builder
			for _, d := range v {
				b.WriteString(d.Str())
			}
			return types.Text(b.String()), nil
		}}, nil
	}
	built["concat_ws"] = func(_ *binder, args []Expr) (Expr, error) {
		if len(args) < 2 {
			return nil, errNoFunction("concat_ws", typesOf(args), false)
		}
		ks, err := textOuts(args)
		if err != nil {
			return nil, err
		}
		return &callN{call: call{name: "concat_ws", typ: types.T(tText), lax: true}, args: ks, fn: func(_ *EvalContext, v []D) (D, error) {
			if v[0].IsNull() {
				return types.Null, nil
			}
			var b strings.Builder
			first := true
			for _, d := range v[1:] {
				if d.IsNull() {
					continue
				}
				if !first {
					b.WriteString(v[0].Str())
				}
				first = false
				b.WriteString(d.Str())
			}
			return types.Text(b.String()), nil
		}}, nil
	}
	built["format"] = func(_ *binder, args []Expr) (Expr, error) {
		if len(args) == 0 {
			return nil, errNoFunction("format", nil, false)
		}
		ks, err := textOuts(args)
		if err != nil {
			return nil, err
		}
		return &callN{call: call{name: "format", typ: types.T(tText), lax: true}, args: ks, fn: formatFn}, nil
	}
}

// formatFn is format(): %s, %I, %L with positions, widths and the - flag.
func formatFn(_ *EvalContext, v []D) (D, error) {
	if v[0].IsNull() {
		return types.Null, nil
	}
	f := v[0].Str()
	var b strings.Builder
	next := 1
	few := func() (D, error) {
		return types.Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "too few arguments for format()")
	}
	unterminated := func() (D, error) {
		return types.Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "unterminated format() type specifier").
			WithHint("For a single \"%%%%\" use \"%%%%%%%%\".")
	}
	for i := 0; i < len(f); i++ {
		if f[i] != '%' {
			b.WriteByte(f[i])
			continue
		}
		if i++; i == len(f) {
			return unterminated()
		}
		if f[i] == '%' {
			b.WriteByte('%')
			continue
		}
		number := func() (int, bool) {
			n, ok := 0, false
			for i < len(f) && f[i] >= '0' && f[i] <= '9' {
				n, ok = min(n*10+int(f[i]-'0'), 1<<20), true
				i++
			}
			return n, ok
		}
		arg, width, left := 0, 0, false
		if n, ok := number(); ok {
			if i < len(f) && f[i] == '$' {
				if n == 0 {
					return types.Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "format specifies argument 0, but arguments are numbered from 1")
				}
				arg = n
				i++
			} else {
				width = n
			}
		}
		if width == 0 {
			for i < len(f) && f[i] == '-' {
				left = true
				i++
			}
			if i < len(f) && f[i] == '*' {
				i++
				w := next
				if n, ok := number(); ok {
					if i < len(f) && f[i] == '$' {
						i++
					}
					w = n
				} else {
					next++
				}
				if w >= len(v) {
					return few()
				}
				if !v[w].IsNull() {
					k, err := strconv.Atoi(v[w].Str())
					if err != nil || k > 1<<20 || k < -1<<20 {
						return types.Null, sqlstate.Newf(sqlstate.NumericValueOutOfRange, "number is out of range")
					}
					if width = k; k < 0 {
						width, left = -k, true
					}
				}
			} else if n, ok := number(); ok {
				width = n
			}
		}
		if i == len(f) {
			return unterminated()
		}
		if strings.IndexByte("sIL", f[i]) < 0 {
			return types.Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "unrecognized format() type specifier \"%c\"", f[i]).
				WithHint("For a single \"%%%%\" use \"%%%%%%%%\".")
		}
		if arg == 0 {
			arg = next
		}
		next = arg + 1
		if arg >= len(v) {
			return few()
		}
		d := v[arg]
		s := d.Str()
		switch f[i] {
		case 'I':
			if d.IsNull() {
				return types.Null, sqlstate.Newf(sqlstate.NullValueNotAllowed, "null values cannot be formatted as an SQL identifier")
			}
			s = quoteIdent(s)
		case 'L':
			if s = "NULL"; !d.IsNull() {
				s = quoteLiteral(d.Str())
			}
		}
		if w := runeLen(s); w < width {
			if left {
				s += strings.Repeat(" ", width-w)
			} else {
				s = strings.Repeat(" ", width-w) + s
			}
		}
		b.WriteString(s)
	}
	return types.Text(b.String()), nil
}
