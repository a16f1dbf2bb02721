package cell

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/spandb/spand/lockservice/lockpb"
)

// Holders hear of whoever wants what they have, also of one that does not wait for it (2.5).
func Test2_5_TryAcquireIsAConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 2)
		defer w.close()
		p := w.keep(1)
		defer p.stop()
		p.beat([]*lockpb.Subscription{{Path: x, Kinds: []lockpb.EventKind{lockpb.EventKind_CONFLICTING_REQUEST}}})
		s.start("1", acquire(1, x))
		s.expect("1 ok")
		try := func(session uint64) string {
			q := request1(acquire(session, x))
			return why(w.lead().Do(t.Context(), "", &lockpb.DoRequest{Call: &lockpb.DoRequest_TryAcquire{TryAcquire: q.GetAcquire()}}, nil))
		}
		if got := try(1); got != "" { // its own
			t.Errorf("%q", got)
		}
		synctest.Wait()
		if got := p.kinds(); len(got) != 0 {
			t.Errorf("%v", got)
		}
		if got := try(2); got != "LOCK_HELD" {
			t.Errorf("%q", got)
		}
		synctest.Wait()
		if got := p.kinds(); !slices.Equal(got, []string{"CONFLICTING_REQUEST " + x}) {
			t.Errorf("%v", got)
		}
	})
}
