package cell

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/lockservice/lockpb"
	"github.com/spandb/spand/paxosgroup"
)

// early begins a release that wants to hear when it is in order.
func (s *story) early(name string, session, attempt uint64) {
	s.w.t.Helper()
	q := &lockpb.ReleaseRequest{Handle: h(session, x), Attempt: attempt, Early: true}
	_, begun := s.w.lead().Begin(s.w.t.Context(), "", request1(q), nil, func() { s.ch <- name + " ordered" }, func(r *lockpb.DoResponse) {
		switch reason := why(r); {
		case reason != "":
			s.ch <- name + " " + reason
		case r.GetRelease().GetReleased():
			s.ch <- name + " released"
		default:
			s.ch <- name + " was over"
		}
	})
	if !begun {
		s.w.t.Errorf("%s was not begun", name)
	}
}

func try(q *lockpb.AcquireRequest) *lockpb.DoRequest {
	return &lockpb.DoRequest{Id: 1, Call: &lockpb.DoRequest_TryAcquire{TryAcquire: q}}
}

// holding is a world in which session 1 holds x by its first attempt, and how many entries that took.
func holding(t *testing.T, replicas int) (*world, *story, int) {
	w, s := lockWorld(t, replicas, 3)
	s.start("1", attempt(1, 1))
	s.expect("1 ok")
	return w, s, w.g.entries
}

// A release that nobody waits for is in order at once, and goes in the entry of the next acquire.
func Test2_4_EarlyRelease(t *testing.T) {
	for _, c := range []struct {
		name    string
		next    *lockpb.AcquireRequest
		session uint64
	}{
		{"taken again", attempt(1, 2), 1},
		{"taken by another", attempt(2, 1), 2},
		{"taken by another handle", &lockpb.AcquireRequest{Handle: &lockpb.Handle{Session: 1, Handle: 2, Path: x}, Attempt: 1}, 1},
		{"taken in the other mode", &lockpb.AcquireRequest{Handle: h(1, x), Attempt: 2, Mode: lockpb.Mode_SHARED}, 1},
	} {
		for _, waits := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, waits=%v", c.name, waits), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, s, entries := holding(t, 2)
					defer w.close()
					s.early("release", 1, 1)
					s.expect("release ordered")
					if w.g.entries != entries {
						t.Errorf("it took %d entries", w.g.entries-entries)
					}
					var resp *lockpb.DoResponse
					if waits {
						resp = w.must(w.do(c.next))
					} else {
						resp = w.must(w.lead().Do(t.Context(), "", try(c.next), nil))
					}
					s.expect("release released")
					if q := resp.GetAcquire(); q.GetAlready() || q.GetSequencer().GetGeneration() != 2 {
						t.Errorf("L1: granted what was released: %v", q)
					}
					if n := w.g.entries - entries; n != 1 {
						t.Errorf("release and acquire took %d entries", n)
					}
					w.wantHeld(c.session)
				})
			})
		}
	}
}

// If nobody wants the lock, the release goes alone a moment later.
func Test2_4_EarlyReleaseAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, entries := holding(t, 2)
		defer w.close()
		s.early("release", 1, 1)
		time.Sleep(linger - 1)
		s.expect("release ordered")
		time.Sleep(time.Nanosecond)
		s.expect("release released")
		if n := w.g.entries - entries; n != 1 {
			t.Errorf("%d entries", n)
		}
		w.wantHeld()
		// Again, and with several at once: the timer goes on.
		for round := range uint64(3) {
			for i := range uint64(3) {
				q := attempt(i+1, round+2)
				q.Handle.Path = fmt.Sprint("/ls/local/", i)
				w.file(q.Handle.Path, "")
				w.must(w.do(q))
				r := &lockpb.ReleaseRequest{Handle: q.Handle, Attempt: q.Attempt, Early: true}
				w.lead().Begin(t.Context(), "", request1(r), nil, func() {}, func(*lockpb.DoResponse) { s.ch <- "released" })
				time.Sleep(linger / 2)
			}
			time.Sleep(linger)
			s.expect("released", "released", "released")
		}
		if l := w.lead().leader.Load(); len(l.locks) != 0 || len(l.lingerers.list) != 0 || l.lingerers.armed {
			t.Errorf("left behind: %v, %+v", l.locks, l.lingerers)
		}
	})
}

