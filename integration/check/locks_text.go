package check

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A LockHistory as text has a line for each record:
//
//	L3 held c1 5..9 ok s=7 path=/ls/local/a gen=2 hold=1 from=6 freed=10
//
// its number, kind, client, call and return, and outcome; then what applies of the fields of
// LockOp. An instant is its number, and its time where that is not as many milliseconds:
// 5@1.2s. Empty lines and lines that begin with # are skipped.

// WriteTo writes the history as text.
func (h *LockHistory) WriteTo(w io.Writer) (int64, error) {
	var n int64
	for _, op := range h.Ops() {
		k, err := io.WriteString(w, op.String()+"\n")
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// String is op's line.
func (op *LockOp) String() string { return op.format(Instant.text) }

// brief is op in a story.
func (op *LockOp) brief() string {
	return op.format(func(i Instant) string {
		if i == (Instant{}) {
			return "…"
		}
		return seconds(i.At)
	})
}

func (op *LockOp) format(show func(Instant) string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "L%d %v c%d %s..%s %v", op.ID, op.Kind, op.Client, show(op.Begin), show(op.End), op.Status)
	for i := range lockFields {
		f := &lockFields[i]
		switch p := f.at(op).(type) {
		case *bool:
			if *p {
				b.WriteString(" " + f.name)
			}
		case *Instant:
			if *p != (Instant{}) {
				b.WriteString(" " + f.name + "=" + show(*p))
			}
		default:
			if s := formatField(p); s != "" {
				b.WriteString(" " + f.name + "=" + s)
			}
		}
	}
	return b.String()
}

// lockField is a field of a record.
type lockField struct {
	name string
	at   func(*LockOp) any // a pointer to it
}

// lockFields are the fields that are written by name.
var lockFields = []lockField{
	{"s", func(op *LockOp) any { return &op.Session }},
	{"path", func(op *LockOp) any { return &op.Path }},
	{"inst", func(op *LockOp) any { return &op.Instance }},
	{"gen", func(op *LockOp) any { return &op.Generation }},
	{"shared", func(op *LockOp) any { return &op.Shared }},
	{"hold", func(op *LockOp) any { return &op.Hold }},
	{"handle", func(op *LockOp) any { return &op.Handle }},
	{"keep", func(op *LockOp) any { return &op.Keep }},
	{"from", func(op *LockOp) any { return &op.From }},
	{"freed", func(op *LockOp) any { return &op.Freed }},
	{"early", func(op *LockOp) any { return &op.Early }},
	{"delay", func(op *LockOp) any { return &op.Delay }},
	{"refused", func(op *LockOp) any { return &op.Refused }},
	{"ts", func(op *LockOp) any { return &op.TS }},
	{"there", func(op *LockOp) any { return &op.There }},
	{"place", func(op *LockOp) any { return &op.Place }},
	{"cas", func(op *LockOp) any { return &op.Conditional }},
	{"if", func(op *LockOp) any { return &op.If }},
	{"deleted", func(op *LockOp) any { return &op.Deleted }},
	{"value", func(op *LockOp) any { return &op.Value }},
	{"cached", func(op *LockOp) any { return &op.Cached }},
	{"event", func(op *LockOp) any { return &op.Event }},
	{"ttl", func(op *LockOp) any { return &op.TTL }},
	{"err", func(op *LockOp) any { return &op.Err }},
}

// formatField shows a field that is not its type's zero.
func formatField(p any) string {
	switch p := p.(type) {
	case *uint64:
		if *p != 0 {
			return strconv.FormatUint(*p, 10)
		}
	case *int64:
		if *p != 0 {
			return show(*p)
		}
	case *int:
		if *p != 0 {
			return strconv.Itoa(*p)
		}
	case *time.Duration:
		if *p != 0 {
			return p.String()
		}
	case *string:
		if *p != "" && plain(*p) {
			return *p
		} else if *p != "" {
			return strings.ReplaceAll(strconv.Quote(*p), " ", `\x20`)
		}
	}
	return ""
}

// plain reports that s needs no quotes.
func plain(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' })
}

func (i Instant) text() string {
	switch {
	case i == Instant{}:
		return ""
	case i.At == instant(i.Seq):
		return show(i.Seq)
	}
	return fmt.Sprintf("%d@%v", i.Seq, i.At)
}

func parseInstant(s string) (Instant, error) {
	if s == "" {
		return Instant{}, nil
	}
	number, at, timed := strings.Cut(s, "@")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt64/int64(time.Millisecond) {
		return Instant{}, fmt.Errorf("want an instant like 5 or 5@1.2s, got %q", s)
	}
	i := Instant{instant(n), n}
	if timed {
		i.At, err = time.ParseDuration(at)
	}
	return i, err
}

// ParseLockHistory reads a history that WriteTo wrote, or a person.
func ParseLockHistory(r io.Reader) (*LockHistory, error) {
	h := NewLockHistory()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		op, err := parseLockOp(line)
		if err == nil && op.ID != len(h.ops)+1 {
			err = fmt.Errorf("want L%d, got L%d", len(h.ops)+1, op.ID)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		h.ops = append(h.ops, op)
	}
	return h, lines.Err()
}

func parseLockOp(line string) (*LockOp, error) {
	f := strings.Fields(line)
	if len(f) < 5 {
		return nil, fmt.Errorf("want L1 held c1 1..2 ok, got %q", line)
	}
	op := &LockOp{}
	for _, x := range []struct {
		at     int
		prefix string
		to     *int
	}{{0, "L", &op.ID}, {2, "c", &op.Client}} {
		rest, ok := strings.CutPrefix(f[x.at], x.prefix)
		n, err := strconv.Atoi(rest)
		if !ok || err != nil {
			return nil, fmt.Errorf("want %s and a number, got %q", x.prefix, f[x.at])
		}
		*x.to = n
	}
	k := slices.Index(lockKindNames[:], f[1])
	s := slices.Index(statusNames[:], f[4])
	from, to, ok := strings.Cut(f[3], "..")
	if k < 0 || s < 0 || !ok {
		return nil, fmt.Errorf("want L1 held c1 1..2 ok, got %q", line)
	}
	op.Kind, op.Status = LockKind(k), Status(s)
	var err error
	if op.Begin, err = parseInstant(from); err != nil {
		return nil, err
	}
	if op.End, err = parseInstant(to); err != nil {
		return nil, err
	}
	for _, a := range f[5:] {
		name, v, _ := strings.Cut(a, "=")
		i := slices.IndexFunc(lockFields, func(f lockField) bool { return f.name == name })
		if i < 0 {
			return nil, fmt.Errorf("unknown attribute %q", a)
		}
		if err := parseField(lockFields[i].at(op), v); err != nil {
			return nil, fmt.Errorf("%q: %w", a, err)
		}
	}
	return op, nil
}

func parseField(p any, v string) (err error) {
	switch p := p.(type) {
	case *bool:
		*p = true
	case *Instant:
		*p, err = parseInstant(v)
	case *uint64:
		*p, err = strconv.ParseUint(v, 10, 64)
	case *int64:
		*p, err = strconv.ParseInt(v, 10, 64)
	case *int:
		*p, err = strconv.Atoi(v)
	case *time.Duration:
		*p, err = time.ParseDuration(v)
	case *string:
		if len(v) > 0 && v[0] == '"' {
			*p, err = strconv.Unquote(v)
		} else {
			*p = v
		}
	}
	return err
}
