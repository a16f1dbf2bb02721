package expr

import (
	"encoding/base64"
	"encoding/hex"
	"regexp"
	"strconv"
	"strings"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

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
