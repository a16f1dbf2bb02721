package cell

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// A clock that does not vouch for a moment gives nobody a lease, and makes none that never ends: who
// falls silent expires all the same (L1, T1).
func TestT1_NoLeaseFromAClockThatDoesNotVouch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 2, 0)
		defer w.close()
		w.session(1, 10*time.Second)
		p := w.keep(1)
		w.must(w.do(acquire(1, x)))
		w.session(3, 10*time.Second) // renewed by its creation, which is repeated
		w.g.hold()
		s.start("create 2", &lockpb.CreateSessionRequest{Session: 2, TtlNs: int64(10 * time.Second)})
		s.start("create 3", &lockpb.CreateSessionRequest{Session: 3, TtlNs: int64(10 * time.Second)})
		s.expect()
		w.clock.Fail(errors.New("no time source"))
		answers := p.answers()
		p.beat(nil)
		synctest.Wait()
		if n := p.answers(); n != answers {
			t.Errorf("L1: answered a beat without a clock: %v", p.got[n-1])
		}
		select {
		case <-p.st.Done():
		default:
			t.Error("the stream goes on without a clock")
		}
		w.g.letGo()
		s.expect("create 2 NO_LEADER", "create 3 NO_LEADER")
		w.clock.Fail(nil)
		time.Sleep(10*time.Second + 4*epsilon)
		synctest.Wait()
		if l := w.lead().leader.Load(); len(l.sessions) != 0 {
			for _, d := range l.sessions {
				t.Errorf("session %d goes on until %v", d.id, d.end)
			}
		}
		if h := w.holders(x); len(h) != 0 {
			t.Errorf("held by %v", h)
		}
	})
}

// The same for a leader that begins with such a clock.
func TestT1_ALeaderThatBeginsWithoutAClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := lockWorld(t, 2, 0)
		defer w.close()
		w.session(1, 10*time.Second)
		w.must(w.do(acquire(1, x)))
		w.clock.Fail(errors.New("no time source"))
		w.g.leadAgain(true)
		w.clock.Fail(nil)
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if h := w.holders(x); len(h) != 1 {
			t.Error("L1: a session that counts as renewed has expired")
		}
		time.Sleep(time.Second + 4*epsilon)
		synctest.Wait()
		if h := w.holders(x); len(h) != 0 {
			t.Errorf("held by %v", h)
		}
	})
}
