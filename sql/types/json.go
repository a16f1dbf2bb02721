package types

import (
	"sort"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spandb/spand/sql/sqlstate"
)

// JSONKind says what a JSON value is.
type JSONKind uint8

const (
	JSONNull JSONKind = iota
	JSONString
	JSONNumber
	JSONBool
	JSONArray
	JSONObject
)

// JSONValue is a parsed JSON value.
type JSONValue struct {
	Kind  JSONKind
	Str   string // strings unescaped; numbers in numeric's canonical spelling
	Bool  bool
	Elems []JSONValue // arrays
	Keys  []string    // objects: in jsonb's order, values in Elems
	Raw   string      // the source text, when parsed by ParseJSONText
}

const maxJSONDepth = 6400

type jsonParser struct {
	s     string
	i     int
	depth int
	build bool // make values, canonicalise numbers and refuse \u0000
	raw   bool // keep the text of every value, and objects' members as they come
}

func (p *jsonParser) err(detail string, args ...any) error {
	return sqlstate.Newf(sqlstate.InvalidTextRepresentation, "invalid input syntax for type json").WithDetail(detail, args...)
}

// unexpected is the error at the current token.
func (p *jsonParser) unexpected(want string) error {
	p.space()
	if p.i >= len(p.s) {
		return p.err("The input string ended unexpectedly.")
	}
	end := p.i
	for end < len(p.s) && (p.s[end] == '_' || p.s[end] >= 0x80 || p.s[end] >= '0' && p.s[end] <= '9' || p.s[end]|0x20 >= 'a' && p.s[end]|0x20 <= 'z') {
		end++
	}
	if end == p.i {
		_, w := utf8.DecodeRuneInString(p.s[p.i:])
		end += w
	}
	tok := p.s[p.i:end]
	switch tok[0] {
	case '{', '}', '[', ']', ',', ':', '"':
		if want == "" {
			return p.err("Expected JSON value, but found \"%s\".", tok)
		}
		return p.err("Expected %s, but found \"%s\".", want, tok)
	}
	return p.err("Token \"%s\" is invalid.", tok)
}

