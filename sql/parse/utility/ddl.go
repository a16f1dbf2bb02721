package utility

import (
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
)

func (p *parser) truncate() pgast.Stmt {
	p.Expect("truncate")
	p.Accept("table")
	s := &pgast.Truncate{}
	s.Names = p.relations()
	if p.Is("restart") || p.Is("continue") {
		s.RestartIdentity = p.Is("restart")
		p.Next()
		p.Expect("identity")
	}
	s.Cascade = p.Cascade()
	return s
}

// relations reads [ONLY] name [*], …
func (p *parser) relations() []pgast.Name {
	var out []pgast.Name
	for {
		only := p.Accept("only")
		paren := only && p.AcceptPunct("(")
		out = append(out, p.AnyName())
		if paren {
			p.ExpectPunct(")")
		}
		if !only {
			p.AcceptOp("*")
		}
		if !p.AcceptPunct(",") {
			return out
		}
	}
}

// dropKinds maps the words behind DROP to a kind whose names are plain lists.
var dropKinds = []struct {
	kind  string
	words []string
	one   bool // unqualified names
}{
	{"materialized view", []string{"materialized", "view"}, false},
	{"foreign table", []string{"foreign", "table"}, false},
	{"foreign data wrapper", []string{"foreign", "data", "wrapper"}, true},
	{"text search parser", []string{"text", "search", "parser"}, false},
	{"text search dictionary", []string{"text", "search", "dictionary"}, false},
	{"text search template", []string{"text", "search", "template"}, false},
	{"text search configuration", []string{"text", "search", "configuration"}, false},
	{"access method", []string{"access", "method"}, true},
	{"event trigger", []string{"event", "trigger"}, true},
	{"table", []string{"table"}, false},
	{"view", []string{"view"}, false},
	{"index", []string{"index"}, false},
	{"sequence", []string{"sequence"}, false},
	{"schema", []string{"schema"}, true},
	{"type", []string{"type"}, false},
	{"domain", []string{"domain"}, false},
	{"collation", []string{"collation"}, false},
	{"conversion", []string{"conversion"}, false},
	{"statistics", []string{"statistics"}, false},
	{"extension", []string{"extension"}, true},
	{"publication", []string{"publication"}, true},
	{"server", []string{"server"}, true},
	{"language", []string{"language"}, true},
	{"tablespace", []string{"tablespace"}, true},
	{"database", []string{"database"}, true},
	{"role", []string{"role"}, true},
	{"user", []string{"user"}, true},
	{"group", []string{"group"}, true},
	{"subscription", []string{"subscription"}, true},
}

func (p *parser) drop() pgast.Stmt {
	p.Expect("drop")
	p.AcceptSeq("procedural")
	for _, k := range dropKinds {
		if !p.AcceptSeq(k.words...) {
			continue
		}
		if k.kind == "user" && p.AcceptSeq("mapping") {
			p.IfExists()
			p.Expect("for")
			p.NonReservedOrRole()
			p.Expect("server")
			p.ColID()
			return p.otherStmt("DROP USER MAPPING")
		}
		if k.kind == "index" {
			p.Accept("concurrently")
		}
		s := &pgast.DropTable{Kind: k.kind, IfExists: p.IfExists()}
		for {
			if k.one {
				s.Names = append(s.Names, pgast.Name{p.ColID()})
			} else {
				s.Names = append(s.Names, p.AnyName())
			}
			if !p.AcceptPunct(",") {
				break
			}
		}
		if k.kind == "database" {
			if p.AcceptSeq("with") || p.IsPunct("(") {
				p.ExpectPunct("(")
				p.Expect("force")
				p.ExpectPunct(")")
			}
			return s
		}
		s.Cascade = p.Cascade()
		return s
	}
	switch {
	case p.Is("function"), p.Is("procedure"), p.Is("routine"), p.Is("aggregate"):
		kind := upper(p.Tok().Text)
		p.Next()
		p.IfExists()
		for {
			p.funcSignature(kind == "AGGREGATE")
			if !p.AcceptPunct(",") {
				break
			}
		}
		p.Cascade()
		return p.otherStmt("DROP " + kind)
	case p.Is("trigger"), p.Is("rule"), p.Is("policy"):
		kind := upper(p.Tok().Text)
		p.Next()
		p.IfExists()
		p.ColID()
		p.Expect("on")
		p.AnyName()
		p.Cascade()
		return p.otherStmt("DROP " + kind)
	case p.AcceptSeq("owned", "by"):
		p.roleList()
		p.Cascade()
		return p.otherStmt("DROP OWNED")
	case p.Accept("cast"):
		p.IfExists()
		p.ExpectPunct("(")
		p.TypeName()
		p.Expect("as")
		p.TypeName()
		p.ExpectPunct(")")
		p.Cascade()
		return p.otherStmt("DROP CAST")
	case p.IsSeq("operator"):
		p.Unsupported("DROP OPERATOR is")
	}
	p.Unexpected()
	return nil
}

