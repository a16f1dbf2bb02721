package utility

import (
	"strings"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
)

// other reads the statements that spand recognises and has no node for, and
// the two that have one: CREATE SCHEMA and CREATE DATABASE.
func (p *parser) other() Build {
	switch p.Tok().Text {
	case "create":
		return p.create()
	case "alter":
		return is(p.alter())
	case "grant", "revoke":
		return is(p.grant())
	case "do":
		p.Next()
		for n := 0; n == 0 || !p.AtEnd(); n++ {
			if p.Accept("language") {
				p.wordOrString()
			} else {
				p.Str()
			}
		}
		return is(p.otherStmt("DO"))
	case "call":
		p.Next()
		at := p.Index()
		p.AnyName()
		if !p.IsPunct("(") {
			p.Unexpected()
		}
		p.Rewind(at)
		p.AddExpr()
		return is(p.otherStmt("CALL"))
	case "refresh":
		p.Next()
		p.Expect("materialized", "view")
		p.Accept("concurrently")
		p.AnyName()
		p.withData()
		return is(p.otherStmt("REFRESH MATERIALIZED VIEW"))
	case "reassign":
		p.Next()
		p.Expect("owned", "by")
		p.roleList()
		p.Expect("to")
		p.NonReservedOrRole()
		return is(p.otherStmt("REASSIGN OWNED"))
	case "load":
		p.Next()
		p.Str()
		return is(p.otherStmt("LOAD"))
	case "merge":
		p.Unsupported("MERGE is")
	case "security", "import":
		p.Unsupported(upper(p.Tok().Text) + " is")
	}
	p.Unexpected()
	return nil
}

func (p *parser) withData() {
	if p.Accept("with") {
		p.Accept("no")
		p.Expect("data")
	}
}

