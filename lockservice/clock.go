package lockservice

import "time"

// Clock measures the time that leases run on: it never goes back and does not stop while
// the machine is suspended. Only differences count. Safe for concurrent use.
//
// Timers come from package time; whether a lease is over is always asked of the Clock, so
// a timer that fires late (after a suspend, or in a process that was stopped) makes
// nothing valid for longer.
type Clock interface {
	Now() time.Duration
}

// drift is what two clocks may drift apart, as a part of the time that passed: ten times what
// crystals of servers do, and 12 ms of a lease of 12 s.
const drift = 1e-3

// conservative is how much of a lease of ttl on the server's clock is certain on ours.
func conservative(ttl time.Duration) time.Duration {
	return ttl - time.Duration(float64(ttl)*drift)
}
