package replicas

import (
	"testing"

	"github.com/spandb/spand/internal/keys"
)

// stepping is a replica to which something happens before each look at it.
type stepping struct {
	desc       keys.Descriptor
	splitting  bool
	incomplete bool
	looked     func()
}

func (s *stepping) Descriptor() keys.Descriptor { s.look(); return s.desc }
func (s *stepping) Splitting() bool             { s.look(); return s.splitting }
func (s *stepping) Incomplete() bool            { return s.incomplete }
func (s *stepping) look() {
	if s.looked != nil {
		s.looked()
	}
}

func span(start, end string) keys.Span {
	return keys.Span{Start: keys.Key(start), End: keys.Key(end)}
}

func replica(g keys.GroupID, start, end string) *stepping {
	return &stepping{desc: keys.Descriptor{Group: g, Span: span(start, end)}}
}

// R1: a replica is not taken for missing at any moment of the split that opens it, be it
// the first split that concerns its keys or one after that. All interleavings of two
// splits with the looks of one decision.
func TestR1_NotMissingInTheMiddleOfASplit(t *testing.T) {
	const steps, looks = 7, 8
	var at [steps]int // the look before which a step is made
	var try func(step int)
	runs := 0
	try = func(step int) {
		if step < steps {
			from := 0
			if step > 0 {
				from = at[step-1]
			}
			for at[step] = from; at[step] <= looks; at[step]++ {
				try(step + 1)
			}
			return
		}
		runs++
		if decidesInTheMiddle(at[:]) {
			t.Fatalf("a replica that a split is about to open passes for missing: steps before looks %v", at)
		}
	}
	try(0)
	if runs < 1000 {
		t.Fatalf("only %d interleavings", runs)
	}
}

// decidesInTheMiddle makes step i of two splits before look at[i], and reports whether
// their child's replica passes for missing while it is not open.
func decidesInTheMiddle(at []int) bool {
	// P holds [a, z), splits off C at m, and C splits off the replica in question,
	// [m, p), leaving itself [p, z): begin, let go, open, end; the one after the other.
	p, c := replica(1, "a", "z"), replica(2, "m", "z")
	list := []holder{p}
	opened := false
	steps := []func(){
		func() { p.splitting = true },
		func() { p.desc.Span = span("a", "m") },
		func() { list = append(list, c) },
		func() { p.splitting, c.splitting = false, true },
		func() { c.desc.Span = span("p", "z") },
		func() { opened = true; list = append(list, replica(3, "m", "p")) },
		func() { c.splitting = false },
	}
	done, looked := 0, 0
	look := func() {
		for done < len(steps) && at[done] <= looked {
			steps[done]()
			done++
		}
		looked++
	}
	p.looked, c.looked = look, look
	holders := func() []holder { look(); return append([]holder(nil), list...) }
	return nobodyHolds(holders, span("m", "p")) == nil && !opened
}

func TestMissingIsWhatNobodyHolds(t *testing.T) {
	half := replica(2, "", "")
	half.desc.Group = 0
	waiting := replica(2, "x", "z")
	waiting.incomplete = true
	for _, c := range []struct {
		name    string
		list    []holder
		missing bool
	}{
		{"nobody is near", []holder{replica(1, "a", "m"), replica(2, "p", "z")}, true},
		{"the parent covers it", []holder{replica(1, "a", "z")}, false},
		{"one without a descriptor", []holder{half}, false},
		{"one waits for a snapshot", []holder{waiting}, false},
	} {
		if err := nobodyHolds(func() []holder { return c.list }, span("m", "p")); (err == nil) != c.missing {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