func (p *parser) create() Build {
	p.Expect("create")
	replace := p.AcceptSeq("or", "replace")
	p.AcceptAny("global", "local")
	temp := p.AcceptAny("temp", "temporary", "unlogged") != ""
	switch {
	case !replace && !temp && p.Accept("schema"):
		return is(p.createSchema())
	case !replace && !temp && p.Accept("database"):
		s := &pgast.CreateDatabase{Name: p.ColID()}
		p.Accept("with")
		for !p.AtEnd() {
			p.databaseOption()
		}
		return is(s)
	case p.Is("view"), p.IsSeq("recursive", "view"):
		p.Accept("recursive")
		p.Next()
		p.AnyName()
		if p.IsPunct("(") {
			p.ColumnList()
		}
		if p.Accept("with") {
			p.Options()
		}
		p.Expect("as")
		p.AddQuery()
		if p.Accept("with") {
			p.AcceptAny("cascaded", "local")
			p.Expect("check", "option")
		}
		return is(p.otherStmt("CREATE VIEW"))
	case !replace && p.AcceptSeq("materialized", "view"):
		p.IfNotExists()
		p.AnyName()
		if p.IsPunct("(") {
			p.ColumnList()
		}
		if p.Accept("using") {
			p.ColID()
		}
		if p.Accept("with") {
			p.Options()
		}
		if p.Accept("tablespace") {
			p.ColID()
		}
		p.Expect("as")
		p.AddQuery()
		p.withData()
		return is(p.otherStmt("CREATE MATERIALIZED VIEW"))
	case !replace && p.Accept("sequence"):
		p.IfNotExists()
		p.AnyName()
		if !p.AtEnd() {
			p.SequenceOptions()
		}
		return is(p.otherStmt("CREATE SEQUENCE"))
	case !replace && !temp && p.Accept("type"):
		return is(p.createType())
	case !replace && !temp && p.Accept("domain"):
		return is(p.createDomain())
	case p.Is("function"), p.Is("procedure"):
		return is(p.createFunction())
	case !replace && !temp && p.Accept("extension"):
		p.IfNotExists()
		p.ColID()
		p.Accept("with")
		for !p.AtEnd() {
			switch {
			case p.Accept("schema"):
				p.ColID()
			case p.Accept("version"):
				p.wordOrString()
			case p.Accept("cascade"):
			default:
				p.Unexpected()
			}
		}
		return is(p.otherStmt("CREATE EXTENSION"))
	case !replace && !temp && (p.Is("role") || p.Is("user") || p.Is("group")):
		p.Next()
		if p.Is("mapping") {
			p.Unsupported("CREATE USER MAPPING is")
		}
		p.NonReservedOrRole()
		p.Accept("with")
		p.roleOptions()
		return is(p.otherStmt("CREATE ROLE"))
	case p.Is("trigger"), p.IsSeq("constraint", "trigger"):
		return is(p.createTrigger())
	case p.Is("table"), p.Is("index"), p.Is("unique"):
		p.Unexpected()
	case !replace && !temp && p.Accept("statistics"):
		p.IfNotExists()
		p.AnyName()
		if p.IsPunct("(") {
			p.ColumnList()
		}
		p.Expect("on")
		p.AddExprs()
		p.Expect("from")
		p.AnyName()
		return is(p.otherStmt("CREATE STATISTICS"))
	case !replace && !temp && p.Accept("collation"):
		p.IfNotExists()
		p.AnyName()
		if p.Accept("from") {
			p.AnyName()
		} else {
			p.Options()
		}
		return is(p.otherStmt("CREATE COLLATION"))
	case !replace && !temp && p.Accept("publication"):
		p.ColID()
		switch {
		case p.AcceptSeq("for", "all", "tables"):
		case p.AcceptSeq("for", "table"):
			for {
				p.Accept("only")
				p.AnyName()
				p.AcceptOp("*")
				if p.IsPunct("(") {
					p.ColumnList()
				}
				if p.Accept("where") {
					p.ExpectPunct("(")
					p.AddExpr()
					p.ExpectPunct(")")
				}
				if !p.AcceptPunct(",") {
					break
				}
				p.Accept("table")
			}
		}
		if p.Accept("with") {
			p.Options()
		}
		return is(p.otherStmt("CREATE PUBLICATION"))
	case p.Is("policy"), p.Is("rule"), p.Is("aggregate"), p.Is("operator"), p.Is("cast"), p.Is("language"), p.Is("server"),
		p.Is("foreign"), p.Is("event"), p.Is("subscription"), p.Is("tablespace"), p.Is("text"), p.Is("transform"), p.Is("access"),
		p.Is("conversion"), p.Is("trusted"), p.Is("procedural"):
		p.Unsupported("CREATE " + upper(p.Tok().Text) + " is")
	}
	p.Unexpected()
	return nil
}

func (p *parser) databaseOption() {
	switch {
	case p.AcceptSeq("connection", "limit"):
	case p.AcceptAny("encoding", "location", "owner", "tablespace", "template") != "":
	default:
		if t := p.Tok(); t.Kind != pglex.Ident || pglex.LookupKeyword(t.Text).Category == pglex.Reserved {
			p.Unexpected()
		}
		p.Next()
	}
	p.AcceptOp("=")
	if !p.Accept("default") {
		p.varValue()
	}
}

func (p *parser) createSchema() pgast.Stmt {
	s := &pgast.CreateSchema{IfNotExists: p.IfNotExists()}
	if p.Accept("authorization") {
		s.Name = p.NonReservedOrRole()
	} else {
		s.Name = p.ColID()
		if p.Accept("authorization") {
			p.NonReservedOrRole()
		}
	}
	if !p.AtEnd() && (p.Is("create") || p.Is("grant")) {
		p.Unsupported("CREATE SCHEMA with elements is")
	}
	return s
}

func (p *parser) createType() pgast.Stmt {
	p.AnyName()
	switch {
	case p.AtEnd():
	case p.AcceptSeq("as", "enum"):
		p.ExpectPunct("(")
		if !p.IsPunct(")") {
			for {
				p.Str()
				if !p.AcceptPunct(",") {
					break
				}
			}
		}
		p.ExpectPunct(")")
	case p.AcceptSeq("as", "range"):
		p.Options()
	case p.Accept("as"):
		p.ExpectPunct("(")
		if !p.IsPunct(")") {
			for {
				p.ColID()
				p.TypeName()
				if p.Accept("collate") {
					p.AnyName()
				}
				if !p.AcceptPunct(",") {
					break
				}
			}
		}
		p.ExpectPunct(")")
	default:
		p.Options()
	}
	return p.otherStmt("CREATE TYPE")
}

