package lockservice

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// systemClock is CLOCK_BOOTTIME, which counts suspends. Reading it takes a system call, of up
// to microseconds; so most readings are extrapolated from the last one by package time's
// monotonic clock, which needs none. That stands still in a suspend, while the wall clock,
// read in the same moment, jumps by what BOOTTIME jumps: then, and after a second, the
// system is asked again.
type systemClock struct{}

const (
	anchorLife = time.Second
	// anchorSlack is what the wall clock may be adjusted by within an anchor's life (a slew
	// of at most 500 ppm) without a system call, and the error of an anchor: far below what
	// conservative allows for.
	anchorSlack = time.Millisecond
)

// anchor is a moment on three clocks.
type anchor struct {
	at   time.Time // its monotonic reading
	wall int64     // Unix nanoseconds
	boot time.Duration
}

var lastAnchor atomic.Pointer[anchor]

func (systemClock) Now() time.Duration {
	now := time.Now()
	if a := lastAnchor.Load(); a != nil {
		passed := now.Sub(a.at) // monotonic
		wall := time.Duration(now.UnixNano() - a.wall)
		if passed >= 0 && passed < anchorLife && wall-passed < anchorSlack && passed-wall < anchorSlack {
			return a.boot + passed
		}
	}
	boot := bootTime()
	if after := time.Now(); after.Sub(now) < anchorSlack {
		lastAnchor.Store(&anchor{now, now.UnixNano(), boot})
	}
	return boot
}

// bootTime cannot fail on a kernel that runs Go: 2.6.39 has the clock.
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("lockservice: CLOCK_BOOTTIME: " + err.Error())
	}
	return time.Duration(ts.Nano())
}
