package truetime

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Skewed makes a clock lie: its intervals are those of the clock below, moved by an
// offset that neither knows of. With an offset beyond ε it breaks T1, which is what
// it is for: tests and demonstrations of what a wrong clock does. No setting, no
// flag and no SQL of a running server leads here; whoever starts a node in its own
// process may hand it one.
//
// It moves the interval after the clock below has compared its sources, so that
// System does not take the lie for a step. All methods may be called concurrently.
type Skewed struct {
	below    Clock
	skew     atomic.Pointer[skew]
	earliest atomic.Int64 // never retreats (T1)
	wake     broadcast

	mu sync.Mutex // serialises the setters
}

// skew is the lie as a function of the time below.
type skew struct {
	offset time.Duration // at since
	ppm    float64
	since  Timestamp // Latest of the clock below
}

func (s *skew) at(t Timestamp) time.Duration {
	if s.ppm == 0 {
		return s.offset
	}
	return s.offset + time.Duration(float64(t.Sub(s.since))*s.ppm/1e6)
}

// NewSkewed returns c, still telling the truth as c knows it.
func NewSkewed(c Clock) *Skewed {
	s := &Skewed{below: c}
	s.skew.Store(&skew{})
	return s
}

// SetOffset puts the clock ahead of the clock below by d, or behind if negative,
// replacing what offset and drift have made of it; the drift goes on from there.
// Waiters are told.
func (s *Skewed) SetOffset(d time.Duration) {
	s.change(func(k *skew) { k.offset = d })
}

// SetDrift makes the clock run faster than the clock below by ppm parts per
// million, slower if negative, from now on; what it gained before stays.
func (s *Skewed) SetDrift(ppm float64) {
	s.change(func(k *skew) { k.ppm = ppm })
}

// Offset returns by how much the clock is put ahead right now.
func (s *Skewed) Offset() time.Duration { return s.skew.Load().at(s.below.Now().Latest) }

func (s *Skewed) change(f func(*skew)) {
	s.mu.Lock()
	k := *s.skew.Load()
	if t := s.below.Now().Latest; t != Max {
		k.offset, k.since = k.at(t), t
	}
	f(&k)
	s.skew.Store(&k)
	s.mu.Unlock()
	s.wake.notify()
}

// Now implements Clock.
func (s *Skewed) Now() Interval {
	i := s.below.Now()
	if i.Latest == Max {
		return Interval{Earliest: Timestamp(s.earliest.Load()), Latest: Max}
	}
	d := s.skew.Load().at(i.Latest)
	e := raise(&s.earliest, i.Earliest.Add(d))
	return Interval{Earliest: e, Latest: max(e, i.Latest.Add(d))}
}

// Err implements Clock.
func (s *Skewed) Err() error { return s.below.Err() }

// AwaitAfter implements Clock.
func (s *Skewed) AwaitAfter(ctx context.Context, t Timestamp) error { return awaitAfter(ctx, s, t) }

func (s *Skewed) watch(into []<-chan struct{}) []<-chan struct{} {
	return watch(s.below, append(into, s.wake.changed()))
}

func (s *Skewed) sleepFor(d time.Duration) (time.Duration, bool) {
	pace := 1 + s.skew.Load().ppm/1e6
	if pace <= 0 {
		return 0, false
	}
	if pace != 1 { // rounded up, so that it does not fire a nanosecond early
		d = min(maxSleep, time.Duration(float64(d)/pace)+1)
	}
	return sleepFor(s.below, d)
}

var _ Clock = (*Skewed)(nil)
