package tablet

import (
	"context"
	"testing"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
)

// X4: what Freshest names is answered at once and by the replica itself, the leader or
// not; a prepared transaction lowers it for the keys that it writes and for no others.
func TestX4_FreshestIsAnsweredHere(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.commit(w.txn(1), put("k", "v"), put("p", "old"))
		time.Sleep(time.Second)
		fol := w.g.replicas[2].sm
		all := keys.Span{Start: keys.Key("a"), End: keys.Key("z")}
		point := keys.Span{Start: keys.Key("k")}
		fresh := func(who string, r *Tablet, sp keys.Span) truetime.Timestamp {
			t.Helper()
			at := r.Freshest(sp)
			if at == 0 {
				return 0
			}
			if now := r.cfg.Clock.Now(); at >= now.Earliest {
				t.Errorf("%s: %d has not certainly passed", who, at)
			}
			req := &ReadRequest{At: at, Follower: true, Scans: []Scan{{Span: sp}}}
			if sp.IsPoint() {
				req.Scans, req.Gets = nil, []keys.Key{sp.Start}
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
			defer cancel()
			if _, err := r.Read(ctx, req); err != nil {
				t.Errorf("%s: a read at %d: %v", who, at, err)
			}
			return at
		}
		if at := fresh("a follower that knows nothing", fol, all); at != 0 {
			t.Errorf("it answers %d", at)
		}
		closed := w.now()
		setSafe := func(at truetime.Timestamp) { w.g.mu.Lock(); w.g.safe = at; w.g.mu.Unlock() }
		setSafe(closed)
		time.Sleep(time.Second)
		if at := fresh("follower", fol, all); at != closed {
			t.Errorf("follower: %d, closed is %d", at, closed)
		}
		if at, now := fresh("leader", w.lead(), all), w.lead().cfg.Clock.Now(); at != now.Earliest-1 {
			t.Errorf("leader: %d at %d", at, now.Earliest)
		}
		ref := w.txn(2)
		pts := w.prepare(ref, "p", put("p", "new"))
		time.Sleep(time.Second)
		setSafe(w.now())
		for who, r := range map[string]*Tablet{"leader": w.lead(), "follower": fol} {
			if at := fresh(who, r, all); at != pts-1 {
				t.Errorf("%s, over a prepare at %d: %d", who, pts, at)
			}
			if at := fresh(who, r, point); at <= pts {
				t.Errorf("%s, beside a prepare at %d: %d", who, pts, at)
			}
		}

		// Its outcome lifts that, once visible, though no later batch follows.
		resolve := &ResolveRequest{Key: []byte("p"), Txn: ref.ID, Outcome: Outcome{OutcomeCommitted, pts + 100}}
		if err := w.lead().Resolve(context.Background(), resolve); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		setSafe(w.now())
		time.Sleep(time.Second)
		for who, r := range map[string]*Tablet{"leader": w.lead(), "follower": fol} {
			if at := fresh(who, r, all); at <= pts+100 {
				t.Errorf("%s, after the outcome at %d: %d", who, pts+100, at)
			}
		}
	})
}
