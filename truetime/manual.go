package truetime

import (
	"context"
	"sync"
	"time"
)

// ManualOptions of a Manual clock.
type ManualOptions struct {
	// Base is true time; time.Now by default, virtual inside a synctest bubble.
	Base func() time.Time
	// Frozen clocks do not move by themselves, only by Step and SetOffset.
	Frozen bool
	// Offset is the clock's error at the start; Epsilon the bound that it claims.
	Offset, Epsilon time.Duration
}

// Manual is a clock for tests and simulations, whose faults are set while it
// runs; every change wakes those who wait. It believes whatever it is told: an
// Offset beyond Epsilon makes a lying clock. It is also a Source, with steps
// and offsets on the wall clock and drift on both, so that System's and
// Kernel's own checks can be tried.
type Manual struct {
	base   func() time.Time
	frozen bool
	wake   broadcast

	mu struct {
		sync.Mutex
		since    time.Time     // base when the drift last changed
		mono     time.Duration // the monotonic clock at since
		wall     Timestamp     // the wall clock at since, without offset
		offset   time.Duration
		ppm      float64
		epsilon  time.Duration
		earliest Timestamp // never retreats (T1)
		err      error
		held     time.Time // base when Hold was called, zero: it was not
	}
}

// NewManual returns a Manual clock.
func NewManual(o ManualOptions) *Manual {
	m := &Manual{base: o.Base, frozen: o.Frozen}
	if m.base == nil {
		m.base = time.Now
	}
	m.mu.since = m.base()
	m.mu.wall = FromTime(m.mu.since)
	m.mu.offset, m.mu.epsilon = o.Offset, max(0, o.Epsilon)
	return m
}

// elapsedLocked is how far the clock moved since mu.since, at its own pace.
func (m *Manual) elapsedLocked() time.Duration {
	if m.frozen {
		return 0
	}
	now := m.mu.held
	if now.IsZero() {
		now = m.base()
	}
	d := now.Sub(m.mu.since)
	if m.mu.ppm == 0 {
		return d
	}
	return d + time.Duration(float64(d)*m.mu.ppm/1e6)
}

// Read implements Source.
func (m *Manual) Read() Reading {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.elapsedLocked()
	return Reading{Wall: m.mu.wall.Add(d + m.mu.offset), Mono: m.mu.mono + d}
}

// Now implements Clock.
func (m *Manual) Now() Interval {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.err != nil {
		return Interval{Earliest: m.mu.earliest, Latest: Max}
	}
	t := m.mu.wall.Add(m.elapsedLocked() + m.mu.offset)
	m.mu.earliest = max(m.mu.earliest, t.Add(-m.mu.epsilon))
	return Interval{Earliest: m.mu.earliest, Latest: max(m.mu.earliest, t.Add(m.mu.epsilon))}
}

// Err implements Clock.
func (m *Manual) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.err
}

// AwaitAfter implements Clock.
func (m *Manual) AwaitAfter(ctx context.Context, t Timestamp) error { return awaitAfter(ctx, m, t) }

// Changed implements Notifier.
func (m *Manual) Changed() <-chan struct{} { return m.wake.changed() }

func (m *Manual) sleepFor(d time.Duration) (time.Duration, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	pace := 1 + m.mu.ppm/1e6
	if m.frozen || pace <= 0 || !m.mu.held.IsZero() {
		return 0, false
	}
	if m.mu.ppm == 0 {
		return d, true
	}
	// Rounded up: firing a nanosecond early would cost a second timer.
	return min(maxSleep, time.Duration(float64(d)/pace)+1), true
}

func (m *Manual) change(f func()) {
	m.mu.Lock()
	f()
	m.mu.Unlock()
	m.wake.notify()
}

// SetOffset sets the clock's error against its base.
func (m *Manual) SetOffset(d time.Duration) { m.change(func() { m.mu.offset = d }) }

// Step moves the clock by d at once, on top of what it is off already.
func (m *Manual) Step(d time.Duration) { m.change(func() { m.mu.offset += d }) }

// Offset returns the sum of SetOffset and Step; drift is not in it.
func (m *Manual) Offset() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.offset
}

// SetDrift makes the clock run faster than its base by ppm parts per million,
// slower if negative, from now on; what it gained before stays.
func (m *Manual) SetDrift(ppm float64) {
	m.change(func() {
		d := m.elapsedLocked()
		if m.mu.held.IsZero() {
			m.mu.since = m.base()
		} else {
			m.mu.since = m.mu.held
		}
		m.mu.mono += d
		m.mu.wall = m.mu.wall.Add(d)
		m.mu.ppm = ppm
	})
}

// Hold stops the clock as a stopped process sees it: it answers what it answered, and
// nobody's wait ends, until Release, when it is where it would be.
func (m *Manual) Hold() { m.change(func() { m.mu.held = m.base() }) }

// Release ends Hold.
func (m *Manual) Release() { m.change(func() { m.mu.held = time.Time{} }) }

// SetEpsilon sets the bound that the clock claims.
func (m *Manual) SetEpsilon(d time.Duration) { m.change(func() { m.mu.epsilon = max(0, d) }) }

// Fail makes the clock stop vouching, with err; nil makes it vouch again.
func (m *Manual) Fail(err error) { m.change(func() { m.mu.err = err }) }

var (
	_ Clock    = (*Manual)(nil)
	_ Source   = (*Manual)(nil)
	_ Notifier = (*Manual)(nil)
)
