package check

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// cycleStory names the transactions of a cycle in order, and why each comes before the next.
func (c *checker) cycleStory(cycle []edge) string {
	// It begins with the one that began first.
	first := 0
	keys := map[string]bool{}
	for i, e := range cycle {
		if c.txns[e.from].Begin < c.txns[cycle[first].from].Begin {
			first = i
		}
		if e.key >= 0 {
			keys[c.keys[e.key].name] = true
		}
	}
	cycle = append(append([]edge(nil), cycle[first:]...), cycle[:first]...)
	var b strings.Builder
	for _, e := range cycle {
		fmt.Fprintf(&b, "T%d before ", c.txns[e.from].ID)
	}
	fmt.Fprintf(&b, "T%d", c.txns[cycle[0].from].ID)
	for _, e := range cycle {
		b.WriteString("\n    " + c.brief(int(e.from), keys))
	}
	for _, e := range cycle {
		fmt.Fprintf(&b, "\n  T%d before T%d (%v): %s", c.txns[e.from].ID, c.txns[e.to].ID, e.typ, c.reason(e))
	}
	return b.String()
}

func (c *checker) reason(e edge) string {
	from, to := c.txns[e.from], c.txns[e.to]
	if e.typ == rt {
		return fmt.Sprintf("T%d was acknowledged at %s, T%d began at %s", from.ID, seconds(from.EndedAt), to.ID, seconds(to.BeganAt))
	}
	k := c.keys[e.key].name
	switch e.typ {
	case ww:
		return fmt.Sprintf("T%d wrote %d to %s, T%d wrote %d after it", from.ID, e.a, k, to.ID, e.b)
	case wr:
		return fmt.Sprintf("T%d saw %d in %s, which T%d wrote", to.ID, e.a, k, from.ID)
	case rw0:
		return fmt.Sprintf("T%d saw %s as nil, without %d, which T%d wrote", from.ID, k, e.b, to.ID)
	case prw:
		return fmt.Sprintf("T%d scanned %s without %d, which T%d inserted", from.ID, k, e.b, to.ID)
	}
	if c.keys[e.key].class == listKey {
		return fmt.Sprintf("T%d saw %s without %d, which T%d appended", from.ID, k, e.b, to.ID)
	}
	return fmt.Sprintf("T%d saw %d in %s, which T%d replaced by %d", from.ID, e.a, k, to.ID, e.b)
}

// list shows transactions, each on a line.
func (c *checker) list(txns ...int) string {
	var b strings.Builder
	for i, t := range txns {
		if i > 0 && t == txns[0] {
			continue
		}
		b.WriteString("\n    " + c.brief(t, nil))
	}
	return b.String()
}

func (c *checker) withWriter(k *keyState, v int64, reader int32) string {
	if w := c.writerOf(k, v); w >= 0 {
		return c.list(int(w), int(reader))
	}
	return c.list(int(reader))
}

// brief shows a transaction, and of what it did what concerns some keys (nil: all).
func (c *checker) brief(i int, keys map[string]bool) string {
	const most = 8
	t := c.txns[i]
	var b strings.Builder
	ended := "…"
	if t.End != 0 {
		ended = seconds(t.EndedAt)
	}
	fmt.Fprintf(&b, "T%d", t.ID)
	if t.Kind != "" {
		b.WriteString(" " + t.Kind)
	}
	fmt.Fprintf(&b, " client=%d node=%d [%s..%s] %v", t.Client, t.Node, seconds(t.BeganAt), ended, t.Status)
	if t.Stale {
		b.WriteString(" stale")
	}
	if t.TS != 0 {
		b.WriteString(" ts=" + stamp(t.TS))
	}
	sep, shown, hidden := ": ", 0, 0
	for j := range t.Ops {
		o := &t.Ops[j]
		if keys != nil && !keys[o.Key] || shown == most {
			hidden++
			continue
		}
		b.WriteString(sep + o.brief())
		sep = "; "
		shown++
	}
	if hidden > 0 {
		fmt.Fprintf(&b, "%s%d more", sep, hidden)
	}
	if t.Err != "" {
		fmt.Fprintf(&b, " (%s)", t.Err)
	}
	return b.String()
}

func (o *Op) brief() string {
	if o.Kind != List && o.Kind != Scan {
		return o.String()
	}
	s := fmt.Sprintf("%v %s %s", o.Kind, o.Key, showList(o.Values))
	if o.Undone {
		s = "undone " + s
	}
	return s
}

// showList shows the end of a list, where the news is.
func showList(vs []int64) string {
	const most = 8
	if len(vs) <= most {
		return fmt.Sprint(vs)
	}
	s := fmt.Sprint(vs[len(vs)-most:])
	return fmt.Sprintf("[…%d before… %s", len(vs)-most, s[1:])
}

func (c *checker) showSeen(k *keyState, s *seen) string {
	switch {
	case k.class == listKey || k.class == setKey:
		return showList(s.values)
	case s.null:
		return "nil"
	}
	return show(s.value)
}

func show(v int64) string { return strconv.FormatInt(v, 10) }

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 6, 64) + "s" }

// stamp shows a timestamp; one that is no instant of these times was made by hand.
func stamp(ts int64) string {
	if ts < int64(time.Hour) {
		return show(ts)
	}
	return time.Unix(0, ts).UTC().Format("15:04:05.000000000")
}
