package cell

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
	"github.com/spandb/spand/paxosgroup"
)

const x = "/ls/local/x"

// story runs calls in the background and writes down, in order, what became of them.
type story struct {
	w  *world
	ch chan string
}

func newStory(w *world) *story { return &story{w: w, ch: make(chan string, 1000)} }

// start makes a call; its outcome is told as name.
func (s *story) start(name string, call any) context.CancelFunc {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		r := s.w.doCtx(ctx, call, func(int64) { s.ch <- name + " waits" })
		switch reason := why(r); {
		case reason != "":
			s.ch <- name + " " + reason
		case r.GetAcquire().GetAlready():
			s.ch <- name + " already"
		default:
			s.ch <- name + " ok"
		}
	}()
	synctest.Wait()
	return cancel
}

// expect compares what has happened since it was last called, in whatever order.
func (s *story) expect(want ...string) {
	s.w.t.Helper()
	synctest.Wait()
	var got []string
	for len(s.ch) > 0 {
		got = append(got, <-s.ch)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.w.t.Fatalf("got  %s\nwant %s", strings.Join(got, ", "), strings.Join(want, ", "))
	}
}

func lockWorld(t *testing.T, replicas, sessions int) (*world, *story) {
	w := newWorld(t, replicas)
	w.file(x, "")
	for i := range sessions {
		w.session(uint64(i+1), time.Minute)
	}
	time.Sleep(3 * epsilon) // a new leader's floor, which whatever ends a hold waits for
	return w, newStory(w)
}

// Locks are given in the order of asking; shared ones together, but none past an exclusive one.
func Test2_4_QueueIsFIFO(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 8)
		defer w.close()
		s.start("1", acquire(1, x))
		s.start("2 shared", shared(2, x))
		s.start("3 shared", shared(3, x))
		s.start("4", acquire(4, x))
		s.start("5 shared", shared(5, x))
		s.expect("1 ok", "2 shared waits", "3 shared waits", "4 waits", "5 shared waits")
		entries := w.g.entries
		s.start("release 1", release(1, x))
		s.expect("2 shared ok", "3 shared ok", "release 1 ok")
		if n := w.g.entries - entries; n != 1 {
			t.Errorf("the hand-over took %d entries", n)
		}
		s.start("6 shared", shared(6, x))
		s.expect("6 shared waits") // not past 4
		s.start("release 2", release(2, x))
		s.expect("release 2 ok")
		s.start("release 3", release(3, x))
		s.expect("4 ok", "release 3 ok")
		s.start("release 4", release(4, x))
		s.expect("5 shared ok", "6 shared ok", "release 4 ok")
		s.start("7", &lockpb.AcquireRequest{Handle: h(7, x), Ticket: 1})
		s.start("8", &lockpb.AcquireRequest{Handle: h(8, x)})
		s.expect("7 waits", "8 waits")
		if l := w.must(w.do(&lockpb.ListLocksRequest{})).GetListLocks().Locks; len(l) != 2 || l[0].Waiters != 2 {
			t.Errorf("ListLocks: %v", l)
		}
		s.start("close 5", &lockpb.CloseSessionRequest{Session: 5})
		s.start("close 6", &lockpb.CloseSessionRequest{Session: 6})
		s.expect("close 5 ok", "7 ok", "close 6 ok")
		s.start("close 7", &lockpb.CloseSessionRequest{Session: 7})
		s.expect("8 ok", "close 7 ok")
	})
}

// Who is in the way of others and goes, lets them pass.
func Test2_4_WaitersThatGo(t *testing.T) {
	for _, how := range []string{"cancel", "session", "release"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := lockWorld(t, 1, 4)
				defer w.close()
				s.start("1 shared", shared(1, x))
				cancel := s.start("2", acquire(2, x))
				s.start("3 shared", shared(3, x))
				s.expect("1 shared ok", "2 waits", "3 shared waits")
				switch how {
				case "cancel":
					cancel()
					s.expect("2 CANCELLED", "3 shared ok")
				case "session":
					s.start("close", &lockpb.CloseSessionRequest{Session: 2})
					s.expect("2 SESSION_EXPIRED", "3 shared ok", "close ok")
				case "release":
					s.start("release", release(2, x))
					s.expect("2 CANCELLED", "3 shared ok", "release ok")
				}
			})
		})
	}
}

