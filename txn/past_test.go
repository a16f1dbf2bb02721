package txn

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
)

// A read in the past is answered here if it can be, without a message; else by the
// nearest replica that can, of which the leader is only one (X4).
func TestX4_PastReadsAskTheNearest(t *testing.T) {
	run(t, time.Millisecond, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		s1 := g.set(t, "z", "1")
		time.Sleep(time.Second)
		g.value(t, "z") // raises what the tablet has promised
		distance := map[keys.NodeID]time.Duration{1: 2, 2: 3}
		other := newGateway(w, 3, tabletsAt("m"), func(c *Config) {
			c.Distance = func(n keys.NodeID) time.Duration { return distance[n] }
		})
		defer other.Close()
		var asked []keys.NodeID
		w.setFault(func(c call) error {
			if !c.after {
				asked = append(asked, c.to)
			}
			return nil
		})
		eq(t, get(t, other.ReadOnly(ctx, s1), tablet.LockNone, "z"), "[1]")
		eq(t, asked, "[3]")
		for _, c := range []struct {
			leader time.Duration // distance of node 2, which leads
			asked  string
		}{{3, "[3 1 2]"}, {1, "[3 2]"}} {
			distance[2] = c.leader
			time.Sleep(time.Second)
			at := w.clock.Now().Earliest - 1 // too fresh for those who follow
			time.Sleep(time.Second)
			asked = nil
			eq(t, get(t, other.ReadOnly(ctx, at), tablet.LockNone, "z"), "[1]")
			eq(t, asked, c.asked)
		}
		st := other.Stats()
		if st.PastHere.Load() == 0 || st.PastHere.Load()+st.PastOther.Load()+st.PastLeader.Load() != 3 {
			t.Errorf("counted %d here, %d at others, %d at leaders", st.PastHere.Load(), st.PastOther.Load(), st.PastLeader.Load())
		}
	})
}

// With every other node dead, what this node's replica has closed stays readable, also
// where it led; what it has not is refused in the end, not answered (X4).
func TestX4_PastReadsNeedNoLeader(t *testing.T) {
	run(t, time.Millisecond, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		s1 := g.set(t, "a", "1", "z", "2") // led by 1 and 2
		time.Sleep(time.Second)
		g.value(t, "a")
		g.value(t, "z")
		other := newGateway(w, 3, tabletsAt("m"), func(c *Config) { c.RetryTimeout = 5 * time.Second })
		defer other.Close()
		w.setDown(1, true)
		w.setDown(2, true)
		ro := other.ReadOnly(ctx, s1)
		eq(t, get(t, ro, tablet.LockNone, "a", "z"), "[1 2]")
		eq(t, scan(t, other.ReadOnly(ctx, s1), ScanRequest{Span: keys.Span{Start: k("a"), End: k("zz")}}), "[a=1 z=2]")

		time.Sleep(time.Second)
		at := w.clock.Now().Earliest - 1
		time.Sleep(time.Second)
		_, err := other.ReadOnly(ctx, at).Get(ctx, []keys.Key{k("z")}, tablet.LockNone, tablet.WaitBlock)
		var unavailable *UnavailableError
		if !errors.As(err, &unavailable) {
			t.Errorf("a read that nobody alive can answer: %v", err)
		}
	})
}
