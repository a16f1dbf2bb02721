package truetime

import (
	"context"
	"sync"
	"time"
)

// maxSleep bounds one timer, so that adding durations cannot overflow. The
// wait is computed anew when it fires.
const maxSleep = 24 * time.Hour

// broadcast wakes everybody who waits for a clock's readings to change other
// than by the passing of time. The zero value is ready.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{} // closed and forgotten by notify; nil while nobody waits
}

// changed returns a channel that the next notify closes.
func (b *broadcast) changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) notify() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

// Notifier is implemented by clocks and sources whose readings can be changed
// from outside while others wait for an instant.
type Notifier interface {
	// Changed returns a channel that is closed at the next change.
	Changed() <-chan struct{}
}

// sleeper says how long to sleep on Go's time until the clock has moved on by
// d; ok is false when the clock does not move by itself.
type sleeper interface {
	sleepFor(d time.Duration) (sleep time.Duration, ok bool)
}

// maxWatched is how many layers of clocks and sources a waiter can follow: an
// Adjustable over a Kernel over a Source, and one to spare.
const maxWatched = 4

// watched is a clock that collects the channels of all the layers below it.
type watched interface {
	watch(into []<-chan struct{}) []<-chan struct{}
}

// watch appends c's notification channels to into.
func watch(c any, into []<-chan struct{}) []<-chan struct{} {
	switch c := c.(type) {
	case watched:
		return c.watch(into)
	case Notifier:
		return append(into, c.Changed())
	}
	return into
}

// sleepFor asks c for the sleep until it has moved by d; a clock that does not
// say moves at the pace of Go's time.
func sleepFor(c any, d time.Duration) (time.Duration, bool) {
	if s, ok := c.(sleeper); ok {
		return s.sleepFor(d)
	}
	return d, true
}

// awaitAfter is AwaitAfter for any clock: one timer for the computed remainder,
// and a look at the clock again when it fires or when the clock's readings change.
func awaitAfter(ctx context.Context, c Clock, t Timestamp) error {
	if c.Now().Earliest > t {
		return nil
	}
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	var last Timestamp
	var stuck time.Duration
	for {
		// The channels are taken before the clock is read, so that no change between
		// the two is missed. The unused ones stay nil and never fire.
		var changed [maxWatched]<-chan struct{}
		watch(c, changed[:0])
		now := c.Now()
		if now.Earliest > t {
			return nil
		}
		if err := c.Err(); err != nil {
			return err
		}
		d := maxSleep
		if gap := uint64(t) - uint64(now.Earliest); gap < uint64(maxSleep) {
			d = time.Duration(gap) + 1 // strictly after t
		}
		// An Earliest that may not retreat (T1) stands still until the clock, set back or
		// grown less certain, has caught up with it; who knows when. That must not be
		// spent in a loop of sleeps of a nanosecond.
		if now.Earliest == last {
			stuck = min(max(2*stuck, 10*time.Microsecond), time.Millisecond)
			d = max(d, stuck)
		} else {
			last, stuck = now.Earliest, 0
		}
		var due <-chan time.Time
		if sleep, ok := sleepFor(c, d); ok {
			if timer == nil {
				timer = time.NewTimer(sleep)
			} else {
				timer.Reset(sleep)
			}
			due = timer.C
		}
		select {
		case <-due:
		case <-changed[0]:
		case <-changed[1]:
		case <-changed[2]:
		case <-changed[3]:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