// Who is told that a release is in order may tell others: whatever they ask finds the lock released (L1).
func TestL1_WhatIsAskedAfterAnEarlyRelease(t *testing.T) {
	for _, c := range []struct {
		name string
		ask  func(w *world, sequencer string)
	}{
		{"CheckSequencer", func(w *world, q string) {
			if w.must(w.do(&lockpb.CheckSequencerRequest{Sequencer: q})).GetCheckSequencer().GetValid() {
				w.t.Error("L1: valid")
			}
		}},
		{"a fence", func(w *world, q string) {
			if w.must(w.do(&lockpb.CheckSequencerRequest{Sequencer: q, HoldNs: 1e8})).GetCheckSequencer().GetValid() {
				w.t.Error("L2: valid")
			}
		}},
		{"SetSequencer", func(w *world, q string) {
			if got := why(w.do(&lockpb.SetSequencerRequest{Handle: h(2, x), Sequencer: q})); got != "STALE_SEQUENCER" {
				w.t.Errorf("%q", got)
			}
		}},
		{"a write under the sequencer", func(w *world, q string) {
			handle := h(2, x)
			handle.Sequencer = q
			if got := why(w.do(&lockpb.SetContentsRequest{Handle: handle})); got != "STALE_SEQUENCER" {
				w.t.Errorf("%q", got)
			}
		}},
		{"a read under the sequencer", func(w *world, q string) {
			handle := h(2, x)
			handle.Sequencer = q
			if got := why(w.do(&lockpb.GetRequest{Handle: handle})); got != "STALE_SEQUENCER" {
				w.t.Errorf("%q", got)
			}
		}},
		{"GetSequencer", func(w *world, _ string) {
			if got := why(w.do(&lockpb.GetSequencerRequest{Handle: h(1, x)})); got != "LOCK_NOT_HELD" {
				w.t.Errorf("%q", got)
			}
		}},
		{"Delete", func(w *world, _ string) {
			if got := why(w.do(&lockpb.DeleteRequest{Handle: h(2, x)})); got != "" {
				w.t.Errorf("%q", got)
			}
		}},
		{"ListLocks", func(w *world, _ string) {
			if list := w.must(w.do(&lockpb.ListLocksRequest{})).GetListLocks().GetLocks(); len(list) != 0 {
				w.t.Errorf("%v", list)
			}
		}},
		{"LockHistory", func(w *world, _ string) {
			if list := w.must(w.do(&lockpb.LockHistoryRequest{})).GetLockHistory().GetHolds(); len(list) != 1 {
				w.t.Errorf("%v", list)
			}
		}},
		{"ListSessions", func(w *world, _ string) {
			for _, s := range w.must(w.do(&lockpb.ListSessionsRequest{})).GetListSessions().GetSessions() {
				if s.Locks != 0 {
					w.t.Errorf("%v", s)
				}
			}
		}},
		{"a second release", func(w *world, _ string) {
			if w.must(w.do(&lockpb.ReleaseRequest{Handle: h(1, x), Attempt: 1})).GetRelease().GetReleased() {
				w.t.Error("released twice")
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s, _ := holding(t, 2)
				defer w.close()
				q := w.must(w.do(&lockpb.GetSequencerRequest{Handle: h(1, x)})).GetGetSequencer().GetSequencer().GetText()
				s.early("release", 1, 1)
				s.expect("release ordered")
				began := time.Now()
				c.ask(w, q)
				if waited := time.Since(began); waited > linger/2 {
					t.Errorf("it waited for %v", waited)
				}
				s.expect("release released")
				w.wantHeld()
			})
		})
	}
}

// Where it would change nothing, or more than the lock, the answer alone is given.
func Test2_4_NoEarlyRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, _ := holding(t, 1)
		defer w.close()
		s.early("of nothing", 2, 1)
		s.expect("of nothing was over")
		s.early("without an attempt", 1, 0)
		s.expect("without an attempt released")
		s.start("1", attempt(1, 3))
		s.expect("1 ok")
		s.start("2", attempt(2, 4))
		s.expect("2 waits")
		s.early("with a waiter", 1, 3)
		s.expect("with a waiter released", "2 ok")
		w.g.setSpace(storage.SpaceTight)
		s.early("on a full disk", 2, 4)
		s.expect("on a full disk released")
		w.g.setSpace(storage.SpaceAmple)
		w.wantHeld()
		w.must(w.do(&lockpb.OpenRequest{Handle: h(1, "/ls/local/e"), Create: lockpb.Create_CREATE_IF_ABSENT, Ephemeral: true}))
		q := &lockpb.AcquireRequest{Handle: h(2, "/ls/local/e"), Attempt: 5}
		w.must(w.do(q))
		_, begun := w.lead().Begin(t.Context(), "", request1(&lockpb.ReleaseRequest{Handle: q.Handle, Attempt: 5, Early: true}), nil, func() { t.Error("ordered") }, func(*lockpb.DoResponse) {})
		if begun { // it may remove a node that somebody caches
			t.Error("a release of an ephemeral node's lock was begun")
		}
	})
}