func (p *parser) createDomain() pgast.Stmt {
	p.AnyName()
	p.Accept("as")
	p.TypeName()
	for !p.AtEnd() {
		named := p.Accept("constraint")
		if named {
			p.ColID()
		}
		switch {
		case p.Accept("collate"):
			p.AnyName()
		case p.Accept("default"):
			p.AddExpr()
		case p.AcceptSeq("not", "null"), p.Accept("null"):
		case p.Accept("check"):
			p.ExpectPunct("(")
			p.AddExpr()
			p.ExpectPunct(")")
			p.AcceptSeq("not", "valid")
		default:
			p.Unexpected()
		}
	}
	return p.otherStmt("CREATE DOMAIN")
}

func (p *parser) createFunction() pgast.Stmt {
	tag := "CREATE " + upper(p.Tok().Text)
	p.Next()
	p.AnyName()
	p.ExpectPunct("(")
	if !p.IsPunct(")") {
		for {
			p.funcArg(true)
			if !p.AcceptPunct(",") {
				break
			}
		}
	}
	p.ExpectPunct(")")
	if p.Accept("returns") {
		if p.Accept("table") {
			p.ExpectPunct("(")
			for {
				p.TypeFuncName()
				p.TypeName()
				if !p.AcceptPunct(",") {
					break
				}
			}
			p.ExpectPunct(")")
		} else {
			p.funcType()
		}
	}
	for n := 0; !p.AtEnd(); n++ {
		switch {
		case p.Accept("as"):
			p.Str()
			if p.AcceptPunct(",") {
				p.Str()
			}
		case p.Accept("language"):
			p.wordOrString()
		case p.AcceptAny("immutable", "stable", "volatile", "strict", "leakproof", "window") != "", p.AcceptSeq("not", "leakproof"),
			p.AcceptSeq("called", "on", "null", "input"), p.AcceptSeq("returns", "null", "on", "null", "input"),
			p.AcceptSeq("security", "definer"), p.AcceptSeq("security", "invoker"),
			p.AcceptSeq("external", "security", "definer"), p.AcceptSeq("external", "security", "invoker"):
		case p.Accept("cost"), p.Accept("rows"):
			p.varValue()
		case p.Accept("parallel"), p.Accept("support"):
			p.AnyName()
		case p.Accept("set"):
			p.varName()
			if !p.Accept("to") && !p.AcceptOp("=") {
				p.Expect("from", "current")
				continue
			}
			for {
				p.varValue()
				if !p.AcceptPunct(",") {
					break
				}
			}
		case p.Accept("return"):
			p.AddExpr()
		case p.Is("begin"):
			p.Unsupported("a function body in BEGIN ATOMIC is")
		default:
			p.Unexpected()
		}
	}
	return p.otherStmt(tag)
}

func (p *parser) createTrigger() pgast.Stmt {
	constraint := p.Accept("constraint")
	p.Expect("trigger")
	p.ColID()
	if p.AcceptAny("before", "after") == "" {
		p.Expect("instead", "of")
	}
	for {
		if p.AcceptAny("insert", "delete", "truncate") == "" {
			p.Expect("update")
			if p.Accept("of") {
				p.NameList()
			}
		}
		if !p.Accept("or") {
			break
		}
	}
	p.Expect("on")
	p.AnyName()
	if p.Accept("from") {
		p.AnyName()
	}
	for constraint && (p.Accept("not") || p.Is("deferrable") || p.Is("initially")) {
		if !p.Accept("deferrable") {
			p.Expect("initially")
			if p.AcceptAny("deferred", "immediate") == "" {
				p.Unexpected()
			}
		}
	}
	if p.Accept("referencing") {
		for p.Is("new") || p.Is("old") {
			p.Next()
			if p.AcceptAny("table", "row") == "" {
				p.Unexpected()
			}
			p.Accept("as")
			p.ColID()
		}
	}
	if p.Accept("for") {
		if !p.Accept("each") && constraint {
			p.Unexpected()
		}
		if p.AcceptAny("row", "statement") == "" {
			p.Unexpected()
		}
	}
	if p.Accept("when") {
		p.ExpectPunct("(")
		p.AddExpr()
		p.ExpectPunct(")")
	}
	p.Expect("execute")
	if p.AcceptAny("function", "procedure") == "" {
		p.Unexpected()
	}
	p.AnyName()
	p.ExpectPunct("(")
	for !p.IsPunct(")") {
		p.defArgAny()
		if !p.AcceptPunct(",") {
			break
		}
	}
	p.ExpectPunct(")")
	return p.otherStmt("CREATE TRIGGER")
}

