package cell

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// Who closes a session has given up its cache: nobody waits for it to forget anything, not even
// the end of the session itself (2.7).
func Test2_7_AClosingSessionCachesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 0)
		defer w.close()
		w.must(w.do(&lockpb.OpenRequest{Handle: h(0, jobs), Create: lockpb.Create_CREATE_IF_ABSENT, Directory: true}))
		w.caching(1, 10*time.Second)
		p := w.keep(1)
		w.must(w.do(&lockpb.OpenRequest{Handle: h(1, jobs+"/e"), Ephemeral: true, Create: lockpb.Create_CREATE_EXCLUSIVE}))
		if r := w.must(w.do(&lockpb.ReadDirRequest{Handle: h(1, jobs), Cache: true})).GetReadDir(); !r.Cacheable {
			t.Error("a listing cannot be cached")
		}
		w.wantCached(1, x, "", true)
		p.stop() // a client that closes beats no more
		s.start("set", &lockpb.SetContentsRequest{Handle: h(0, x), Contents: []byte("new")})
		s.expect()
		s.start("close", &lockpb.CloseSessionRequest{Session: 1})
		s.expect("close ok", "set ok")
	})
}

// The same after a fail-over, when the new leader does not know what it caches (2.9).
func Test2_9_AClosingStrangerCachesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 2, 0)
		defer w.close()
		w.caching(1, 10*time.Second)
		w.must(w.do(&lockpb.OpenRequest{Handle: h(1, jobs), Ephemeral: true, Create: lockpb.Create_CREATE_EXCLUSIVE}))
		w.g.failOver(1, true)
		time.Sleep(3 * epsilon) // the new leader's floor
		s.start("close", &lockpb.CloseSessionRequest{Session: 1})
		s.expect("close ok")
	})
}