// A shared hold that is given back early leaves the others.
func Test2_4_EarlyReleaseOfSharedHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 2, 3)
		defer w.close()
		for i := range uint64(2) {
			q := shared(i+1, x)
			q.Attempt = 1
			w.must(w.do(q))
		}
		s.early("release 1", 1, 1)
		s.expect("release 1 ordered")
		s.start("3", attempt(3, 1))
		s.expect("release 1 released", "3 waits")
		w.wantHeld(2)
		s.early("release 2", 2, 1)
		s.expect("release 2 released", "3 ok")
		w.wantHeld(3)
	})
}

// A leader that goes says so to those whom it has told, and the next one does not know: sent again, the release
// ends the hold, but not if a later attempt was answered with it (2.9).
func Test2_9_EarlyReleaseIsLostWithItsLeader(t *testing.T) {
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprint("asked again: ", again), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s, entries := holding(t, 2)
				defer w.close()
				s.early("release", 1, 1)
				s.expect("release ordered")
				w.g.handOver(1)
				s.expect("release NO_LEADER")
				if w.g.entries != entries {
					t.Error("it was proposed by a leader that had ended")
				}
				w.wantHeld(1)
				if again {
					s.start("1", attempt(1, 2)) // who does not say what it released
					s.expect("1 already")
					s.early("sent again", 1, 1)
					s.expect("sent again was over")
					w.wantHeld(1)
					return
				}
				s.early("sent again", 1, 1)
				time.Sleep(linger)
				s.expect("sent again ordered", "sent again released")
				w.wantHeld()
			})
		})
	}
}

// Whoever asks for a lock says what it has released, and does not find that again when it was lost (2.4): it gets a hold
// of its own, in its turn.
func Test2_4_LostReleasesAreNotHolds(t *testing.T) {
	after := func(n uint64, mode lockpb.Mode) *lockpb.AcquireRequest {
		return &lockpb.AcquireRequest{Handle: h(1, x), Attempt: n, Released: n - 1, Mode: mode}
	}
	for _, c := range []struct {
		name    string
		mode    lockpb.Mode
		try     bool
		waiter  bool // another waits already
		promise bool // the hold has not ended for those who check it
	}{
		{name: "the same mode"},
		{name: "the other mode", mode: lockpb.Mode_SHARED},
		{name: "without waiting", try: true},
		{name: "without waiting, the other mode", mode: lockpb.Mode_SHARED, try: true},
		{name: "behind another", waiter: true},
		{name: "after a promise", promise: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s, _ := holding(t, 2)
				defer w.close()
				first := w.must(w.do(&lockpb.GetSequencerRequest{Handle: h(1, x)})).GetGetSequencer().GetSequencer().GetText()
				s.early("release", 1, 1)
				w.g.handOver(1)
				s.expect("release ordered", "release NO_LEADER")
				time.Sleep(3 * epsilon)
				if c.waiter {
					s.start("2", attempt(2, 1))
					s.expect("2 waits")
				}
				if c.promise {
					w.must(w.do(&lockpb.CheckSequencerRequest{Sequencer: first, HoldNs: 1e8}))
				}
				if c.try {
					w.must(w.lead().Do(t.Context(), "", try(after(2, c.mode)), nil))
				} else {
					s.start("1", after(2, c.mode))
				}
				switch {
				case c.waiter:
					s.expect("1 waits", "2 ok")
					w.must(w.do(&lockpb.ReleaseRequest{Handle: h(2, x), Attempt: 1}))
					s.expect("1 ok")
				case c.promise:
					s.expect("1 waits")
					time.Sleep(time.Second)
					s.expect("1 ok")
				case !c.try:
					time.Sleep(time.Millisecond)
					synctest.Wait()
					for len(s.ch) > 0 {
						if got := <-s.ch; got != "1 ok" && got != "1 waits" {
							t.Errorf("%s", got)
						}
					}
				}
				second := w.must(w.do(&lockpb.GetSequencerRequest{Handle: h(1, x)})).GetGetSequencer().GetSequencer()
				if second.GetGeneration() < 2 {
					t.Errorf("L1: generation %d again", second.GetGeneration())
				}
				if w.must(w.do(&lockpb.CheckSequencerRequest{Sequencer: first})).GetCheckSequencer().GetValid() {
					t.Error("L2: the sequencer of what was released is valid in the next section")
				}
				if got := why(w.do(&lockpb.AcquireRequest{Handle: h(1, x), Attempt: 5, Released: 5})); got != "BAD_REQUEST" {
					t.Errorf("an attempt that was released before it was made: %q", got)
				}
			})
		})
	}
}

