package utility

import (
	"strconv"
	"strings"

	"github.com/spandb/spand/sql/parse/lift"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
	"github.com/spandb/spand/sql/sqlstate"
)

// copy reads COPY in its new and its old spelling.
func (p *parser) copy() Build {
	p.Expect("copy")
	s := &pgast.Copy{}
	query, where := 0, 0
	isDML := false
	if p.IsPunct("(") {
		p.Next()
		if p.Is("create") || p.Is("alter") || p.Is("split") {
			p.Unexpected()
		}
		f, ok := p.Statement()
		if !ok {
			p.Unexpected()
		}
		p.root, p.has = f, true
		query, isDML = 1, true
		p.ExpectPunct(")")
		p.Expect("to")
	} else {
		if p.Accept("binary") {
			s.Options = append(s.Options, pgast.Option{Name: "format", Value: "binary"})
		}
		s.Table = p.AnyName()
		if p.IsPunct("(") {
			s.Columns = p.ColumnList()
		}
		if p.Accept("from") {
			s.From = true
		} else {
			p.Expect("to")
		}
	}
	at := p.Pos()
	switch {
	case p.Accept("program"):
		s.Program = true
		s.File = p.Str()
	case p.Accept("stdin"), p.Accept("stdout"):
	default:
		s.File = p.Str()
		if s.File == "" {
			p.FailAt(sqlstate.SyntaxError, at, "file name must not be empty")
		}
	}
	if p.Is("using") || p.Is("delimiters") {
		p.Accept("using")
		p.Expect("delimiters")
		s.Options = append(s.Options, pgast.Option{Name: "delimiter", Value: p.Str()})
	}
	p.Accept("with")
	if p.IsPunct("(") {
		s.Options = append(s.Options, p.optionList(p.ColLabel)...)
	} else {
		s.Options = append(s.Options, p.oldCopyOptions()...)
	}
	if p.Is("where") {
		at := p.Pos()
		p.Next()
		if !s.From {
			p.FailAt(sqlstate.SyntaxError, at, "WHERE clause not allowed with COPY TO")
		}
		where = p.AddExpr()
	}
	return func(l *lift.Lifter) pgast.Stmt {
		if query > 0 && isDML {
			s.Query = l.Root()
		}
		if where > 0 {
			s.Where = l.Exprs(where)[0]
		}
		return s
	}
}

// genericOptions reads ( name [value], … ) as COPY and EXPLAIN have it.
func (p *parser) genericOptions() []pgast.Option { return p.optionList(p.NonReservedOrAnalyze) }

func (p *parser) optionList(name func() string) []pgast.Option {
	p.ExpectPunct("(")
	var out []pgast.Option
	for {
		o := pgast.Option{Name: name()}
		switch t := p.Tok(); {
		case p.IsPunct(","), p.IsPunct(")"):
		case p.AcceptOp("*"):
			o.Value = "*"
		case p.IsPunct("("):
			p.Next()
			var vs []string
			for {
				vs = append(vs, p.varValue())
				if !p.AcceptPunct(",") {
					break
				}
			}
			p.ExpectPunct(")")
			o.Value = strings.Join(vs, ",")
		case t.Kind == pglex.Ident && t.Text == "default":
			p.Next()
			o.Value = "default"
		default:
			o.Value = p.varValue()
		}
		out = append(out, o)
		if !p.AcceptPunct(",") {
			break
		}
	}
	p.ExpectPunct(")")
	return out
}

// NonReservedOrAnalyze reads an option's name; ANALYZE is reserved but is one.
func (p *parser) NonReservedOrAnalyze() string {
	if w := p.AcceptAny("analyze", "analyse"); w != "" {
		return w
	}
	return p.NonReserved()
}

func (p *parser) oldCopyOptions() []pgast.Option {
	var out []pgast.Option
	add := func(n, v string) { out = append(out, pgast.Option{Name: n, Value: v}) }
	str := func() string {
		p.Accept("as")
		return p.Str()
	}
	cols := func() string {
		if p.AcceptOp("*") {
			return "*"
		}
		return strings.Join(p.NameList(), ",")
	}
	for {
		switch {
		case p.Accept("binary"):
			add("format", "binary")
		case p.Accept("csv"):
			add("format", "csv")
		case p.Accept("freeze"):
			add("freeze", "true")
		case p.Accept("header"):
			add("header", "true")
		case p.Accept("delimiter"):
			add("delimiter", str())
		case p.Accept("null"):
			add("null", str())
		case p.Accept("quote"):
			add("quote", str())
		case p.Accept("escape"):
			add("escape", str())
		case p.AcceptSeq("force", "quote"):
			add("force_quote", cols())
		case p.AcceptSeq("force", "not", "null"):
			add("force_not_null", cols())
		case p.AcceptSeq("force", "null"):
			add("force_null", cols())
		case p.Accept("encoding"):
			add("encoding", p.Str())
		default:
			return out
		}
	}
}

