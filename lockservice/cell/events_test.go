package cell

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// revisions are those of the events received, in order.
func (p *peer) revisions() (list []uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.events {
		list = append(list, e.Revision)
	}
	return list
}

func (w *world) set(path, contents string) *lockpb.Stat {
	w.t.Helper()
	return w.must(w.do(&lockpb.SetContentsRequest{Handle: h(0, path), Contents: []byte(contents)})).GetSetContents().Stat
}

// Events come at once, after what they tell of is visible (paper 2.5).
func Test2_5_Events(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 3)
		defer w.close()
		p := w.keep(1)
		defer p.stop()
		p.beat([]*lockpb.Subscription{{Path: x}, {Path: "/ls/local", Kinds: []lockpb.EventKind{lockpb.EventKind_CHILD_ADDED, lockpb.EventKind_CHILD_REMOVED}}})
		synctest.Wait()
		w.set(x, "a")
		w.file(x+"y", "")
		s.start("1", acquire(1, x))
		s.start("2", acquire(2, x))
		s.expect("1 ok", "2 waits")
		s.start("release", release(1, x))
		s.expect("release ok", "2 ok")
		w.must(w.do(&lockpb.DeleteRequest{Handle: h(2, x)}))
		synctest.Wait()
		want := []string{"CONTENTS_CHANGED " + x, "CHILD_ADDED /ls/localxy", "LOCK_ACQUIRED " + x, "CONFLICTING_REQUEST " + x, "LOCK_ACQUIRED " + x, "HANDLE_INVALID " + x, "CHILD_REMOVED /ls/localx"}
		if got := p.kinds(); !slices.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
		if b := w.lead().leader.Load().sessions[1].box; len(b.queue) > 0 || len(b.notices) > 0 {
			t.Errorf("acknowledged but kept: %v %v", b.queue, b.notices)
		}
	})
}

// What was not acknowledged comes again over a new stream, also from a new leader: no gap (2.5, 2.9).
func Test2_5_EventsResumeWithoutAGap(t *testing.T) {
	for _, how := range []string{"stream", "leader"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := lockWorld(t, 2, 1)
				defer w.close()
				p := w.keep(1)
				p.beat([]*lockpb.Subscription{{Path: x}})
				synctest.Wait()
				for i := range 10 {
					if i == 4 {
						p.setDeaf(true) // gets two more, and says nothing of them
					}
					w.set(x, fmt.Sprint(i))
					synctest.Wait()
				}
				after := p.seen
				p.stop()
				p.setDeaf(false)
				var subs []*lockpb.Subscription
				if how == "leader" {
					w.g.failOver(1, true)
					subs = []*lockpb.Subscription{{Path: x, After: after}}
				}
				p.mu.Lock()
				p.events = nil
				p.mu.Unlock()
				p.connect()
				p.beat(subs)
				synctest.Wait()
				w.set(x, "last")
				synctest.Wait()
				contents := 0
				for _, e := range p.events {
					if e.Kind == lockpb.EventKind_CONTENTS_CHANGED {
						contents++
					}
				}
				if contents != 7 {
					t.Errorf("%d events of the 7 that were not acknowledged: %v", contents, p.kinds())
				}
				if how == "leader" && p.events[0].Kind != lockpb.EventKind_CELL_FAILED_OVER {
					t.Errorf("the change of leader was not told: %v", p.kinds())
				}
				if r := p.revisions(); !slices.IsSorted(r) {
					t.Errorf("out of order: %v", r)
				}
				p.stop()
			})
		})
	}
}

// A session that does not take its events costs a bounded queue, and gets all that the cell
// remembers when it does; of what is forgotten it is told (2.5).
func Test2_5_SlowConsumer(t *testing.T) {
	for _, n := range []int{3 * maxQueued, 20_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := lockWorld(t, 1, 1)
				defer w.close()
				w.session(2, time.Minute)
				fast, slow := w.keep(2), w.keep(1)
				defer fast.stop()
				sub := []*lockpb.Subscription{{Path: x, Kinds: []lockpb.EventKind{lockpb.EventKind_CONTENTS_CHANGED}}}
				fast.beat(sub)
				slow.beat(sub)
				synctest.Wait()
				slow.setDeaf(true)
				slow.stop()
				for i := range n {
					w.set(x, fmt.Sprint(i))
					if i%50 == 0 {
						synctest.Wait() // the fast one keeps up
					}
				}
				synctest.Wait()
				if got := len(fast.revisions()); got != n {
					t.Errorf("the other session got %d events of %d", got, n)
				}
				l := w.lead().leader.Load()
				l.mu.Lock()
				queued := len(l.sessions[1].box.queue)
				l.mu.Unlock()
				if queued > maxQueued {
					t.Errorf("%d events are queued for the slow one", queued)
				}
				slow.setDeaf(false)
				slow.connect()
				slow.beat(nil)
				time.Sleep(time.Second)
				synctest.Wait()
				got := slow.revisions()
				if r := fast.revisions(); n < 16_384/2 && !slices.Equal(got, r) {
					t.Errorf("the slow one got %d events of %d", len(got), len(r))
				}
				lost := slices.Contains(slow.kinds(), "EVENTS_LOST "+x)
				if want := n > 16_384/2; lost != want {
					t.Errorf("events lost: %v of %d", lost, n)
				}
				slow.mu.Lock()
				slow.events = nil
				slow.mu.Unlock()
				w.set(x, "after")
				synctest.Wait()
				if len(slow.revisions()) != 1 {
					t.Errorf("afterwards it got %v", slow.kinds())
				}
				slow.stop()
			})
		})
	}
}

