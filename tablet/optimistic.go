package tablet

import (
	"context"
	"errors"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// An optimistic transaction reads what a replica near its gateway happens to have,
// and its one request to the leader carries writes and what they rest on. The
// leader locks what was read and compares versions: a version's timestamp is its
// identity, so equal ones mean that the transaction might as well have read here,
// now, under these locks. From there on it is an ordinary commit.

// confirmPatience bounds how long an optimistic commit waits for locks: its
// statement cannot be cancelled meanwhile. Afterwards it goes on the ordinary way,
// as the same transaction: a request that asks again in time keeps its place.
const confirmPatience = time.Second

// guess answers an optimistic read. A version's timestamp is its identity only once all
// chunks of its transaction are versions: until then an earlier chunk's value may stand
// under it. So there is no guess where that is under way, or began meanwhile.
func (t *Tablet) guess(req *ReadRequest) (*ReadResponse, error) {
	elsewhere := &paxosgroup.NotLeaderError{Group: t.cfg.Group, Leader: t.group.Leader()}
	installs, begun := t.group.Installs(), t.materialising.Load()
	if err := t.checkRead(t.m.view.Load(), req); err != nil {
		return nil, err
	}
	for _, k := range req.Gets {
		if !t.versionsStand(keys.Span{Start: k}) {
			return nil, elsewhere
		}
	}
	resp, err := t.readVersions(req, truetime.Max)
	if err == nil && (t.materialising.Load() != begun || t.group.Installs() != installs) {
		return nil, elsewhere
	}
	return resp, err
}

// versionsStand reports whether no version in sp may yet change its value.
func (t *Tablet) versionsStand(sp keys.Span) bool {
	m := t.m
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, s := range m.staged {
		if s.status == stageCommitted && s.min != nil && s.hull().Overlaps(sp) {
			return false
		}
	}
	for i := range t.settling {
		if s := &t.settling[i]; s.span.Overlaps(sp) && !t.settled(s) {
			return false
		}
	}
	return true
}

// confirm takes the locks that an optimistic transaction needs and looks whether
// everything is as it expects. If so, it returns the request to go on with, which
// stands and falls with these locks; else the answer.
func (t *Tablet) confirm(ctx context.Context, req *CommitRequest) (resp *CommitResponse, confirmed *CommitRequest, err error) {
	ks := make([]keys.Key, len(req.Expect))
	for i := range req.Expect {
		ks[i] = req.Expect[i].Key
	}
	for {
		l, err := t.leading()
		if err != nil {
			return nil, nil, err
		}
		if err := t.checkRead(t.m.view.Load(), &ReadRequest{Gets: ks}); err != nil {
			return nil, nil, err
		}
		tx, done, err := t.finishing(l, &req.Txn)
		if done != nil {
			return &CommitResponse{TS: done.TS}, nil, nil // another copy of the request came first
		}
		if err != nil {
			return nil, nil, err
		}
		l.arm()
		bounded, cancel := context.WithTimeout(ctx, confirmPatience)
		err = l.lt.lockPoints(bounded, tx, ks, LockExclusive)
		cancel()
		if err == errFinishing {
			if err := l.awaitStep(ctx, tx); err != nil {
				return nil, nil, err
			}
			continue
		}
		var found []Value // none when there was no time to look
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			if err != nil {
				return nil, nil, err
			}
			var seen truetime.Timestamp
			found, seen, err = t.compare(req.Expect)
			if err != nil {
				return nil, nil, err
			}
			if found == nil {
				r := *req
				r.Txn.Term, r.MinTS = l.term, max(req.MinTS, seen+1)
				return nil, &r, nil
			}
		}
		if why := l.lt.whyDead(tx); why != nil {
			return nil, nil, why // wounded meanwhile: it may have read a mixture
		}
		if err := t.group.Valid(l.term); err != nil {
			return nil, nil, err
		}
		return &CommitResponse{Term: l.term, Found: found}, nil, nil
	}
}

// compare reads the newest versions of what is expected and returns them, as many
// as fit an answer; nil when all are the expected ones. seen is the highest of
// their timestamps, deletions included.
func (t *Tablet) compare(expect []Expectation) (found []Value, seen truetime.Timestamp, err error) {
	same, size := true, 0
	for i := range expect {
		v, err := t.mvcc.get(expect[i].Key, truetime.Max)
		if err != nil {
			return nil, 0, err
		}
		seen = max(seen, v.TS)
		same = same && v.Exists == (expect[i].TS != 0) && (!v.Exists || v.TS == expect[i].TS)
		if size += len(v.Bytes); i == 0 || size <= defaultMaxBytes {
			found = append(found, v)
		}
	}
	if same {
		found = nil
	}
	return found, seen, nil
}
