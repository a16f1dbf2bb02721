package expr

import (
	"regexp"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// likeNode is [NOT] LIKE and ILIKE. escape nil is the backslash.
type likeNode struct {
	a, pattern, escape Expr
	fold, not          bool
}

func newLike(a, p, escape Expr, fold, not bool) Expr {
	return &likeNode{a: a, pattern: p, escape: escape, fold: fold, not: not}
}

type likeMemo struct {
	pattern, escape string
	valid           bool
	m               likePattern
}

func (n *likeNode) Type() types.Type { return boolType }
func (n *likeNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	a, err := n.a.Eval(ec, row)
	if err != nil || a.IsNull() {
		return types.Null, err
	}
	p, err := n.pattern.Eval(ec, row)
	if err != nil || p.IsNull() {
		return types.Null, err
	}
	esc := `\`
	if n.escape != nil {
		e, err := n.escape.Eval(ec, row)
		if err != nil || e.IsNull() {
			return types.Null, err
		}
		esc = e.Str()
	}
	memo := remember(ec, n, func() *likeMemo { return new(likeMemo) })
	if !memo.valid || memo.pattern != p.Str() || memo.escape != esc {
		m, err := compileLike(p.Str(), esc, n.fold)
		if err != nil {
			return types.Null, err
		}
		// The datum may alias a row's buffer: keep a copy of the pattern.
		*memo = likeMemo{strings.Clone(p.Str()), strings.Clone(esc), true, m}
	}
	s := a.Str()
	if n.fold {
		s = strings.ToLower(s)
	}
	return types.Bool(memo.m.match(s) != n.not), nil
}
func (n *likeNode) kids() []Expr {
	if n.escape != nil {
		return []Expr{n.a, n.pattern, n.escape}
	}
	return []Expr{n.a, n.pattern}
}
func (n *likeNode) with(k []Expr) Expr {
	c := *n
	c.a, c.pattern = k[0], k[1]
	if n.escape != nil {
		c.escape = k[2]
	}
	return &c
}
func (n *likeNode) head() string {
	h := "like"
	if n.fold {
		h = "ilike"
	}
	if n.not {
		h = "not " + h
	}
	return h
}
func (n *likeNode) volatility() Volatility { return Immutable }

// likePattern is a pattern cut at its % signs; a segment matches at one place,
// its runes compared one by one, any standing for _.
type likePattern struct {
	segs       []likeSeg
	head, tail bool // begins, ends with %
}

type likeSeg struct {
	lit string // set when the segment has no _: found by string search
	r   []rune
	any []bool
}

func compileLike(p, esc string, fold bool) (likePattern, error) {
	var e rune = -1
	if esc != "" {
		r, w := utf8.DecodeRuneInString(esc)
		if w != len(esc) {
			return likePattern{}, sqlstate.Newf("22019", "invalid escape string").WithHint("Escape string must be empty or one character.")
		}
		e = r
	}
	if fold {
		p = strings.ToLower(p)
		e = unicode.ToLower(e)
	}
	var lp likePattern
	cur := likeSeg{}
	flush := func() {
		if len(cur.r) == 0 {
			return
		}
		plain := true
		for _, a := range cur.any {
			plain = plain && !a
		}
		if plain {
			cur.lit = string(cur.r)
		}
		lp.segs = append(lp.segs, cur)
		cur = likeSeg{}
	}
	rs := []rune(p)
	for i := 0; i < len(rs); i++ {
		switch c := rs[i]; {
		case c == e:
			i++
			if i == len(rs) {
				return lp, sqlstate.Newf("22025", "LIKE pattern must not end with escape character")
			}
			cur.r, cur.any = append(cur.r, rs[i]), append(cur.any, false)
			lp.tail = false
		case c == '%':
			flush()
			if len(lp.segs) == 0 {
				lp.head = true
			}
			lp.tail = true
		case c == '_':
			cur.r, cur.any = append(cur.r, c), append(cur.any, true)
			lp.tail = false
		default:
			cur.r, cur.any = append(cur.r, c), append(cur.any, false)
			lp.tail = false
		}
	}
	flush()
	return lp, nil
}

// at matches the segment at the start of s and returns the bytes it took, -1: no.
func (g *likeSeg) at(s string) int {
	if g.lit != "" {
		if strings.HasPrefix(s, g.lit) {
			return len(g.lit)
		}
		return -1
	}
	i := 0
	for k, r := range g.r {
		if i >= len(s) {
			return -1
		}
		c, w := utf8.DecodeRuneInString(s[i:])
		if !g.any[k] && c != r {
			return -1
		}
		i += w
	}
	return i
}

func (g *likeSeg) find(s string) (start, n int) {
	if g.lit != "" {
		return strings.Index(s, g.lit), len(g.lit)
	}
	for i := 0; i < len(s); {
		if n := g.at(s[i:]); n >= 0 {
			return i, n
		}
		_, w := utf8.DecodeRuneInString(s[i:])
		i += w
	}
	return -1, 0
}

func (p *likePattern) match(s string) bool {
	segs := p.segs
	if len(segs) == 0 {
		return p.head || s == ""
	}
	if !p.head {
		n := segs[0].at(s)
		if n < 0 {
			return false
		}
		s, segs = s[n:], segs[1:]
		if len(segs) == 0 {
			return p.tail || s == ""
		}
	}
	last := len(segs) - 1
	for i := range segs {
		if i == last && !p.tail {
			// The last segment stands at the very end.
			g := &segs[i]
			if g.lit != "" {
				return strings.HasSuffix(s, g.lit)
			}
			k := len(s)
			for range g.r {
				if k == 0 {
					return false
				}
				_, w := utf8.DecodeLastRuneInString(s[:k])
				k -= w
			}
			return g.at(s[k:]) == len(s)-k
		}
		at, n := segs[i].find(s)
		if at < 0 {
			return false
		}
		s = s[at+n:]
	}
	return true
}

// LikePrefix returns the literal text that every match of the LIKE pattern begins
// with, and whether the pattern is that text alone.
func LikePrefix(pattern string) (prefix string, exact bool) {
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; c {
		case '%', '_':
			return b.String(), false
		case '\\':
			i++
			if i == len(pattern) {
				return b.String(), false
			}
			b.WriteByte(pattern[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), true
}

// regexNode is ~ and its relatives.
type regexNode struct {
	a, pattern Expr
	fold, not  bool
}

type regexMemo struct {
	pattern string
	re      *regexp.Regexp
}

func (n *regexNode) Type() types.Type { return boolType }
func (n *regexNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	a, err := n.a.Eval(ec, row)
	if err != nil || a.IsNull() {
		return types.Null, err
	}
	p, err := n.pattern.Eval(ec, row)
	if err != nil || p.IsNull() {
		return types.Null, err
	}
	memo := remember(ec, n, func() *regexMemo { return new(regexMemo) })
	if memo.re == nil || memo.pattern != p.Str() {
		flags := ""
		if n.fold {
			flags = "i"
		}
		re, err := compileRegex(p.Str(), flags)
		if err != nil {
			return types.Null, err
		}
		*memo = regexMemo{strings.Clone(p.Str()), re}
	}
	return types.Bool(memo.re.MatchString(a.Str()) != n.not), nil
}
func (n *regexNode) kids() []Expr           { return []Expr{n.a, n.pattern} }
func (n *regexNode) with(k []Expr) Expr     { return &regexNode{k[0], k[1], n.fold, n.not} }
func (n *regexNode) volatility() Volatility { return Immutable }
func (n *regexNode) head() string {
	h := "~"
	if n.fold {
		h = "~*"
	}
	if n.not {
		h = "!" + h
	}
	return h
}

// regexCache keeps compiled expressions across executions; mu guards it.
var regexCache = struct {
	mu sync.Mutex
	m  map[string]*regexp.Regexp
}{m: map[string]*regexp.Regexp{}}

const maxRegexCache = 512

func errRegex(what string) error {
	return sqlstate.Newf("2201B", "invalid regular expression: %s", what)
}

// compileRegex compiles a PostgreSQL advanced regular expression. flags are those
// of the regexp functions: i, c, n, m, s, x, g is the caller's.
func compileRegex(p, flags string) (*regexp.Regexp, error) {
	key := flags + "/" + p
	regexCache.mu.Lock()
	re := regexCache.m[key]
	regexCache.mu.Unlock()
	if re != nil {
		return re, nil
	}
	src, err := translateRegex(p, flags)
	if err != nil {
		return nil, err
	}
	re, cerr := regexp.Compile(src)
	if cerr != nil {
		msg := cerr.Error()
		switch {
		case strings.Contains(msg, "missing closing )"), strings.Contains(msg, "unexpected )"):
			return nil, errRegex("parentheses () not balanced")
		case strings.Contains(msg, "missing closing ]"):
			return nil, errRegex("brackets [] not balanced")
		case strings.Contains(msg, "repetition"):
			return nil, errRegex("quantifier operand invalid")
		case strings.Contains(msg, "character class range"):
			return nil, errRegex("invalid character range")
		}
		return nil, errRegex(strings.TrimPrefix(msg, "error parsing regexp: "))
	}
	// Leftmost-longest is POSIX's choice; non-greedy quantifiers opt out of it.
	if !strings.Contains(src, "?") || !hasLazy(src) {
		re.Longest()
	}
	regexCache.mu.Lock()
	if len(regexCache.m) >= maxRegexCache {
		clear(regexCache.m)
	}
	regexCache.m[strings.Clone(key)] = re
	regexCache.mu.Unlock()
	return re, nil
}

func hasLazy(src string) bool {
	for _, q := range []string{"*?", "+?", "??", "}?"} {
		if strings.Contains(src, q) {
			return true
		}
	}
	return false
}

// translateRegex turns an ARE into RE2's syntax, refusing what RE2 has not.
func translateRegex(p, flags string) (string, error) {
	fold, newline, lineAnch, expanded, literal := false, false, false, false, false
	set := func(fs string) error {
		for _, f := range fs {
			switch f {
			case 'i':
				fold = true
			case 'c':
				fold = false
			case 'n', 'm':
				newline, lineAnch = true, true
			case 'p':
				newline = true
			case 'w':
				lineAnch = true
			case 's':
				newline, lineAnch = false, false
			case 'x':
				expanded = true
			case 't':
				expanded = false
			case 'q':
				literal = true
			case 'g', 'e', 'b':
			default:
				return sqlstate.Newf(sqlstate.InvalidParameterValue, "invalid regular expression option: \"%c\"", f)
			}
		}
		return nil
	}
	if err := set(flags); err != nil {
		return "", err
	}
	if strings.HasPrefix(p, "***=") {
		literal, p = true, p[4:]
	} else {
		p = strings.TrimPrefix(p, "***:")
		if strings.HasPrefix(p, "(?") && len(p) > 2 && p[2] >= 'a' && p[2] <= 'z' {
			if end := strings.IndexByte(p, ')'); end > 0 {
				if err := set(p[2:end]); err != nil {
					return "", err
				}
				p = p[end+1:]
			}
		}
	}
	if literal {
		p = regexp.QuoteMeta(p)
		if fold {
			p = "(?i)" + p
		}
		return p, nil
	}
	var b strings.Builder
	b.WriteString("(?")
	if fold {
		b.WriteByte('i')
	}
	if !newline {
		b.WriteByte('s')
	}
	if lineAnch {
		b.WriteByte('m')
	}
	b.WriteByte(')')
	if b.Len() == 3 { // no flags at all
		b.Reset()
	}
	for i := 0; i < len(p); {
		c := p[i]
		switch {
		case c == '\\':
			if i+1 >= len(p) {
				return "", errRegex("invalid escape \\ sequence")
			}
			e := p[i+1]
			i += 2
			switch e {
			case 'm', 'M', '<', '>', 'y':
				b.WriteString(`\b`)
			case 'Y':
				b.WriteString(`\B`)
			case 'A':
				b.WriteString(`\A`)
			case 'Z':
				b.WriteString(`\z`)
			case 'd', 'D', 's', 'S', 'w', 'W', 'n', 't', 'r', 'f', 'v', 'a':
				b.WriteByte('\\')
				b.WriteByte(e)
			case 'e':
				b.WriteString(`\x1b`)
			case 'b':
				b.WriteString(`\x08`)
			case 'B':
				b.WriteString(`\\`)
			case 'u', 'U', 'x':
				n := map[byte]int{'u': 4, 'U': 8, 'x': 8}[e]
				j := i
				for j < len(p) && j-i < n && strings.IndexByte("0123456789abcdefABCDEF", p[j]) >= 0 {
					j++
				}
				if j == i || e != 'x' && j-i != n {
					return "", errRegex("invalid escape \\ sequence")
				}
				b.WriteString(`\x{` + p[i:j] + `}`)
				i = j
			default:
				if e >= '1' && e <= '9' {
					return "", sqlstate.Newf(sqlstate.FeatureNotSupported, "back references in regular expressions are not supported")
				}
				if e >= 'a' && e <= 'z' || e >= 'A' && e <= 'Z' {
					return "", errRegex("invalid escape \\ sequence")
				}
				b.WriteString(regexp.QuoteMeta(string(e)))
			}
		case c == '[':
			j, cls, err := translateBracket(p, i)
			if err != nil {
				return "", err
			}
			b.WriteString(cls)
			i = j
		case c == '(' && strings.HasPrefix(p[i:], "(?"):
			switch {
			case strings.HasPrefix(p[i:], "(?:"):
				b.WriteString("(?:")
				i += 3
			case strings.HasPrefix(p[i:], "(?#"):
				end := strings.IndexByte(p[i:], ')')
				if end < 0 {
					return "", errRegex("parentheses () not balanced")
				}
				i += end + 1
			case strings.HasPrefix(p[i:], "(?="), strings.HasPrefix(p[i:], "(?!"), strings.HasPrefix(p[i:], "(?<"):
				return "", sqlstate.Newf(sqlstate.FeatureNotSupported, "lookaround in regular expressions is not supported")
			default:
				return "", errRegex("quantifier operand invalid")
			}
		case c == '{':
			// A bound only when a digit follows; otherwise an ordinary character.
			if i+1 < len(p) && p[i+1] >= '0' && p[i+1] <= '9' {
				b.WriteByte(c)
			} else {
				b.WriteString(`\{`)
			}
			i++
		case c == '$' && !lineAnch:
			b.WriteString(`\z`)
			i++
		case expanded && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			i++
		case expanded && c == '#':
			for i < len(p) && p[i] != '\n' {
				i++
			}
		default:
			_, w := utf8.DecodeRuneInString(p[i:])
			b.WriteString(p[i : i+w])
			i += w
		}
	}
	return b.String(), nil
}

// translateBracket translates the bracket expression at p[i].
func translateBracket(p string, i int) (int, string, error) {
	var b strings.Builder
	b.WriteByte('[')
	j := i + 1
	if strings.HasPrefix(p[j:], "[:<:]]") || strings.HasPrefix(p[j:], "[:>:]]") {
		return j + 6, `\b`, nil
	}
	if j < len(p) && p[j] == '^' {
		b.WriteByte('^')
		j++
	}
	for first := true; ; first = false {
		if j >= len(p) {
			return 0, "", errRegex("brackets [] not balanced")
		}
		switch c := p[j]; {
		case c == ']' && !first:
			b.WriteByte(']')
			return j + 1, b.String(), nil
		case c == ']':
			b.WriteString(`\]`)
			j++
		case strings.HasPrefix(p[j:], "[:"):
			end := strings.Index(p[j:], ":]")
			if end < 0 {
				return 0, "", errRegex("invalid character class")
			}
			b.WriteString(p[j : j+end+2])
			j += end + 2
		case strings.HasPrefix(p[j:], "[.") || strings.HasPrefix(p[j:], "[="):
			close := p[j+1:j+2] + "]"
			end := strings.Index(p[j+2:], close)
			if end != 1 {
				return 0, "", errRegex("invalid collating element")
			}
			b.WriteString(regexp.QuoteMeta(p[j+2 : j+3]))
			j += 5
		case c == '[':
			b.WriteString(`\[`)
			j++
		case c == '\\' && j+1 < len(p):
			e := p[j+1]
			if strings.IndexByte("dswnrtfv", e) >= 0 || strings.IndexByte("DSW", e) >= 0 {
				b.WriteByte('\\')
				b.WriteByte(e)
			} else {
				b.WriteString(`\` + string(rune(e)))
			}
			j += 2
		default:
			_, w := utf8.DecodeRuneInString(p[j:])
			b.WriteString(p[j : j+w])
			j += w
		}
	}
}

// similarToRegex turns a SIMILAR TO pattern into a regular expression.
func similarToRegex(p string, esc rune) (string, error) {
	var b strings.Builder
	b.WriteString("^(?:")
	inClass := false
	rs := []rune(p)
	for i := 0; i < len(rs); i++ {
		c := rs[i]
		switch {
		case c == esc:
			i++
			if i == len(rs) {
				break
			}
			b.WriteString(regexp.QuoteMeta(string(rs[i])))
		case inClass:
			if c == '\\' {
				b.WriteByte('\\')
			}
			b.WriteRune(c)
			if c == ']' {
				inClass = false
			}
		case c == '[':
			b.WriteRune(c)
			inClass = true
		case c == '%':
			b.WriteString(".*")
		case c == '_':
			b.WriteByte('.')
		case c == '(':
			b.WriteString("(?:")
		case c == '\\' || c == '.' || c == '^' || c == '$':
			b.WriteByte('\\')
			b.WriteRune(c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteString(")$")
	return b.String(), nil
}