// A release that was ordered and cannot be logged is tried until it is, as long as the leader leads: whoever asks waits.
func Test2_4_EarlyReleaseIsKept(t *testing.T) {
	for _, cause := range []error{paxosgroup.ErrOverloaded, paxosgroup.ErrDiskFull} {
		t.Run(cause.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s, _ := holding(t, 2)
				defer w.close()
				s.early("release", 1, 1)
				s.expect("release ordered")
				w.g.fail(cause)
				time.Sleep(2 * linger)
				s.start("the sequencer", &lockpb.GetSequencerRequest{Handle: h(1, x)})
				s.start("2", attempt(2, 1))
				time.Sleep(time.Minute / 2)
				s.expect("2 waits")
				w.g.fail(nil)
				time.Sleep(time.Second)
				s.expect("release released", "2 ok", "the sequencer LOCK_NOT_HELD")
				// One that boarded a release in vain is in the queue like others, and knows it.
				s.early("release 2", 2, 1)
				w.g.fail(cause)
				s.start("3", attempt(3, 1))
				s.expect("release 2 ordered", "3 waits")
				w.g.depose(false)
				s.expect("release 2 NO_LEADER", "3 NO_LEADER")
				w.g.fail(nil)
				w.g.elect(1)
				w.wantHeld(2)
			})
		})
	}
}

// Ends that come after a release that is in order come after it: nothing is delayed, and history says who released.
func Test2_4_EarlyReleaseBeforeOtherEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*world)
	}{
		{"Close", func(w *world) { w.must(w.do(&lockpb.CloseRequest{Handle: h(1, x)})) }},
		{"CloseSession", func(w *world) { w.must(w.do(&lockpb.CloseSessionRequest{Session: 1})) }},
		{"expiry", func(*world) { time.Sleep(linger) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := lockWorld(t, 1, 3)
				defer w.close()
				w.session(1, time.Minute) // renewed
				began := time.Now()
				q := attempt(1, 1)
				q.LockDelayNs = int64(30 * time.Second)
				w.must(w.do(q))
				if c.name == "expiry" {
					time.Sleep(time.Until(began.Add(time.Minute - linger/2))) // its lease is about to end
				}
				s.early("release", 1, 1)
				s.expect("release ordered")
				c.end(w)
				s.expect("release released")
				w.session(9, time.Minute)
				s.start("9", attempt(9, 1))
				s.expect("9 ok")
				if list := w.must(w.do(&lockpb.LockHistoryRequest{Path: x})).GetLockHistory().GetHolds(); len(list) != 1 || list[0].GetEnded() != "released" {
					t.Errorf("history: %v", list)
				}
			})
		})
	}
}

// A release that comes late, when its handle has the lock by a later attempt, neither lingers nor disturbs.
func Test2_4_StaleReleases(t *testing.T) {
	for _, early := range []bool{true, false} {
		t.Run(fmt.Sprint("early: ", early), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s, _ := holding(t, 1)
				defer w.close()
				w.must(w.do(&lockpb.ReleaseRequest{Handle: h(1, x), Attempt: 1}))
				q := w.must(w.do(attempt(1, 2))).GetAcquire().GetSequencer().GetText()
				w.must(w.do(&lockpb.CheckSequencerRequest{Sequencer: q, HoldNs: 1e8}))
				entries := w.g.entries
				if early {
					s.early("stale", 1, 1)
				} else {
					s.start("stale", &lockpb.ReleaseRequest{Handle: h(1, x), Attempt: 1})
				}
				want := "stale was over"
				if !early {
					want = "stale ok"
				}
				s.expect(want)
				if w.g.entries != entries {
					t.Error("it was logged")
				}
				if got := w.holders(x); len(got) != 1 {
					t.Errorf("held by %v", got)
				}
			})
		})
	}
}

// Commands in flight keep the order of what was told: who asks while they are waits for them.
func Test2_4_EarlyReleaseInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, _ := holding(t, 2)
		defer w.close()
		w.g.hold()
		s.early("release", 1, 1)
		s.start("2", attempt(2, 1))
		s.start("3", attempt(3, 1))
		s.expect("release ordered", "3 waits")
		s.start("lists", &lockpb.ListLocksRequest{})
		s.early("again", 1, 1)
		s.expect()
		w.g.letGo()
		s.expect("release released", "2 ok", "again was over", "lists ok")
		s.early("release 2", 2, 1)
		s.expect("release 2 released", "3 ok")
		w.wantHeld(3)
	})
}
