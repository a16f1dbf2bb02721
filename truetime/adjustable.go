package truetime

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// Adjustable is a clock with extra error on top, settable while it runs: it
// widens what the clock below says and never narrows it. It is also where the
// verdict of others is kept: a clock that its peers have proved wrong (T2) stops
// vouching for good.
type Adjustable struct {
	below      Clock
	extra      atomic.Int64
	earliest   atomic.Int64 // never retreats, also when extra grows (T1)
	distrusted atomic.Pointer[fault]
	wake       broadcast
}

// NewAdjustable returns c with no extra error yet.
func NewAdjustable(c Clock) *Adjustable { return &Adjustable{below: c} }

// AddError sets the extra error to d >= 0, replacing what was set before.
// Waiters are told.
func (a *Adjustable) AddError(d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("truetime: added clock error %v: must not be negative", d)
	}
	a.extra.Store(int64(d))
	a.wake.notify()
	return nil
}

// Distrust makes the clock stop vouching, for err and for good: intervals handed
// out before may have been wrong, and it cannot be told since when, so only a new
// life of the node, which compares clocks afresh, may vouch again. The first reason
// stays. Waiters are told. It reports whether this call was the first.
func (a *Adjustable) Distrust(err error) bool {
	if !a.distrusted.CompareAndSwap(nil, &fault{err: err, final: true}) {
		return false
	}
	a.wake.notify()
	return true
}

// Distrusted returns why Distrust was called, nil if it was not.
func (a *Adjustable) Distrusted() error {
	if f := a.distrusted.Load(); f != nil {
		return f.err
	}
	return nil
}

// Added returns the extra error.
func (a *Adjustable) Added() time.Duration { return time.Duration(a.extra.Load()) }

// Below returns the clock that a widens.
func (a *Adjustable) Below() Clock { return a.below }

// Now implements Clock.
func (a *Adjustable) Now() Interval {
	if a.distrusted.Load() != nil {
		return Interval{Earliest: Timestamp(a.earliest.Load()), Latest: Max}
	}
	i := a.below.Now()
	d := time.Duration(a.extra.Load())
	e := raise(&a.earliest, i.Earliest.Add(-d))
	// An Earliest handed out under a smaller error may lie above this one's, never
	// above true time, so the interval still contains it.
	return Interval{Earliest: e, Latest: max(e, i.Latest.Add(d))}
}

// Err implements Clock.
func (a *Adjustable) Err() error {
	if f := a.distrusted.Load(); f != nil {
		return f.err
	}
	return a.below.Err()
}

// AwaitAfter implements Clock.
func (a *Adjustable) AwaitAfter(ctx context.Context, t Timestamp) error {
	if a.Now().Earliest > t {
		return nil
	}
	return awaitAfter(ctx, a, t)
}

func (a *Adjustable) watch(into []<-chan struct{}) []<-chan struct{} {
	return watch(a.below, append(into, a.wake.changed()))
}

func (a *Adjustable) sleepFor(d time.Duration) (time.Duration, bool) { return sleepFor(a.below, d) }

var _ Clock = (*Adjustable)(nil)
