package integration

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Outages are counted while a majority is alive, from the last success or the
// majority's return, and the wait after a return is told apart.
func TestOutagesNeedALiveMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const s = time.Second
		begin := time.Now()
		at := func(d time.Duration) time.Time { return begin.Add(d) }
		h := NewHealth(3)
		time.Sleep(10 * s)
		h.Running(0, false) // nodes 1 and 2 go on
		time.Sleep(10 * s)  // 20
		h.Cut(1, 2, true)   // nobody does
		time.Sleep(10 * s)  // 30
		h.Cut(1, 2, false)
		time.Sleep(10 * s) // 40
		now := time.Now()
		successes := []time.Time{at(1 * s), at(8 * s), at(13 * s), at(19 * s), at(25 * s), at(34 * s), at(39 * s)}
		var got [][3]time.Duration
		for _, o := range h.outages("t", -1, successes, begin, now) {
			ret := time.Duration(0)
			if o.Return {
				ret = 1
			}
			got = append(got, [3]time.Duration{o.From.Sub(begin), o.To.Sub(begin), ret})
		}
		slices.SortFunc(got, func(a, b [3]time.Duration) int { return int(a[0] - b[0]) })
		want := [][3]time.Duration{{0, 1 * s}, {1 * s, 8 * s}, {8 * s, 13 * s}, {13 * s, 19 * s}, {19 * s, 20 * s},
			{30 * s, 34 * s, 1}, {34 * s, 39 * s}, {39 * s, 40 * s}}
		if !slices.Equal(got, want) {
			t.Errorf("outages\n%v, want\n%v", got, want)
		}
		// Node 0 was away from 10 on.
		if got := h.outages("t", 0, successes, at(5*s), now); len(got) != 2 || !got[0].From.Equal(at(5*s)) || !got[1].To.Equal(at(10*s)) {
			t.Errorf("outages through node 0, from 5 s on: %v", got)
		}
		if live := h.Live(); !slices.Equal(live, []int{1, 2}) {
			t.Errorf("alive: %v", live)
		}
	})
}

// Two overlapping majorities are both alive, though not all of their nodes reach
// each other.
func TestMajoritiesOverlap(t *testing.T) {
	h := NewHealth(3)
	h.Cut(0, 2, true)
	if live := h.Live(); !slices.Equal(live, []int{0, 1, 2}) {
		t.Errorf("alive with one direction cut: %v", live)
	}
	h.Cut(1, 0, true)
	if live := h.Live(); !slices.Equal(live, []int{1, 2}) {
		t.Errorf("alive with node 0 cut off: %v", live)
	}
	h.Running(1, false)
	if live := h.Live(); live != nil {
		t.Errorf("alive without a majority: %v", live)
	}
}
