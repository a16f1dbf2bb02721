//go:build spandbreak

package sim

import (
	"flag"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/txn"
)

var breakFlag = flag.String("sim.break", "", "which invariant to break: "+controlNames())

func controlNames() string {
	var names []string
	for n := range controls {
		names = append(names, n)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// TestBroken runs one negative control: the invariant is broken, and must be
// found, within its number of seeds.
func TestBroken(t *testing.T) {
	c, ok := controls[*breakFlag]
	if !ok {
		t.Fatalf("-sim.break=%q: must be one of %s", *breakFlag, controlNames())
	}
	switch *breakFlag {
	case "R2":
		paxosgroup.BreakLease = true
	case "X1":
		txn.BreakCommitWait = true
	case "X3forget":
		tablet.BreakForgetPrepared = true
	case "X3abort":
		tablet.BreakAbortPrepared = true
	case "X2":
		tablet.BreakLostLocks = true
	case "X5":
		tablet.BreakOutcomes = true
	case "B1":
		tablet.BreakSpans = true
	case "none":
	}
	limit := c.seeds
	if *seedFlag != 0 {
		limit = 1
	}
	for n := range limit {
		seed := *firstFlag + uint64(n)
		if *seedFlag != 0 {
			seed = *seedFlag
		}
		var r *Report
		t.Run("", func(t *testing.T) {
			r = Run(t, seed, Options{Duration: 6 * time.Second, Epsilon: c.epsilon, Adjust: c.adjust, Log: *logFlag, LogDebug: *debugFlag})
			t.Logf("seed %d: %v", seed, r.Stats)
		})
		for _, v := range r.Violations {
			if c.finds[v.Invariant] {
				t.Logf("found at seed %d, the %d. one: %v", seed, n+1, v)
				return
			}
			t.Logf("seed %d: another one: %v", seed, v)
		}
	}
	t.Errorf("%s is broken, and %d seeds did not show it", *breakFlag, limit)
}
