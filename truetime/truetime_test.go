package truetime

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const ms = time.Millisecond

func newSystem(t *testing.T, o Options) *System {
	t.Helper()
	c, err := NewSystem(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// T1: the interval contains true time, and ε is the vouched bound.
func TestT1SystemContainsTrueTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, bound := range []time.Duration{0, 4 * ms} {
			c := newSystem(t, Options{Bound: bound})
			now, i := FromTime(time.Now()), c.Now()
			if i.Earliest != now.Add(-bound) || i.Latest != now.Add(bound) || i.Epsilon() != bound {
				t.Errorf("bound %v: %v at %v", bound, i, now)
			}
		}
		if _, err := NewSystem(Options{Bound: -1}); err == nil {
			t.Error("a negative bound was accepted")
		}
	})
}

// T1: Earliest never retreats, whatever happens below.
func TestT1EarliestNeverRetreats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManual(ManualOptions{Epsilon: 5 * ms})
		a := NewAdjustable(newSystem(t, Options{Bound: 5 * ms, Source: m}))
		for _, c := range []Clock{m, a} {
			last := c.Now().Earliest
			for i, f := range []func(){
				func() { m.Step(-5 * ms) },
				func() { time.Sleep(ms) },
				func() { m.SetEpsilon(50 * ms) },
				func() { a.AddError(time.Second) },
				func() { m.SetDrift(-200_000); time.Sleep(10 * ms) },
				func() { m.Step(5 * ms) },
				func() { a.AddError(0) },
				func() { m.Step(-time.Hour) },
			} {
				f()
				now := c.Now()
				if now.Earliest < last || now.Latest < now.Earliest {
					t.Errorf("%T step %d: %v after %v", c, i, now, last)
				}
				last = now.Earliest
			}
			m.Step(time.Hour)
			m.SetDrift(0)
		}
	})
}

// X1 builds on it: commit wait ends at the first instant after t, not before, not later.
func TestAwaitAfterIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, bound := range []time.Duration{0, 4 * ms, 50 * ms} {
			c := newSystem(t, Options{Bound: bound})
			start := time.Now()
			s := c.Now().Latest
			if err := c.AwaitAfter(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if !After(c, s) {
				t.Error("not after")
			}
			if got := time.Since(start); got != 2*bound+1 {
				t.Errorf("bound %v: waited %v", bound, got)
			}
		}
	})
}

func TestAwaitAfterPastDoesNotAllocate(t *testing.T) {
	sys := newSystem(t, Options{Bound: ms})
	for _, c := range []Clock{sys, NewAdjustable(sys)} {
		past := c.Now().Earliest - 1
		if n := testing.AllocsPerRun(100, func() { c.AwaitAfter(context.Background(), past) }); n != 0 {
			t.Errorf("%T: %v allocations", c, n)
		}
	}
}

func TestAwaitAfterFollowsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, change := range map[string]func(*Manual, *Adjustable){
			"step":    func(m *Manual, a *Adjustable) { m.Step(time.Minute) },
			"drift":   func(m *Manual, a *Adjustable) { m.SetDrift(1_000_000) },
			"epsilon": func(m *Manual, a *Adjustable) { m.SetEpsilon(0) },
			"added":   func(m *Manual, a *Adjustable) { a.AddError(0) },
		} {
			m := NewManual(ManualOptions{Epsilon: 10 * ms})
			a := NewAdjustable(m)
			if err := a.AddError(20 * ms); err != nil {
				t.Fatal(err)
			}
			s := a.Now().Earliest.Add(60*ms - 1)
			start := time.Now()
			done := make(chan time.Duration)
			go func() {
				if err := a.AwaitAfter(t.Context(), s); err != nil {
					t.Error(name, err)
				}
				done <- time.Since(start)
			}()
			time.Sleep(10 * ms)
			change(m, a)
			got := <-done
			want := map[string]time.Duration{"step": 10 * ms, "drift": 35 * ms, "epsilon": 50 * ms, "added": 40 * ms}[name]
			if got < want || got > want+10 {
				t.Errorf("%s: waited %v, want %v", name, got, want)
			}
		}
	})
}

func TestAwaitAfterDriftingAndFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := NewManual(ManualOptions{})
		slow.SetDrift(-500_000) // half pace
		start := time.Now()
		if err := slow.AwaitAfter(t.Context(), slow.Now().Earliest.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(start); got < 2*time.Second || got > 2*time.Second+10 {
			t.Errorf("half pace: %v", got)
		}
		frozen := NewManual(ManualOptions{Frozen: true})
		i := frozen.Now()
		time.Sleep(time.Hour)
		if frozen.Now() != i {
			t.Error("a frozen clock moved")
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := frozen.AwaitAfter(t.Context(), i.Latest); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		frozen.Step(1)
		wg.Wait()
	})
}

func TestAwaitAfterEndsWithContextAndFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManual(ManualOptions{})
		a := NewAdjustable(m)
		ctx, cancel := context.WithTimeout(t.Context(), ms)
		defer cancel()
		if err := a.AwaitAfter(ctx, Max); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		broken := errors.New("broken")
		got := make(chan error)
		go func() { got <- a.AwaitAfter(t.Context(), Max) }()
		synctest.Wait()
		m.Fail(broken)
		if err := <-got; err != broken {
			t.Error(err)
		}
		if i := a.Now(); i.Latest != Max {
			t.Errorf("a failed clock vouches: %v", i)
		}
		if err := a.AwaitAfter(t.Context(), a.Now().Earliest-1); err != nil {
			t.Error("what has passed has passed:", err)
		}
		m.Fail(nil)
		if a.Err() != nil || a.Now().Latest == Max {
			t.Error("not healed")
		}
	})
}

// T2: wall and monotonic clock part.
func TestT2Step(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, step := range []time.Duration{5 * time.Second, -5 * time.Second, 12 * ms, -12 * ms} {
			m := NewManual(ManualOptions{})
			c := newSystem(t, Options{Bound: 10 * ms, Source: m})
			before := c.Now()
			m.SetDrift(300) // slewing moves both clocks and is no step
			time.Sleep(time.Minute)
			if c.Now().Latest == Max {
				t.Fatal(c.Err())
			}
			m.Step(step)
			i := c.Now()
			var se *StepError
			if !errors.As(c.Err(), &se) || se.Step != step || i.Latest != Max || i.Earliest < before.Earliest {
				t.Errorf("step %v: %v %v", step, c.Err(), i)
			}
			m.Step(-step)
			if c.Now(); c.Err() == nil {
				t.Error("a step is final")
			}
		}
		m := NewManual(ManualOptions{})
		c := newSystem(t, Options{Bound: 10 * ms, Source: m})
		m.Step(10 * ms)
		if c.Now(); c.Err() != nil {
			t.Error("a step within the bound:", c.Err())
		}
	})
}

// T2: a step is found by those who only wait, too.
func TestT2StepWakesWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManual(ManualOptions{})
		c := NewAdjustable(newSystem(t, Options{Source: m}))
		got := make(chan error)
		go func() { got <- c.AwaitAfter(t.Context(), c.Now().Latest.Add(time.Hour)) }()
		synctest.Wait()
		m.Step(-time.Minute)
		var se *StepError
		if err := <-got; !errors.As(err, &se) {
			t.Error(err)
		}
	})
}

// A single-node store follows a step forward and rides out one backward.
func TestT2Isolated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManual(ManualOptions{})
		c := newSystem(t, Options{Isolated: true, Source: m})
		start := c.Now().Latest
		m.Step(-time.Hour)
		time.Sleep(time.Second)
		if got := c.Now(); got != (Interval{start.Add(time.Second), start.Add(time.Second)}) || c.Err() != nil {
			t.Errorf("back: %v %v", got.Latest.Sub(start), c.Err())
		}
		m.Step(3 * time.Hour)
		time.Sleep(time.Second)
		if got := c.Now().Latest.Sub(start); got != 2*time.Hour+2*time.Second || c.Err() != nil {
			t.Errorf("forward: %v %v", got, c.Err())
		}
	})
}

func TestKernelBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type answer struct {
			KernelState
			err error
		}
		var says atomic.Pointer[answer]
		says.Store(&answer{KernelState{MaxError: 3 * ms, Synchronized: true}, nil})
		k, err := NewKernel(KernelOptions{State: func() (KernelState, error) {
			a := says.Load()
			return a.KernelState, a.err
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		if e := k.Now().Epsilon(); e != 3*ms {
			t.Error(e)
		}
		time.Sleep(900 * ms)
		if e := k.Now().Epsilon(); e < 3*ms+450*time.Microsecond || e > 3*ms+451*time.Microsecond {
			t.Error("between samples the bound grows by 500 ppm:", e)
		}
		says.Store(&answer{KernelState{MaxError: ms, Synchronized: true}, nil})
		time.Sleep(101 * ms)
		if e := k.Bound(); e < ms || e > ms+time.Microsecond {
			t.Error("new sample:", e)
		}
		// It stops vouching, waiters learn of it, and it recovers by itself.
		got := make(chan error)
		go func() { got <- k.AwaitAfter(t.Context(), k.Now().Latest.Add(time.Hour)) }()
		synctest.Wait()
		says.Store(&answer{KernelState{MaxError: ms}, nil})
		var ue *UnsynchronizedError
		if err := <-got; !errors.As(err, &ue) || k.Now().Latest != Max {
			t.Error(err, k.Now())
		}
		last := k.Now().Earliest
		says.Store(&answer{KernelState{MaxError: ms, Synchronized: true}, nil})
		time.Sleep(sampleEvery)
		synctest.Wait()
		if i := k.Now(); k.Err() != nil || i.Latest == Max || i.Earliest < last {
			t.Error("not recovered", k.Err(), i)
		}
		failure := errors.New("EPERM")
		says.Store(&answer{err: failure})
		time.Sleep(sampleEvery)
		synctest.Wait()
		if err := k.Err(); !errors.Is(err, failure) {
			t.Error(err)
		}
		k.Close() // twice is fine
	})
}

func TestKernelRefusesUnsynchronized(t *testing.T) {
	_, err := NewKernel(KernelOptions{State: func() (KernelState, error) { return KernelState{MaxError: 16 * time.Second}, nil }})
	var ue *UnsynchronizedError
	if !errors.As(err, &ue) || !strings.Contains(err.Error(), "chrony") || !strings.Contains(err.Error(), "--max-clock-error") {
		t.Error(err)
	}
}

// The machine's own kernel either vouches or is refused with the typed error.
func TestKernelOfThisMachine(t *testing.T) {
	k, err := NewKernel(KernelOptions{})
	if err != nil {
		var ue *UnsynchronizedError
		if !errors.As(err, &ue) {
			t.Fatal(err)
		}
		return
	}
	defer k.Close()
	if e := k.Now().Epsilon(); e <= 0 || e > 20*time.Second {
		t.Error(e)
	}
}

func TestT2CheckPeer(t *testing.T) {
	at := func(lo, hi int) Interval {
		return Interval{Timestamp(time.Duration(lo) * ms), Timestamp(time.Duration(hi) * ms)}
	}
	for _, c := range []struct {
		sent, received, remote Interval
		gap                    time.Duration
	}{
		{at(100, 108), at(120, 128), at(110, 118), 0},
		{at(100, 108), at(120, 128), at(128, 136), 0},        // touching: still possible
		{at(100, 108), at(120, 128), at(131, 139), 3 * ms},   // ahead
		{at(100, 108), at(120, 128), at(92, 100), 0},         // touching
		{at(100, 108), at(120, 128), at(90, 98), -2 * ms},    // behind
		{Interval{}, at(120, 128), at(2, 8), 0},              // one way: behind is not provable
		{Interval{}, at(120, 128), at(200, 208), 72 * ms},    // one way: ahead is
		{at(100, 108), Interval{5, Max}, at(1e6, 2e6), 0},    // we vouch for nothing
		{at(100, 108), at(120, 128), Interval{0, Max}, 0},    // the peer vouches for nothing
		{at(100, 108), at(1100, 1108), at(1000, 1008), 0},    // a slow round trip allows much
		{at(100, 100), at(100, 100), at(101, 101), 1 * ms},   // ε = 0
		{at(100, 100), at(1100, 1100), at(90, 90), -10 * ms}, // ε = 0, behind
	} {
		err := CheckPeer("n2", c.sent, c.received, c.remote)
		var pe *PeerError
		if got := errors.As(err, &pe); got != (c.gap != 0) || got && pe.Gap != c.gap {
			t.Errorf("%v %v %v: %v", c.sent, c.received, c.remote, err)
		}
	}
}

func TestT2CheckStartAndReceived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newSystem(t, Options{Bound: 10 * ms})
		now := FromTime(time.Now())
		if err := CheckStart(c, now.Add(30*ms)); err != nil {
			t.Error(err)
		}
		var se *StartError
		if err := CheckStart(c, now.Add(35*ms)); !errors.As(err, &se) || se.Gap != 5*ms {
			t.Error(err)
		}
		if err := CheckReceived(c, now.Add(510*ms), 500*ms); err != nil {
			t.Error(err)
		}
		var fe *FutureError
		if err := CheckReceived(c, now.Add(511*ms), 500*ms); !errors.As(err, &fe) || fe.Ahead != 501*ms {
			t.Error(err)
		}
		m := NewManual(ManualOptions{})
		broken := errors.New("broken")
		m.Fail(broken)
		if CheckStart(m, 0) != broken || CheckReceived(m, now, time.Second) != broken {
			t.Error("a failed clock checks nothing")
		}
	})
}

