package sim

import (
	"fmt"
	"testing"
	"time"
)

// Splits, and the hand-overs that give the children's leaderships to their preferred
// nodes, abort nobody: such a hand-over waits for transactions that hold locks (X2).
func TestX2SplitsAbortNobody(t *testing.T) {
	for seed := uint64(1); seed <= 5; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			o := options()
			o.Duration = 25 * time.Second
			o.Adjust = func(p *Plan, d draw) {
				p.Nodes, p.Splits, p.Faults, p.Noise = 3, nil, nil, Noise{Max: time.Millisecond}
				p.Clients = []string{"lasting", "insert", "insert"}
				for i, k := range splitKeys {
					p.Faults = append(p.Faults, Fault{Kind: Split, At: time.Duration(2+2*i) * time.Second, Key: k})
				}
			}
			r := Run(t, seed, o)
			lasting := 0
			for _, op := range r.Ops {
				switch {
				case op.Kind == "lasting" && op.Status == OK:
					lasting++
				case op.Kind == "lasting":
					t.Errorf("aborted: %v", op.Err)
				}
			}
			if lasting < 3 || r.Stats.Tablets < len(splitKeys) || r.Stats.Leads <= r.Stats.Tablets {
				t.Errorf("%d transactions over %d tablets, led %d times", lasting, r.Stats.Tablets, r.Stats.Leads)
			}
			report(t, r, fmt.Sprintf("go test ./internal/sim -run TestX2SplitsAbortNobody/seed=%d", seed))
		})
	}
}
