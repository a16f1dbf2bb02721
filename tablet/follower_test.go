package tablet

import (
	"context"
	"errors"
	"testing"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
)

// A follower whose data a snapshot begins to replace while it reads answers
// nothing, least of all that there is no row (X4).
func TestX4_FollowerReadOverASnapshot(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		s := w.commit(w.txn(1), put("k", "v"))
		w.g.mu.Lock()
		w.g.safe = s
		w.g.mu.Unlock()
		f := w.g.replicas[2]
		read := func() (*ReadResponse, error) {
			return f.sm.Read(context.Background(), &ReadRequest{At: s, Follower: true, Gets: []keys.Key{[]byte("k")}})
		}
		full := f.engine.m.Copy()
		wipe := func() {
			f.installs.Add(1)
			f.engine.mu.Lock()
			f.engine.m.Clear()
			f.engine.mu.Unlock()
		}
		f.engine.onRead.Store(&wipe)
		var elsewhere *paxosgroup.NotLeaderError
		if r, err := read(); !errors.As(err, &elsewhere) {
			t.Errorf("in the midst of it: %+v, %v", r, err)
		}
		f.engine.m = *full // and here it is
		if r, err := read(); err != nil || string(r.Gets[0].Bytes) != "v" {
			t.Errorf("behind it: %+v, %v", r, err)
		}
	})
}
