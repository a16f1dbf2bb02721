package expr

import (
	"strconv"
	"strings"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

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
