package check

import (
	"cmp"
	"slices"
	"time"
)

// Gap is a time in which nobody had success with something although somebody tried.
type Gap struct {
	From, To time.Duration // since the history's beginning
	// Attempts that were under way in it and did not succeed.
	Failed int
}

// Length is how long it took.
func (g Gap) Length() time.Duration { return g.To - g.From }

// Gaps returns, for each group that groups assigns transactions to, the longest time in
// which no transaction that touched it succeeded although some client tried: from the
// last success, or the first attempt after it if nobody was trying then, until the next
// success, or the end of the last attempt. A transaction with no group counts nowhere;
// final reads do not count.
func Gaps(h *History, groups func(*Txn) []string) map[string]Gap {
	byGroup := map[string][]*Txn{}
	for _, t := range h.Txns() {
		if t.End == 0 || t.Final {
			continue
		}
		gs := groups(t)
		for i, g := range gs {
			if !slices.Contains(gs[:i], g) {
				byGroup[g] = append(byGroup[g], t)
			}
		}
	}
	out := make(map[string]Gap, len(byGroup))
	for g, ts := range byGroup {
		out[g] = longestGap(ts)
	}
	return out
}

// ByGroup groups transactions by the parts of the data that they touched.
func ByGroup(t *Txn) []string { return t.Groups }

// ByNode groups transactions by the node that served them.
func ByNode(t *Txn) []string { return []string{"node " + show(int64(t.Node))} }

func longestGap(ts []*Txn) (longest Gap) {
	slices.SortStableFunc(ts, func(a, b *Txn) int { return cmp.Compare(a.EndedAt, b.EndedAt) })
	// trying[i] is when the first of those began that ended with ts[i] or later.
	trying := make([]time.Duration, len(ts))
	for i := len(ts) - 1; i >= 0; i-- {
		trying[i] = ts[i].BeganAt
		if i+1 < len(ts) {
			trying[i] = min(trying[i], trying[i+1])
		}
	}
	last := time.Duration(0) // the last success
	from := 0                // the first attempt that ended after it
	failed := 0
	for i, t := range ts {
		if t.Status != OK {
			failed++
			if i < len(ts)-1 {
				continue
			}
		}
		if g := (Gap{max(last, trying[from]), t.EndedAt, failed}); g.Length() > longest.Length() {
			longest = g
		}
		last, from, failed = t.EndedAt, i+1, 0
	}
	return longest
}
