package cell

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

func (w *world) cached(session uint64, path string) (contents string, cacheable bool) {
	w.t.Helper()
	r := w.do(&lockpb.GetRequest{Handle: h(session, path), Cache: true})
	if f := r.GetFailure(); f != nil {
		if f.Info.Reason != "NODE_NOT_FOUND" {
			w.t.Fatalf("%s", f.Message)
		}
		return "-", f.Info.Cacheable
	}
	g := r.GetGetContentsAndStat()
	return string(g.Contents), g.Cacheable
}

func (w *world) wantCached(session uint64, path, contents string, cacheable bool) {
	w.t.Helper()
	if c, ok := w.cached(session, path); c != contents || ok != cacheable {
		w.t.Errorf("%s: %q cacheable=%v, want %q %v", path, c, ok, contents, cacheable)
	}
}

// A change waits for those who cache what it changes, and nobody caches it meanwhile (2.7).
func Test2_7_ChangesWaitForCaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 0)
		defer w.close()
		w.file(x, "old")
		w.caching(1, 10*time.Second)
		w.caching(2, 10*time.Second)
		w.session(3, 10*time.Second)
		p1, p2, p3 := w.keep(1), w.keep(2), w.keep(3)
		defer p1.stop()
		defer p2.stop()
		defer p3.stop()
		w.wantCached(1, x, "old", true)
		w.wantCached(2, x, "old", true)
		w.wantCached(3, x, "old", false) // does not say that it caches
		p2.setDeaf(true)
		s.start("set", &lockpb.SetContentsRequest{Handle: h(0, x), Contents: []byte("new")})
		s.expect()
		if got := p1.told(); !slices.Equal(got, []string{x}) {
			t.Errorf("1 was told %v", got)
		}
		w.wantCached(1, x, "old", false) // a change is under way
		time.Sleep(5 * time.Second)
		s.expect() // 2 lives, and has not acknowledged
		p2.setDeaf(false)
		p2.mu.Lock()
		p2.invalid = 1 << 62
		p2.mu.Unlock()
		p2.beat(nil)
		s.expect("set ok")
		w.wantCached(1, x, "new", true)
		if l := w.lead().leader.Load(); len(l.cache.changing) != 0 {
			t.Errorf("left behind: %v", l.cache.changing)
		}
	})
}

// A writer waits for a dead client's lease at most (2.7).
func Test2_7_ADeadCacheIsWaitedForUntilItsLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 0)
		defer w.close()
		w.caching(1, 10*time.Second)
		p := w.keep(1)
		w.wantCached(1, x, "", true)
		p.beat(nil)
		p.stop()
		s.start("set", &lockpb.SetContentsRequest{Handle: h(0, x), Contents: []byte("new")})
		time.Sleep(10*time.Second - epsilon)
		s.expect()
		time.Sleep(4 * epsilon)
		s.expect("set ok")
	})
}

// Absence and listings are cached, and invalidated, like contents; ephemeral nodes too, which go with
// their session (2.7).
func Test2_7_AbsenceAndListings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 0)
		defer w.close()
		w.must(w.do(&lockpb.OpenRequest{Handle: h(0, jobs), Create: lockpb.Create_CREATE_IF_ABSENT, Directory: true}))
		w.caching(1, 10*time.Second)
		w.session(2, 20*time.Second)
		p := w.keep(1)
		defer p.stop()
		list := func() (names []string) {
			r := w.must(w.do(&lockpb.ReadDirRequest{Handle: h(1, jobs), Cache: true})).GetReadDir()
			if !r.Cacheable {
				t.Error("a listing cannot be cached")
			}
			for _, c := range r.Children {
				names = append(names, c.Path)
			}
			return names
		}
		w.wantCached(1, jobs+"/e", "-", true)
		if n := list(); len(n) != 0 {
			t.Errorf("listing: %v", n)
		}
		w.must(w.do(&lockpb.OpenRequest{Handle: h(2, jobs+"/e"), Ephemeral: true, Create: lockpb.Create_CREATE_EXCLUSIVE}))
		if got := p.told(); !slices.Contains(got, jobs+"/e") || !slices.Contains(got, jobs) {
			t.Errorf("a creation told %v", got)
		}
		w.wantCached(1, jobs+"/e", "", true)
		if n := list(); len(n) != 1 {
			t.Errorf("listing: %v", n)
		}
		// The node goes with the session that holds it open, but not before the cache knows.
		p.setDeaf(true)
		s.start("close", &lockpb.CloseSessionRequest{Session: 2})
		time.Sleep(time.Second)
		s.expect()
		p.setDeaf(false)
		p.mu.Lock()
		p.invalid = 1 << 62
		p.mu.Unlock()
		p.beat(nil)
		s.expect("close ok")
		w.wantCached(1, jobs+"/e", "-", true)
		if n := list(); len(n) != 0 {
			t.Errorf("listing: %v", n)
		}
	})
}

