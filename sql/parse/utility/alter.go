package utility

import (
	"github.com/spandb/spand/sql/parse/pgast"
)

// alter reads the ALTER statements that only rename, re-own or move something,
// and ALTER SYSTEM, DATABASE and ROLE settings.
func (p *parser) alter() pgast.Stmt {
	p.Expect("alter")
	tag := ""
	switch {
	case p.AcceptSeq("materialized", "view"):
		tag = "MATERIALIZED VIEW"
	case p.AcceptAny("index") != "":
		tag = "INDEX"
	case p.Accept("view"):
		tag = "VIEW"
	case p.Accept("sequence"):
		tag = "SEQUENCE"
	case p.Accept("schema"):
		tag = "SCHEMA"
	case p.Accept("type"):
		tag = "TYPE"
	case p.Accept("domain"):
		tag = "DOMAIN"
	case p.Accept("extension"):
		tag = "EXTENSION"
	case p.Accept("publication"):
		tag = "PUBLICATION"
	case p.IsSeq("role") || p.IsSeq("user"):
		p.Next()
		return p.alterRole()
	case p.Accept("database"):
		p.ColID()
		return p.alterSettings("ALTER DATABASE")
	case p.Accept("system"):
		if p.Is("reset") {
			p.reset()
		} else {
			p.set()
		}
		return p.otherStmt("ALTER SYSTEM")
	case p.Is("function"), p.Is("procedure"), p.Is("routine"), p.Is("aggregate"):
		tag = upper(p.Tok().Text)
		p.Next()
		p.funcSignature(tag == "AGGREGATE")
		p.alterCommon(tag)
		return p.otherStmt("ALTER " + tag)
	case p.IsSeq("default", "privileges"):
		p.i2()
		for {
			if p.AcceptSeq("in", "schema") {
				p.NameList()
			} else if p.AcceptSeq("for", "role") || p.AcceptSeq("for", "user") {
				p.roleList()
			} else {
				break
			}
		}
		p.defaultPrivileges()
		return p.otherStmt("ALTER DEFAULT PRIVILEGES")
	default:
		switch t := p.Tok(); t.Text {
		case "collation", "conversion", "foreign", "group", "language", "operator", "policy", "rule", "server", "statistics",
			"subscription", "tablespace", "text", "trigger":
			p.Unsupported("ALTER " + upper(t.Text) + " is")
		}
		p.Unexpected()
	}
	p.IfExists()
	p.AnyName()
	p.alterCommon(tag)
	return p.otherStmt("ALTER " + tag)
}

func (p *parser) i2() {
	p.Next()
	p.Next()
}

func (p *parser) defaultPrivileges() {
	revoke := p.Is("revoke")
	if !revoke {
		p.Expect("grant")
	} else {
		p.Next()
		p.AcceptSeq("grant", "option", "for")
	}
	if p.Accept("all") {
		p.Accept("privileges")
	} else {
		for {
			if p.AcceptAny("select", "references", "create") == "" {
				p.NonReserved()
			}
			if !p.AcceptPunct(",") {
				break
			}
		}
	}
	p.Expect("on")
	if p.AcceptAny("tables", "sequences", "functions", "routines", "types", "schemas") == "" {
		p.Unexpected()
	}
	if revoke {
		p.Expect("from")
	} else {
		p.Expect("to")
	}
	p.roleList()
	if revoke {
		p.Cascade()
	} else {
		p.AcceptSeq("with", "grant", "option")
	}
}

