package truetime

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// StepAllowance is by how much, beyond the bound, the wall clock may part from
// the monotonic one before the clock is declared broken. NTP slews both alike,
// so the honest difference is only the moment between two readings.
const StepAllowance = time.Millisecond

// Reading is one look at the machine's two clocks at (nearly) the same moment.
type Reading struct {
	Wall Timestamp     // can be stepped
	Mono time.Duration // since any fixed origin; never stepped
}

// Source is the machine's clock below System and Kernel. If it also implements
// Notifier, waiters follow its changes.
type Source interface {
	Read() Reading
}

// Options of a System clock.
type Options struct {
	// Bound is ε, vouched for by the operator: the wall clock is within it of true
	// time. 0 is honest for a single clock. Negative is refused.
	Bound time.Duration
	// Isolated says that no other clock takes part (a single-node store): steps are
	// smoothed instead of refused; see the package comment.
	Isolated bool
	// Source replaces the machine's clock, in tests and simulations.
	Source Source
}

// StepError says that the wall clock was stepped while the process ran, by more
// than the bound explains (T2). It is final; the process must restart.
type StepError struct {
	Step  time.Duration // positive: forward
	Bound time.Duration
}

func (e *StepError) Error() string {
	return fmt.Sprintf("truetime: the wall clock was stepped by %v, beyond its error bound of %v; restart the node once the clock is right", e.Step, e.Bound)
}

// goTime is Go's time package, hence virtual time inside a synctest bubble.
type goTime struct{ origin time.Time }

func (g goTime) Read() Reading {
	t := time.Now()
	return Reading{Wall: FromTime(t), Mono: t.Sub(g.origin)}
}

// fault is why a clock does not vouch; a final one is never lifted.
type fault struct {
	err   error
	final bool
}

// wallClock is what System and Kernel share: readings, the memory of the
// latest Earliest (T1), and the comparison of wall and monotonic clock (T2).
type wallClock struct {
	native   goTime
	src      Source                   // nil: native, without an interface call
	bound    time.Duration            // constant bound, when sample is nil
	sample   atomic.Pointer[sampling] // Kernel's latest bound
	isolated bool

	anchor   atomic.Pointer[Reading] // wall and mono as they belong together
	earliest atomic.Int64            // highest Earliest handed out: never retreats (T1)
	fault    atomic.Pointer[fault]
	wake     broadcast
}

// sampling is a bound that was right at mono and grows from there on.
type sampling struct {
	bound time.Duration
	mono  time.Duration
}

func (w *wallClock) init(src Source) {
	w.native = goTime{origin: time.Now()}
	w.src = src
	r := w.read()
	w.anchor.Store(&r)
}

func (w *wallClock) read() Reading {
	if w.src != nil {
		return w.src.Read()
	}
	return w.native.Read()
}

// boundAt is ε at the monotonic instant mono.
func (w *wallClock) boundAt(mono time.Duration) time.Duration {
	s := w.sample.Load()
	if s == nil {
		return w.bound
	}
	return s.bound + grown(mono-s.mono)
}

// Now implements Clock.
func (w *wallClock) Now() Interval {
	r := w.read()
	bound := w.boundAt(r.Mono)
	a := w.anchor.Load()
	expect := a.Wall + Timestamp(r.Mono-a.Mono)
	if step := r.Wall.Sub(expect); step > bound+StepAllowance || step < -bound-StepAllowance {
		r = w.stepped()
		bound = w.boundAt(r.Mono)
	} else if w.isolated {
		r.Wall = expect // one pace only: the monotonic one
	}
	if w.fault.Load() != nil {
		return Interval{Earliest: Timestamp(w.earliest.Load()), Latest: Max}
	}
	e := w.raise(r.Wall.Add(-bound))
	return Interval{Earliest: e, Latest: max(e, r.Wall.Add(bound))}
}

// stepped is the slow path of Now: the clocks seem to have parted. A thread
// that lost its processor between reading one and the other looks the same, so
// it reads again before it believes it. It returns the reading to go on with.
func (w *wallClock) stepped() Reading {
	const tries = 16
	for range tries {
		r := w.read()
		a := w.anchor.Load()
		bound := w.boundAt(r.Mono)
		expect := a.Wall + Timestamp(r.Mono-a.Mono)
		step := r.Wall.Sub(expect)
		if step >= -bound-StepAllowance && step <= bound+StepAllowance {
			if w.isolated {
				r.Wall = expect
			}
			return r
		}
		if w.isolated && step < 0 {
			r.Wall = expect // ride out a step backward
			return r
		}
	}
	r := w.read()
	a := w.anchor.Load()
	step := r.Wall.Sub(a.Wall + Timestamp(r.Mono-a.Mono))
	if w.isolated {
		w.anchor.CompareAndSwap(a, &r) // follow a step forward
		w.wake.notify()
		return r
	}
	w.fail(&fault{err: &StepError{Step: step, Bound: w.boundAt(r.Mono)}, final: true})
	return r
}

// raise returns the higher of e and every Earliest handed out before (T1).
func (w *wallClock) raise(e Timestamp) Timestamp {
	return raise(&w.earliest, e)
}

func raise(cell *atomic.Int64, e Timestamp) Timestamp {
	for {
		old := cell.Load()
		if int64(e) <= old {
			return Timestamp(old)
		}
		if cell.CompareAndSwap(old, int64(e)) {
			return e
		}
	}
}

// fail stops vouching; a final fault is never replaced.
func (w *wallClock) fail(f *fault) {
	for {
		old := w.fault.Load()
		if old != nil && old.final {
			return
		}
		if w.fault.CompareAndSwap(old, f) {
			w.wake.notify()
			return
		}
	}
}

// heal vouches again, unless the fault is final.
func (w *wallClock) heal() {
	if old := w.fault.Load(); old != nil && !old.final && w.fault.CompareAndSwap(old, nil) {
		w.wake.notify()
	}
}

// Err implements Clock.
func (w *wallClock) Err() error {
	if f := w.fault.Load(); f != nil {
		return f.err
	}
	return nil
}

// Bound returns the clock's present ε, whether or not it vouches for it.
func (w *wallClock) Bound() time.Duration { return w.boundAt(w.read().Mono) }

func (w *wallClock) sleepFor(d time.Duration) (time.Duration, bool) {
	if w.src == nil {
		return d, true
	}
	return sleepFor(w.src, d)
}

func (w *wallClock) watch(into []<-chan struct{}) []<-chan struct{} {
	into = append(into, w.wake.changed())
	if w.src != nil {
		into = watch(w.src, into)
	}
	return into
}

// System is the machine's wall clock with a constant bound that the operator
// vouches for. It has no goroutine and needs no closing.
type System struct{ wallClock }

// NewSystem returns a System clock.
func NewSystem(o Options) (*System, error) {
	if o.Bound < 0 {
		return nil, errors.New("truetime: a clock's error bound cannot be negative")
	}
	s := &System{}
	s.bound, s.isolated = o.Bound, o.Isolated
	s.init(o.Source)
	return s, nil
}

// AwaitAfter implements Clock.
func (s *System) AwaitAfter(ctx context.Context, t Timestamp) error { return awaitAfter(ctx, s, t) }

var _ Clock = (*System)(nil)