func (p *parser) maintenance() pgast.Stmt {
	s := &pgast.Maintenance{Kind: p.Tok().Text}
	p.Next()
	flag := func(names ...string) {
		for _, n := range names {
			if p.Accept(n) {
				s.Options = append(s.Options, pgast.Option{Name: n, Value: "true"})
			}
		}
	}
	switch s.Kind {
	case "checkpoint":
		return s
	case "vacuum":
		if p.IsPunct("(") {
			s.Options = p.genericOptions()
		} else {
			flag("full", "freeze", "verbose", "analyze", "analyse")
		}
	case "analyze", "analyse":
		s.Kind = "analyze"
		if p.IsPunct("(") {
			s.Options = p.genericOptions()
		} else {
			flag("verbose")
		}
	case "reindex":
		if p.IsPunct("(") {
			s.Options = p.genericOptions()
		}
		what := p.AcceptAny("index", "table", "schema", "database", "system")
		if what == "" {
			p.Unexpected()
		}
		s.Options = append(s.Options, pgast.Option{Name: "kind", Value: what})
		flag("concurrently")
		if what == "schema" || what == "database" || what == "system" {
			s.Tables = []pgast.Name{{p.ColID()}}
		} else {
			s.Tables = []pgast.Name{p.AnyName()}
		}
		return s
	case "cluster":
		if p.IsPunct("(") {
			s.Options = p.genericOptions()
		} else {
			flag("verbose")
		}
		if !p.AtEnd() {
			if n := p.Peek(1); n.Kind == pglex.Ident && n.Text == "on" && len(s.Options) == 0 {
				s.Options = append(s.Options, pgast.Option{Name: "using", Value: p.ColID()})
				p.Next()
				s.Tables = []pgast.Name{p.AnyName()}
				return s
			}
			s.Tables = []pgast.Name{p.AnyName()}
			if p.Accept("using") {
				s.Options = append(s.Options, pgast.Option{Name: "using", Value: p.ColID()})
			}
		}
		return s
	}
	for !p.AtEnd() {
		s.Tables = append(s.Tables, p.AnyName())
		if p.IsPunct("(") {
			p.ColumnList()
		}
		if !p.AcceptPunct(",") {
			break
		}
		if p.AtEnd() {
			p.Unexpected()
		}
	}
	return s
}

func (p *parser) prepare() Build {
	p.Expect("prepare")
	if p.Accept("transaction") {
		p.Str()
		return is(p.otherStmt("PREPARE TRANSACTION"))
	}
	s := &pgast.Prepare{Name: p.ColID()}
	if p.AcceptPunct("(") {
		for {
			s.Types = append(s.Types, p.TypeName())
			if !p.AcceptPunct(",") {
				break
			}
		}
		p.ExpectPunct(")")
	}
	p.Expect("as")
	if !(p.Is("select") || p.Is("insert") || p.Is("update") || p.Is("delete") || p.Is("values") || p.Is("with") ||
		p.Is("table") || p.IsPunct("(")) {
		p.Unexpected()
	}
	from := p.Index()
	at := p.Pos()
	for !p.AtEnd() {
		p.Next()
	}
	// The statement inside keeps its own constants, so these are all shape.
	p.PinAll(from, p.Index())
	st, err := p.inner(p.Source()[at:])
	if err != nil {
		p.failInner(err, at)
	}
	s.Stmt = st
	return is(s)
}

// failInner raises an error of an inner text at its place in the outer one.
func (p *parser) failInner(err error, at int) {
	e, ok := err.(*sqlstate.Error)
	if !ok {
		e = sqlstate.Newf(sqlstate.InternalError, "%v", err)
	}
	c := *e
	if c.Position > 0 {
		c.Position += len([]rune(p.Source()[:at]))
	}
	p.Fail(&c)
}

func (p *parser) execute() Build {
	p.Expect("execute")
	s := &pgast.Execute{Name: p.ColID()}
	part := 0
	if p.AcceptPunct("(") {
		part = p.AddExprs()
		p.ExpectPunct(")")
	}
	return func(l *lift.Lifter) pgast.Stmt {
		if part > 0 {
			s.Args = l.Exprs(part)
		}
		return s
	}
}

func (p *parser) declare() Build {
	p.Expect("declare")
	s := &pgast.Declare{Name: p.ColID()}
	for {
		yes, no := true, false
		switch {
		case p.AcceptSeq("no", "scroll"):
			s.Scroll = &no
			continue
		case p.Accept("scroll"):
			s.Scroll = &yes
			continue
		case p.Accept("binary"):
			s.Binary = true
			continue
		case p.Accept("insensitive"):
			s.Insensitive = true
			continue
		case p.Accept("asensitive"):
			continue
		}
		break
	}
	p.Expect("cursor")
	if p.AcceptSeq("with", "hold") {
		s.Hold = true
	} else {
		p.AcceptSeq("without", "hold")
	}
	p.Expect("for")
	part := p.AddQuery()
	return func(l *lift.Lifter) pgast.Stmt {
		s.Query = l.Query(part)
		return s
	}
}