func TestTimestampArithmetic(t *testing.T) {
	if Max.Add(1) != Max || Timestamp(5).Add(-3) != 2 || Timestamp(5).Sub(2) != 3 {
		t.Error("arithmetic")
	}
	now := time.Now()
	if !FromTime(now).Time().Equal(now) {
		t.Error("conversion")
	}
}

func TestConcurrentNow(t *testing.T) {
	c := NewAdjustable(newSystem(t, Options{Bound: ms}))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var last Timestamp
			for range 5000 {
				i := c.Now()
				if i.Earliest < last || i.Latest < i.Earliest {
					t.Errorf("%v after %v", i, last)
				}
				last = i.Earliest
			}
		})
	}
	for i := range 200 {
		c.AddError(time.Duration(i%7) * ms)
	}
	wg.Wait()
}

func BenchmarkSystemNow(b *testing.B) {
	c, err := NewSystem(Options{Bound: ms})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		c.Now()
	}
}

// A Skewed clock lies by exactly what it is told, and wakes who waits.
func TestSkewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := newSystem(t, Options{Bound: ms})
		c := NewSkewed(below)
		check := func(want time.Duration) {
			t.Helper()
			b, i := below.Now(), c.Now()
			if i.Latest != b.Latest.Add(want) || i.Earliest != b.Earliest.Add(want) || c.Offset() != want {
				t.Errorf("%v over %v, want it moved by %v; Offset %v", i, b, want, c.Offset())
			}
		}
		check(0)
		c.SetDrift(-1000)
		time.Sleep(time.Second)
		check(-ms)
		c.SetDrift(500)
		time.Sleep(2 * time.Second)
		check(0)
		c.SetOffset(2 * time.Second)
		check(2 * time.Second)
		c.SetDrift(0)
		if below.Err() != nil || c.Err() != nil {
			t.Error("the clock below took the lie for a step", below.Err())
		}
		done := make(chan error, 1)
		at := c.Now().Earliest.Add(time.Hour)
		go func() { done <- c.AwaitAfter(context.Background(), at) }()
		synctest.Wait()
		c.SetOffset(2 * time.Hour)
		if err := <-done; err != nil || !After(c, at) {
			t.Error(err)
		}
		last := c.Now().Earliest
		c.SetOffset(0) // T1 holds as far as a liar can keep it
		if i := c.Now(); i.Earliest != last || i.Latest < i.Earliest {
			t.Error("earliest retreated", i, last)
		}
	})
}

// A drifting clock's waits take as long as it takes the clock to get there.
func TestSkewedSleepsAtItsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewSkewed(newSystem(t, Options{}))
		c.SetDrift(-500_000) // half speed
		begun := time.Now()
		if err := c.AwaitAfter(t.Context(), c.Now().Latest.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begun); d < 2*time.Second || d > 2*time.Second+10*time.Microsecond {
			t.Errorf("a second at half speed took %v", d)
		}
	})
}

// T2: a clock that others have proved wrong vouches for nothing any more, whatever
// happens to it afterwards.
func TestT2DistrustIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := NewAdjustable(newSystem(t, Options{Bound: ms}))
		if a.Distrusted() != nil || a.Err() != nil {
			t.Fatal("distrusted from the start")
		}
		last := a.Now().Earliest
		done := make(chan error, 1)
		go func() { done <- a.AwaitAfter(context.Background(), last.Add(time.Hour)) }()
		synctest.Wait()
		why := &OutvotedError{Members: 3, Peers: []*PeerError{{Peer: "n1", Gap: -2 * time.Second}, {Peer: "n2", Gap: ms}}}
		if !a.Distrust(why) || a.Distrust(errors.New("another")) {
			t.Error("Distrust must report its first call alone")
		}
		if err := <-done; err != error(why) {
			t.Error("a waiter was not told:", err)
		}
		a.AddError(0)
		time.Sleep(time.Second)
		if i := a.Now(); i.Latest != Max || i.Earliest != last || a.Err() != error(why) || a.Distrusted() != error(why) {
			t.Errorf("T2: %v, %v", i, a.Err())
		}
		for _, want := range []string{"n1 and n2", "ahead of n1's by 2s", "behind n2's by 1ms", "restart"} {
			if !strings.Contains(why.Error(), want) {
				t.Errorf("%q lacks %q", why, want)
			}
		}
	})
}