func (p *jsonParser) space() {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

func (p *jsonParser) value() (v JSONValue, err error) {
	p.space()
	if p.raw {
		start := p.i
		defer func() { v.Raw = p.s[start:p.i] }()
	}
	if p.i >= len(p.s) {
		return v, p.unexpected("")
	}
	switch c := p.s[p.i]; {
	case c == '{':
		return p.object()
	case c == '[':
		return p.array()
	case c == '"':
		s, err := p.str()
		return JSONValue{Kind: JSONString, Str: s}, err
	case c == '-' || c >= '0' && c <= '9':
		return p.number()
	}
	for _, w := range []struct {
		word string
		v    JSONValue
	}{{"true", JSONValue{Kind: JSONBool, Bool: true}}, {"false", JSONValue{Kind: JSONBool}}, {"null", JSONValue{}}} {
		if strings.HasPrefix(p.s[p.i:], w.word) {
			if e := p.i + len(w.word); e == len(p.s) || !isWordByte(p.s[e]) {
				p.i = e
				return w.v, nil
			}
		}
	}
	return v, p.unexpected("")
}

func isWordByte(c byte) bool {
	return c == '_' || c >= 0x80 || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z'
}

func (p *jsonParser) enter() error {
	if p.depth++; p.depth > maxJSONDepth {
		return sqlstate.Newf(sqlstate.StatementTooComplex, "stack depth limit exceeded")
	}
	return nil
}

func (p *jsonParser) array() (v JSONValue, err error) {
	if err := p.enter(); err != nil {
		return v, err
	}
	v.Kind = JSONArray
	p.i++
	if p.space(); p.i < len(p.s) && p.s[p.i] == ']' {
		p.i++
		p.depth--
		return v, nil
	}
	for {
		e, err := p.value()
		if err != nil {
			return v, err
		}
		if p.build {
			v.Elems = append(v.Elems, e)
		}
		p.space()
		if p.i < len(p.s) && p.s[p.i] == ',' {
			p.i++
			continue
		}
		if p.i < len(p.s) && p.s[p.i] == ']' {
			p.i++
			p.depth--
			return v, nil
		}
		return v, p.unexpected("\",\" or \"]\"")
	}
}

func (p *jsonParser) object() (v JSONValue, err error) {
	if err := p.enter(); err != nil {
		return v, err
	}
	v.Kind = JSONObject
	p.i++
	if p.space(); p.i < len(p.s) && p.s[p.i] == '}' {
		p.i++
		p.depth--
		return v, nil
	}
	for {
		p.space()
		if p.i >= len(p.s) || p.s[p.i] != '"' {
			return v, p.unexpected("string")
		}
		k, err := p.str()
		if err != nil {
			return v, err
		}
		p.space()
		if p.i >= len(p.s) || p.s[p.i] != ':' {
			return v, p.unexpected("\":\"")
		}
		p.i++
		e, err := p.value()
		if err != nil {
			return v, err
		}
		if p.build {
			v.Keys = append(v.Keys, k)
			v.Elems = append(v.Elems, e)
		}
		p.space()
		if p.i < len(p.s) && p.s[p.i] == ',' {
			p.i++
			continue
		}
		if p.i < len(p.s) && p.s[p.i] == '}' {
			p.i++
			p.depth--
			if p.build && !p.raw {
				v.SortKeys()
			}
			return v, nil
		}
		return v, p.unexpected("\",\" or \"}\"")
	}
}

// SortKeys puts an object in jsonb's order: keys by length, then bytes; of equal
// keys the last wins.
func (v *JSONValue) SortKeys() {
	idx := make([]int, len(v.Keys))
	for i := range idx {
		idx[i] = i
	}
	sort.SliceStable(idx, func(a, b int) bool { return jsonKeyLess(v.Keys[idx[a]], v.Keys[idx[b]]) })
	keys, elems := make([]string, 0, len(idx)), make([]JSONValue, 0, len(idx))
	for _, i := range idx {
		if n := len(keys); n > 0 && keys[n-1] == v.Keys[i] {
			elems[n-1] = v.Elems[i]
			continue
		}
		keys, elems = append(keys, v.Keys[i]), append(elems, v.Elems[i])
	}
	v.Keys, v.Elems = keys, elems
}

func jsonKeyLess(a, b string) bool {
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a < b
}

func (p *jsonParser) number() (v JSONValue, err error) {
	start := p.i
	digits := func() int {
		n := 0
		for p.i < len(p.s) && p.s[p.i] >= '0' && p.s[p.i] <= '9' {
			p.i++
			n++
		}
		return n
	}
	if p.s[p.i] == '-' {
		p.i++
	}
	ok := true
	if p.i < len(p.s) && p.s[p.i] == '0' {
		p.i++
	} else {
		ok = digits() > 0
	}
	if ok && p.i < len(p.s) && p.s[p.i] == '.' {
		p.i++
		ok = digits() > 0
	}
	if ok && p.i < len(p.s) && p.s[p.i]|0x20 == 'e' {
		p.i++
		if p.i < len(p.s) && (p.s[p.i] == '+' || p.s[p.i] == '-') {
			p.i++
		}
		ok = digits() > 0
	}
	if !ok || p.i < len(p.s) && isWordByte(p.s[p.i]) {
		for p.i < len(p.s) && (isWordByte(p.s[p.i]) || p.s[p.i] == '.' || p.s[p.i] == '+' || p.s[p.i] == '-') {
			p.i++
		}
		return v, p.err("Token \"%s\" is invalid.", p.s[start:p.i])
	}
	v.Kind = JSONNumber
	if p.build {
		d, err := ParseNumeric(p.s[start:p.i])
		if err != nil {
			return v, err
		}
		v.Str = d.s
	}
	return v, nil
}

func (p *jsonParser) str() (string, error) {
	start := p.i
	p.i++
	plain := p.i
	for p.i < len(p.s) && p.s[p.i] >= 0x20 && p.s[p.i] != '"' && p.s[p.i] != '\\' {
		p.i++
	}
	if p.i < len(p.s) && p.s[p.i] == '"' {
		p.i++
		return p.s[plain : p.i-1], nil
	}
	out := []byte(p.s[plain:p.i])
	for {
		if p.i >= len(p.s) {
			return "", p.err("Token \"%s\" is invalid.", p.s[start:])
		}
		c := p.s[p.i]
		switch {
		case c == '"':
			p.i++
			return string(out), nil
		case c < 0x20:
			return "", p.err("Character with value 0x%02x must be escaped.", c)
		case c != '\\':
			out = append(out, c)
			p.i++
			continue
		}
		p.i++
		if p.i >= len(p.s) {
			return "", p.err("Token \"%s\" is invalid.", p.s[start:])
		}
		c = p.s[p.i]
		p.i++
		switch c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, err := p.hex4()
			if err != nil {
				return "", err
			}
			if utf16.IsSurrogate(r) {
				if r >= 0xdc00 {
					return "", p.err("Unicode low surrogate must follow a high surrogate.")
				}
				if !strings.HasPrefix(p.s[p.i:], `\u`) {
					return "", p.err("Unicode low surrogate must follow a high surrogate.")
				}
				p.i += 2
				lo, err := p.hex4()
				if err != nil {
					return "", err
				}
				if r = utf16.DecodeRune(r, lo); r == utf8.RuneError {
					return "", p.err("Unicode low surrogate must follow a high surrogate.")
				}
			}
			if r == 0 && p.build {
				return "", sqlstate.Newf("22P05", "unsupported Unicode escape sequence").WithDetail("\\u0000 cannot be converted to text.")
			}
			out = utf8.AppendRune(out, r)
		default:
			return "", p.err("Escape sequence \"\\%c\" is invalid.", c)
		}
	}
}

