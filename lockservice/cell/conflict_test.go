package cell

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

var conflicts = []*lockpb.Subscription{{Path: x, Kinds: []lockpb.EventKind{lockpb.EventKind_CONFLICTING_REQUEST}}}

// hears checks that a peer was told of so many conflicting requests, and of nothing else but another leader.
func (p *peer) hears(times int) {
	p.w.t.Helper()
	synctest.Wait()
	got := slices.DeleteFunc(p.kinds(), func(k string) bool { return k == "CELL_FAILED_OVER " })
	if len(got) != times || slices.ContainsFunc(got, func(k string) bool { return k != "CONFLICTING_REQUEST "+x }) {
		p.w.t.Errorf("told %v, want %d conflicting requests", got, times)
	}
}

// tries starts a TryAcquire.
func (s *story) tries(name string, session uint64) {
	go func() {
		q := request1(acquire(session, x)).GetAcquire()
		r := s.w.lead().Do(s.w.t.Context(), "", &lockpb.DoRequest{Call: &lockpb.DoRequest_TryAcquire{TryAcquire: q}}, nil)
		s.ch <- name + " " + why(r)
	}()
	synctest.Wait()
}

// Who gets a lock for which others wait already hears of them, as they asked when another had it (2.5).
func Test2_5_NextHolderHearsWhoWaits(t *testing.T) {
	for _, tt := range []struct {
		name string
		call func(uint64, string) *lockpb.AcquireRequest // of those in line
	}{
		{"exclusive", acquire}, {"shared", shared},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := lockWorld(t, 1, 4)
				defer w.close()
				var peers []*peer
				for id := range uint64(4) {
					p := w.keep(id + 1)
					defer p.stop()
					p.beat(conflicts)
					peers = append(peers, p)
				}
				s.start("1", acquire(1, x))
				s.start("2", tt.call(2, x))
				s.start("3", tt.call(3, x))
				s.expect("1 ok", "2 waits", "3 waits")
				peers[0].hears(2)
				s.start("release 1", release(1, x))
				if tt.name == "shared" { // nobody is kept from it by 2 and 3
					s.expect("release 1 ok", "2 ok", "3 ok")
					peers[1].hears(0)
					s.start("4", acquire(4, x))
					s.expect("4 waits")
					peers[1].hears(1)
					peers[2].hears(1)
					return
				}
				s.expect("release 1 ok", "2 ok")
				peers[1].hears(1)
				peers[2].hears(0)
				s.start("release 2", release(2, x))
				s.expect("release 2 ok", "3 ok")
				peers[2].hears(0) // nobody waits
			})
		})
	}
}

// Nor is one missed who asks, waiting or not, while the grant is under way.
func Test2_5_ConflictWithAGrantUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 3)
		defer w.close()
		p := w.keep(1)
		defer p.stop()
		p.beat(conflicts)
		w.g.hold()
		s.start("1", acquire(1, x))
		s.tries("2", 2)
		p.hears(0)
		w.g.letGo()
		s.expect("1 ok", "2 LOCK_HELD")
		p.hears(1)
		s.start("release 1", release(1, x))
		s.expect("release 1 ok")
		w.g.hold()
		s.start("1", acquire(1, x))
		s.start("3", acquire(3, x))
		p.hears(1)
		w.g.letGo()
		s.expect("1 ok", "3 waits")
		p.hears(2)
	})
}

// A holder that subscribes when others wait already is told so: to the first leader, to the next one, which
// waiters may find before the holder does, and on a new stream, for what was sent on the last one
// may be lost.
func Test2_5_LateSubscriberHearsWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 2, 2)
		defer w.close()
		p := w.keep(1)
		s.start("1", acquire(1, x))
		s.start("2", acquire(2, x))
		s.expect("1 ok", "2 waits")
		p.hears(0)
		p.beat([]*lockpb.Subscription{{Path: x, Kinds: []lockpb.EventKind{lockpb.EventKind_CONTENTS_CHANGED}}})
		p.hears(0)
		p.beat(conflicts)
		p.hears(1)
		p.beat(conflicts) // nothing new
		p.hears(1)
		p.stop()
		p.connect()
		p.beat(conflicts)
		p.hears(2)
		p.stop()
		w.g.failOver(1, true)
		s.expect("2 NO_LEADER")
		s.start("2", acquire(2, x))
		s.expect("2 waits")
		p.connect()
		p.beat(conflicts)
		p.hears(3)
		p.stop()
		w.g.failOver(0, true)
		s.expect("2 NO_LEADER")
		p.connect()
		p.beat(conflicts)
		p.hears(3)
		s.start("2", acquire(2, x)) // only now
		s.expect("2 waits")
		p.hears(4)
		p.stop()
	})
}

// However often others try, one notice of it waits for a session that is not heard of.
func Test2_5_NoticesDoNotPileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 2)
		defer w.close()
		p := w.keep(1)
		p.beat(conflicts)
		s.start("1", acquire(1, x))
		s.expect("1 ok")
		p.stop()
		time.Sleep(40 * time.Second) // whatever beat was held has been answered
		for range 100 {
			s.tries("2", 2)
			s.expect("2 LOCK_HELD")
		}
		l := w.lead().leader.Load()
		l.mu.Lock()
		notices := len(l.sessions[1].box.notices)
		l.mu.Unlock()
		if notices != 1 {
			t.Errorf("%d notices wait", notices)
		}
		p.hears(0)
		p.connect()
		p.beat(conflicts)
		p.hears(1)
		p.stop()
	})
}

// To delete a node whose lock another holds is a request that conflicts, too.
func Test2_5_DeleteIsAConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 2)
		defer w.close()
		p := w.keep(1)
		defer p.stop()
		p.beat(conflicts)
		s.start("1", shared(1, x))
		s.start("delete", &lockpb.DeleteRequest{Handle: h(2, x)})
		s.expect("1 ok", "delete LOCK_HELD")
		p.hears(1)
	})
}
