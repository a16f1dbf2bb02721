// Package keys is the vocabulary that every room shares: identities, key
// ranges and the layout of the keyspace. It imports nothing of ours but
// truetime and knows no behaviour.
package keys

import (
	"bytes"
	"encoding/hex"
	"fmt"

	"github.com/spandb/spand/truetime"
)

type (
	// NodeID is a node's place in its cluster, from 1; names (n1) map to it.
	NodeID uint32
	// GroupID names a Raft group, hence the tablet that it replicates. Never reused.
	GroupID uint64
	// ReplicaID names one replica of one group; never reused (Raft's node id).
	ReplicaID uint64
)

// The groups that exist from bootstrap on.
const (
	DirectoryGroup GroupID = 1 // tablet/directory's records
	FirstGroup     GroupID = 2 // everything else, until it is split
	// FirstCell replicates the lock service's cell "local". The groups of other cells lie
	// above it, those of tablets never do: an id tells what its group replicates.
	FirstCell GroupID = 1 << 62
)

// IsCell reports whether g replicates a cell of the lock service, not a tablet.
func (g GroupID) IsCell() bool { return g >= FirstCell }

// CellGroup is the group of a cell that was given the allocated number n, which no other
// group has or will have.
func CellGroup(n GroupID) GroupID { return FirstCell + n }

// TxnID identifies a transaction for ever. Age orders transactions for
// wound-wait: lower is older and wins. Node and Seq make the id unique, and
// break ties of age. A retry takes a new id with the old Age (X2).
type TxnID struct {
	Age  truetime.Timestamp
	Node NodeID
	Seq  uint64
}

// IsZero reports whether id is unset.
func (id TxnID) IsZero() bool { return id == TxnID{} }

// Older reports whether id precedes other in wound-wait's total order.
func (id TxnID) Older(other TxnID) bool {
	if id.Age != other.Age {
		return id.Age < other.Age
	}
	if id.Node != other.Node {
		return id.Node < other.Node
	}
	return id.Seq < other.Seq
}

func (id TxnID) String() string { return fmt.Sprintf("%d.%d.%d", id.Age, id.Node, id.Seq) }

// Key is a logical key of the replicated keyspace (no timestamp, no engine
// prefix). Stored keys are prefix-free: no stored key is a proper prefix of
// another, so that a timestamp can be appended without disturbing their order.
// sql/rowcodec guarantees it by self-delimiting columns and a final terminator.
type Key = []byte

// Span is the range [Start, End). An empty End is the single key Start alone.
type Span struct {
	Start, End Key
}

// PointSpan returns the span of one key.
func PointSpan(k Key) Span { return Span{Start: k} }

// IsPoint reports whether s is a single key.
func (s Span) IsPoint() bool { return len(s.End) == 0 }

// Contains reports whether k lies in s.
func (s Span) Contains(k Key) bool {
	if s.IsPoint() {
		return bytes.Equal(s.Start, k)
	}
	return bytes.Compare(s.Start, k) <= 0 && bytes.Compare(k, s.End) < 0
}

// Overlaps reports whether s and o share a key.
func (s Span) Overlaps(o Span) bool {
	switch {
	case s.IsPoint():
		return o.Contains(s.Start)
	case o.IsPoint():
		return s.Contains(o.Start)
	}
	return bytes.Compare(s.Start, o.End) < 0 && bytes.Compare(o.Start, s.End) < 0
}

// Covers reports whether every key of o lies in s.
func (s Span) Covers(o Span) bool {
	switch {
	case o.IsPoint():
		return s.Contains(o.Start)
	case s.IsPoint():
		return false
	}
	return bytes.Compare(s.Start, o.Start) <= 0 && bytes.Compare(o.End, s.End) <= 0
}

func (s Span) String() string {
	if s.IsPoint() {
		return hex.EncodeToString(s.Start)
	}
	return hex.EncodeToString(s.Start) + "-" + hex.EncodeToString(s.End)
}

// Keyspace: the first byte of every logical key. It is the format version of what
// follows too: another layout of keys takes another byte.
const (
	DirectoryPrefix byte = 0x01 // directory records: the directory tablet alone
	SystemPrefix    byte = 0x02 // catalog, outcomes and other system tables' rows
	TablePrefix     byte = 0x10 // users' rows, then database, table and index ids
)

// The whole keyspace and its first division.
var (
	MinKey       = Key{0x00}
	DirectoryEnd = Key{DirectoryPrefix + 1}
	MaxKey       = Key{0xff, 0xff}
)

// PrefixEnd returns the smallest key above every key that has k as a prefix, nil
// when there is none.
func PrefixEnd(k Key) Key {
	for i := len(k) - 1; i >= 0; i-- {
		if k[i] != 0xff {
			e := append(Key(nil), k[:i+1]...)
			e[i]++
			return e
		}
	}
	return nil
}

// Descriptor says which keys a tablet holds and where its replicas are.
// Generation grows with every change of bounds or replicas (B1).
type Descriptor struct {
	Group      GroupID
	Span       Span
	Generation uint64
	Replicas   []Replica
}

// Replica is one copy of a tablet.
type Replica struct {
	Node NodeID
	ID   ReplicaID
}