func (p *jsonParser) hex4() (rune, error) {
	var r rune
	for n := 0; n < 4; n++ {
		if p.i >= len(p.s) || unhex(p.s[p.i]) > 15 {
			return 0, p.err("\"\\u\" must be followed by four hexadecimal digits.")
		}
		r = r<<4 | rune(unhex(p.s[p.i]))
		p.i++
	}
	return r, nil
}

// ParseJSONText parses a value of the type json, which keeps its text: values know
// theirs, members keep their order and duplicates.
func ParseJSONText(s string) (JSONValue, error) {
	p := jsonParser{s: s, build: true, raw: true}
	v, err := p.value()
	if err != nil {
		return v, err
	}
	if p.space(); p.i != len(s) {
		return v, p.unexpected("end of input")
	}
	return v, nil
}

// ParseJSON parses a JSON text into values, canonicalised as jsonb's are.
func ParseJSON(s string) (JSONValue, error) {
	p := jsonParser{s: s, build: true}
	v, err := p.value()
	if err != nil {
		return v, err
	}
	if p.space(); p.i != len(s) {
		return v, p.unexpected("end of input")
	}
	return v, nil
}

// ValidateJSON checks a text for the type json, which keeps it as it is.
func ValidateJSON(s string) error {
	p := jsonParser{s: s}
	if _, err := p.value(); err != nil {
		return err
	}
	if p.space(); p.i != len(s) {
		return p.unexpected("end of input")
	}
	return nil
}

// ParseJSONB makes a jsonb datum: canonical text.
func ParseJSONB(s string) (Datum, error) {
	v, err := ParseJSON(s)
	if err != nil {
		return Null, err
	}
	return v.Datum(), nil
}

// Datum makes a jsonb datum of v.
func (v JSONValue) Datum() Datum { return Bytes(string(v.Append(nil))) }

// Append appends v's text as jsonb prints it.
func (v JSONValue) Append(dst []byte) []byte {
	switch v.Kind {
	case JSONNull:
		return append(dst, "null"...)
	case JSONBool:
		if v.Bool {
			return append(dst, "true"...)
		}
		return append(dst, "false"...)
	case JSONNumber:
		return append(dst, v.Str...)
	case JSONString:
		return AppendJSONString(dst, v.Str)
	case JSONArray:
		dst = append(dst, '[')
		for i, e := range v.Elems {
			if i > 0 {
				dst = append(dst, ',', ' ')
			}
			dst = e.Append(dst)
		}
		return append(dst, ']')
	}
	dst = append(dst, '{')
	for i, e := range v.Elems {
		if i > 0 {
			dst = append(dst, ',', ' ')
		}
		dst = AppendJSONString(dst, v.Keys[i])
		dst = append(dst, ':', ' ')
		dst = e.Append(dst)
	}
	return append(dst, '}')
}

// AppendJSONString appends s as a JSON string.
func AppendJSONString(dst []byte, s string) []byte {
	const hexdigits = "0123456789abcdef"
	dst = append(dst, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			if c < 0x20 {
				dst = append(dst, '\\', 'u', '0', '0', hexdigits[c>>4], hexdigits[c&15])
			} else {
				dst = append(dst, c)
			}
		}
	}
	return append(dst, '"')
}

// rank orders kinds as jsonb does: Object > Array > Boolean > Number > String > Null.
func (k JSONKind) rank() int { return int(k) }

// CompareJSON orders jsonb values as PostgreSQL's btree operators do.
func CompareJSON(a, b JSONValue) int {
	if a.Kind != b.Kind {
		// An empty top-level array sorts below everything; PostgreSQL keeps this oddity.
		if a.Kind == JSONArray && len(a.Elems) == 0 {
			return -1
		}
		if b.Kind == JSONArray && len(b.Elems) == 0 {
			return 1
		}
		return a.Kind.rank() - b.Kind.rank()
	}
	switch a.Kind {
	case JSONString:
		return strings.Compare(a.Str, b.Str)
	case JSONNumber:
		return cmpDec(parseDec(a.Str), parseDec(b.Str))
	case JSONBool:
		switch {
		case a.Bool == b.Bool:
			return 0
		case b.Bool:
			return -1
		}
		return 1
	case JSONArray, JSONObject:
		if len(a.Elems) != len(b.Elems) {
			return len(a.Elems) - len(b.Elems)
		}
		for i := range a.Elems {
			if a.Kind == JSONObject && a.Keys[i] != b.Keys[i] {
				if jsonKeyLess(a.Keys[i], b.Keys[i]) {
					return -1
				}
				return 1
			}
			if c := CompareJSON(a.Elems[i], b.Elems[i]); c != 0 {
				return c
			}
		}
	}
	return 0
}