func (p *parser) fetch() pgast.Stmt {
	s := &pgast.Fetch{Move: p.Is("move"), Direction: "forward", Count: 1}
	p.Next()
	num := func() int64 {
		at := p.Pos()
		n, err := strconv.ParseInt(p.SignedInt(), 10, 32)
		if err != nil {
			p.FailAt(sqlstate.NumericValueOutOfRange, at, "row count is out of range")
		}
		return n
	}
	number := func() bool { return p.Tok().Kind == pglex.Int || p.IsOp("-") || p.IsOp("+") }
	switch {
	case p.Peek(1).Kind == pglex.EOF:
		// A cursor can be called like a direction.
	case p.Accept("next"):
	case p.Accept("prior"):
		s.Direction = "backward"
	case p.Accept("first"):
		s.Direction = "absolute"
	case p.Accept("last"):
		s.Direction, s.Count = "absolute", -1
	case p.Accept("absolute"):
		s.Direction = "absolute"
		s.Count = num()
	case p.Accept("relative"):
		s.Direction = "relative"
		s.Count = num()
	case p.Accept("all"):
		s.All = true
	case p.Is("forward"), p.Is("backward"):
		s.Direction = p.Tok().Text
		p.Next()
		if p.Accept("all") {
			s.All = true
		} else if number() {
			s.Count = num()
		}
	case number():
		s.Count = num()
	}
	p.AcceptAny("from", "in")
	s.Cursor = p.ColID()
	return s
}

func (p *parser) listen() pgast.Stmt {
	s := &pgast.Listen{Kind: p.Tok().Text}
	p.Next()
	if s.Kind == "unlisten" && p.AcceptOp("*") {
		s.Channel = "*"
		return s
	}
	s.Channel = p.ColID()
	if s.Kind == "notify" && p.AcceptPunct(",") {
		s.Payload = p.Str()
	}
	return s
}

func (p *parser) lock() pgast.Stmt {
	p.Expect("lock")
	p.Accept("table")
	s := &pgast.Lock{Mode: "access exclusive"}
	s.Names = p.relations()
	if p.Accept("in") {
		switch {
		case p.AcceptSeq("access", "share"):
			s.Mode = "access share"
		case p.AcceptSeq("access", "exclusive"):
			s.Mode = "access exclusive"
		case p.AcceptSeq("row", "share"):
			s.Mode = "row share"
		case p.AcceptSeq("row", "exclusive"):
			s.Mode = "row exclusive"
		case p.AcceptSeq("share", "update", "exclusive"):
			s.Mode = "share update exclusive"
		case p.AcceptSeq("share", "row", "exclusive"):
			s.Mode = "share row exclusive"
		case p.Accept("share"):
			s.Mode = "share"
		case p.Accept("exclusive"):
			s.Mode = "exclusive"
		default:
			p.Unexpected()
		}
		p.Expect("mode")
	}
	s.NoWait = p.Accept("nowait")
	return s
}

func (p *parser) explain() Build {
	p.Expect("explain")
	s := &pgast.Explain{}
	if p.IsPunct("(") && !queryAfterParen(p) {
		s.Options = p.genericOptions()
		for _, o := range s.Options {
			on := o.Value == "" || o.Value == "true" || o.Value == "on" || o.Value == "1"
			switch o.Name {
			case "analyze", "analyse":
				s.Analyze = on
			case "verbose":
				s.Verbose = on
			}
		}
	} else {
		if p.AcceptAny("analyze", "analyse") != "" {
			s.Analyze = true
		}
		s.Verbose = p.Accept("verbose")
	}
	var inner Build
	switch {
	case p.Is("execute"):
		inner = p.execute()
	case p.Is("declare"):
		inner = p.declare()
	case p.Is("create") || p.Is("refresh"):
		f, ok := p.Statement()
		if !ok {
			inner = p.statement()
			break
		}
		if !p.CreatesAs() {
			p.Unexpected()
		}
		p.root, p.has = f, true
	default:
		if p.Is("alter") || p.Is("split") {
			p.Unexpected()
		}
		f, ok := p.Statement()
		if !ok {
			p.Unexpected()
		}
		p.root, p.has = f, true
	}
	return func(l *lift.Lifter) pgast.Stmt {
		if inner != nil {
			s.Stmt = inner(l)
		} else {
			s.Stmt = l.Root()
		}
		return s
	}
}

// queryAfterParen tells EXPLAIN (SELECT …) from EXPLAIN (options).
func queryAfterParen(p *parser) bool {
	i := 0
	for ; p.Peek(i).Kind == pglex.Punct && p.Peek(i).Text == "("; i++ {
	}
	t := p.Peek(i)
	return t.Kind == pglex.Ident && (t.Text == "select" || t.Text == "values" || t.Text == "with" || t.Text == "table")
}
