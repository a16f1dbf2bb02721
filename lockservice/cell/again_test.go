package cell

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
	"github.com/spandb/spand/paxosgroup"
)

func attempt(session, n uint64) *lockpb.AcquireRequest {
	return &lockpb.AcquireRequest{Handle: h(session, x), Attempt: n}
}

// wantHeld lets whatever is under way come to an end, and then looks.
func (w *world) wantHeld(by ...uint64) {
	w.t.Helper()
	time.Sleep(time.Second)
	synctest.Wait()
	if got := w.holders(x); !slices.Equal(got, by) {
		w.t.Errorf("held by %v, not %v", got, by)
	}
	l := w.lead().leader.Load()
	l.mu.Lock()
	defer l.mu.Unlock()
	if lk := l.locks[x]; lk != nil && len(lk.queue) == 0 {
		w.t.Errorf("left behind: %+v", lk)
	}
}

// Whoever is told that it holds the lock does hold it, though an earlier call of its handle, being
// noticed late to be gone, would have given the lock back (L1, 2.4).
func TestL1_AskingAgainKeepsWhatAnEarlierCallGot(t *testing.T) {
	t.Run("under way", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, s := lockWorld(t, 1, 2)
			defer w.close()
			w.g.hold()
			cancel := s.start("1", attempt(1, 1))
			s.start("1 again", attempt(1, 1))
			s.start("2", acquire(2, x))
			cancel()
			s.expect("1 AMBIGUOUS", "1 again waits", "2 waits")
			w.g.letGo()
			s.expect("1 again already")
			w.wantHeld(1)
			s.start("release", &lockpb.ReleaseRequest{Handle: h(1, x), Attempt: 1})
			s.expect("release ok", "2 ok")
		})
	})
	t.Run("gone unnoticed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, s := lockWorld(t, 1, 2)
			defer w.close()
			ctx, cancel := context.WithCancel(t.Context())
			var got granted
			w1 := &waiter{ctx: ctx, then: func(g granted) { got = g }, grant: state.GrantTo{Session: 1, Handle: 1, Path: x, Mode: state.Exclusive, Attempt: 1}}
			w.g.hold()
			l := w.lead().leader.Load()
			if err := l.enter(w1, "", nil); err != nil {
				t.Fatal(err)
			}
			cancel() // and nobody abandons it
			s.start("1 again", attempt(1, 1))
			s.start("2", acquire(2, x))
			s.expect("1 again waits", "2 waits")
			w.g.letGo()
			s.expect("1 again already")
			if got.err != errInFlight {
				t.Errorf("%+v", got)
			}
			w.wantHeld(1)
		})
	})
}

// A hold that is being given back does not take with it what the handle got in the meantime (L1, 2.4).
func TestL1_GivingBackLateEndsNoLaterHold(t *testing.T) {
	for _, c := range []struct {
		name string
		then func(s *story)
	}{
		{"released", func(s *story) {
			s.start("release", &lockpb.ReleaseRequest{Handle: h(1, x), Attempt: 1})
			s.expect("release ok")
			s.start("again", attempt(1, 2))
			s.expect("again ok")
		}},
		{"asked again", func(s *story) {
			s.start("again", attempt(1, 1))
			s.expect("again already")
		}},
		{"next attempt", func(s *story) {
			s.start("again", attempt(1, 2))
			s.expect("again already")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := lockWorld(t, 1, 1)
				defer w.close()
				w.g.hold()
				cancel := s.start("1", attempt(1, 1))
				cancel()
				s.expect("1 AMBIGUOUS")
				w.g.fail(paxosgroup.ErrOverloaded)
				w.g.letGo() // it is given back, but the group is busy
				synctest.Wait()
				w.g.fail(nil)
				c.then(s)
				w.wantHeld(1)
			})
		})
	}
	t.Run("in the log", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, s := lockWorld(t, 1, 1)
			defer w.close()
			s.start("1", attempt(1, 1))
			s.expect("1 ok")
			l := w.lead().leader.Load()
			old, _ := l.c.st.HoldOf(1, 1, x)
			late := &state.Command{Kind: state.Release, Session: 1, Handle: 1, Path: x, Hold: old.Number, Attempt: 1}
			s.start("release", &lockpb.ReleaseRequest{Handle: h(1, x), Attempt: 1})
			s.start("again", attempt(1, 2))
			s.expect("release ok", "again ok")
			if res, err := l.carry(t.Context(), late, 0, nil); err != nil || res.Ended {
				t.Errorf("%+v, %v", res, err)
			}
			w.wantHeld(1)
		})
	})
}