func (p *parser) defArgAny() { p.DefArg() }

func (p *parser) roleOptions() {
	for !p.AtEnd() {
		switch {
		case p.Accept("encrypted"):
			p.Expect("password")
			p.Str()
		case p.Accept("password"):
			if !p.Accept("null") {
				p.Str()
			}
		case p.Accept("inherit"):
		case p.AcceptSeq("connection", "limit"):
			p.SignedInt()
		case p.AcceptSeq("valid", "until"):
			p.Str()
		case p.Accept("sysid"):
			p.SignedInt()
		case p.AcceptAny("admin", "role", "user") != "":
			p.roleList()
		case p.Accept("in"):
			if p.AcceptAny("role", "group") == "" {
				p.Unexpected()
			}
			p.roleList()
		default:
			switch t := p.Tok(); {
			case t.Kind != pglex.Ident:
				p.Unexpected()
			case strings.Contains(" superuser nosuperuser createdb nocreatedb createrole nocreaterole inherit noinherit login nologin replication noreplication bypassrls nobypassrls ", " "+t.Text+" "):
				p.Next()
			default:
				p.FailAt("42601", p.Pos(), "unrecognized role option \"%s\"", t.Text)
			}
		}
	}
}

// grant reads GRANT and REVOKE of privileges and roles.
func (p *parser) grant() pgast.Stmt {
	tag := upper(p.Tok().Text)
	revoke := p.Is("revoke")
	p.Next()
	if revoke && (p.AcceptSeq("grant", "option", "for") || p.AcceptSeq("admin", "option", "for")) {
		p.Is("")
	}
	all := p.Accept("all")
	if all {
		p.Accept("privileges")
		if p.IsPunct("(") {
			p.ColumnList()
		}
	} else {
		for {
			if p.AcceptAny("select", "references", "create") == "" {
				p.NonReservedOrRole()
			}
			if p.IsPunct("(") {
				p.ColumnList()
			}
			if !p.AcceptPunct(",") {
				break
			}
		}
	}
	roles := true
	if all || p.Is("on") {
		roles = false
		p.Expect("on")
		p.grantTarget()
	}
	if revoke {
		p.Expect("from")
	} else {
		p.Expect("to")
	}
	for {
		p.Accept("group")
		p.NonReservedOrRole()
		if !p.AcceptPunct(",") {
			break
		}
	}
	if !revoke {
		if roles {
			p.AcceptSeq("with", "admin", "option")
		} else {
			p.AcceptSeq("with", "grant", "option")
		}
	}
	if p.AcceptSeq("granted", "by") {
		p.NonReservedOrRole()
	}
	if revoke {
		p.Cascade()
	}
	if roles {
		tag += " ROLE"
	}
	return p.otherStmt(tag)
}

func (p *parser) grantTarget() {
	switch {
	case p.Accept("all"):
		if p.AcceptAny("tables", "sequences", "functions", "procedures", "routines") == "" {
			p.Unexpected()
		}
		p.Expect("in", "schema")
		p.NameList()
	case p.AcceptAny("schema", "database", "language", "tablespace") != "":
		p.NameList()
	case p.AcceptSeq("foreign", "data", "wrapper"), p.AcceptSeq("foreign", "server"):
		p.NameList()
	case p.AcceptAny("function", "procedure", "routine") != "":
		for {
			p.funcSignature(false)
			if !p.AcceptPunct(",") {
				break
			}
		}
	default:
		p.AcceptAny("table", "sequence", "type", "domain")
		p.AnyNames()
	}
}