func Test2_4_TryAcquire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 3)
		defer w.close()
		try := func(session uint64, path string) *lockpb.DoResponse {
			q := request1(acquire(session, path))
			return w.lead().Do(t.Context(), "", &lockpb.DoRequest{Call: &lockpb.DoRequest_TryAcquire{TryAcquire: q.GetAcquire()}}, nil)
		}
		if r := try(1, x); why(r) != "" {
			t.Fatalf("a free lock: %v", r)
		}
		if got := why(try(2, x)); got != "LOCK_HELD" {
			t.Errorf("a lock held: %q", got)
		}
		if r := try(1, x); !r.GetAcquire().GetAlready() {
			t.Errorf("by its holder: %v", r)
		}
		if got := why(try(1, x+"y")); got != "NODE_NOT_FOUND" {
			t.Errorf("of nothing: %q", got)
		}
		w.g.hold()
		s.start("release", release(1, x))
		done := make(chan string, 1)
		go func() { done <- why(try(2, x)) }()
		synctest.Wait()
		w.g.letGo()
		if got := <-done; got != "" {
			t.Errorf("a lock that was being released: %q", got)
		}
		s.expect("release ok")
		if l := w.lead().leader.Load(); len(l.locks) != 0 || l.waiting.Load() != 0 {
			t.Errorf("left behind: %v", l.locks)
		}
	})
}

// A retried Acquire is never two, and takes its earlier place.
func Test2_4_AskingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 3)
		defer w.close()
		s.start("1", acquire(1, x))
		s.start("2", acquire(2, x))
		s.start("3", acquire(3, x))
		s.start("2 again", acquire(2, x))
		s.expect("1 ok", "2 waits", "3 waits", "2 CANCELLED", "2 again waits")
		s.start("1 again", acquire(1, x))
		s.start("1 shared", shared(1, x))
		s.expect("1 again already", "1 shared LOCK_HELD")
		w.g.hold()
		s.start("release 1", release(1, x)) // grants 2
		s.start("2 once more", acquire(2, x))
		s.expect("2 once more waits")
		w.g.letGo()
		s.expect("2 again ok", "release 1 ok", "2 once more already")
		s.start("release 2", release(2, x))
		s.expect("3 ok", "release 2 ok")
	})
}

// An Acquire whose caller goes while its grant is under way leaves no hold, unless its handle
// asks again.
func Test2_4_NobodyHoldsUnknowingly(t *testing.T) {
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprintf("again=%v", again), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := lockWorld(t, 1, 2)
				defer w.close()
				w.g.hold()
				cancel := s.start("1", &lockpb.AcquireRequest{Handle: h(1, x), Attempt: 1})
				s.start("2", acquire(2, x))
				cancel()
				s.expect("2 waits", "1 AMBIGUOUS")
				if again {
					s.start("1 again", &lockpb.AcquireRequest{Handle: h(1, x), Attempt: 1})
					s.expect("1 again waits")
				}
				w.g.letGo()
				if again {
					s.expect("1 again already")
					s.start("release", &lockpb.ReleaseRequest{Handle: h(1, x), Attempt: 1})
					s.expect("2 ok", "release ok")
				} else {
					s.expect("2 ok")
				}
				if got := w.holders(x); !slices.Equal(got, []uint64{2}) {
					t.Errorf("held by %v", got)
				}
				if l := w.lead().leader.Load(); len(l.locks) != 0 {
					t.Errorf("left behind: %v", l.locks)
				}
			})
		})
	}
}

// A release that overtakes the acquire that it cancels.
func Test2_4_ReleaseCancelsAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 1)
		defer w.close()
		s.start("release", &lockpb.ReleaseRequest{Handle: h(1, x), Attempt: 3})
		synctest.Wait()
		s.start("attempt 3", &lockpb.AcquireRequest{Handle: h(1, x), Attempt: 3})
		s.start("attempt 4", &lockpb.AcquireRequest{Handle: h(1, x), Attempt: 4})
		s.start("late release", &lockpb.ReleaseRequest{Handle: h(1, x), Attempt: 3})
		s.expect("release ok", "attempt 3 LOCK_NOT_HELD", "attempt 4 ok", "late release ok")
		if len(w.holders(x)) != 1 {
			t.Error("a late release ended a later hold")
		}
	})
}

// After an unclean loss nobody else gets the lock for the delay that its holder asked for; after a clean
// end, or for one that asked for none, the next has it at once.
func Test2_4_LockDelay(t *testing.T) {
	for _, delay := range []time.Duration{0, 20 * time.Second} {
		t.Run(delay.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := lockWorld(t, 1, 2)
				defer w.close()
				w.session(9, 5*time.Second)
				s.start("9", &lockpb.AcquireRequest{Handle: h(9, x), LockDelayNs: int64(delay)})
				s.start("1", acquire(1, x))
				s.expect("9 ok", "1 waits")
				time.Sleep(5*time.Second + 3*epsilon)
				if delay == 0 {
					s.expect("1 ok")
					return
				}
				s.expect()
				time.Sleep(delay - 3*epsilon)
				s.expect()
				time.Sleep(5 * epsilon)
				s.expect("1 ok")
				s.start("1 closes", &lockpb.CloseSessionRequest{Session: 1})
				s.start("2", acquire(2, x))
				s.expect("1 closes ok", "2 ok")
			})
		})
	}
}