// alterCommon reads the actions that objects other than tables share.
func (p *parser) alterCommon(tag string) {
	switch {
	case p.AcceptSeq("rename", "to"):
		p.ColID()
	case p.AcceptSeq("owner", "to"):
		p.NonReservedOrRole()
	case p.AcceptSeq("set", "schema"), p.AcceptSeq("set", "tablespace"):
		p.ColID()
	case (tag == "INDEX" || tag == "VIEW" || tag == "MATERIALIZED VIEW") && (p.IsSeq("set") || p.IsSeq("reset")):
		p.Next()
		p.Options()
	case tag == "INDEX" && p.AcceptSeq("attach", "partition"):
		p.AnyName()
	case tag == "SEQUENCE":
		p.SequenceOptions()
	case tag == "EXTENSION" && p.Accept("update"):
		if p.Accept("to") {
			p.wordOrString()
		}
	case tag == "TYPE" && p.AcceptSeq("add", "value"):
		p.IfNotExists()
		p.Str()
		if p.AcceptAny("before", "after") != "" {
			p.Str()
		}
	case tag == "TYPE" && p.AcceptSeq("rename", "value"):
		p.Str()
		p.Expect("to")
		p.Str()
	case tag == "TYPE" && p.AcceptSeq("rename", "attribute"):
		p.ColID()
		p.Expect("to")
		p.ColID()
		p.Cascade()
	case tag == "TYPE" && (p.Is("add") || p.Is("drop") || p.Is("alter")):
		p.typeAttributes()
	case tag == "VIEW" && (p.AcceptSeq("rename", "column") || p.Accept("rename")):
		p.ColID()
		p.Expect("to")
		p.ColID()
	case tag == "VIEW" && p.Accept("alter"):
		p.Accept("column")
		p.ColID()
		if !p.AcceptSeq("drop", "default") {
			p.Expect("set", "default")
			p.AddExpr()
		}
	case tag == "DOMAIN":
		p.alterDomain()
	default:
		p.Unexpected()
	}
}

func (p *parser) typeAttributes() {
	for {
		switch {
		case p.Accept("add"):
			p.Expect("attribute")
			p.ColID()
			p.TypeName()
		case p.Accept("drop"):
			p.Expect("attribute")
			p.IfExists()
			p.ColID()
		default:
			p.Expect("alter", "attribute")
			p.ColID()
			p.AcceptSeq("set", "data")
			p.Expect("type")
			p.TypeName()
		}
		if p.Accept("collate") {
			p.AnyName()
		}
		p.Cascade()
		if !p.AcceptPunct(",") {
			return
		}
	}
}

func (p *parser) alterDomain() {
	switch {
	case p.AcceptSeq("set", "default"):
		p.AddExpr()
	case p.AcceptSeq("drop", "default"), p.AcceptSeq("set", "not", "null"), p.AcceptSeq("drop", "not", "null"):
	case p.Accept("add"):
		if p.Accept("constraint") {
			p.ColID()
		}
		p.Expect("check")
		p.ExpectPunct("(")
		p.AddExpr()
		p.ExpectPunct(")")
		p.AcceptSeq("not", "valid")
	case p.AcceptSeq("drop", "constraint"):
		p.IfExists()
		p.ColID()
		p.Cascade()
	case p.AcceptSeq("validate", "constraint"):
		p.ColID()
	case p.AcceptSeq("rename", "constraint"):
		p.ColID()
		p.Expect("to")
		p.ColID()
	default:
		p.Unexpected()
	}
}

func (p *parser) alterRole() pgast.Stmt {
	if !p.Accept("all") {
		p.NonReservedOrRole()
	}
	if p.AcceptSeq("in", "database") {
		p.ColID()
		return p.alterSettings("ALTER ROLE")
	}
	if p.Is("set") || p.Is("reset") || p.Is("rename") {
		return p.alterSettings("ALTER ROLE")
	}
	p.Accept("with")
	p.roleOptions()
	return p.otherStmt("ALTER ROLE")
}

func (p *parser) alterSettings(tag string) pgast.Stmt {
	switch {
	case p.AcceptSeq("rename", "to"):
		p.ColID()
	case p.AcceptSeq("owner", "to"):
		p.NonReservedOrRole()
	case p.AcceptSeq("set", "tablespace"):
		p.ColID()
	case p.Is("set"):
		p.set()
	case p.Is("reset"):
		p.reset()
	default:
		p.Accept("with")
		if p.AtEnd() {
			p.Unexpected()
		}
		for !p.AtEnd() {
			p.databaseOption()
		}
	}
	return p.otherStmt(tag)
}
