package storage

import (
	"github.com/spandb/spand/internal/keys"
)

// Entry is one Raft log entry as the log keeps it. Type is Raft's entry type;
// storage does not look into Data.
type Entry struct {
	Index, Term uint64
	Type        uint8
	Data        []byte
}

// HardState is what Raft must not forget: its term, its vote, and how far it
// knows the log to be committed.
type HardState struct {
	Term, Vote, Commit uint64
}

// GroupRecord is one group's part of a log record. Entries, if any, are
// contiguous; they replace everything the group has from Entries[0].Index on,
// unless they are what the group has there already (same indexes and terms).
type GroupRecord struct {
	Group     keys.GroupID
	Replica   keys.ReplicaID // incarnation: records of another one are ignored at replay
	HardState *HardState     // nil: unchanged
	Entries   []Entry
	// NoSync lets the record ride along with the next sync instead of asking for
	// one: a hard state in which only Commit moved.
	NoSync bool
}

// Batch collects the writes of applied commands of one group. It is made by
// Store.NewBatch, filled by a state machine, and handed to Store.Apply, which
// makes all of it visible at once together with the applied index.
//
// Keys are engine keys: their first byte is a Class. Key and value slices are
// retained: the caller must not change them afterwards.
type Batch struct {
	Group   keys.GroupID
	Applied uint64 // index of the last command in the batch; 0: none
	ops     []op
	bytes   int
}

type op struct {
	key   []byte
	value []byte // nil deletes
}

// Put sets key to value (which may be empty but not nil).
func (b *Batch) Put(key, value []byte) {
	if value == nil {
		value = []byte{}
	}
	b.ops = append(b.ops, op{key, value})
	b.bytes += len(key) + len(value)
}

// Delete removes key.
func (b *Batch) Delete(key []byte) {
	b.ops = append(b.ops, op{key, nil})
	b.bytes += len(key)
}

// Len returns the number of operations; Bytes the size of their keys and values.
func (b *Batch) Len() int   { return len(b.ops) }
func (b *Batch) Bytes() int { return b.bytes }

// Reset empties the batch for reuse.
func (b *Batch) Reset() { b.ops, b.bytes, b.Applied = b.ops[:0], 0, 0 }

// Class is the first byte of an engine key and decides when a checkpoint
// writes it. It is the format version of what follows too: another layout of keys,
// or of values that do not begin with a version, takes another byte.
type Class byte

const (
	// ClassData keys are versions of rows, written once and never changed, so a
	// checkpoint may write them piecemeal and replay may write them again.
	// Layout: ClassData, logical key, inverted timestamp (8 bytes, big endian).
	ClassData Class = 0x02
	// ClassStage keys are staged chunks of large transactions, written once and
	// deleted later. Puts may go piecemeal like ClassData; a checkpoint keeps the
	// deletes for its last transaction, because replay may still read the chunk.
	// Layout: ClassStage, group id (8 bytes, big endian), anything.
	ClassStage Class = 0x04
	// ClassNode keys are the node's own (identity, tombstones, its table of
	// replicas); written through Store.PutNode, durable when it returns.
	ClassNode Class = 0x05
)

// Reader reads the engine: the in-memory table merged over bbolt. What is
// returned is the caller's to read and never changes; it must not be written to.
type Reader interface {
	// Get returns the value under key and whether there is one. An error is
	// damage (D1) or a closed store.
	Get(key []byte) ([]byte, bool, error)
	// NewIter iterates over [lower, upper). It sees every batch applied before
	// the call, and may see later ones. Close must be called.
	NewIter(lower, upper []byte) Iter
}

// Iter walks engine keys in order, either way. Not safe for concurrent use.
// Key and Value stay valid until the next call only.
type Iter interface {
	SeekGE(key []byte) bool // position at the first key >= key
	SeekLT(key []byte) bool // position at the last key < key
	Next() bool
	Prev() bool
	Key() []byte
	Value() []byte
	Err() error
	Close()
}

// GroupState is what a checkpoint knows of a group; replay continues from it.
//
// State without versions (prepared transactions, outcomes, the descriptor) is
// not written key by key: a state machine keeps it in memory, the log can
// rebuild it, and a checkpoint captures it whole as Machine.
type GroupState struct {
	Replica   keys.ReplicaID
	Applied   uint64 // every command up to here is in the engine
	Term      uint64 // term of entry Applied
	HardState HardState
	Conf      []byte // paxosgroup's encoding of the configuration at Applied
	Machine   []byte // the state machine's unversioned state at Applied
}

// Recovered is what Open found for one group: the checkpoint's state, the hard
// state as the log last had it, and the log's entries after State.Applied,
// contiguous, not yet applied.
type Recovered struct {
	State   GroupState
	Entries []Entry
	// Incomplete: a snapshot was half installed when the last life ended. The
	// replica has been wiped; State has its id, term and vote, and Applied 0.
	Incomplete bool
}

// Source is what a checkpoint asks of whoever owns the groups (paxosgroup.Host).
// Its methods are called from the checkpoint goroutine, no lock of storage held.
type Source interface {
	// Groups returns the groups of this node.
	Groups() []keys.GroupID
	// Capture fixes one group's state between two commands. Data written by later
	// commands may get into the same checkpoint: it is versioned, so replay may
	// write it again. Unchanged reports that nothing was applied and no hard
	// state moved since the last Capture; then state may be empty. Not ok: there is
	// nothing to capture now, as of a replica that a snapshot is being installed in.
	Capture(keys.GroupID) (state GroupState, unchanged, ok bool)
	// CarryForward appends again, through Store.Append and in the group's own
	// order, the group's entries after index and its hard state, because the
	// segment that holds them is about to be recycled. It returns when they are
	// durable. An error keeps the segment.
	CarryForward(g keys.GroupID, index uint64) error
}
