package paxosgroup

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
)

// Followers of an unhurried machine apply the last entry at a tick, and earlier ones with the next, for
// fewer messages.
func TestUnhurried(t *testing.T) {
	const gap = 5 * time.Millisecond // more than a commit takes
	run := func(unhurried bool) (messages uint64, behind int) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1, 3)
			defer w.close()
			w.unhurried = map[keys.GroupID]bool{1: unhurried}
			w.start(1)
			n := w.leader(1)
			time.Sleep(time.Second)
			tick := n.host.cfg.TickInterval
			time.Sleep(tick - time.Duration(time.Now().UnixNano())%tick) // the next one is far
			const entries = 10                                           // take half a tick
			before := w.net.Sent(ClassRaft)
			for i := range entries {
				if _, err := n.propose(1, fmt.Sprint(i)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(gap)
			}
			messages = w.net.Sent(ClassRaft) - before
			for _, id := range w.ids {
				behind = max(behind, entries-len(w.nodes[id].toys[1].history()))
			}
			if got := len(n.toys[1].history()); got != entries {
				t.Errorf("the leader has applied %d", got)
			}
			time.Sleep(2 * tick)
			for _, id := range w.ids {
				if got := len(w.nodes[id].toys[1].history()); got != entries {
					t.Errorf("node %d has applied %d two ticks later", id, got)
				}
			}
			w.converged(1)
		})
		return messages, behind
	}
	plain, behind := run(false)
	if behind != 0 {
		t.Errorf("followers are %d behind", behind)
	}
	fewer, behind := run(true)
	if behind != 1 {
		t.Errorf("followers of the unhurried are %d behind, not 1", behind)
	}
	if fewer*3 > plain*2 {
		t.Errorf("%d messages, and %d of one that hurries", fewer, plain)
	}
}

// What waits to be told goes before a hand-over's last word.
func TestUnhurriedHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 5) // leader and target alone are no majority
		defer w.close()
		w.unhurried = map[keys.GroupID]bool{1: true}
		w.start(1)
		n := w.leader(1)
		if _, err := n.propose(1, "a"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := within(time.Second)
		defer cancel()
		began := time.Now()
		n.host.Drain(ctx)
		to := w.leader(1)
		if took := time.Since(began); to == n || took > n.host.cfg.TickInterval/2 {
			t.Errorf("from node %d to %d in %v", n.id, to.id, took)
		}
		if _, err := to.propose(1, "b"); err != nil {
			t.Fatal(err)
		}
		w.converged(1)
	})
}
