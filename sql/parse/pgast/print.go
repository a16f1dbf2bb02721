package pgast

import (
	"fmt"
	"reflect"
	"sort"
	"strings"
)

// Print shows a tree for tests and debugging: one node per line, its scalar
// fields behind its name, its children indented below. Fields that are zero
// are left out, positions too unless withPos.
func Print(s Stmt, withPos bool) string {
	p := printer{pos: withPos}
	if s == nil {
		return "nil\n"
	}
	p.value("", reflect.ValueOf(s), 0)
	return p.b.String()
}

type printer struct {
	b   strings.Builder
	pos bool
}

func (p *printer) line(depth int, label, text string) {
	for i := 0; i < depth; i++ {
		p.b.WriteString("  ")
	}
	if label != "" {
		p.b.WriteString(label)
		p.b.WriteString(": ")
	}
	p.b.WriteString(text)
	p.b.WriteByte('\n')
}

// scalar renders what fits on its parent's line; ok is false for nodes.
func (p *printer) scalar(v reflect.Value) (string, bool) {
	switch v.Kind() {
	case reflect.Bool:
		return fmt.Sprint(v.Bool()), true
	case reflect.Int, reflect.Int64, reflect.Int32:
		return fmt.Sprint(v.Int()), true
	case reflect.Uint8:
		if k, ok := v.Interface().(ValueKind); ok {
			return k.String(), true
		}
		return fmt.Sprint(v.Uint()), true
	case reflect.String:
		return fmt.Sprintf("%q", v.String()), true
	case reflect.Pointer:
		if v.IsNil() {
			return "nil", true
		}
		if k := v.Elem().Kind(); k == reflect.Bool || k == reflect.String {
			return p.scalar(v.Elem())
		}
	case reflect.Slice:
		if n, ok := v.Interface().(Name); ok {
			return strings.Join(n, "."), true
		}
		if ss, ok := v.Interface().([]string); ok {
			return fmt.Sprintf("%q", ss), true
		}
		if ns, ok := v.Interface().([]int); ok {
			return fmt.Sprint(ns), true
		}
		if ns, ok := v.Interface().([]Name); ok {
			out := make([]string, len(ns))
			for i, n := range ns {
				out[i] = strings.Join(n, ".")
			}
			return "[" + strings.Join(out, " ") + "]", true
		}
	case reflect.Struct:
		switch x := v.Interface().(type) {
		case TypeName:
			return x.String(), true
		case Alias:
			if x.Columns != nil {
				return fmt.Sprintf("%s%q", x.Name, x.Columns), true
			}
			return x.Name, true
		case Option:
			return x.Name + "=" + x.Value, true
		}
	}
	return "", false
}

func (p *printer) value(label string, v reflect.Value, depth int) {
	for v.Kind() == reflect.Interface || v.Kind() == reflect.Pointer {
		if v.IsNil() {
			p.line(depth, label, "nil")
			return
		}
		v = v.Elem()
	}
	if s, ok := p.scalar(v); ok {
		p.line(depth, label, s)
		return
	}
	switch v.Kind() {
	case reflect.Slice:
		p.line(depth, label, fmt.Sprintf("[%d]", v.Len()))
		for i := 0; i < v.Len(); i++ {
			p.value("", v.Index(i), depth+1)
		}
	case reflect.Map:
		keys := v.MapKeys()
		sort.Slice(keys, func(i, j int) bool { return keys[i].String() < keys[j].String() })
		p.line(depth, label, "map")
		for _, k := range keys {
			p.value(k.String(), v.MapIndex(k), depth+1)
		}
	case reflect.Struct:
		t := v.Type()
		head := t.Name()
		var kids []int
		for i := 0; i < v.NumField(); i++ {
			f := v.Field(i)
			name := t.Field(i).Name
			if strings.HasSuffix(name, "Pos") && !p.pos || f.IsZero() && name != "Slot" {
				continue
			}
			if s, ok := p.scalar(f); ok {
				if s == "true" && f.Kind() == reflect.Bool {
					head += " " + name
				} else {
					head += " " + name + "=" + s
				}
				continue
			}
			kids = append(kids, i)
		}
		p.line(depth, label, head)
		for _, i := range kids {
			p.value(t.Field(i).Name, v.Field(i), depth+1)
		}
	default:
		p.line(depth, label, fmt.Sprint(v.Interface()))
	}
}

// String names the kind as tests show it.
func (k ValueKind) String() string {
	switch k {
	case Null:
		return "null"
	case Unknown:
		return "unknown"
	case Integer:
		return "integer"
	case Numeric:
		return "numeric"
	case Bool:
		return "bool"
	case BitString:
		return "bit"
	}
	return fmt.Sprintf("ValueKind(%d)", uint8(k))
}

// String spells the type, e.g. numeric(10,2)[].
func (t TypeName) String() string {
	s := strings.Join(t.Name, ".")
	if len(t.Mods) > 0 {
		s += "(" + strings.Join(t.Mods, ",") + ")"
	}
	s += strings.Repeat("[]", t.Array)
	if t.SetOf {
		s = "setof " + s
	}
	return s
}
