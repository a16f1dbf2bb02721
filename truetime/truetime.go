package truetime

import (
	"context"
	"math"
	"time"
)

// Timestamp is an instant in nanoseconds since the Unix epoch, 1970-01-01 UTC.
type Timestamp int64

// The ends of time. Max is also the Latest of a clock that vouches for nothing.
const (
	Min Timestamp = 0
	Max Timestamp = math.MaxInt64
)

// FromTime converts t.
func FromTime(t time.Time) Timestamp { return Timestamp(t.UnixNano()) }

// Time converts ts, in UTC.
func (ts Timestamp) Time() time.Time { return time.Unix(0, int64(ts)).UTC() }

// Add returns ts+d, Max when that would overflow.
func (ts Timestamp) Add(d time.Duration) Timestamp {
	if s := ts + Timestamp(d); d <= 0 || s >= ts {
		return s
	}
	return Max
}

// Sub returns ts-u.
func (ts Timestamp) Sub(u Timestamp) time.Duration { return time.Duration(ts - u) }

// Interval is what TrueTime answers: true time lies in [Earliest, Latest].
type Interval struct {
	Earliest, Latest Timestamp
}

// Epsilon is half the interval's width, the ε of the Spanner paper.
func (i Interval) Epsilon() time.Duration { return i.Latest.Sub(i.Earliest) / 2 }

// Clock is TrueTime (OSDI'12 section 3). All methods may be called concurrently.
//
// A clock that can no longer vouch for true time says so through Err, and from
// then on Now answers [earliest, Max]: every rule that needs an upper bound
// (leases, commit timestamps, strong reads) then refuses by itself, so no
// caller has to remember to ask (T1).
type Clock interface {
	// Now returns the current interval. Its Earliest never retreats.
	Now() Interval
	// AwaitAfter returns nil once t has definitely passed (Now().Earliest > t):
	// commit wait. It sleeps until the instant is due; it does not poll. It
	// returns ctx's error, or Err's when the clock fails meanwhile.
	AwaitAfter(ctx context.Context, t Timestamp) error
	// Err says why the clock does not vouch for true time, nil while it does.
	Err() error
}

// After reports whether t has definitely passed (the paper's TT.after).
func After(c Clock, t Timestamp) bool { return c.Now().Earliest > t }
