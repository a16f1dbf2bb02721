package cell

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// A change that took effect under a sequencer is answered as it was when it is sent again, though
// the sequencer is stale by then (2.9).
func Test2_9_RepeatedUnderAStaleSequencer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 2, 1)
		defer w.close()
		w.file("/ls/local/y", "")
		seq := w.must(w.do(acquire(1, x))).GetAcquire().Sequencer.Text
		fenced := h(1, "/ls/local/y")
		fenced.Sequencer = seq
		set := func(request uint64) *lockpb.SetContentsRequest {
			return &lockpb.SetContentsRequest{Handle: fenced, Request: request, Contents: []byte("a")}
		}
		remove := &lockpb.DeleteRequest{Handle: fenced, Request: 2}
		first := w.must(w.do(set(1))).GetSetContents().Stat.ContentGeneration
		w.must(w.do(remove))
		time.Sleep(time.Second)
		s.start("release", release(1, x))
		s.expect("release ok")
		w.g.failOver(1, true)
		if got := w.must(w.do(set(1))).GetSetContents().Stat.ContentGeneration; got != first {
			t.Errorf("generation %d, not %d", got, first)
		}
		w.must(w.do(remove))
		if got := why(w.do(set(3))); got != "STALE_SEQUENCER" {
			t.Errorf("another change: %q", got)
		}
	})
}

// A Delete under the sequencer of the node's own lock, which goes with the node, is answered as it was when
// it is sent again: afterwards, and while the first is under way (2.9).
func Test2_9_RepeatedDeleteUnderTheNodesOwnLock(t *testing.T) {
	for _, bound := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w, s := lockWorld(t, 2, 1)
			defer w.close()
			seq := w.must(w.do(acquire(1, x))).GetAcquire().Sequencer.Text
			own := h(1, x)
			if bound {
				w.must(w.do(&lockpb.SetSequencerRequest{Handle: own, Sequencer: seq}))
			} else {
				own.Sequencer = seq
			}
			remove := &lockpb.DeleteRequest{Handle: own, Request: 1}
			w.g.hold()
			s.start("delete", remove)
			s.expect() // announced, in the log
			s.start("again", remove)
			s.expect()
			w.g.letGo()
			s.expect("delete ok", "again ok")
			w.must(w.do(remove))
			time.Sleep(time.Second)
			w.g.failOver(1, true)
			w.must(w.do(remove))
			if got := why(w.do(&lockpb.DeleteRequest{Handle: &lockpb.Handle{Session: 1, Handle: 2, Path: x, Sequencer: seq}, Request: 2})); got != "STALE_SEQUENCER" {
				t.Errorf("another delete: %q", got)
			}
		})
	}
}

// A change that is sent again waits for the sequencer while a release is under way; when that is applied, so
// may be the change, and is answered as it was (2.9).
func Test2_9_RepeatedWhileTheLockIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 1)
		defer w.close()
		w.file("/ls/local/y", "")
		seq := w.must(w.do(acquire(1, x))).GetAcquire().Sequencer.Text
		fenced := h(1, "/ls/local/y")
		fenced.Sequencer = seq
		set := &lockpb.SetContentsRequest{Handle: fenced, Request: 1, Contents: []byte("a")}
		w.g.hold()
		cancel := s.start("set", set)
		s.expect()
		cancel()
		s.expect("set AMBIGUOUS")
		s.start("release", release(1, x))
		time.Sleep(selfFence + 4*epsilon) // it waits for the promise that the change rests on
		s.start("again", set)
		s.expect()
		w.g.letGo()
		s.expect("release ok", "again ok")
	})
}
