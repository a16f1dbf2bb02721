//go:build spandbreak

package txn

import "context"

// Negative controls of internal/sim; break_off.go says what they break. Set before
// any client is made.
var (
	BreakCommitWait       bool
	BreakShortWait        bool
	BreakVisible          bool
	BreakReadParticipants bool
	BreakFence            bool
)

// breakReads lets go of the locks at tablets that were only read, and leaves them out.
func (t *Txn) breakReads(ctx context.Context, shares []share) []share {
	var rest []share
	for i := range shares {
		s := &shares[i]
		if len(s.writes) > 0 || s.staged > 0 {
			rest = append(rest, *s)
			continue
		}
		t.abortAt(ctx, &s.desc, s.term)
	}
	return rest
}
