package xact

import (
	"context"
	"encoding/binary"
	"strconv"
	"sync/atomic"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
)

// ID names a transaction for clients; it is an xid8, the same bits. 0 is none, and none
// is negative.
type ID int64

const (
	nodeBits = 12
	// MaxNode is the highest node number that fits an id.
	MaxNode = 1<<nodeBits - 1
	// epoch is 2000-01-01 in microseconds of Unix time.
	epoch = 946684800 * 1000000
)

func (id ID) String() string { return strconv.FormatUint(uint64(id), 10) }

// micros is the id's time in microseconds since 2000; node is who handed it out.
func (id ID) micros() int64 { return int64(id) >> nodeBits }
func (id ID) node() int64   { return int64(id) & MaxNode }

// timestamp is the id's time.
func (id ID) timestamp() truetime.Timestamp { return truetime.Timestamp((id.micros() + epoch) * 1000) }

// microsOf is the last whole microsecond since 2000 at or below t.
func microsOf(t truetime.Timestamp) int64 { return int64(t)/1000 - epoch }

// The table's part of the system keyspace: SystemPrefix, 'o', then two bytes of node and
// eight of microseconds, big-endian; the low-water mark is in place of a node that
// cannot be.
var (
	prefix  = keys.Key{keys.SystemPrefix, 'o'}
	markKey = keys.Key{keys.SystemPrefix, 'o', 0xff, 0xff}
)

func rowKey(node, micros int64) keys.Key {
	k := binary.BigEndian.AppendUint16(append(make(keys.Key, 0, 12), prefix...), uint16(node))
	return binary.BigEndian.AppendUint64(k, uint64(micros))
}

func (id ID) key() keys.Key { return rowKey(id.node(), id.micros()) }

// idOf is the id whose row has key k; ok is false for another key.
func idOf(k keys.Key) (id ID, ok bool) {
	if len(k) != 12 {
		return 0, false
	}
	return ID(binary.BigEndian.Uint64(k[4:])<<nodeBits | uint64(binary.BigEndian.Uint16(k[2:]))), true
}

// ids hands out ids whose time has passed.
type ids struct {
	clock truetime.Clock
	node  int64
	last  atomic.Int64 // microseconds
}

// next returns an id that this node has not returned before. It waits where many are
// asked for within one microsecond.
func (s *ids) next(ctx context.Context) (ID, error) {
	for {
		last := s.last.Load()
		us := max(last+1, microsOf(s.clock.Now().Earliest))
		if !s.last.CompareAndSwap(last, us) {
			continue
		}
		id := ID(us<<nodeBits | s.node)
		if !truetime.After(s.clock, id.timestamp()) {
			if err := s.clock.AwaitAfter(ctx, id.timestamp()); err != nil {
				return 0, err
			}
		}
		return id, nil
	}
}
