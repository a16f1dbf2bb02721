package xact

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// Config of a Table. Zero durations take the defaults named.
type Config struct {
	KV    kv.KV
	Clock truetime.Clock
	// Node is this node's number, 1 to MaxNode. No other node may use it, and one that
	// has lived before must have waited, before the first Assign, until the clock's
	// Latest of its start had passed.
	Node   keys.NodeID
	Logger *slog.Logger
	// Keep is how long an outcome is kept, from when it was written; default 1 h. Nodes
	// may differ in it: the shortest one holds.
	Keep time.Duration
	// CleanEvery is how often older ones are looked for; default 1 min.
	CleanEvery time.Duration
}

// Table is a node's access to the outcomes.
type Table struct {
	cfg Config
	ids ids

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New returns a table; Start starts its cleaner.
func New(cfg Config) *Table {
	if cfg.Keep == 0 {
		cfg.Keep = time.Hour
	}
	if cfg.CleanEvery == 0 {
		cfg.CleanEvery = time.Minute
	}
	t := &Table{cfg: cfg}
	t.ids.clock, t.ids.node = cfg.Clock, int64(cfg.Node)
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// Status is what became of a transaction.
type Status uint8

const (
	Unknown    Status = iota // older than what is kept
	InProgress               // it may commit or abort
	Committed                // for ever
	Aborted                  // for ever
)

// String is the status as PostgreSQL says it.
func (s Status) String() string {
	switch s {
	case InProgress:
		return "in progress"
	case Committed:
		return "committed"
	case Aborted:
		return "aborted"
	}
	return ""
}

// A row: a format version, the status, when it was written.
const rowFormat = 1

func encodeRow(s Status, at truetime.Timestamp) []byte {
	return binary.BigEndian.AppendUint64([]byte{rowFormat, byte(s)}, uint64(at))
}

func decodeRow(b []byte) (Status, truetime.Timestamp, error) {
	if len(b) != 10 || b[0] != rowFormat || Status(b[1]) != Committed && Status(b[1]) != Aborted {
		return Unknown, 0, fmt.Errorf("xact: an outcome's row is damaged or of a newer format: %x", b)
	}
	return Status(b[1]), truetime.Timestamp(binary.BigEndian.Uint64(b[2:])), nil
}

// Assign gives read-write transaction t an id: it takes the lock on the id's row. The
// caller passes the id to Record when t commits, and shows it to nobody before Assign
// has returned, or, in an optimistic transaction, before Commit has. A transaction
// may hold several; only those recorded commit with it.
func (x *Table) Assign(ctx context.Context, t kv.Txn) (ID, error) {
	for {
		id, err := x.ids.next(ctx)
		if err != nil {
			return 0, err
		}
		vs, err := t.Get(ctx, []keys.Key{id.key()}, tablet.LockExclusive, tablet.WaitBlock)
		if err != nil {
			return 0, err
		}
		if vs[0] == nil {
			return id, nil
		}
		// Somebody has asked about the id before it was handed out, and was told.
	}
}

// Record makes the commit of t, which follows, the commit of id.
func (x *Table) Record(ctx context.Context, t kv.Txn, id ID) error {
	return t.Put(ctx, id.key(), encodeRow(Committed, x.cfg.Clock.Now().Latest))
}
