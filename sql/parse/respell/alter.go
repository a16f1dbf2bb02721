package respell

import "github.com/spandb/spand/sql/parse/pgast"

// AlterTable reads ALTER TABLE from the word ALTER on. Every action becomes
// one spec of the grammar; what it stands for is in the note, in order.
func (p *Parser) AlterTable() Frag {
	p.Expect("alter", "table")
	n := &AlterNote{}
	n.IfExists = p.IfExists()
	if p.Is("all") {
		p.Unsupported("ALTER TABLE ALL IN TABLESPACE is")
	}
	n.Only = p.Accept("only")
	pos := p.Pos()
	n.Name = p.relationName()
	p.table = n.Name.Last()
	if !n.Only {
		p.AcceptOp("*")
	}
	var specs []Frag
	if p.Is("rename") || p.IsSeq("set", "schema") {
		specs = append(specs, p.alterAlone(n))
	} else {
		for {
			specs = append(specs, p.alterAction(n))
			if !p.AcceptPunct(",") {
				break
			}
		}
	}
	p.End()
	return p.cat(p.raw("ALTER TABLE"), p.tableIdent(n.Name, n, pos), p.list(specs))
}

// bare is a spec whose whole meaning is in its note.
func (p *Parser) bare() Frag { return p.raw("MODIFY COLUMN `x` BLOB") }

// alterAlone reads the forms that stand by themselves.
func (p *Parser) alterAlone(n *AlterNote) Frag {
	a := pgast.AlterAction{}
	spec := Frag{}
	if p.AcceptSeq("set", "schema") {
		a.Kind, a.NewName = "set schema", p.ColID()
		spec = p.bare()
	} else {
		p.Expect("rename")
		switch {
		case p.Accept("to"):
			a.Kind = "rename"
			a.NewName = p.ColID()
			spec = p.cat(p.raw("RENAME TO"), p.ident(a.NewName, -1))
		case p.Accept("constraint"):
			a.Kind, a.Name = "rename constraint", p.ColID()
			p.Expect("to")
			a.NewName = p.ColID()
			spec = p.bare()
		default:
			p.Accept("column")
			a.Kind, a.Name = "rename column", p.ColID()
			p.Expect("to")
			a.NewName = p.ColID()
			spec = p.cat(p.raw("RENAME COLUMN"), p.ident(a.Name, -1), p.raw("TO"), p.ident(a.NewName, -1))
		}
	}
	n.Actions = append(n.Actions, AlterActionNote{Action: a})
	return spec
}

func (p *Parser) cascade() bool {
	if p.Accept("cascade") {
		return true
	}
	p.Accept("restrict")
	return false
}

// Cascade reads [CASCADE | RESTRICT].
func (p *Parser) Cascade() bool { return p.cascade() }

func (p *Parser) alterAction(n *AlterNote) Frag {
	a := pgast.AlterAction{}
	var c ConstraintNote
	spec := Frag{}
	switch {
	case p.Is("add") && p.addConstraint():
		p.Next()
		a.Kind = "add constraint"
		f, note := p.tableConstraint()
		c = *note
		spec = p.cat(p.raw("ADD"), f)
	case p.Accept("add"):
		p.Accept("column")
		a.Kind = "add column"
		a.IfExists = p.ifNotExists()
		spec = p.cat(p.raw("ADD COLUMN"), p.columnDef(false))
	case p.AcceptSeq("drop", "constraint"):
		a.Kind = "drop constraint"
		a.IfExists = p.IfExists()
		a.Name = p.ColID()
		a.Cascade = p.cascade()
		spec = p.cat(p.raw("DROP CONSTRAINT"), p.ident(a.Name, -1))
	case p.Accept("drop"):
		p.Accept("column")
		a.Kind = "drop column"
		a.IfExists = p.IfExists()
		a.Name = p.ColID()
		a.Cascade = p.cascade()
		spec = p.cat(p.raw("DROP COLUMN"), p.ident(a.Name, -1))
	case p.AcceptSeq("validate", "constraint"):
		a.Kind, a.Name = "validate constraint", p.ColID()
	case p.AcceptSeq("owner", "to"):
		a.Kind, a.NewName = "owner", p.NonReservedOrRole()
	case p.Is("set") && isPunct(p.Peek(1), "("):
		p.Next()
		a.Kind, a.Options = "set options", p.options()
	case p.Is("reset") && isPunct(p.Peek(1), "("):
		p.Next()
		a.Kind, a.Options = "reset options", p.options()
	case p.IsSeq("alter", "constraint"):
		p.other = "ALTER TABLE"
		p.i += 2
		p.ColID()
		p.constraintAttrs(&c, "")
	case p.Accept("alter"):
		spec = p.alterColumn(&a)
	default:
		p.alterOther()
	}
	if spec.Empty() {
		spec = p.bare()
	}
	n.Actions = append(n.Actions, AlterActionNote{Action: a, Constraint: c})
	return spec
}

