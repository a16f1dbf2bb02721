package sql

import (
	"context"
	"math"
	"sync/atomic"

	"github.com/spandb/spand/truetime"
)

// maxRowIDNode is the highest node id that fits a row id.
const maxRowIDNode = 1<<12 - 1

// rowIDs makes hidden row ids that no other node makes: microseconds above the node's
// id. They are written without looking whether they exist, so none may ever come again:
// ids run ahead of true time by at most rowIDLead (T1), and a starting node waits until
// true time is past all that it can have given out before. They may lag behind it: the
// clock is read when the ids that the last reading allowed are used up, not for each row.
type rowIDs struct {
	clock truetime.Clock
	node  int64
	last  atomic.Int64 // microseconds
	limit atomic.Int64 // last may reach this; from some reading of the clock
}

// rowIDEpoch is 2000-01-01 in microseconds of Unix time: 51 bits last until 2071.
const rowIDEpoch = 946684800 * 1000000

// rowIDLead is how many ids may be given out ahead of the clock, one per microsecond.
const rowIDLead = 10000

func (r *rowIDs) init(node int64, clock truetime.Clock) {
	r.node, r.clock = node, clock
	r.last.Store(math.MinInt64 / 8192) // nothing given out yet
	r.limit.Store(math.MinInt64)
}

func (r *rowIDs) next() int64 {
	for {
		last := r.last.Load()
		us := last + 1
		if us > r.limit.Load() {
			now := int64(r.clock.Now().Earliest)/1000 - rowIDEpoch
			if us > now+rowIDLead {
				// Far ahead of the clock: wait for it, whatever the statement.
				now = us - rowIDLead
				_ = r.clock.AwaitAfter(context.Background(), truetime.Timestamp((now+rowIDEpoch)*1000))
			}
			us = max(us, now)
			r.limit.Store(now + rowIDLead)
		}
		if r.last.CompareAndSwap(last, us) {
			return us<<12 | r.node
		}
	}
}
