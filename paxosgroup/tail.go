package paxosgroup

import (
	"errors"
	"slices"
	"sync/atomic"

	"github.com/spandb/spand/internal/keys"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// tail is a group's log in memory and Raft's view of it (raft.Storage). The
// node's log on disk is only ever read at start; followers are served from
// here, and one that is behind the tail's start gets a snapshot.
//
// Entries enter when they are handed to the log, before they are durable; Raft
// reads of the tail only what it knows to be durable.
//
// Only the group's worker touches it, but for kept and spare, which others read.
type tail struct {
	prev    uint64 // index before entries[0]
	prevT   uint64 // its term
	entries []*pb.Entry

	hs       *pb.HardState // for InitialState
	voters   []uint64
	applied  func() (index, term uint64)
	captured uint64 // applied index of the last checkpoint

	// What is applied and still here; retain.go says how long.
	counted uint64        // index up to which entries are applied
	kept    atomic.Int64  // their bytes
	had     uint64        // index up to which no replica lacks them, at most counted
	spare   atomic.Int64  // their bytes
	total   *atomic.Int64 // kept of all the host's tails
}

// entryOverhead is what an entry takes in memory beside its data.
const entryOverhead = 120

func entrySize(e *pb.Entry) int64 { return int64(len(e.Data)) + entryOverhead }

func (t *tail) InitialState() (*pb.HardState, *pb.ConfState, error) {
	return t.hs, &pb.ConfState{Voters: t.voters, AutoLeave: new(bool)}, nil
}

func (t *tail) last() uint64 { return t.prev + uint64(len(t.entries)) }

// Entries copies: Raft keeps what it gets in messages that it hands out with the next Ready, and before
// that the tail may be trimmed, or its end replaced.
func (t *tail) Entries(lo, hi, maxSize uint64) ([]*pb.Entry, error) {
	if lo <= t.prev {
		return nil, raft.ErrCompacted
	}
	if hi > t.last()+1 || lo >= hi {
		return nil, raft.ErrUnavailable
	}
	es := t.entries[lo-t.prev-1 : hi-t.prev-1]
	size := uint64(0)
	for i, e := range es {
		size += uint64(len(e.Data)) + 16
		if i > 0 && size > maxSize {
			es = es[:i]
			break
		}
	}
	return slices.Clone(es), nil
}

func (t *tail) Term(i uint64) (uint64, error) {
	switch {
	case i < t.prev:
		return 0, raft.ErrCompacted
	case i == t.prev:
		return t.prevT, nil
	case i > t.last():
		return 0, raft.ErrUnavailable
	}
	return t.entries[i-t.prev-1].GetTerm(), nil
}

func (t *tail) FirstIndex() (uint64, error) { return t.prev + 1, nil }
func (t *tail) LastIndex() (uint64, error)  { return t.last(), nil }

// Snapshot returns metadata alone: the data travels on its own class
// (snapshot.go), started when Raft's message shows up.
func (t *tail) Snapshot() (*pb.Snapshot, error) {
	index, term := t.applied()
	return &pb.Snapshot{Metadata: &pb.SnapshotMetadata{
		Index: &index, Term: &term,
		ConfState: &pb.ConfState{Voters: t.voters, AutoLeave: new(bool)},
	}}, nil
}

// append adds entries, replacing what conflicts.
func (t *tail) append(es []*pb.Entry) {
	if len(es) == 0 {
		return
	}
	first := es[0].GetIndex()
	if first <= t.prev { // the part that is gone was applied, hence the same
		skip := t.prev + 1 - first
		if skip >= uint64(len(es)) {
			return
		}
		es, first = es[skip:], t.prev+1
	}
	keep := int(first - t.prev - 1)
	clear(t.entries[keep:])
	t.entries = append(t.entries[:keep], es...)
}

// reset empties the tail behind a snapshot.
func (t *tail) reset(index, term uint64) {
	t.prev, t.prevT, t.entries = index, term, nil
	t.counted, t.had = index, index
	t.spare.Store(0)
	t.keep(-t.kept.Load())
}

func (t *tail) keep(n int64) {
	if n != 0 {
		t.kept.Add(n)
		t.total.Add(n)
	}
}

// count notes what is applied, and up to where no replica lacks it.
func (t *tail) count(applied, had uint64) {
	n := int64(0)
	for ; t.counted < applied; t.counted++ {
		n += entrySize(t.entries[t.counted-t.prev])
	}
	t.keep(n)
	had = min(max(had, t.prev), t.counted)
	n = 0
	for ; t.had < had; t.had++ {
		n += entrySize(t.entries[t.had-t.prev])
	}
	for ; t.had > had; t.had-- {
		n -= entrySize(t.entries[t.had-t.prev-1])
	}
	t.spare.Add(n)
}

// trim drops the oldest counted entries: those up to useless, and as far as limit
// until no more than budget bytes are kept.
func (t *tail) trim(limit, useless uint64, budget int64) {
	limit = min(limit, t.counted)
	drop, freed, spare := 0, int64(0), int64(0)
	for i := t.prev + 1; i <= limit && (i <= useless || t.kept.Load()-freed > budget); i++ {
		n := entrySize(t.entries[drop])
		freed += n
		if i <= t.had {
			spare += n
		}
		drop++
	}
	if drop == 0 {
		return
	}
	t.prevT = t.entries[drop-1].GetTerm()
	t.prev += uint64(drop)
	t.had = max(t.had, t.prev)
	clear(t.entries[:drop])
	if t.entries = t.entries[drop:]; len(t.entries) == 0 {
		t.entries = nil
	}
	t.spare.Add(-spare)
	t.keep(-freed)
}

// after returns the entries behind index, false when they are not all here.
func (t *tail) after(index uint64) ([]*pb.Entry, bool) {
	if index < t.prev {
		return nil, false
	}
	if index >= t.last() {
		return nil, true
	}
	return t.entries[index-t.prev:], true
}

// ErrSuperseded answers CarryForward for entries that were applied since the
// checkpoint and have left memory: a new checkpoint covers them.
var ErrSuperseded = errors.New("paxosgroup: entries behind the checkpoint have been applied and dropped; checkpoint again")

func voterIDs(rs []keys.Replica) []uint64 {
	ids := make([]uint64, len(rs))
	for i, r := range rs {
		ids[i] = uint64(r.ID)
	}
	return ids
}
