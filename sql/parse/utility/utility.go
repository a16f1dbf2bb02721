package utility

import (
	"github.com/spandb/spand/sql/parse/lift"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
	"github.com/spandb/spand/sql/parse/respell"
	"github.com/spandb/spand/sql/sqlstate"
)

// Build makes the tree once the grammar has read the statement's parts; l is
// nil if there are none.
type Build func(l *lift.Lifter) pgast.Stmt

// Inner parses a statement inside another (PREPARE) on its own text.
type Inner func(text string) (*pgast.Statement, error)

// Result is a parsed utility statement.
type Result struct {
	Build Build
	// Root is the statement for the grammar when HasRoot, as under EXPLAIN.
	Root    respell.Frag
	HasRoot bool
}

type parser struct {
	*respell.Parser
	inner Inner
	root  respell.Frag
	has   bool
}

// is is a finished tree as a Build.
func is(s pgast.Stmt) Build { return func(*lift.Lifter) pgast.Stmt { return s } }

// Parse reads one statement to its end.
func Parse(rp *respell.Parser, inner Inner) Result {
	p := &parser{Parser: rp, inner: inner}
	b := p.statement()
	p.End()
	return Result{Build: b, Root: p.root, HasRoot: p.has}
}

func (p *parser) statement() Build {
	t := p.Tok()
	if t.Kind != pglex.Ident {
		p.Unexpected()
	}
	switch t.Text {
	case "begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release":
		return p.transaction()
	case "set":
		return is(p.set())
	case "reset":
		return is(p.reset())
	case "show":
		return is(p.show())
	case "copy":
		return p.copy()
	case "vacuum", "analyze", "analyse", "reindex", "checkpoint", "cluster":
		return is(p.maintenance())
	case "prepare":
		return p.prepare()
	case "execute":
		return p.execute()
	case "deallocate":
		p.Next()
		p.Accept("prepare")
		if p.Accept("all") {
			return is(&pgast.Deallocate{})
		}
		return is(&pgast.Deallocate{Name: p.ColID()})
	case "declare":
		return p.declare()
	case "fetch", "move":
		return is(p.fetch())
	case "close":
		p.Next()
		if p.Accept("all") {
			return is(&pgast.Close{})
		}
		return is(&pgast.Close{Name: p.ColID()})
	case "listen", "unlisten", "notify":
		return is(p.listen())
	case "discard":
		p.Next()
		w := p.AcceptAny("all", "temp", "temporary", "plans", "sequences")
		if w == "" {
			p.Unexpected()
		}
		if w == "temporary" {
			w = "temp"
		}
		return is(&pgast.Discard{What: w})
	case "lock":
		return is(p.lock())
	case "comment":
		return is(p.comment())
	case "explain":
		return p.explain()
	case "truncate":
		return is(p.truncate())
	case "drop":
		return is(p.drop())
	}
	return p.other()
}

// transaction reads BEGIN, COMMIT, ROLLBACK and savepoints.
func (p *parser) transaction() Build {
	word := p.Tok().Text
	p.Next()
	s := &pgast.Transaction{}
	asOf := 0
	switch word {
	case "begin":
		s.Kind = "begin"
		p.AcceptAny("work", "transaction")
		asOf = p.modes(s, true)
	case "start":
		s.Kind = "begin"
		p.Expect("transaction")
		asOf = p.modes(s, true)
	case "commit", "end", "rollback", "abort":
		s.Kind = "commit"
		if word == "rollback" || word == "abort" {
			s.Kind = "rollback"
		}
		if (word == "commit" || word == "rollback") && p.Accept("prepared") {
			p.Str()
			return is(p.otherStmt(upper(word) + " PREPARED"))
		}
		p.AcceptAny("work", "transaction")
		if word == "rollback" && p.Accept("to") {
			p.savepointWord()
			s.Kind = "rollback to"
			s.Name = p.ColID()
			return is(s)
		}
		if p.Accept("and") {
			s.Chain = !p.Accept("no")
			p.Expect("chain")
		}
	case "savepoint":
		s.Kind, s.Name = "savepoint", p.ColID()
	case "release":
		p.savepointWord()
		s.Kind, s.Name = "release", p.ColID()
	}
	if asOf == 0 {
		return is(s)
	}
	return func(l *lift.Lifter) pgast.Stmt {
		s.AsOf = l.Exprs(asOf)[0]
		return s
	}
}

