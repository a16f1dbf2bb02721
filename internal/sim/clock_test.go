package sim

import (
	"fmt"
	"testing"
	"time"
)

// T2: a clock that lies beyond ε puts recency and reads at risk, never committed
// data or the agreement of replicas.
func TestT2ClockBeyondEpsilon(t *testing.T) {
	for seed := uint64(1); seed <= 6; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			o := options()
			o.LyingClocks, o.Epsilon = true, time.Millisecond
			r := Run(t, seed, o)
			t.Logf("seed %d: %v", seed, r.Stats)
			report(t, r, fmt.Sprintf("go test ./internal/sim -run TestT2ClockBeyondEpsilon/seed=%d -v", seed))
		})
	}
}

// A clock that errs by +ε at one start and by -ε at the next, moments later, is
// honest (T1); peers must not take the new life for a straggler of an old one.
func TestT1RestartUnderASwingingClock(t *testing.T) {
	o := options()
	o.Epsilon, o.Duration = 50*time.Millisecond, 2*time.Second
	o.Adjust = func(p *Plan, _ draw) {
		p.Nodes = 3
		at := func(ms int) time.Duration { return time.Second + time.Duration(ms)*time.Millisecond }
		p.Faults = []Fault{
			{Kind: Crash, Node: 1, At: at(0), For: 5 * time.Millisecond},
			{Kind: ClockMove, Node: 1, At: at(6), Amount: 40 * time.Millisecond},
			{Kind: Crash, Node: 1, At: at(10), For: 5 * time.Millisecond},
			{Kind: Crash, Node: 1, At: at(20), For: 5 * time.Millisecond},
			{Kind: ClockMove, Node: 1, At: at(21), Amount: -40 * time.Millisecond},
		}
	}
	o.FixedClocks = true
	r := Run(t, 1, o)
	t.Logf("%v", r.Stats)
	report(t, r, "go test ./internal/sim -run TestT1RestartUnderASwingingClock")
}
