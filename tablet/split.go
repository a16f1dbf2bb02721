package tablet

import (
	"bytes"
	"context"
	"fmt"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
)

// Split makes a key of the tablet a boundary (B1). It waits for the transactions
// that cannot be divided, and keeps new ones of the kind out meanwhile. Sent
// again after it was done it gets a RangeError that names the child.
func (t *Tablet) Split(ctx context.Context, req *SplitRequest) (*SplitResponse, error) {
	key := append([]byte(nil), req.Key...)
	var armedAt *leader
	disarm := func() {
		if armedAt != nil {
			armedAt.splitAt.CompareAndSwap(&key, nil)
		}
	}
	defer func() { disarm() }()
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l, err := t.leading()
		if err != nil {
			return nil, err
		}
		v := t.m.view.Load()
		if !v.holds(req.Key) {
			return nil, v.rangeError()
		}
		if bytes.Equal(req.Key, v.desc.Span.Start) {
			return nil, fmt.Errorf("tablet: %x is the first key of group %d already", req.Key, t.cfg.Group)
		}
		if req.Child == 0 || req.Child == t.cfg.Group || len(req.Replicas) == 0 {
			return nil, fmt.Errorf("tablet: split of group %d names no child", t.cfg.Group)
		}
		if armedAt != l {
			disarm()
			if !l.splitAt.CompareAndSwap(nil, &key) {
				return nil, fmt.Errorf("tablet: another split of group %d is under way", t.cfg.Group)
			}
			armedAt = l
		}
		wait := l.progressed()
		t.m.mu.RLock()
		_, blocked := t.m.splitObstacle(req.Key)
		t.m.mu.RUnlock()
		if !blocked {
			res, _, err := l.propose(ctx, &paxosgroup.Proposal{Timestamped: true, Data: encodeSplit(v.desc.Generation, req, t.cfg.Node)}, nil)
			switch {
			case err == errInFlight:
				return nil, ctx.Err()
			case err != nil:
				return nil, ambiguous(err, keys.TxnID{})
			case res.kind == resStale:
				continue
			case res.kind != resBlocked:
				return res.split, nil
			}
		}
		select {
		case <-wait:
		case <-l.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// splitLocks divides the lock table when a split is applied at the leader. The
// machine has been divided before.
func (l *leader) splitLocks(key keys.Key, m, right *machine) *Inheritance {
	v := m.view.Load()
	return l.lt.splitRight(key, v.desc.Generation, v.rangeError(), func(id keys.TxnID) bool {
		_, ok := m.outcomeLocked(id)
		s := m.staged[id] // its outcome may be forgotten before its chunks are versions
		return ok || s != nil && s.status == stageCommitted
	}, func(id keys.TxnID) bool { return right.prepared[id] != nil })
}