// savepointWord skips SAVEPOINT unless it is the savepoint's name.
func (p *parser) savepointWord() {
	if p.Is("savepoint") && p.Peek(1).Kind != pglex.EOF {
		p.Next()
	}
}

// modes reads transaction modes; none is allowed where optional, which is where a
// transaction begins. There READ ONLY may have AS OF TIMESTAMP behind it: asOf is the
// part with the timestamp, 0 if there is none.
func (p *parser) modes(s *pgast.Transaction, optional bool) (asOf int) {
	for n := 0; ; n++ {
		yes, no := true, false
		switch {
		case p.AcceptSeq("isolation", "level"):
			switch {
			case p.AcceptSeq("read", "uncommitted"):
				s.Isolation = "read uncommitted"
			case p.AcceptSeq("read", "committed"):
				s.Isolation = "read committed"
			case p.AcceptSeq("repeatable", "read"):
				s.Isolation = "repeatable read"
			case p.Accept("serializable"):
				s.Isolation = "serializable"
			default:
				p.Unexpected()
			}
		case p.Is("read"):
			p.Next()
			switch {
			case p.Accept("only"):
				s.ReadOnly = &yes
				if optional && asOf == 0 && p.AcceptSeq("as", "of", "timestamp") {
					asOf = p.AddExpr()
				}
			case p.Accept("write"):
				s.ReadOnly = &no
			default:
				p.Unexpected()
			}
		case p.Accept("deferrable"):
			s.Deferr = &yes
		case p.AcceptSeq("not", "deferrable"):
			s.Deferr = &no
		default:
			if n == 0 && !optional {
				p.Unexpected()
			}
			return asOf
		}
		if p.AcceptPunct(",") && p.AtEnd() {
			p.Unexpected()
		}
	}
}

func (p *parser) otherStmt(tag string) pgast.Stmt { return &pgast.Other{Tag: tag, Text: p.Source()} }

func upper(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'a' && c <= 'z' {
			b[i] = c - 32
		}
	}
	return string(b)
}

// varName reads a setting's dotted name.
func (p *parser) varName() string {
	n := p.ColID()
	for p.AcceptPunct(".") {
		n += "." + p.ColID()
	}
	return lower(n)
}

func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 32
		}
	}
	return string(b)
}

func (p *parser) set() pgast.Stmt {
	p.Expect("set")
	s := &pgast.SetVar{}
	switch {
	case p.AcceptSeq("session", "characteristics"):
		p.Expect("as", "transaction")
		t := &pgast.Transaction{Kind: "set session characteristics"}
		p.modes(t, false)
		return t
	case p.Is("constraints"):
		p.Next()
		if !p.Accept("all") {
			p.AnyNames()
		}
		if p.AcceptAny("deferred", "immediate") == "" {
			p.Unexpected()
		}
		return p.otherStmt("SET CONSTRAINTS")
	}
	if p.IsWordThenName("session") {
		p.Next()
	} else if p.IsWordThenName("local") {
		p.Next()
		s.Local = true
	}
	switch {
	case p.Is("transaction"):
		p.Next()
		if p.Accept("snapshot") {
			p.Str()
			return p.otherStmt("SET TRANSACTION SNAPSHOT")
		}
		t := &pgast.Transaction{Kind: "set transaction"}
		p.modes(t, false)
		return t
	case p.AcceptSeq("time", "zone"):
		s.Name = "timezone"
		p.zone(s)
		return s
	case p.Is("schema"):
		p.Next()
		s.Name, s.Values = "search_path", []string{p.Str()}
		return s
	case p.Is("catalog"):
		p.Next()
		pos := p.Pos()
		p.Str()
		p.FailAt(sqlstate.FeatureNotSupported, pos, "current database cannot be changed")
	case p.Is("names"):
		p.Next()
		s.Name = "client_encoding"
		switch {
		case p.Accept("default"), p.AtEnd():
			s.Default = true
		default:
			s.Values = []string{p.Str()}
		}
		return s
	case p.Is("role"):
		p.Next()
		s.Name, s.Values = "role", []string{p.wordOrString()}
		return s
	case p.AcceptSeq("session", "authorization"), p.Accept("authorization"):
		s.Name = "session_authorization"
		if p.Accept("default") {
			s.Default = true
			return s
		}
		s.Values = []string{p.wordOrString()}
		return s
	case p.IsSeq("xml", "option"):
		p.Unsupported("XML is")
	}
	s.Name = p.varName()
	if !p.Accept("to") && !p.AcceptOp("=") {
		if p.AcceptSeq("from", "current") {
			return p.otherStmt("SET")
		}
		p.Unexpected()
	}
	if p.Accept("default") {
		s.Default = true
		return s
	}
	for {
		s.Values = append(s.Values, p.varValue())
		if !p.AcceptPunct(",") {
			return s
		}
	}
}

