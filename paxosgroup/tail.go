package paxosgroup

import (
	"errors"

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
// Only the group's worker touches it.
type tail struct {
	prev    uint64 // index before entries[0]
	prevT   uint64 // its term
	entries []*pb.Entry
	bytes   int

	hs       *pb.HardState // for InitialState
	voters   []uint64
	applied  func() (index, term uint64)
	pinned   uint64 // entries behind it are kept for the receivers of snapshots; 0: none
	captured uint64 // applied index of the last checkpoint
}

// Bounds of what a tail keeps beyond need: applied entries for followers that
// lag, and for carrying forward (storage.Source).
const (
	tailBytes   = 4 << 20
	tailEntries = 10_000
	// tailChunk amortizes dropping.
	tailChunk = 64
	// pinnedBytes bounds what is kept for a receiver of a snapshot: what is written
	// while it travels.
	pinnedBytes = 16 * tailBytes
)

func (t *tail) InitialState() (*pb.HardState, *pb.ConfState, error) {
	return t.hs, &pb.ConfState{Voters: t.voters, AutoLeave: new(bool)}, nil
}

func (t *tail) last() uint64 { return t.prev + uint64(len(t.entries)) }

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
	return es[:len(es):len(es)], nil
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
	for i := keep; i < len(t.entries); i++ {
		t.bytes -= len(t.entries[i].Data)
		t.entries[i] = nil
	}
	t.entries = append(t.entries[:keep], es...)
	for _, e := range es {
		t.bytes += len(e.Data)
	}
}

// reset empties the tail behind a snapshot.
func (t *tail) reset(index, term uint64) {
	t.prev, t.prevT, t.entries, t.bytes = index, term, nil, 0
}

// pin notes the lowest of pins.
func (t *tail) pin(pins map[uint64]pin) {
	t.pinned = 0
	for _, p := range pins {
		if t.pinned == 0 || p.index < t.pinned {
			t.pinned = p.index
		}
	}
}

// trim drops entries up to applied that nobody needs any more: beyond the
// budget always, and below it those that every live follower has (matched) and
// the last checkpoint covers.
func (t *tail) trim(applied, matched uint64) {
	limit := applied
	if t.pinned != 0 && t.bytes < pinnedBytes {
		limit = min(limit, t.pinned)
	}
	drop, bytes := 0, t.bytes
	for drop < len(t.entries) {
		i := t.prev + uint64(drop) + 1
		if i > limit {
			break
		}
		over := bytes > tailBytes || len(t.entries)-drop > tailEntries
		if !over && (i > matched || i > t.captured) {
			break
		}
		bytes -= len(t.entries[drop].Data)
		drop++
	}
	if drop < tailChunk && (drop == 0 || drop < len(t.entries)) {
		return
	}
	t.prevT = t.entries[drop-1].GetTerm()
	t.prev += uint64(drop)
	for i := range drop {
		t.entries[i] = nil
	}
	if t.entries = t.entries[drop:]; len(t.entries) == 0 {
		t.entries = nil
	}
	t.bytes = bytes
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
