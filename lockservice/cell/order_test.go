package cell

import (
	"sync"
	"testing"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// Leases of a session are handed over in the order in which they were made: who acknowledges one
// has acknowledged the invalidations and events of all before (2.5, 2.7). Two of them are being made at
// any time here; none may be let go after the mutex that orders them.
func Test2_7_NoLeaseOvertakesAnother(t *testing.T) {
	w := newWorld(t, 1)
	defer w.close()
	w.file(x, "")
	w.caching(1, time.Minute)
	l := w.lead().leader.Load()
	var mu sync.Mutex
	var sent, invalidation, revision uint64
	st := w.lead().OpenStream("", func(lease *lockpb.Lease) {
		if l.mu.TryLock() {
			l.mu.Unlock()
			t.Error("another lease can be made before this one is queued")
		}
		mu.Lock()
		defer mu.Unlock()
		if lease.Number <= sent {
			t.Errorf("lease %d after %d", lease.Number, sent)
		}
		sent = lease.Number
		if n := lease.Invalidation; n != 0 {
			if n <= invalidation {
				t.Errorf("invalidation %d after %d", n, invalidation)
			}
			invalidation = n
		}
		for _, e := range lease.Events {
			if e.Revision <= revision {
				t.Errorf("event %d after %d", e.Revision, revision)
			}
			revision = e.Revision
		}
	})
	defer st.Close()
	st.Beat(&lockpb.Beat{Session: 1, Number: 1, Epoch: w.g.term, Subscriptions: &lockpb.Subscriptions{List: []*lockpb.Subscription{{Path: x}}}})
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 300 {
			w.do(&lockpb.GetRequest{Handle: h(1, x), Cache: true})
			w.file(x, "more")
		}
	})
	stop := make(chan struct{})
	beating := make(chan struct{})
	go func() {
		defer close(beating)
		for n := uint64(2); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			mu.Lock()
			known, seen := invalidation, revision
			mu.Unlock()
			st.Beat(&lockpb.Beat{Session: 1, Number: n, Epoch: w.g.term, Invalidated: known, Seen: seen})
		}
	}()
	wg.Wait()
	close(stop)
	<-beating
	if invalidation == 0 || revision == 0 {
		t.Error("nothing was told")
	}
}
