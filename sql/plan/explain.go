package plan

import (
	"strings"

	"github.com/spandb/spand/sql/parse/pgast"
)

// Explain prints a plan as PostgreSQL's EXPLAIN does, one line per element. note
// returns what to append to a node's line.
func Explain(p *Plan, st *pgast.Statement, note func(Node) string) []string {
	e := &explainer{st: st, note: note}
	switch {
	case p.Insert != nil:
		e.line(0, "Insert on "+p.Insert.Table.Desc.Name)
		if p.Insert.Source != nil {
			e.query(1, p.Insert.Source)
		} else if len(p.Insert.Rows) == 1 {
			e.line(1, "Result")
		} else {
			e.line(1, "Values Scan")
		}
	case p.Modify != nil:
		verb := "Update on "
		if p.Modify.Set == nil {
			verb = "Delete on "
		}
		e.line(0, verb+p.Modify.Table.Desc.Name)
		e.node(1, p.Modify.From)
	default:
		e.query(0, p.Query)
	}
	return e.lines
}

type explainer struct {
	st    *pgast.Statement
	note  func(Node) string
	lines []string
}

func (e *explainer) line(depth int, text string) {
	if depth > 0 {
		text = strings.Repeat(" ", 2+6*(depth-1)) + "->  " + text
	}
	e.lines = append(e.lines, text)
}

// detail belongs to the line above it.
func (e *explainer) detail(depth int, text string) {
	e.lines = append(e.lines, strings.Repeat(" ", 2+6*depth)+text)
}

func (e *explainer) conds(depth int, label string, list []pgast.Expr) {
	if len(list) == 0 {
		return
	}
	parts := make([]string, len(list))
	for i, c := range list {
		parts[i] = deparse(c, e.st)
	}
	text := strings.Join(parts, " AND ")
	if len(parts) > 1 {
		text = "(" + text + ")"
	} else if !strings.HasPrefix(text, "(") {
		text = "(" + text + ")"
	}
	e.detail(depth, label+": "+text)
}

func (e *explainer) query(depth int, q *Query) {
	if q.Limit != nil || q.Offset != nil {
		e.line(depth, "Limit")
		depth++
	}
	if len(q.Sort) > 0 {
		if q.DistinctOn > 0 {
			e.line(depth, "Unique")
			depth++
		}
		e.line(depth, "Sort")
		var keys []string
		for _, k := range q.Sort {
			t := k.Text
			if k.Desc {
				t += " DESC"
			}
			if k.NullsFirst != k.Desc {
				if k.NullsFirst {
					t += " NULLS FIRST"
				} else {
					t += " NULLS LAST"
				}
			}
			keys = append(keys, t)
		}
		e.detail(depth, "Sort Key: "+strings.Join(keys, ", "))
		depth++
	}
	if q.Distinct {
		e.line(depth, "HashAggregate")
		depth++
	}
	switch {
	case q.SetOp != nil:
		e.setOp(depth, q.SetOp)
	case q.Core == nil:
		e.line(depth, "Values Scan on \"*VALUES*\"")
	default:
		e.core(depth, q.Core)
	}
}

func (e *explainer) setOp(depth int, s *SetOp) {
	name := "HashSetOp " + strings.ToUpper(s.Kind[:1]) + s.Kind[1:]
	if s.All {
		name += " All"
	}
	if s.Kind == "union" {
		name = "Append"
		if !s.All {
			e.line(depth, "HashAggregate")
			depth++
		}
	}
	e.line(depth, name)
	e.query(depth+1, s.Left)
	e.query(depth+1, s.Right)
}

func (e *explainer) core(depth int, c *Core) {
	if a := c.Agg; a != nil {
		name := "Aggregate"
		if a.Grouped {
			name = "HashAggregate"
		}
		if a.First {
			name = "Limit"
		}
		e.line(depth, name)
		depth++
	}
	if c.From == nil {
		e.line(depth, "Result")
		return
	}
	e.node(depth, c.From)
}

func (e *explainer) node(depth int, n Node) {
	switch x := n.(type) {
	case *Scan:
		e.scan(depth, x)
	case *FuncScan:
		e.line(depth, "Function Scan on "+x.Name+e.note(n))
		e.conds(depth, "Filter", x.FilterText)
	case *SubqueryScan:
		e.line(depth, "Subquery Scan on "+x.Name+e.note(n))
		e.conds(depth, "Filter", x.FilterText)
		e.query(depth+1, x.Query)
	case *VirtualScan:
		name := x.Table.Name
		if x.Name != name {
			name += " " + x.Name
		}
		e.line(depth, "Seq Scan on "+name+e.note(n))
		e.conds(depth, "Filter", x.FilterText)
	case *Filter:
		if _, one := x.Input.(*OneRow); one {
			e.line(depth, "Result"+e.note(n))
			e.conds(depth, "One-Time Filter", x.Text)
			return
		}
		e.line(depth, "Filter"+e.note(n))
		e.conds(depth, "Cond", x.Text)
		e.node(depth+1, x.Input)
	case *NestLoop:
		name := "Nested Loop"
		if x.Type == LeftJoin {
			name += " Left Join"
		}
		e.line(depth, name+e.note(n))
		e.conds(depth, "Join Filter", x.Text)
		e.node(depth+1, x.Left)
		if x.Dependent {
			e.node(depth+1, x.Right)
			return
		}
		e.line(depth+1, "Materialize")
		e.node(depth+2, x.Right)
	case *HashJoin:
		name := map[JoinType]string{InnerJoin: "Hash Join", LeftJoin: "Hash Left Join", FullJoin: "Hash Full Join"}[x.Type]
		e.line(depth, name+e.note(n))
		e.conds(depth, "Hash Cond", x.Text)
		e.node(depth+1, x.Left)
		e.line(depth+1, "Hash")
		e.node(depth+2, x.Right)
	case *Merge:
		e.node(depth, x.Input)
	default:
		e.line(depth, "Result")
	}
}

func (e *explainer) scan(depth int, x *Scan) {
	on := x.Table.Desc.Name
	if x.Name != on {
		on += " " + x.Name
	}
	label := "Index Cond"
	switch {
	case x.Index.Desc.Name == "" || x.Index.Desc.Primary && len(x.CondText) == 0 && !x.Reverse:
		e.line(depth, "Seq Scan on "+on+e.note(x))
	default:
		kind := "Index Scan"
		if x.Covered && !x.Index.Desc.Primary {
			kind = "Index Only Scan"
		}
		if x.Reverse {
			kind += " Backward"
		}
		e.line(depth, kind+" using "+x.Index.Desc.Name+" on "+on+e.note(x))
	}
	e.conds(depth, label, x.CondText)
	e.conds(depth, "Filter", x.FilterText)
}
