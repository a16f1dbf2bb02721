package check

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A history as text has a line for each transaction:
//
//	T3 c1 n2 5..9 ok | append x 1; list x [1]
//
// its number, client, node, places (5.. if it never ended) and outcome; then, as far as
// they apply, kind=NAME, groups=NAME,NAME, ts=NANOSECONDS, at=BEGAN..ENDED (durations; by default a
// millisecond for each place), stale, final, err="…"; behind the bar the
// micro-operations. Empty lines and lines that begin with # are skipped.

// WriteTo writes the history as text.
func (h *History) WriteTo(w io.Writer) (int64, error) {
	var n int64
	for _, t := range h.Txns() {
		k, err := io.WriteString(w, formatTxn(t)+"\n")
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func formatTxn(t *Txn) string {
	var b strings.Builder
	fmt.Fprintf(&b, "T%d c%d n%d %d..", t.ID, t.Client, t.Node, t.Begin)
	if t.End != 0 {
		fmt.Fprint(&b, t.End)
	}
	fmt.Fprintf(&b, " %v", t.Status)
	if t.Kind != "" {
		fmt.Fprintf(&b, " kind=%s", t.Kind)
	}
	if len(t.Groups) > 0 {
		fmt.Fprintf(&b, " groups=%s", strings.Join(t.Groups, ","))
	}
	if t.TS != 0 {
		fmt.Fprintf(&b, " ts=%d", t.TS)
	}
	if t.BeganAt != instant(t.Begin) || t.EndedAt != instant(t.End) {
		fmt.Fprintf(&b, " at=%v..%v", t.BeganAt, t.EndedAt)
	}
	if t.Stale {
		b.WriteString(" stale")
	}
	if t.Final {
		b.WriteString(" final")
	}
	if t.Err != "" {
		fmt.Fprintf(&b, " err=%s", strings.ReplaceAll(strconv.Quote(t.Err), " ", `\x20`))
	}
	b.WriteString(" |")
	for i := range t.Ops {
		if i > 0 {
			b.WriteByte(';')
		}
		b.WriteString(" " + t.Ops[i].String())
	}
	return b.String()
}

func (o Op) String() string {
	var b strings.Builder
	if o.Undone {
		b.WriteString("undone ")
	}
	fmt.Fprintf(&b, "%v %s ", o.Kind, o.Key)
	switch {
	case o.Kind == List, o.Kind == Scan:
		b.WriteString(formatValues(o.Values))
	case o.Null:
		b.WriteString("nil")
	default:
		fmt.Fprint(&b, o.Value)
	}
	return b.String()
}

func formatValues(vs []int64) string {
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(vs)), " "), " ")
}

// instant is the default instant of a place.
func instant(place int64) time.Duration { return time.Duration(place) * time.Millisecond }

// ParseHistory reads a history that WriteTo wrote, or a person.
func ParseHistory(r io.Reader) (*History, error) {
	h := NewHistory()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<30)
	ids := map[int]bool{}
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		t, err := parseTxn(line)
		if err == nil && ids[t.ID] {
			err = fmt.Errorf("transaction %d is there twice", t.ID)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		ids[t.ID] = true
		h.txns = append(h.txns, t)
		h.order.Store(max(h.order.Load(), t.Begin, t.End))
	}
	return h, lines.Err()
}

func parseTxn(line string) (*Txn, error) {
	head, body, ok := strings.Cut(line, "|")
	if !ok {
		return nil, fmt.Errorf("no | between a transaction and what it did")
	}
	t := &Txn{}
	f := strings.Fields(head)
	if len(f) < 5 {
		return nil, fmt.Errorf("want T1 c1 n1 1..2 ok, got %q", head)
	}
	for i, x := range []struct {
		prefix string
		to     *int
	}{{"T", &t.ID}, {"c", &t.Client}, {"n", &t.Node}} {
		rest, ok := strings.CutPrefix(f[i], x.prefix)
		n, err := strconv.Atoi(rest)
		if !ok || err != nil {
			return nil, fmt.Errorf("want %s and a number, got %q", x.prefix, f[i])
		}
		*x.to = n
	}
	from, to, ok := strings.Cut(f[3], "..")
	var err error
	if t.Begin, err = strconv.ParseInt(from, 10, 64); !ok || err != nil || t.Begin < 0 {
		return nil, fmt.Errorf("want places like 1..2, got %q", f[3])
	}
	if to != "" {
		if t.End, err = strconv.ParseInt(to, 10, 64); err != nil || t.End <= t.Begin {
			return nil, fmt.Errorf("want places like 1..2, got %q", f[3])
		}
	}
	s := slices.Index(statusNames[:], f[4])
	if s < 0 {
		return nil, fmt.Errorf("want ok, failed or unknown, got %q", f[4])
	}
	t.Status = Status(s)
	t.BeganAt, t.EndedAt = instant(t.Begin), instant(t.End)
	for _, a := range f[5:] {
		if err := t.parseAttribute(a); err != nil {
			return nil, err
		}
	}
	if strings.TrimSpace(body) == "" {
		return t, nil
	}
	for _, s := range strings.Split(body, ";") {
		o, err := parseOp(s)
		if err != nil {
			return nil, err
		}
		t.Ops = append(t.Ops, o)
	}
	return t, nil
}

func (t *Txn) parseAttribute(a string) error {
	name, v, _ := strings.Cut(a, "=")
	var err error
	switch name {
	case "kind":
		t.Kind = v
	case "groups":
		if v != "" {
			t.Groups = strings.Split(v, ",")
		}
	case "ts":
		t.TS, err = strconv.ParseInt(v, 10, 64)
	case "at":
		from, to, _ := strings.Cut(v, "..")
		if t.BeganAt, err = time.ParseDuration(from); err == nil {
			t.EndedAt, err = time.ParseDuration(to)
		}
	case "stale":
		t.Stale = true
	case "final":
		t.Final = true
	case "err":
		t.Err, err = strconv.Unquote(v)
	default:
		return fmt.Errorf("unknown attribute %q", a)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", a, err)
	}
	return nil
}

func parseOp(s string) (Op, error) {
	f := strings.Fields(s)
	var o Op
	if len(f) > 0 && f[0] == "undone" {
		o.Undone = true
		f = f[1:]
	}
	if len(f) < 3 {
		return o, fmt.Errorf("want a micro-operation like append x 1, got %q", s)
	}
	k := slices.Index(kindNames[:], f[0])
	if k < 0 {
		return o, fmt.Errorf("unknown micro-operation %q", f[0])
	}
	o.Kind, o.Key = OpKind(k), f[1]
	rest := strings.Join(f[2:], " ")
	if o.Kind == List || o.Kind == Scan {
		if !strings.HasPrefix(rest, "[") || !strings.HasSuffix(rest, "]") {
			return o, fmt.Errorf("want values like [1 2], got %q", rest)
		}
		for _, v := range strings.Fields(rest[1 : len(rest)-1]) {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return o, err
			}
			o.Values = append(o.Values, n)
		}
		return o, nil
	}
	if o.Kind == Read && rest == "nil" {
		o.Null = true
		return o, nil
	}
	var err error
	o.Value, err = strconv.ParseInt(rest, 10, 64)
	return o, err
}
