package sim

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spandb/spand/integration/check"
	"github.com/spandb/spand/integration/workload"
	"github.com/spandb/spand/lockservice"
)

// The clients of the lock service: those of package workload, judged by package check. They
// use package lockservice over gRPC, each on a machine and a clock of its own, and SQL for
// what their locks fence.

// cellKey stands for the first cell where a fault wants the key of a tablet.
const cellKey = "/ls/local"

func (w *World) lockOptions() workload.LockOptions {
	p := &w.plan
	return workload.LockOptions{
		Seed: p.Seed, Clients: p.LockClients, Steps: p.LockSteps, TTL: p.LockTTL, Think: p.Think, Exact: true,
		Clock: w.lockClock, Sent: w.sent,
		Log: func(format string, args ...any) { w.trace.Addf("locks: "+format, args...) },
	}
}

// lockClock is the clock of a lock client's machine: it began at some time, and runs a
// little faster or slower than true time.
func (w *World) lockClock(i int) lockservice.Clock {
	d := newDraw(w.plan.Seed, streamLocks+100+uint64(i+10))
	c := &lockClock{began: time.Now(), reads: d.between(0, time.Hour), rate: 1 + w.plan.lockDrift(d)}
	return c
}

type lockClock struct {
	began time.Time
	reads time.Duration // then
	rate  float64
}

func (c *lockClock) Now() time.Duration {
	return c.reads + time.Duration(float64(time.Since(c.began))*c.rate)
}

// LockAddrs and DialLocks implement workload.LockTarget.

// LockAddrs returns the rpc addresses of the nodes.
func (w *World) LockAddrs() (addrs []string) {
	for _, n := range w.nodes {
		addrs = append(addrs, n.name+":1")
	}
	return addrs
}

// DialLocks connects to a node's lock service.
func (w *World) DialLocks(ctx context.Context, addr string) (net.Conn, error) {
	for _, n := range w.nodes {
		if name, _, _ := strings.Cut(addr, ":"); name != n.name {
			continue
		}
		l := n.current()
		if l == nil {
			return nil, unreachable(n.id, false, "connection refused")
		}
		return l.rpc.DialContext(ctx)
	}
	return nil, fmt.Errorf("sim: no node is called %q", addr)
}

// setupLocks makes the nodes and tables.
func (w *World) setupLocks() bool {
	if w.plan.LockClients == 0 {
		return true
	}
	w.lockHistory = check.NewLockHistory()
	w.locks = workload.NewLocks(w, w.lockOptions(), w.lockHistory)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.locks.Setup(ctx); err != nil {
		w.violate("F1", "no locks in a healthy cluster: %v", err)
		return false
	}
	return true
}

// runLocks runs the clients until the faults are over.
func (w *World) runLocks(until time.Time) {
	if w.locks == nil {
		return
	}
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	w.locks.Run(ctx)
}

// finishLocks uses the healed cells once more, and ends the clients.
func (w *World) finishLocks() {
	if w.locks == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := w.locks.Finale(ctx); err != nil {
		w.violate("liveness", "the lock service in a healed cluster: %v", err)
	}
}

// judgeLocks holds what the clients saw against what they may see.
func (w *World) judgeLocks() {
	if w.lockHistory == nil {
		return
	}
	r := check.JudgeLocks(w.lockHistory, check.LockOptions{})
	short := *r
	short.Violations = nil
	w.stats.Locks = short.String()
	if len(r.Violations) > 0 || w.opts.Log {
		for _, op := range w.lockHistory.Ops() {
			w.trace.Addf("%v", op)
		}
	}
	for _, v := range r.Violations {
		w.violate(v.Invariant, "%s: %s", v.Anomaly, v.Story)
	}
}

// lay lays an ambush in the place of an earlier one that nobody has run into.
func (w *World) lay(f *Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ambush = f
}

// sent is told of every call and beat that a lock client sends.
func (w *World) sent(kind string) {
	w.mu.Lock()
	f := w.ambush
	if f == nil || f.Key != kind {
		w.mu.Unlock()
		return
	}
	w.ambush = nil
	w.stats.Ambushes++
	w.mu.Unlock()
	w.exits.Go(func() {
		time.Sleep(f.Amount)
		id := w.leaderOf(cellKey)
		if id == 0 {
			return
		}
		w.trace.Addf("AMBUSH: node %d crashes, a %s under way", id, kind)
		n := w.nodes[id-1]
		n.crash(f.Torn)
		time.Sleep(f.For)
		n.boot()
	})
}
