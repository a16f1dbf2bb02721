package lockservice

import (
	"testing"
	"time"
)

func TestSystemClockIsBootTime(t *testing.T) {
	for range 1000 {
		before := bootTime()
		now := systemClock{}.Now()
		after := bootTime()
		if now < before-anchorSlack || now > after+anchorSlack {
			t.Fatalf("clock says %v, CLOCK_BOOTTIME between %v and %v", now, before, after)
		}
	}
}

// After a suspend the wall clock has moved and the monotonic one has not: the system is asked.
func TestPaper2_8_SystemClockCountsSuspends(t *testing.T) {
	systemClock{}.Now()
	a := lastAnchor.Load()
	if a == nil {
		t.Skip("the machine is too slow for an anchor")
	}
	// As if ten seconds of suspend had passed since: for the monotonic clock nothing has.
	const slept = int64(10 * time.Second)
	lastAnchor.Store(&anchor{at: a.at, wall: a.wall - slept, boot: a.boot - time.Duration(slept)})
	if now, boot := (systemClock{}).Now(), bootTime(); boot-now > anchorSlack || now-boot > anchorSlack {
		t.Errorf("clock says %v, CLOCK_BOOTTIME %v", now, boot)
	}
}
