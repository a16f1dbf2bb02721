package cell

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// Files, locks and sessions through Do, as a first client meets them (paper 2.2, 2.4, 2.6).
func TestNodesAndLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.close()
		w.must(w.do(&lockpb.OpenRequest{Handle: h(0, jobs), Create: lockpb.Create_CREATE_IF_ABSENT, Directory: true}))
		w.file(jobs+"/x", "one")
		r := w.must(w.do(&lockpb.GetRequest{Handle: h(0, jobs+"/x")})).GetGetContentsAndStat()
		if string(r.Contents) != "one" || r.Stat.ContentGeneration != 1 || r.Cacheable {
			t.Errorf("got %v", r)
		}
		gen := uint64(2)
		if got := why(w.do(&lockpb.SetContentsRequest{Handle: h(0, jobs+"/x"), Contents: []byte("two"), IfGeneration: &gen})); got != "GENERATION_MISMATCH" {
			t.Errorf("compare-and-set under another generation: %q", got)
		}
		if n := len(w.must(w.do(&lockpb.ReadDirRequest{Handle: h(0, jobs)})).GetReadDir().Children); n != 1 {
			t.Errorf("%d children", n)
		}
		w.session(1, 10*time.Second)
		entries := w.g.entries
		q := w.must(w.do(acquire(1, jobs+"/x"))).GetAcquire()
		if q.Already || q.Sequencer.Text != jobs+"/x:exclusive:1:1" {
			t.Errorf("got %v", q)
		}
		if c := w.must(w.do(&lockpb.CheckSequencerRequest{Sequencer: q.Sequencer.Text})).GetCheckSequencer(); !c.Valid {
			t.Errorf("its sequencer is not valid: %s", c.Why)
		}
		w.must(w.do(release(1, jobs+"/x")))
		if n := w.g.entries - entries; n != 2 {
			t.Errorf("acquire and release took %d entries", n)
		}
		if c := w.must(w.do(&lockpb.CheckSequencerRequest{Sequencer: q.Sequencer.Text})).GetCheckSequencer(); c.Valid {
			t.Error("L1: its sequencer is valid after the release")
		}
		if l := w.lead().leader.Load(); len(l.locks) != 0 {
			t.Errorf("%d locks are remembered", len(l.locks))
		}
		w.must(w.do(&lockpb.CloseSessionRequest{Session: 1}))
		if got := why(w.do(acquire(1, jobs+"/x"))); got != "SESSION_EXPIRED" {
			t.Errorf("a lock for a session that has ended: %q", got)
		}
	})
}

// A session lives from beat to beat, each held for a third of its lease, and dies when they cease: not before
// the lease that the last one got is over, and right after it (paper 2.8).
func Test2_8_LeasesAreExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.close()
		w.file("/ls/local/x", "")
		w.session(1, 10*time.Second)
		w.session(2, 10*time.Second)
		w.must(w.do(acquire(1, "/ls/local/x")))
		p := w.keep(1)
		keep2 := w.keep(2)
		defer keep2.stop()
		time.Sleep(61 * time.Second)
		if n := p.answers(); n < 18 || n > 19 {
			t.Errorf("%d answers in 61 s to beats that are held for a third of 10 s", n)
		}
		last := time.Now()
		p.beat(nil)
		p.stop()
		time.Sleep(time.Until(last.Add(10 * time.Second)))
		synctest.Wait()
		if len(w.holders("/ls/local/x")) != 1 {
			t.Error("L1: the session ended before its lease")
		}
		time.Sleep(2*epsilon + time.Microsecond)
		synctest.Wait()
		if len(w.holders("/ls/local/x")) != 0 {
			t.Error("the session outlived its lease")
		}
		if got := why(w.do(release(1, "/ls/local/x"))); got != "SESSION_EXPIRED" {
			t.Errorf("the session has ended: %q", got)
		}
		if got := w.must(w.do(&lockpb.ListSessionsRequest{})).GetListSessions().Sessions; len(got) != 1 || got[0].Session != 2 {
			t.Errorf("sessions: %v", got)
		}
	})
}

// A client counts its lease from the sending of CreateSession, also when it sends it again.
func Test2_8_CreatingASessionAgainRenewsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.close()
		w.file(x, "")
		w.session(1, 10*time.Second)
		w.must(w.do(acquire(1, x)))
		time.Sleep(9 * time.Second)
		w.session(1, 10*time.Second)
		time.Sleep(10 * time.Second)
		if len(w.holders(x)) != 1 {
			t.Error("L1: the session ended before the lease that its second creation promised")
		}
		time.Sleep(3 * epsilon)
		synctest.Wait()
		if len(w.holders(x)) != 0 {
			t.Error("the session outlived its lease")
		}
	})
}

// Calls through a handle that SetSequencer bound, or that says so itself, fail once the lock has
// passed on (2.4).
func Test2_4_SetSequencer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := lockWorld(t, 2, 2)
		defer w.close()
		const data = "/ls/local/data"
		w.file(data, "")
		seq := w.must(w.do(acquire(1, x))).GetAcquire().Sequencer.Text
		w.must(w.do(&lockpb.SetSequencerRequest{Handle: h(1, data), Sequencer: seq}))
		carried := h(0, data)
		carried.Sequencer = seq
		try := func(want string) {
			t.Helper()
			for _, handle := range []*lockpb.Handle{h(1, data), carried} {
				for _, call := range []any{
					&lockpb.SetContentsRequest{Handle: handle, Contents: []byte("a")}, &lockpb.GetRequest{Handle: handle},
				} {
					if got := why(w.do(call)); got != want {
						t.Errorf("%T: %q, want %q", call, got, want)
					}
				}
			}
		}
		try("")
		start := time.Now()
		w.must(w.do(release(1, x)))
		if d := time.Since(start); d > 0 {
			t.Errorf("L2: a promise to a call that is over was waited for %v", d)
		}
		w.must(w.do(acquire(2, x)))
		try("STALE_SEQUENCER")
		w.g.handOver(1)
		if got := why(w.do(&lockpb.SetContentsRequest{Handle: carried, Contents: []byte("a")})); got != "STALE_SEQUENCER" {
			t.Errorf("under another leader: %q", got)
		}
		if got := why(w.do(&lockpb.SetSequencerRequest{Handle: h(1, data), Sequencer: seq})); got != "STALE_SEQUENCER" {
			t.Errorf("bound to a stale sequencer: %q", got)
		}
	})
}
