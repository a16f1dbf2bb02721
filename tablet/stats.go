package tablet

import (
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
)

// Stats are a replica's counters, to be read at any time.
type Stats struct {
	LocksHeld    atomic.Int64 // now
	LockWaits    atomic.Int64 // requests that had to queue
	Wounds       atomic.Int64
	Escalations  atomic.Int64
	Expired      atomic.Int64 // transactions dropped for their gateway's silence
	Reads        atomic.Int64
	ReadWaits    atomic.Int64 // reads that waited for a write in flight or prepared
	Commits      atomic.Int64 // one-phase
	Prepares     atomic.Int64
	Decides      atomic.Int64
	Resolves     atomic.Int64
	Stages       atomic.Int64
	Materialised atomic.Int64 // chunks
	Collected    atomic.Int64 // versions
}

// Stats returns the counters.
func (t *Tablet) Stats() *Stats { return &t.stats }

// Replicated says how much unversioned state the replica carries.
type Replicated struct {
	Prepared, Decided, Staged, Outcomes int
	OldestPrepared                      time.Duration // age of the oldest in doubt
}

// Replicated returns the sizes of the replicated state.
func (t *Tablet) Replicated() Replicated {
	t.m.mu.RLock()
	defer t.m.mu.RUnlock()
	r := Replicated{Prepared: len(t.m.prepared), Decided: len(t.m.decided), Staged: len(t.m.staged), Outcomes: len(t.m.outcomes.m)}
	for _, p := range t.m.prepared {
		r.OldestPrepared = max(r.OldestPrepared, time.Since(p.since))
	}
	return r
}

// Prepared lists the prepared transactions of this replica.
func (t *Tablet) Prepared() []InDoubt {
	t.m.mu.RLock()
	defer t.m.mu.RUnlock()
	out := make([]InDoubt, 0, len(t.m.prepared))
	for _, id := range sortedIDs(t.m.prepared) {
		out = append(out, t.m.prepared[id].inDoubt(id))
	}
	return out
}

// LockInfo is one lock, or one request for a lock, of a leader's table.
type LockInfo struct {
	Span     keys.Span
	Strength LockStrength
	Txn      keys.TxnID
	Client   keys.NodeID
	Phase    string // active, committing, preparing, prepared
	TS       truetime.Timestamp
	Waiting  bool
}

// Locks lists up to limit locks and queued requests (0: all), in key order,
// ranges after points. Empty at a follower.
func (t *Tablet) Locks(limit int) []LockInfo {
	l := t.leader.Load()
	if l == nil {
		return nil
	}
	return l.lt.list(limit)
}

func (lt *lockTable) list(limit int) []LockInfo {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	var out []LockInfo
	add := func(tx *txnState, start, end string, st LockStrength, waiting bool) bool {
		sp := keys.Span{Start: []byte(start)}
		if end != "" {
			sp.End = []byte(end)
		}
		out = append(out, LockInfo{Span: sp, Strength: st, Txn: tx.id, Client: tx.client, Phase: tx.phase.String(),
			TS: truetime.Timestamp(tx.s.Load()), Waiting: waiting})
		return limit <= 0 || len(out) < limit
	}
	full := false
	lt.keys.Scan(func(k string, kl *keyLock) bool {
		for _, h := range kl.holders {
			full = full || !add(h.tx, k, "", h.strength, false)
		}
		for _, w := range kl.waiters {
			full = full || !add(w.tx, k, "", w.strength, true)
		}
		return !full
	})
	if !full {
		full = !lt.granted.visit("", "\xff\xff\xff\xff", func(r *rangeLock) bool { return add(r.tx, r.start, r.end, r.strength, false) })
	}
	if !full {
		lt.waiting.visit("", "\xff\xff\xff\xff", func(w *waiter) bool { return add(w.tx, w.start, w.end, w.strength, true) })
	}
	return out
}
