package replicas

import (
	"bytes"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
)

// Holding finds the replica here of the tablet that holds key, or with before the
// greatest keys below key. It looks at all of them: it is for when the directory does
// not answer.
func (s *Set) Holding(key keys.Key, before bool) (keys.Descriptor, bool) {
	var best keys.Descriptor
	for _, r := range s.All() {
		d := r.Tablet.Descriptor()
		lo, hi := bytes.Compare(d.Span.Start, key), bytes.Compare(key, d.Span.End)
		if before && (lo >= 0 || hi > 0) || !before && (lo > 0 || hi >= 0) {
			continue
		}
		if best.Group == 0 || best.Generation < d.Generation { // a lagging parent still claims its child's keys
			best = d
		}
	}
	return best, best.Group != 0
}

// Freshest returns the newest timestamp that has certainly passed at which the
// replicas here answer reads of spans without asking anybody; truetime.Max when none
// of the spans lies in a tablet with a replica here.
func (s *Set) Freshest(spans []keys.Span) truetime.Timestamp {
	at := truetime.Max
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, r := range s.open {
		span := r.Tablet.Descriptor().Span
		for _, sp := range spans {
			if sp.Overlaps(span) {
				at = min(at, r.Tablet.Freshest(sp))
			}
		}
	}
	return at
}