func (p *parser) roleList() {
	for {
		p.NonReservedOrRole()
		if !p.AcceptPunct(",") {
			return
		}
	}
}

// funcSignature reads name [(argument types)].
func (p *parser) funcSignature(agg bool) {
	p.AnyName()
	if !p.AcceptPunct("(") {
		return
	}
	if agg && p.AcceptOp("*") {
		p.ExpectPunct(")")
		return
	}
	if p.AcceptPunct(")") {
		return
	}
	for {
		p.funcArg(false)
		if !p.AcceptPunct(",") {
			break
		}
	}
	p.ExpectPunct(")")
}

// funcArg reads [mode] [name] type [DEFAULT expr].
func (p *parser) funcArg(withDefault bool) {
	mode := true
	if !p.Accept("in") {
		mode = p.AcceptAny("out", "inout", "variadic") != ""
	} else {
		p.Accept("out")
	}
	if n := p.Peek(1); (n.Kind == pglex.Ident || n.Kind == pglex.QuotedIdent) && !p.typeWords() {
		p.TypeFuncName()
		if !mode {
			p.AcceptAny("in", "out", "inout", "variadic")
		}
	}
	p.funcType()
	if withDefault && (p.AcceptOp("=") || p.Accept("default")) {
		from := p.Index()
		p.AddExpr()
		p.PinAll(from, p.Index())
	}
}

// funcType reads a type, or table.column%TYPE.
func (p *parser) funcType() {
	p.TypeName()
	if p.IsOp("%") {
		p.Next()
		p.Expect("type")
	}
}

// typeWords reports a type of several words, which is not a name and a type.
func (p *parser) typeWords() bool {
	for _, w := range [][]string{
		{"double", "precision"}, {"character", "varying"}, {"char", "varying"}, {"bit", "varying"}, {"national", "character"},
		{"national", "char"}, {"time", "with"}, {"time", "without"}, {"timestamp", "with"}, {"timestamp", "without"},
		{"nchar", "varying"}, {"setof"},
	} {
		if p.IsSeq(w...) {
			return true
		}
	}
	if p.Is("interval") {
		return true
	}
	// type DEFAULT expr
	n := p.Peek(1)
	return n.Kind == pglex.Ident && n.Text == "default"
}

// comment reads COMMENT ON … IS.
func (p *parser) comment() pgast.Stmt {
	p.Expect("comment", "on")
	s := &pgast.Comment{}
	kinds := [][]string{
		{"materialized", "view"}, {"foreign", "table"}, {"event", "trigger"}, {"access", "method"}, {"text", "search", "configuration"},
		{"text", "search", "dictionary"}, {"text", "search", "parser"}, {"text", "search", "template"}, {"column"}, {"table"}, {"view"}, {"index"}, {"sequence"}, {"schema"}, {"type"}, {"domain"}, {"database"}, {"extension"},
		{"role"}, {"collation"}, {"conversion"}, {"statistics"}, {"tablespace"}, {"language"}, {"publication"}, {"subscription"}, {"server"},
	}
	found := false
	for _, k := range kinds {
		if p.AcceptSeq(k...) {
			for i, w := range k {
				if i > 0 {
					s.Kind += " "
				}
				s.Kind += w
			}
			s.Name = p.AnyName()
			found = true
			break
		}
	}
	if !found {
		switch {
		case p.Is("constraint"), p.Is("trigger"), p.Is("rule"), p.Is("policy"):
			s.Kind = p.Tok().Text
			p.Next()
			name := p.ColID()
			p.Expect("on")
			p.Accept("domain")
			s.Name = append(p.AnyName(), name)
		case p.Is("function"), p.Is("procedure"), p.Is("routine"), p.Is("aggregate"):
			s.Kind = p.Tok().Text
			p.Next()
			from := p.Index()
			p.funcSignature(s.Kind == "aggregate")
			s.Name = pgast.Name{p.TextSince(from)}
		default:
			p.Unexpected()
		}
	}
	p.Expect("is")
	if !p.Accept("null") {
		text := p.Str()
		s.Text = &text
	}
	return s
}