// When the leader goes, those who wait are sent to the next, and come back to their places;
// those in flight learn that nothing is known.
func Test2_9_WaitersAskAgainWithTheirTickets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 2, 4)
		defer w.close()
		tickets := make(map[uint64]int64)
		s.start("1", acquire(1, x))
		for _, id := range []uint64{2, 3, 4} {
			go w.doCtx(t.Context(), acquire(id, x), func(ticket int64) { tickets[id] = ticket })
			synctest.Wait()
		}
		s.expect("1 ok")
		w.g.failOver(1, true)
		for _, id := range []uint64{4, 3, 2} {
			s.start(fmt.Sprint(id), &lockpb.AcquireRequest{Handle: h(id, x), Ticket: tickets[id]})
		}
		s.expect("4 waits", "3 waits", "2 waits")
		time.Sleep(3 * epsilon)
		for id := uint64(1); id < 4; id++ {
			s.start("release", release(id, x))
			s.expect("release ok", fmt.Sprint(id+1, " ok"))
		}
	})
}

func TestFailuresInFlight(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"overloaded", paxosgroup.ErrOverloaded, "OVERLOADED"},
		{"disk full", paxosgroup.ErrDiskFull, "DISK_FULL"},
		{"stopped", paxosgroup.ErrStopped, "NO_LEADER"},
		{"other", errors.New("other"), "INTERNAL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := lockWorld(t, 1, 2)
				defer w.close()
				w.g.fail(c.err)
				s.start("1", acquire(1, x))
				s.expect("1 " + c.want)
				w.g.fail(nil)
				s.start("1", acquire(1, x))
				s.start("2", acquire(2, x))
				s.expect("1 ok", "2 waits")
				w.g.fail(c.err)
				s.start("release", release(1, x))
				if !retryable(c.err) {
					s.expect("2 "+c.want, "release "+c.want)
					return
				}
				s.expect("release " + c.want)
				w.g.fail(nil)
				s.start("release", release(1, x))
				s.expect("2 ok", "release ok")
			})
		})
	}
	t.Run("leader lost", func(t *testing.T) {
		for _, keep := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				w, s := lockWorld(t, 2, 2)
				defer w.close()
				w.g.hold()
				s.start("1", acquire(1, x))
				s.start("2", acquire(2, x))
				s.start("create", &lockpb.SetContentsRequest{Handle: h(1, x), Request: 1, Contents: []byte("a")})
				s.expect("2 waits")
				w.g.failOver(1, keep)
				s.expect("1 AMBIGUOUS", "2 NO_LEADER", "create AMBIGUOUS")
				s.start("1", acquire(1, x))
				if keep {
					s.expect("1 already")
				} else {
					s.expect("1 ok")
				}
				r := w.must(w.do(&lockpb.SetContentsRequest{Handle: h(1, x), Request: 1, Contents: []byte("a")})).GetSetContents()
				if r.Stat.ContentGeneration != 2 {
					t.Errorf("sent again it has generation %d", r.Stat.ContentGeneration)
				}
			})
		}
	})
}

// When grants cannot be logged, those who wait keep their places, and each lock's queue is looked at
// again after a pause: not once for each who waits, one inside the other.
func Test2_4_WhoWaitsKeepsItsPlaceWhenGrantsFail(t *testing.T) {
	for _, err := range []error{paxosgroup.ErrOverloaded, paxosgroup.ErrDiskFull} {
		synctest.Test(t, func(t *testing.T) {
			const waiters = 50
			w, s := lockWorld(t, 1, waiters)
			defer w.close()
			w.session(99, time.Second)
			s.start("99", &lockpb.AcquireRequest{Handle: h(99, x), LockDelayNs: int64(10 * time.Second)})
			s.expect("99 ok")
			for i := range uint64(waiters) {
				s.start(fmt.Sprint(i+1), acquire(i+1, x))
				s.expect(fmt.Sprint(i+1, " waits"))
			}
			time.Sleep(3 * time.Second) // 99 has expired, its lock-delay runs
			w.g.fail(err)
			time.Sleep(9 * time.Second)
			s.expect()
			if n := w.g.refused; n < 2 || n > 25 {
				t.Errorf("%d commands were tried in vain", n)
			}
			w.g.fail(nil)
			time.Sleep(2 * clockPause)
			s.expect("1 ok")
			s.start("release", release(1, x))
			s.expect("2 ok", "release ok")
			w.g.depose(true)
			synctest.Wait()
			for len(s.ch) > 0 {
				<-s.ch // the rest is sent to the next leader
			}
		})
	}
}
