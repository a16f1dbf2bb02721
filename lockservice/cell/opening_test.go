package cell

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// An Open that waits, for caches or in the log, when its handle is closed, holds nothing open
// afterwards; nor does one whose caller has gone (2.3).
func Test2_3_NoOpenComesAfterItsClose(t *testing.T) {
	const e = jobs + "/e"
	create := &lockpb.OpenRequest{Handle: h(2, e), Ephemeral: true, Create: lockpb.Create_CREATE_EXCLUSIVE}
	absent := func(t *testing.T, w *world) {
		t.Helper()
		if got := why(w.do(&lockpb.GetRequest{Handle: h(0, e)})); got != "NODE_NOT_FOUND" {
			t.Errorf("%s is there: %q", e, got)
		}
		l := w.lead().leader.Load()
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.opening) != 0 {
			t.Errorf("left behind: %v", l.opening)
		}
	}
	begin := func(t *testing.T) (*world, *story, *peer) {
		w, s := lockWorld(t, 1, 0)
		w.must(w.do(&lockpb.OpenRequest{Handle: h(0, jobs), Create: lockpb.Create_CREATE_IF_ABSENT, Directory: true}))
		w.caching(1, 20*time.Second)
		w.session(2, time.Minute)
		p := w.keep(1)
		w.wantCached(1, e, "-", true)
		p.setDeaf(true)
		return w, s, p
	}
	acknowledge := func(p *peer) {
		p.setDeaf(false)
		p.mu.Lock()
		p.invalid = 1 << 62
		p.mu.Unlock()
		p.beat(nil)
	}
	t.Run("waiting", func(t *testing.T) { // its stream has broken, but nobody here knows that
		synctest.Test(t, func(t *testing.T) {
			w, s, p := begin(t)
			defer w.close()
			defer p.stop()
			s.start("open", create)
			s.expect()
			s.start("close", &lockpb.CloseRequest{Handle: h(2, e)})
			s.expect("close ok", "open CANCELLED")
			acknowledge(p)
			s.expect()
			absent(t, w)
		})
	})
	t.Run("in the log", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, s, p := begin(t)
			defer w.close()
			defer p.stop()
			acknowledge(p)
			w.g.hold()
			s.start("open", create)
			s.start("close", &lockpb.CloseRequest{Handle: h(2, e)})
			s.expect("open AMBIGUOUS")
			w.g.letGo()
			s.expect("close ok")
			absent(t, w)
		})
	})
	t.Run("gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, s, p := begin(t)
			defer w.close()
			defer p.stop()
			cancel := s.start("open", create)
			entries := w.g.entries
			cancel()
			acknowledge(p)
			s.expect("open CANCELLED")
			if n := w.g.entries - entries; n != 0 {
				t.Errorf("%d commands for nobody", n)
			}
			absent(t, w)
		})
	})
	t.Run("answered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, s, p := begin(t)
			defer w.close()
			defer p.stop()
			acknowledge(p)
			for range 20 {
				w.g.hold()
				s.start("open", &lockpb.OpenRequest{Handle: h(2, e), Ephemeral: true, Create: lockpb.Create_CREATE_IF_ABSENT})
				w.g.letGo()
				s.expect("open ok")
			}
		})
	})
	t.Run("late", func(t *testing.T) { // on its way between nodes
		synctest.Test(t, func(t *testing.T) {
			w, s, p := begin(t)
			defer w.close()
			p.stop()
			acknowledge(p)
			s.start("close", &lockpb.CloseRequest{Handle: h(2, e)})
			s.start("open", create)
			time.Sleep(30 * time.Second)
			s.expect("close ok", "open STALE_HANDLE")
			absent(t, w)
		})
	})
}