// IsWordThenName tells SET LOCAL x from a setting called local.
func (p *parser) IsWordThenName(w string) bool {
	if !p.Is(w) {
		return false
	}
	n := p.Peek(1)
	return (n.Kind == pglex.Ident || n.Kind == pglex.QuotedIdent) && !(n.Kind == pglex.Ident && n.Text == "to") &&
		!(w == "session" && n.Text == "authorization")
}

func (p *parser) wordOrString() string {
	if p.Tok().Kind == pglex.Str {
		return p.Pin()
	}
	return p.NonReserved()
}

// varValue reads one value of SET: a word, a string, a number.
func (p *parser) varValue() string {
	switch t := p.Tok(); t.Kind {
	case pglex.Str, pglex.Int, pglex.Num:
		return p.Pin()
	case pglex.Op:
		if t.Text == "-" || t.Text == "+" {
			p.Next()
			if k := p.Tok().Kind; k != pglex.Int && k != pglex.Num {
				p.Unexpected()
			}
			v := p.Pin()
			if t.Text == "-" {
				v = "-" + v
			}
			return v
		}
	case pglex.Ident:
		switch t.Text {
		case "true", "false", "on":
			p.Next()
			return t.Text
		}
	}
	return p.NonReserved()
}

func (p *parser) zone(s *pgast.SetVar) {
	switch t := p.Tok(); {
	case p.Accept("default"), p.Accept("local"):
		s.Default = true
	case p.Is("interval"):
		p.Next()
		if p.AcceptPunct("(") {
			p.SignedInt()
			p.ExpectPunct(")")
		}
		s.Values = []string{p.Str()}
		if p.Accept("hour") && p.Accept("to") {
			p.Expect("minute")
		}
	case t.Kind == pglex.Str:
		s.Values = []string{p.Pin()}
	case t.Kind == pglex.Int || t.Kind == pglex.Num || t.Kind == pglex.Op:
		s.Values = []string{p.varValue()}
	default:
		s.Values = []string{p.ColID()}
	}
}

func (p *parser) reset() pgast.Stmt {
	p.Expect("reset")
	s := &pgast.SetVar{Default: true}
	switch {
	case p.Accept("all"):
		s.Name = "all"
	case p.AcceptSeq("time", "zone"):
		s.Name = "timezone"
	case p.AcceptSeq("transaction", "isolation", "level"):
		s.Name = "transaction_isolation"
	case p.AcceptSeq("session", "authorization"):
		s.Name = "session_authorization"
	default:
		s.Name = p.varName()
	}
	return s
}

func (p *parser) show() pgast.Stmt {
	p.Expect("show")
	switch {
	case p.Accept("all"):
		return &pgast.ShowVar{Name: "all"}
	case p.AcceptSeq("time", "zone"):
		return &pgast.ShowVar{Name: "timezone"}
	case p.AcceptSeq("transaction", "isolation", "level"):
		return &pgast.ShowVar{Name: "transaction_isolation"}
	case p.AcceptSeq("session", "authorization"):
		return &pgast.ShowVar{Name: "session_authorization"}
	}
	return &pgast.ShowVar{Name: p.varName()}
}
