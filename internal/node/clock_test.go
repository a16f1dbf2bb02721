package node

import (
	"testing"
	"testing/synctest"
	"time"
)

// The maximum is that of the last minute, to a second.
func TestClockPeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p clockPeaks
		if p.max() != 0 {
			t.Error(p.max())
		}
		p.note(20 * time.Millisecond)
		p.note(5 * time.Millisecond)
		time.Sleep(30 * time.Second)
		p.note(7 * time.Millisecond)
		if p.max() != 20*time.Millisecond {
			t.Error(p.max())
		}
		time.Sleep(30 * time.Second)
		if p.max() != 7*time.Millisecond {
			t.Error("a minute later:", p.max())
		}
		time.Sleep(time.Hour)
		if p.max() != 0 {
			t.Error("an hour later:", p.max())
		}
	})
}