// A new leader does not know who caches: changes wait until each session that may has said that it
// knows the new epoch, or is dead (2.7, 2.9).
func Test2_9_EpochHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 2, 0)
		defer w.close()
		w.caching(1, 10*time.Second)
		w.caching(2, 10*time.Second)
		p := w.keep(1)
		w.keep(2).stop()
		w.wantCached(1, x, "", true)
		w.g.failOver(1, true)
		start := time.Now()
		s.start("set", &lockpb.SetContentsRequest{Handle: h(0, x), Contents: []byte("new")})
		w.wantCached(1, x, "", false)
		p.connect()
		p.beat(nil) // of the old epoch: answered at once, and so the next is of the new
		synctest.Wait()
		s.expect() // 2 is missing
		if got := p.kinds(); len(got) != 1 || got[0] != "CELL_FAILED_OVER " {
			t.Errorf("told %v", got)
		}
		time.Sleep(time.Until(start.Add(10*time.Second - epsilon)))
		s.expect()
		time.Sleep(4 * epsilon)
		s.expect("set ok")
		w.wantCached(1, x, "new", true)
		p.stop()
	})
}

// A session that lives but does not acknowledge holds writers up for a lease and its own end at
// most: it is not renewed any more (2.7).
func Test2_7_WhoDoesNotAcknowledgeExpires(t *testing.T) {
	for _, failOver := range []bool{false, true} {
		t.Run(fmt.Sprintf("failOver=%v", failOver), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := lockWorld(t, 2, 0)
				defer w.close()
				w.caching(1, 10*time.Second)
				p := w.keep(1)
				w.wantCached(1, x, "", true)
				p.setDeaf(true)
				if failOver {
					p.stop()
					w.g.failOver(1, true)
				}
				start := time.Now()
				s.start("set", &lockpb.SetContentsRequest{Handle: h(0, x), Contents: []byte("new")})
				// It beats on, as one whose answers are all acted on but for this.
				for n := range 45 {
					if failOver && n == 0 {
						p.st = w.lead().OpenStream("", func(*lockpb.Lease) {})
					}
					p.beat(nil)
					time.Sleep(500 * time.Millisecond)
				}
				s.expect("set ok")
				if d := time.Since(start); d < 20*time.Second {
					t.Errorf("after %v", d)
				}
				p.stop()
			})
		})
	}
}

// A session that is not renewed any more is not answered any more either: the beat that was held when
// the first one came too late is dropped, or its answer would renew the lease at the client (L1).
func TestL1_WhoIsOverdueGetsNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 0)
		defer w.close()
		w.caching(1, 10*time.Second)
		p := w.keep(1)
		w.wantCached(1, x, "", true)
		p.setDeaf(true)
		start := time.Now()
		s.start("set", &lockpb.SetContentsRequest{Handle: h(0, x), Contents: []byte("new")})
		for time.Since(start) < 9*time.Second {
			time.Sleep(3 * time.Second)
			p.beat(nil) // renewed
		}
		time.Sleep(time.Until(start.Add(10*time.Second + 4*epsilon)))
		answers := p.answers()
		p.beat(nil) // overdue; the beat before is held
		s.expect()
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if n := p.answers() - answers; n > 0 {
			t.Errorf("L1: %d answers, the last with a lease of %v", n, p.ttl)
		}
		time.Sleep(10 * time.Second)
		s.expect("set ok")
		if !p.over {
			t.Error("the session has not been told that it ended")
		}
		p.stop()
	})
}
