package cells

import (
	"encoding/binary"
	"testing"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/truetime"
)

// What was committed to a cell that only the log knows counts before that cell is opened: a clock that
// lies behind it is not to be trusted (T2).
func TestT2_HighestOfCellsThatAreNotOpenYet(t *testing.T) {
	const ts = truetime.Timestamp(1_700_000_000_000_000_000)
	entry := []byte{1, 1, 5} // paxosgroup: version, command, term 5
	entry = binary.AppendUvarint(entry, uint64(ts))
	s := New(Config{Recovered: map[keys.GroupID]storage.Recovered{
		keys.FirstCell:     {},
		keys.FirstCell + 1: {Entries: []storage.Entry{{Index: 1, Term: 5, Data: entry}}},
	}})
	if h := s.Highest(); h != ts {
		t.Errorf("T2: the highest timestamp is %d, want %d", h, ts)
	}
}
