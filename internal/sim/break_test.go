//go:build spandbreak

package sim

import (
	"flag"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/spandb/spand/internal/replicas"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/lockservice"
	"github.com/spandb/spand/lockservice/cell"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/txn"
)

var breakFlag = flag.String("sim.break", "", "which negative control to run: "+strings.Join(slices.Sorted(maps.Keys(controls)), ", "))

// switches of the controls; those that lack one are broken by the plan alone.
var switches = map[string]*bool{
	"T2receive":   &paxosgroup.BreakReceived,
	"T2peer":      &paxosgroup.BreakPeerCheck,
	"T2start":     &replicas.BreakStart,
	"R1sync":      &storage.BreakSync,
	"R1failed":    &storage.BreakSyncError,
	"R2":          &paxosgroup.BreakLease,
	"R2promise":   &paxosgroup.BreakPromise,
	"R2abstain":   &paxosgroup.BreakAbstention,
	"R3floor":     &paxosgroup.BreakFloor,
	"R3split":     &tablet.BreakChildFloor,
	"R3end":       &paxosgroup.BreakLeaseEnd,
	"R4start":     &paxosgroup.BreakTermStart,
	"R4release":   &paxosgroup.BreakRelease,
	"X1":          &txn.BreakCommitWait,
	"X1short":     &txn.BreakShortWait,
	"X1stamp":     &paxosgroup.BreakStamp,
	"X1read":      &txn.BreakVisible,
	"X2":          &tablet.BreakLostLocks,
	"X2shared":    &tablet.BreakSharedLocks,
	"X2range":     &tablet.BreakRangeLocks,
	"X2deadlock":  &tablet.BreakWoundWait,
	"X2wound":     &tablet.BreakWounds,
	"X3forget":    &tablet.BreakForgetPrepared,
	"X3abort":     &tablet.BreakAbortPrepared,
	"X3locks":     &tablet.BreakPreparedLocks,
	"X3reads":     &txn.BreakReadParticipants,
	"X3release":   &tablet.BreakEarlyRelease,
	"X4safe":      &paxosgroup.BreakSafeTime,
	"X4prepared":  &tablet.BreakReadPrepared,
	"X4flight":    &tablet.BreakReadInFlight,
	"X4follower":  &tablet.BreakReadFollower,
	"X4mark":      &tablet.BreakLowWater,
	"X5":          &tablet.BreakOutcomes,
	"X5absent":    &tablet.BreakAbsent,
	"X5finished":  &tablet.BreakFinished,
	"X5decided":   &tablet.BreakDecided,
	"B1":          &tablet.BreakSpans,
	"B1prepared":  &tablet.BreakChildPrepared,
	"B1locks":     &tablet.BreakChildLocks,
	"B2":          &paxosgroup.BreakBound,
	"L1session":   &cell.BreakSession,
	"L1renew":     &cell.BreakRenew,
	"L1kept":      &lockservice.BreakKept,
	"L1released":  &lockservice.BreakReleased,
	"L2ask":       &txn.BreakFence,
	"L2fence":     &cell.BreakFence,
	"L2floor":     &cell.BreakFloor,
	"C2.7cache":   &cell.BreakInvalidate,
	"C2.4ordered": &lockservice.BreakOrdered,
	"D1":          &storage.BreakChecksum,
}

// TestBroken runs one negative control: the invariant is broken, and must be found
// within its number of seeds; the same seed, unbroken, must be free of it.
func TestBroken(t *testing.T) {
	c, ok := controls[*breakFlag]
	if !ok {
		t.Fatalf("-sim.break=%q: no such control", *breakFlag)
	}
	broken, ok := switches[*breakFlag]
	if !ok && !c.planOnly {
		t.Fatalf("%s has no switch", *breakFlag)
	}
	seeds := make([]uint64, c.seeds)
	for i := range seeds {
		seeds[i] = settings.First + uint64(i)
	}
	if settings.Seed != 0 {
		seeds = []uint64{settings.Seed}
	}
	run := func(seed uint64) (found *Violation) {
		var r *Report
		t.Run("", func(t *testing.T) {
			o := c.options
			o.Log, o.LogDebug = settings.Log, settings.Debug
			r = Run(t, seed, o)
			t.Logf("seed %d: %v", seed, r.Stats)
		})
		if settings.Keep {
			report(t, r, "")
		}
		for i, v := range r.Violations {
			if slices.Contains(c.finds, v.Invariant) {
				return &r.Violations[i]
			}
			t.Logf("seed %d: another one: %.300s", seed, v)
		}
		return nil
	}
	for i, seed := range seeds {
		if broken != nil {
			*broken = true
		}
		v := run(seed)
		if v == nil {
			continue
		}
		t.Logf("found at seed %d, the %d. one: %v", seed, i+1, v)
		if broken != nil {
			*broken = false
			if v := run(seed); v != nil {
				t.Errorf("seed %d has it without the switch, too: the plan proves nothing: %v", seed, v)
			}
		}
		return
	}
	t.Errorf("%s is broken, and %d seeds did not show it", *breakFlag, len(seeds))
}

func TestEverySwitchIsAControl(t *testing.T) {
	for name := range switches {
		if c, ok := controls[name]; !ok || c.planOnly {
			t.Errorf("%s has a switch, and is no control with one", name)
		}
	}
}