// After a change of leader every session counts as renewed: none is lost whose client comes back
// within its lease, and one that is dead is found one lease after the new leader began (2.9).
func Test2_9_SessionsSurviveTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := lockWorld(t, 2, 0)
		defer w.close()
		w.session(1, 5*time.Second)
		w.session(2, 5*time.Second)
		w.must(w.do(acquire(1, x)))
		w.must(w.do(&lockpb.OpenRequest{Handle: h(2, x+"eph"), Ephemeral: true, Create: lockpb.Create_CREATE_EXCLUSIVE}))
		p := w.keep(1)
		time.Sleep(4900 * time.Millisecond) // 2 is silent and nearly over
		w.g.failOver(1, true)
		start := time.Now()
		if !p.st.closed.Load() {
			t.Error("the old leader's stream goes on")
		}
		p.connect()
		p.beat(nil)
		time.Sleep(5*time.Second - epsilon)
		if got := why(w.do(&lockpb.GetRequest{Handle: h(0, x+"eph")})); got != "" {
			t.Errorf("2 ended before a lease was over since the fail-over: %q", got)
		}
		time.Sleep(time.Until(start.Add(5*time.Second + 3*epsilon)))
		synctest.Wait()
		if got := why(w.do(&lockpb.GetRequest{Handle: h(0, x+"eph")})); got != "NODE_NOT_FOUND" {
			t.Errorf("2 is not found dead one lease after the fail-over: %q", got)
		}
		if got := w.holders(x); !slices.Equal(got, []uint64{1}) {
			t.Errorf("held by %v", got)
		}
		p.stop()
	})
}

// A session whose end is under way is neither renewed nor answered before that is applied (L1).
func TestL1_NoAnswerWhileTheSessionIsEnding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := lockWorld(t, 1, 0)
		defer w.close()
		w.session(1, 2*time.Second)
		w.must(w.do(acquire(1, x)))
		p := w.keep(1)
		p.stop()
		synctest.Wait()
		w.g.hold()
		time.Sleep(2*time.Second + 3*epsilon)
		p.connect()
		p.mu.Lock()
		p.got = nil
		p.mu.Unlock()
		p.beat(nil)
		time.Sleep(5 * time.Second)
		if p.answers() != 0 {
			t.Errorf("L1: answered: %v", p.got)
		}
		done := make(chan string, 1)
		go func() { done <- why(w.do(&lockpb.CreateSessionRequest{Session: 1})) }()
		synctest.Wait()
		w.g.letGo()
		synctest.Wait()
		if p.answers() != 1 || !p.over {
			t.Errorf("its end was not told: %v", p.got)
		}
		if got := <-done; got != "SESSION_EXPIRED" {
			t.Errorf("created again: %q", got)
		}
		p.stop()
	})
}

// A leader that has lost its lease answers no beat: its client's session would outlive what the next
// leader gives it (L1).
func TestL1_BeatsAreAnsweredUnderTheLeaseOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := lockWorld(t, 2, 1)
		defer w.close()
		p := w.keep(1)
		synctest.Wait()
		w.g.mu.Lock()
		w.g.term++ // another has been elected, and this one does not know
		w.g.mu.Unlock()
		p.mu.Lock()
		p.got = nil
		p.mu.Unlock()
		p.beat([]*lockpb.Subscription{{Path: x, After: 1}}) // there is something to tell
		time.Sleep(40 * time.Second)
		if p.answers() != 0 {
			t.Errorf("L1: answered: %v", p.got)
		}
		w.g.mu.Lock()
		w.g.term--
		w.g.mu.Unlock()
		p.stop()
	})
}

// Leases get longer under load, and a new leader honours the longest that was given (2.8).
func Test2_8_LeasesUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := lockWorld(t, 2, 0)
		defer w.close()
		w.g.replicas[0].cell.cfg.BusyBeats = 10
		w.session(1, 6*time.Second)
		p := w.keep(1)
		for range 100 {
			p.beat(nil)
			time.Sleep(20 * time.Millisecond)
		}
		p.beat(nil)
		l := w.lead().leader.Load()
		l.mu.Lock()
		given := l.sessions[1].given
		end := l.sessions[1].end
		l.mu.Unlock()
		if given < 12*time.Second {
			t.Errorf("a lease of %v under load", given)
		}
		p.stop()
		w.g.failOver(1, true)
		l = w.lead().leader.Load()
		l.mu.Lock()
		next := l.sessions[1].end
		l.mu.Unlock()
		if next < end {
			t.Errorf("L1: the new leader ends a session %v before the lease that it got", end.Sub(next))
		}
		// When it is calm, leases get shorter at once, the logged factor only when the longer
		// ones are over.
		p = w.keep(1)
		time.Sleep(3 * time.Minute)
		l.c.mu.RLock()
		factor := l.c.st.LeaseFactor()
		l.c.mu.RUnlock()
		l.mu.Lock()
		given = l.sessions[1].given
		l.mu.Unlock()
		if given != 6*time.Second && factor != 1 {
			t.Errorf("a lease of %v, factor %d after three minutes of calm", given, factor)
		}
		p.stop()
	})
}
