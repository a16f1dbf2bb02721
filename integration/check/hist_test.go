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
//	locks      violations of a LockHistory, as stories
//	lock-names violations of a LockHistory, by name only
func TestHistories(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "locks":
				return toldLocks(t, d.Input, Violation.String)
			case "lock-names":
				return toldLocks(t, d.Input, func(v Violation) string { return v.Anomaly + " " + v.Invariant })
			}
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

func told(h *History, show func(Violation) string) string { return tell(Check(h), show) }

func tell(vs []Violation, show func(Violation) string) string {
	if len(vs) == 0 {
		return "good"
	}
	var b strings.Builder
	for _, v := range vs {
		b.WriteString(show(v) + "\n")
	}
	return b.String()
}

func toldLocks(t *testing.T, text string, show func(Violation) string) string {
	t.Helper()
	h, err := ParseLockHistory(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if _, err := h.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if h, err = ParseLockHistory(strings.NewReader(b.String())); err != nil {
		t.Fatalf("what was written is not read back: %v\n%s", err, &b)
	}
	return tell(CheckLocks(h), show)
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

func FuzzParseLockHistory(f *testing.F) {
	f.Add("L1 held c1 1..9 ok s=7 path=/ls/local/a gen=2 hold=1 from=3 freed=10 delay=1s\nL2 checked c2 4..5@6ms failed path=/ls/local/a refused err=\"a\\x20b\"")
	f.Add("L1 changed c1 1..2 unknown s=7 path=a inst=1 gen=2 cas if=1 value=5\nL2 looked c1 3..4 ok path=a deleted cached\nL3 silent c0 1.. ok ttl=2s s=1")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseLockHistory(strings.NewReader(text))
		if err != nil {
			return
		}
		var a, b strings.Builder
		h.WriteTo(&a)
		again, err := ParseLockHistory(strings.NewReader(a.String()))
		if err != nil {
			t.Fatalf("%v\nof %q\nwritten as %q", err, text, &a)
		}
		again.WriteTo(&b)
		if a.String() != b.String() {
			t.Fatalf("%q is written as %q, and then as %q", text, &a, &b)
		}
		CheckLocks(h) // must end, whatever was read
	})
}
