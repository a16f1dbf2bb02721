package server

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
)

// Only the first cell's leader says that there is no such cell: a node that has not heard of its making
// does not know.
func TestWhoDoesNotKnowTheCellsSaysSo(t *testing.T) {
	w := newWorld(t, 2, echo)
	get := &lockpb.GetRequest{Handle: &lockpb.Handle{Path: "/ls/other/f"}}
	reason := func(node, hops int) string {
		s := w.servers[keys.NodeID(node)]
		return s.do(t.Context(), "me", &lockpb.DoRequest{Call: &lockpb.DoRequest_GetStat{GetStat: get}}, hops, nil).GetFailure().GetInfo().GetReason()
	}
	keepAlive := func(node keys.NodeID) string {
		beats, err := w.clients[node].KeepAlive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := beats.Send(&lockpb.KeepAliveRequest{Cell: "other"}); err != nil {
			t.Fatal(err)
		}
		_, err = beats.Recv()
		_, i := info(t, err)
		return i.Reason
	}
	if got := reason(2, 0); got != reasonNotLeader {
		t.Errorf("at a follower: %s", got)
	}
	if got := keepAlive(2); got != reasonNotLeader {
		t.Errorf("KeepAlive at a follower: %s", got)
	}
	if got := reason(2, maxHops); got != reasonNoSuchCell {
		t.Errorf("by the leader's word: %s", got)
	}
	if got := keepAlive(1); got != reasonNoSuchCell {
		t.Errorf("KeepAlive at the leader: %s", got)
	}
	c := w.cells[1]
	c.mu.Lock()
	c.cells = []state.Cell{{Name: "other"}}
	c.mu.Unlock()
	if got := reason(1, 0); got != reasonNoLeader {
		t.Errorf("on the list, but not open yet: %s", got)
	}
	w.cells[1].follow()
	w.believe(1, 0)
	w.believe(2, 0)
	for node := 1; node <= 2; node++ {
		if got := reason(node, maxHops); got != reasonNoLeader {
			t.Errorf("node %d without a leader: %s", node, got)
		}
	}
}

// A client that does not read its answers is asked for no more calls; those that were carried out
// are answered.
func TestDoStreamSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var done atomic.Int64
		w := newWorld(t, 1, func(_ context.Context, _ string, req *lockpb.DoRequest, _ func(int64)) *lockpb.DoResponse {
			done.Add(1)
			return &lockpb.DoResponse{Id: req.Id, Answer: &lockpb.DoResponse_GetStat{GetStat: &lockpb.GetStatResponse{Stat: &lockpb.Stat{Path: strings.Repeat("x", 256<<10)}}}}
		})
		ss, err := w.clients[1].Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		const n = 2 * maxAnswers / (256 << 10)
		go func() {
			for id := range uint64(n) {
				if ss.Send(&lockpb.DoRequest{Id: id, Call: &lockpb.DoRequest_GetStat{GetStat: &lockpb.GetRequest{Handle: &lockpb.Handle{Path: file + strings.Repeat("y", 64<<10)}}}}) != nil {
					return
				}
			}
		}()
		synctest.Wait()
		if k := done.Load(); k >= n {
			t.Errorf("all %d calls were taken while nobody read an answer", k)
		}
		for got := range n {
			if _, err := ss.Recv(); err != nil {
				t.Fatalf("after %d of %d answers: %v", got, n, err)
			}
		}
	})
}

// A call that comes while the node shuts down is sent on, not refused for good.
func TestShutdownSendsLateCallsOn(t *testing.T) {
	w := newWorld(t, 2, echo)
	w.believe(1, 2)
	w.servers[1].Shutdown(t.Context())
	ctx, done := w.servers[1].until(t.Context())
	defer done()
	<-ctx.Done()
	d := &doStream{s: w.servers[1], ctx: ctx, cancels: map[uint64]func(){}, ended: true}
	f := d.start(&lockpb.DoRequest{Id: 1, Call: &lockpb.DoRequest_GetStat{GetStat: &lockpb.GetRequest{Handle: handle()}}})
	if f.GetInfo().GetReason() != reasonNotLeader || f.Info.Leader.GetNode() != "n2" {
		t.Errorf("%v", f)
	}
}

// Shutdown waits neither for a client to begin nor for one to read.
func TestShutdownWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, func(_ context.Context, _ string, req *lockpb.DoRequest, _ func(int64)) *lockpb.DoResponse {
			return &lockpb.DoResponse{Id: req.Id, Answer: &lockpb.DoResponse_GetStat{GetStat: &lockpb.GetStatResponse{Stat: &lockpb.Stat{Path: strings.Repeat("x", 256<<10)}}}}
		})
		if _, err := w.clients[1].KeepAlive(t.Context()); err != nil { // and says nothing
			t.Fatal(err)
		}
		ss, err := w.clients[1].Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for id := range uint64(16) {
			if err := ss.Send(&lockpb.DoRequest{Id: id, Call: &lockpb.DoRequest_GetStat{GetStat: &lockpb.GetRequest{Handle: handle()}}}); err != nil {
				t.Fatal(err)
			}
		}
		slow, err := w.clients[1].KeepAlive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for n := range uint64(16) {
			if err := slow.Send(&lockpb.KeepAliveRequest{Cell: First, Beats: []*lockpb.Beat{{Session: 1, Number: n, Seen: 256 << 10}}}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		w.servers[1].Shutdown(ctx)
		if d := time.Since(start); d > partingPatience+handoverPatience {
			t.Errorf("after %v", d)
		}
	})
}
