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
