package storage

import (
	"errors"
	"fmt"

	"github.com/spandb/spand/internal/keys"
)

var (
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("storage: closed")
	// ErrTooLarge: an entry exceeds the log's largest batch, or a key MaxKeyBytes.
	ErrTooLarge = errors.New("storage: too large")
	// ErrReplicaRemoved: the replica has a tombstone.
	ErrReplicaRemoved = errors.New("storage: replica was removed from this node")
)

// MaxKeyBytes is the longest engine key.
const MaxKeyBytes = 32 << 10

// CorruptError says that stored bytes are damaged (D1). Nothing is repaired or
// guessed; the replica, or the node, must be rebuilt from its peers.
type CorruptError struct {
	File   string
	Offset int64 // -1: not known
	Reason string
	Err    error
}

func (e *CorruptError) Error() string {
	s := "storage: " + e.File + " is corrupt"
	if e.Offset >= 0 {
		s += fmt.Sprintf(" at offset %d", e.Offset)
	}
	s += ": " + e.Reason
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *CorruptError) Unwrap() error { return e.Err }

// LockedError says that another process uses the data directory.
type LockedError struct{ Dir string }

func (e *LockedError) Error() string {
	return "storage: data directory " + e.Dir + " is in use by another process"
}

// IdentityError says that a data directory belongs to another cluster or node.
type IdentityError struct {
	Dir        string
	Have, Want Identity
}

func (e *IdentityError) Error() string {
	switch {
	case e.Want.Cluster != [16]byte{} && e.Have.Cluster != e.Want.Cluster:
		return fmt.Sprintf("storage: data directory %s belongs to cluster %x, not to %x", e.Dir, e.Have.Cluster, e.Want.Cluster)
	case e.Want.Node != 0 && e.Have.Node != e.Want.Node:
		return fmt.Sprintf("storage: data directory %s belongs to node %d (%s), not to node %d", e.Dir, e.Have.Node, e.Have.Name, e.Want.Node)
	}
	return fmt.Sprintf("storage: data directory %s belongs to node %q, not to %q", e.Dir, e.Have.Name, e.Want.Name)
}

// ForeignDirError says that a directory with other contents was given as data directory.
type ForeignDirError struct{ Dir, Found string }

func (e *ForeignDirError) Error() string {
	return fmt.Sprintf("storage: %s is not a data directory (it holds %s and no %s file); give an empty or new one", e.Dir, e.Found, identityName)
}

// FormatError says that a file, or a record in it, was written by a newer version,
// or by one so old that this program no longer reads it.
type FormatError struct {
	File            string
	Have, Supported uint32
}

func (e *FormatError) Error() string {
	if e.Have < e.Supported {
		return fmt.Sprintf("storage: %s has format version %d, which this program no longer reads (it reads %d); use an older spand, or begin anew", e.File, e.Have, e.Supported)
	}
	return fmt.Sprintf("storage: %s has format version %d, this program reads up to %d; use a newer spand", e.File, e.Have, e.Supported)
}

// unknownFormat is the error for a record whose first byte is not the format
// supported: a newer program's, or nobody's.
func unknownFormat(what string, record []byte, supported byte) error {
	if len(record) > 0 && record[0] > supported {
		return &FormatError{File: what, Have: uint32(record[0]), Supported: uint32(supported)}
	}
	return fmt.Errorf("%s: %w", what, errMalformed)
}

// removedError wraps ErrReplicaRemoved with the replica.
func removedError(g keys.GroupID, r keys.ReplicaID) error {
	return fmt.Errorf("group %d replica %d: %w", g, r, ErrReplicaRemoved)
}
