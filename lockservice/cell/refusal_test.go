package cell

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// A command that is refused makes nobody drop a cache, and no fence wait.
func TestL2_ARefusedCommandStallsNobody(t *testing.T) {
	wrong := uint64(7)
	for name, c := range map[string]struct {
		call any
		want string
	}{
		"delete what another holds":      {&lockpb.DeleteRequest{Handle: h(2, x)}, "LOCK_HELD"},
		"the same, numbered":             {&lockpb.DeleteRequest{Handle: h(2, x), Request: 5}, "LOCK_HELD"},
		"delete without a session":       {&lockpb.DeleteRequest{Handle: h(0, x)}, "LOCK_HELD"},
		"delete of another generation":   {&lockpb.DeleteRequest{Handle: h(1, x), IfGeneration: &wrong}, "GENERATION_MISMATCH"},
		"contents of another generation": {&lockpb.SetContentsRequest{Handle: h(2, x), Request: 5, IfGeneration: &wrong}, "GENERATION_MISMATCH"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := lockWorld(t, 1, 2)
				defer w.close()
				w.caching(3, 10*time.Second)
				p := w.keep(3)
				defer p.stop()
				w.wantCached(3, x, "", true)
				p.setDeaf(true)
				seq := w.must(w.do(acquire(1, x))).GetAcquire().Sequencer.Text
				w.must(w.do(checkFor(seq, 900*time.Millisecond)))
				s.start("it", c.call)
				s.start("check", checkFor(seq, 900*time.Millisecond))
				s.expect("check ok", "it "+c.want)
				if got := p.told(); len(got) > 0 {
					t.Errorf("2.7: a cache was told to drop %v", got)
				}
				s.start("again", c.call) // the state remembers the numbered ones
				s.expect("again " + c.want)
			})
		})
	}
}

// A Delete waits for caches before fences wait for it: caches may take as long as a lease.
func TestL2_ADeleteThatWaitsForCachesStallsNoFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 2)
		defer w.close()
		w.caching(3, 10*time.Second)
		p := w.keep(3)
		w.wantCached(3, x, "", true)
		p.stop()
		seq := w.must(w.do(acquire(1, x))).GetAcquire().Sequencer.Text
		s.start("delete", &lockpb.DeleteRequest{Handle: h(1, x)})
		time.Sleep(5 * time.Second)
		s.start("check", checkFor(seq, 100*time.Millisecond))
		s.expect("check ok")
		time.Sleep(6 * time.Second)
		s.expect("delete ok")
	})
}

// The node that a Delete removes may have been made by a command that was in flight when it came: what
// caches know about it goes all the same (2.7).
func Test2_7_DeleteOfANodeThatIsBeingMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 1)
		defer w.close()
		w.must(w.do(&lockpb.OpenRequest{Handle: h(0, jobs), Create: lockpb.Create_CREATE_IF_ABSENT, Directory: true}))
		w.caching(2, 10*time.Second)
		w.keep(2).stop()
		w.g.hold()
		s.start("create", &lockpb.SetContentsRequest{Handle: h(0, jobs+"/e"), Create: true})
		s.expect()
		s.start("delete", &lockpb.DeleteRequest{Handle: h(1, jobs+"/e"), Request: 1})
		s.expect()
		w.g.letOne()
		s.expect("create ok")
		w.wantCached(2, jobs+"/e", "", true)
		w.g.letGo()
		s.expect() // the cache
		time.Sleep(10*time.Second + 4*epsilon)
		s.expect("delete ok")
		if r := w.must(w.do(&lockpb.ReadDirRequest{Handle: h(1, jobs)})).GetReadDir(); len(r.Children) != 0 {
			t.Errorf("left: %v", r.Children)
		}
	})
}

// A node goes under its own lock's sequencer only while that hold is there, also when it is lost
// after the sequencer was checked (L1).
func TestL1_DeleteUnderTheNodesOwnLock(t *testing.T) {
	for _, lost := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w, s := lockWorld(t, 1, 2)
			defer w.close()
			w.caching(3, 10*time.Second)
			p := w.keep(3)
			w.wantCached(3, x, "", true)
			p.stop()
			seq := w.must(w.do(acquire(1, x))).GetAcquire().Sequencer.Text
			s.start("delete", &lockpb.DeleteRequest{Handle: &lockpb.Handle{Session: 2, Handle: 9, Path: x, Sequencer: seq}})
			s.expect("delete LOCK_HELD") // it is another session's
			s.start("delete", &lockpb.DeleteRequest{Handle: &lockpb.Handle{Session: 1, Handle: 9, Path: x, Sequencer: seq}})
			s.expect() // the cache
			if lost {
				w.must(w.do(release(1, x)))
			}
			time.Sleep(11 * time.Second)
			if lost {
				s.expect("delete STALE_SEQUENCER")
			} else {
				s.expect("delete ok")
			}
		})
	}
}

// A command whose caller has gone goes on resting on its handle's sequencer while it is in flight (L2).
func TestL2_APromiseOutlivesTheCallerOfItsCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 1)
		defer w.close()
		w.file(jobs, "")
		seq := w.must(w.do(acquire(1, x))).GetAcquire().Sequencer.Text
		w.g.hold()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan string, 1)
		go func() {
			done <- why(w.doCtx(ctx, &lockpb.SetContentsRequest{Handle: &lockpb.Handle{Session: 1, Handle: 2, Path: jobs, Sequencer: seq}, Contents: []byte("new")}, nil))
		}()
		synctest.Wait()
		cancel()
		if r := <-done; r != "AMBIGUOUS" {
			t.Fatal(r)
		}
		w.g.letGo()
		s.start("release", release(1, x))
		s.expect() // nobody has said that the command has its timestamp
		time.Sleep(selfFence + 4*epsilon)
		s.expect("release ok")
	})
}
