package check

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestHistories judges the histories of testdata, made by hand. Each goes through the
// text form and back first.
//
//	check      violations, as stories
//	names      violations, by name only
//	gaps       the longest time without success of each kind and node
func TestHistories(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			h := parse(t, d.Input)
			switch d.Cmd {
			case "check":
				return told(h, Violation.String)
			case "names":
				return told(h, func(v Violation) string { return v.Anomaly + " " + v.Invariant })
			case "gaps":
				return gaps(h)
			}
			t.Fatalf("unknown command %q", d.Cmd)
			return ""
		})
	})
}

func parse(t *testing.T, text string) *History {
	t.Helper()
	h, err := ParseHistory(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if _, err := h.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if h, err = ParseHistory(strings.NewReader(b.String())); err != nil {
		t.Fatalf("what was written is not read back: %v\n%s", err, &b)
	}
	return h
}

func told(h *History, show func(Violation) string) string {
	vs := Check(h)
	if len(vs) == 0 {
		return "good"
	}
	var b strings.Builder
	for _, v := range vs {
		b.WriteString(show(v) + "\n")
	}
	return b.String()
}

func gaps(h *History) string {
	m := Gaps(h, func(t *Txn) []string { return append(ByNode(t), "kind "+t.Kind) })
	var lines []string
	for g, x := range m {
		lines = append(lines, fmt.Sprintf("%s: %v, from %v to %v, %d failed", g, x.Length(), x.From, x.To, x.Failed))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func FuzzParseHistory(f *testing.F) {
	f.Add("T1 c1 n1 1..2 ok kind=bank ts=5 stale final err=\"a\\x20b\" | append x 1; list x [1 2]; undone write y 3")
	f.Add("T2 c1 n0 3.. unknown at=1ms..2ms | read x nil; scan s []; add c -4; sum b 3; differs x 4; count c 3")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseHistory(strings.NewReader(text))
		if err != nil {
			return
		}
		var a, b strings.Builder
		h.WriteTo(&a)
		again, err := ParseHistory(strings.NewReader(a.String()))
		if err != nil {
			t.Fatalf("%v\nof %q\nwritten as %q", err, text, &a)
		}
		again.WriteTo(&b)
		if a.String() != b.String() {
			t.Fatalf("%q is written as %q, and then as %q", text, &a, &b)
		}
		if len(text) < 2000 {
			Check(h) // must end, whatever was read
		}
	})
}
