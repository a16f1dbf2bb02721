package node

import (
	"encoding/binary"
	"fmt"

	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/truetime"
)

// incarnationKey holds the incarnation of the node's present or last life.
var incarnationKey = []byte{byte(storage.ClassNode), 'i'}

// nextIncarnation returns a number above that of every earlier life of the node,
// durably. The clock alone would not do: it may err by ε one way at one start and the
// other way at the next, and peers are deaf to an incarnation that retreats.
func nextIncarnation(s *storage.Store, c truetime.Clock) (uint64, error) {
	last, ok, err := s.GetNode(incarnationKey)
	if err != nil {
		return 0, err
	}
	var inc uint64
	if now := c.Now().Latest; now != truetime.Max {
		inc = uint64(now)
	}
	if ok {
		if len(last) != 8 {
			return 0, fmt.Errorf("the stored incarnation has %d bytes", len(last))
		}
		inc = max(inc, binary.BigEndian.Uint64(last)+1)
	}
	return inc, s.PutNode(incarnationKey, binary.BigEndian.AppendUint64(nil, inc))
}