// NonReservedOrRole reads a role: a name or CURRENT_USER and its kin.
func (p *Parser) NonReservedOrRole() string {
	if w := p.AcceptAny("current_user", "current_role", "session_user"); w != "" {
		return w
	}
	return p.NonReserved()
}

func (p *Parser) addConstraint() bool {
	t := p.Peek(1)
	for _, w := range []string{"constraint", "check", "primary", "unique", "foreign", "exclude"} {
		if isWord(t, w) {
			return true
		}
	}
	return false
}

func (p *Parser) alterColumn(a *pgast.AlterAction) Frag {
	p.Accept("column")
	pos := p.Pos()
	a.Name = p.ColID()
	id := p.ident(a.Name, pos)
	switch {
	case p.AcceptSeq("set", "default"):
		a.Kind = "set default"
		from := p.i
		e := p.Expr()
		a.NewName = p.TextSince(from)
		p.PinAll(from, p.i)
		return p.cat(p.raw("ALTER COLUMN"), id, p.raw("SET DEFAULT ("), e, p.raw(")"))
	case p.AcceptSeq("drop", "default"):
		a.Kind = "drop default"
		return p.cat(p.raw("ALTER COLUMN"), id, p.raw("DROP DEFAULT"))
	case p.AcceptSeq("set", "not", "null"):
		a.Kind = "set not null"
		return p.cat(p.raw("MODIFY COLUMN"), id, p.raw("BLOB NOT NULL"))
	case p.AcceptSeq("drop", "not", "null"):
		a.Kind = "drop not null"
		return p.cat(p.raw("MODIFY COLUMN"), id, p.raw("BLOB NULL"))
	case p.Is("type"), p.IsSeq("set", "data", "type"):
		if !p.Accept("type") {
			p.i += 3
		}
		a.Kind = "alter type"
		n := &ColumnDefNote{Def: pgast.ColumnDef{Name: a.Name, Pos: pos}}
		n.Def.Type = p.TypeName()
		if p.Accept("collate") {
			n.Def.Collation = p.AnyName()
		}
		f := p.cat(p.raw("MODIFY COLUMN"), p.named(a.Name, n, pos), p.raw("BLOB"))
		if p.Accept("using") {
			f = p.cat(f, p.raw("DEFAULT"), p.call(&DefaultExprNote{}, -1, p.Expr()))
		}
		return f
	}
	p.other = "ALTER TABLE"
	switch {
	case p.AcceptSeq("set", "statistics"):
		p.AcceptOp("-")
		p.expectInt()
	case p.AcceptSeq("set", "storage"), p.AcceptSeq("set", "compression"):
		p.ColLabel()
	case p.Is("set") && isPunct(p.Peek(1), "("), p.Is("reset") && isPunct(p.Peek(1), "("):
		p.Next()
		p.options()
	case p.AcceptSeq("drop", "expression"), p.AcceptSeq("drop", "identity"):
		p.IfExists()
	case p.IsSeq("add", "generated"):
		p.i += 2
		p.generated(&pgast.ColumnDef{})
	case p.Is("set") || p.Is("restart"):
		for n := 0; p.Is("set") || p.Is("restart"); n++ {
			if p.AcceptSeq("set", "generated") {
				if !p.AcceptSeq("by", "default") {
					p.Expect("always")
				}
				continue
			}
			p.Accept("set")
			p.SequenceOptions()
		}
	default:
		p.Unexpected()
	}
	return p.bare()
}

// alterOther reads the actions that change nothing a tree of ours shows.
func (p *Parser) alterOther() {
	p.other = "ALTER TABLE"
	switch {
	case p.IsSeq("enable") || p.IsSeq("disable"):
		p.Next()
		p.AcceptAny("always", "replica")
		switch {
		case p.Accept("trigger"):
			if p.AcceptAny("all", "user") == "" {
				p.ColID()
			}
		case p.Accept("rule"):
			p.ColID()
		case p.AcceptSeq("row", "level", "security"):
		default:
			p.Unexpected()
		}
	case p.AcceptSeq("force", "row", "level", "security"), p.AcceptSeq("no", "force", "row", "level", "security"):
	case p.AcceptSeq("replica", "identity"):
		if p.AcceptAny("nothing", "full", "default") == "" {
			p.Expect("using", "index")
			p.ColID()
		}
	case p.AcceptSeq("attach", "partition"):
		p.AnyName()
		p.partitionBound()
	case p.AcceptSeq("detach", "partition"):
		p.AnyName()
		p.AcceptAny("concurrently", "finalize")
	case p.Accept("inherit"), p.AcceptSeq("no", "inherit"), p.AcceptSeq("cluster", "on"), p.Accept("of"):
		p.AnyName()
	case p.AcceptSeq("not", "of"), p.AcceptSeq("set", "without", "cluster"), p.AcceptSeq("set", "without", "oids"),
		p.AcceptSeq("set", "logged"), p.AcceptSeq("set", "unlogged"):
	case p.AcceptSeq("set", "tablespace"), p.AcceptSeq("set", "access", "method"):
		p.ColID()
	default:
		p.Unexpected()
	}
}