// While a hold may be about to end, its handle is not told that it has it (L1).
func TestL1_NobodyIsToldOfAHoldThatIsBeingEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 2, 2)
		defer w.close()
		time.Sleep(time.Second)
		w.g.failOver(1, true)
		w.g.hold()
		cancel := s.start("1", attempt(1, 1))
		cancel()
		s.start("2", acquire(2, x))
		s.expect("1 AMBIGUOUS", "2 waits")
		w.g.letGo() // to be given back; but no hold ends before the floor has passed (L2)
		s.start("1 again", attempt(1, 1))
		s.expect("1 again waits")
		time.Sleep(5 * epsilon)
		s.expect("2 ok")
		w.wantHeld(2)
	})
}

// A call that took an earlier one's place and then goes, or fails, leaves nothing that only the earlier
// one could have given back (2.4).
func Test2_4_HeirsLeaveNoHold(t *testing.T) {
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w, s := lockWorld(t, 1, 1)
			defer w.close()
			w.g.hold()
			cancel1 := s.start("1", attempt(1, 1))
			cancel2 := s.start("1 again", attempt(1, 1))
			s.expect("1 again waits")
			if late {
				cancel2()
				cancel1()
				s.expect("1 AMBIGUOUS", "1 again CANCELLED")
			} else {
				cancel1()
				cancel2()
				s.expect("1 AMBIGUOUS", "1 again CANCELLED")
			}
			w.g.letGo()
			w.wantHeld()
		})
	}
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 1)
		defer w.close()
		w.g.hold()
		cancel := s.start("1", attempt(1, 1))
		again := s.start("1 again", attempt(1, 1))
		cancel()
		s.expect("1 AMBIGUOUS", "1 again waits")
		w.g.fail(paxosgroup.ErrOverloaded)
		w.g.letGo()
		s.expect() // its grant is tried again
		again()
		s.expect("1 again CANCELLED")
		w.g.fail(nil)
		time.Sleep(2 * clockPause)
		w.wantHeld()
	})
}

// What a handle was told of an earlier hold says nothing about the next one: given up twice, it is given
// back (2.4).
func Test2_4_ALaterHoldIsNotTheOneThatWasKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 1)
		defer w.close()
		w.g.hold()
		s.start("1", attempt(1, 1))
		s.start("release", &lockpb.ReleaseRequest{Handle: h(1, x), Attempt: 1})
		cancel2 := s.start("2", attempt(1, 2))
		s.expect("2 waits")
		w.g.letOne()
		s.expect("1 ok")
		w.g.letOne()
		s.expect("release ok") // and the grant of 2 is under way
		cancel2()
		s.expect("2 AMBIGUOUS")
		cancel3 := s.start("3", attempt(1, 3))
		s.expect("3 waits")
		cancel3()
		s.expect("3 CANCELLED")
		w.g.letGo()
		w.wantHeld()
	})
}

// A handle that asks again for a lock that it was told to hold, and gives that call up, keeps it (L1).
func TestL1_AskingInVainLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 1)
		defer w.close()
		s.start("1", attempt(1, 1))
		s.expect("1 ok")
		w.g.hold()
		cancel := s.start("1 again", attempt(1, 1))
		cancel()
		s.expect("1 again AMBIGUOUS")
		w.g.letGo()
		w.wantHeld(1)
	})
}
