//go:build !linux

package lockservice

import (
	"sync/atomic"
	"time"
)

// systemClock is the greater of what the monotonic clock and the wall clock say has passed:
// the first may stop during a suspend, the second may be set back.
type systemClock struct{}

var (
	started     = time.Now()
	startedWall = started.Round(0)
	furthest    atomic.Int64
)

func (systemClock) Now() time.Duration {
	now := time.Now()
	d := int64(max(now.Sub(started), now.Round(0).Sub(startedWall)))
	for {
		last := furthest.Load()
		if d <= last {
			return time.Duration(last)
		}
		if furthest.CompareAndSwap(last, d) {
			return time.Duration(d)
		}
	}
}
