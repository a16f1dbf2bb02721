package main

import (
	"testing"
	"time"
)

// The lookout naps through every stretch that follows a busy one, and costs an idle process one look per stretch.
func TestLookout(t *testing.T) {
	var used time.Duration
	naps, aways := 0, 0
	l := &lookout{
		used: func() time.Duration { return used },
		nap:  func() { naps++ },
		away: func() { aways++ },
	}
	const all = int(stretch / nap)
	for i, tc := range []struct {
		spends      time.Duration
		naps, aways int // that this stretch adds
	}{
		{spends: busy - 1, aways: 1},
		{spends: busy, aways: 1},
		{spends: 20 * busy, naps: all},
		{spends: busy, naps: all},
		{spends: busy - 1, naps: all},
		{spends: 0, aways: 1},
		{spends: 0, aways: 1},
	} {
		naps, aways = 0, 0
		used += tc.spends
		l.stretch()
		if naps != tc.naps || aways != tc.aways {
			t.Errorf("stretch %d: %d naps and %d times away, want %d and %d", i, naps, aways, tc.naps, tc.aways)
		}
	}
}
