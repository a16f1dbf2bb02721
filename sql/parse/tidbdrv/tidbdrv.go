// Package tidbdrv makes the TiDB parser usable: it supplies the value driver
// that the grammar needs and a pool of parsers in the SQL mode that respell
// writes for (ANSI quotes, no backslash escapes).
//
// It is the only place that registers a driver (ast.NewValueExpr and its kin
// are package variables of the parser), and registers it once, at init. Values
// are kept as the lexer hands them over: statements that come from respell
// carry their constants in slots, so the only values seen here are slot numbers
// and flags, and no value is ever computed with.
package tidbdrv

import (
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/pingcap/tidb/pkg/parser"
	"github.com/pingcap/tidb/pkg/parser/ast"
	"github.com/pingcap/tidb/pkg/parser/format"
	"github.com/pingcap/tidb/pkg/parser/mysql"
)

// Value is a literal or a parameter marker of the grammar.
type Value struct {
	ast.TexprNode
	val    any
	offset int
	order  int
}

func init() {
	ast.NewValueExpr = func(v any, _, _ string) ast.ValueExpr {
		if ve, ok := v.(*Value); ok {
			return ve
		}
		return &Value{val: v, offset: -1}
	}
	ast.NewParamMarkerExpr = func(int) ast.ParamMarkerExpr { return &Value{offset: -1} }
	keep := func(s string) (any, error) { return s, nil }
	ast.NewDecimal, ast.NewHexLiteral, ast.NewBitLiteral = keep, keep, keep
}

// SetValue, GetValue and the rest implement ast.ValueExpr.
func (v *Value) SetValue(val any) { v.val = val }
func (v *Value) GetValue() any    { return v.val }
func (v *Value) GetString() string {
	s, _ := v.val.(string)
	return s
}
func (v *Value) GetDatumString() string               { return v.GetString() }
func (v *Value) GetProjectionOffset() int             { return v.offset }
func (v *Value) SetProjectionOffset(n int)            { v.offset = n }
func (v *Value) SetOrder(n int)                       { v.order = n }
func (v *Value) Restore(ctx *format.RestoreCtx) error { ctx.WritePlainf("%v", v.val); return nil }
func (v *Value) Format(w io.Writer)                   { fmt.Fprintf(w, "%v", v.val) }
func (v *Value) Accept(vis ast.Visitor) (ast.Node, bool) {
	n, skip := vis.Enter(v)
	if skip {
		return vis.Leave(n)
	}
	return vis.Leave(n)
}

const mode = mysql.ModeANSIQuotes | mysql.ModePipesAsConcat | mysql.ModeNoBackslashEscapes | mysql.ModeIgnoreSpace

var pool = sync.Pool{New: func() any {
	p := parser.New()
	p.SetParserConfig(parser.ParserConfig{EnableWindowFunction: true, EnableStrictDoubleTypeCheck: true})
	p.SetSQLMode(mode)
	return p
}}

// SyntaxError is what the grammar refused and where.
type SyntaxError struct {
	// Offset is the byte offset in the text of the token the grammar stopped
	// at; -1 if the parser did not tell.
	Offset int
	Err    error
}

func (e *SyntaxError) Error() string { return e.Err.Error() }
func (e *SyntaxError) Unwrap() error { return e.Err }

// maxPooled is the longest text after which a parser goes back to the pool;
// its stacks and caches grow with the statement.
const maxPooled = 1 << 16

// Parse reads one or several statements and hands them to use. The nodes are
// use's only until it returns: a parser keeps pointers to what it built and its
// next run writes positions through them, so it must not run before they are
// read. The error is a *SyntaxError if the grammar refused the text.
func Parse(text string, use func([]ast.StmtNode)) error {
	p := pool.Get().(*parser.Parser)
	stmts, _, err := p.ParseSQL(text)
	if err != nil {
		err = &SyntaxError{Offset: errOffset(text, err), Err: err}
	} else {
		use(stmts)
	}
	// A panic in use drops the parser, which is as well.
	if len(text) <= maxPooled {
		pool.Put(p)
	}
	return err
}

// errOffset finds the place in 'line L column C near "rest"'; the text has one line.
func errOffset(text string, err error) int {
	msg := err.Error()
	i := strings.Index(msg, "near \"")
	if i < 0 {
		return -1
	}
	rest := msg[i+len("near \""):]
	if j := strings.LastIndexByte(rest, '"'); j >= 0 {
		rest = rest[:j]
	}
	rest = strings.TrimSpace(rest)
	if rest == "" {
		return len(text)
	}
	if len(rest) > 40 {
		rest = rest[:40]
	}
	return strings.LastIndex(text, rest)
}
