package cell

import (
	"testing"
	"testing/synctest"

	"github.com/spandb/spand/lockservice/lockpb"
)

// A begun call is answered as Do answers it.
func TestBegin(t *testing.T) {
	viaBegin = true
	defer func() { viaBegin = false }()
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"QueueIsFIFO", Test2_4_QueueIsFIFO},
		{"WaitersThatGo", Test2_4_WaitersThatGo},
		{"TryAcquire", Test2_4_TryAcquire},
		{"AskingAgain", Test2_4_AskingAgain},
		{"NobodyHoldsUnknowingly", Test2_4_NobodyHoldsUnknowingly},
		{"ReleaseCancelsAttempts", Test2_4_ReleaseCancelsAttempts},
		{"LockDelay", Test2_4_LockDelay},
		{"LocksAreFreedOnAFullDisk", Test2_4_LocksAreFreedOnAFullDisk},
		{"WaitersAskAgainWithTheirTickets", Test2_9_WaitersAskAgainWithTheirTickets},
		{"FailuresInFlight", TestFailuresInFlight},
		{"NothingEndsAHoldBeforeItsPromise", TestL2_NothingEndsAHoldBeforeItsPromise},
		{"PromisesBindTheNextLeader", TestL2_PromisesBindTheNextLeader},
		{"AtRandom", TestL2_AtRandom},
	} {
		t.Run(c.name, c.test)
	}
}

// What would have to wait is not begun, and leaves nothing behind.
func TestNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 2)
		defer w.close()
		s.start("1", acquire(1, x))
		s.expect("1 ok")
		begun := func(what string, call any, want bool) {
			t.Helper()
			got := w.begin(t.Context(), request1(call), nil) != nil
			if got != want {
				t.Errorf("%s: begun: %v", what, got)
			}
		}
		l := w.lead().leader.Load()
		begun("without a session", acquire(0, x), false)
		begun("of a session that is not there", acquire(9, x), false)
		begun("a read", &lockpb.GetRequest{Handle: h(1, x)}, false)
		seq := w.must(w.do(&lockpb.GetSequencerRequest{Handle: h(1, x)})).GetGetSequencer().GetSequencer()
		check := w.must(w.do(&lockpb.CheckSequencerRequest{Sequencer: seq.GetText(), HoldNs: 1e8})).GetCheckSequencer()
		begun("a release against a promise", release(1, x), false)
		if lk := l.locks[x]; lk == nil || len(lk.ends) != 0 || lk.flights != 0 {
			t.Errorf("left behind: %+v", lk)
		}
		w.must(w.do(&lockpb.EndCheckRequest{Path: x, Check: check.GetCheck()}))
		begun("a release", release(1, x), true)
		begun("a release of nothing", release(2, x), true)
		if len(l.locks) != 0 {
			t.Errorf("left behind: %v", l.locks)
		}
	})
}
