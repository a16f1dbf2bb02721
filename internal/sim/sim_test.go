package sim

import (
	"flag"
	"fmt"
	"testing"
	"time"
)

var settings Settings

func init() { settings.Flags(flag.CommandLine, 1) }

// A sync that is under way when everything heals has failed or it has not: the node
// dies of it and comes back, or goes on. On a slow disk there is always one.
func TestR1SyncFailsAsAllHeals(t *testing.T) {
	for seed := uint64(1); seed <= 6; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			o := options()
			o.Duration = time.Second
			o.Adjust = func(p *Plan, _ draw) {
				p.Faults = []Fault{
					{Kind: SlowDisk, Node: 1, At: 500 * time.Millisecond, For: time.Second, Amount: 50 * time.Millisecond},
					{Kind: FailSync, Node: 1, At: p.Duration - time.Duration(seed)*10*time.Millisecond, For: time.Second},
				}
			}
			r := Run(t, seed, o)
			t.Logf("seed %d: %v", seed, r.Stats)
			report(t, r, "go test ./internal/sim -run TestR1SyncFailsAsAllHeals")
		})
	}
}

// A node that has lost its disk comes back under its name: it votes in nothing before the
// snapshots have arrived, and then has everything again (R1).
func TestR1LostDisk(t *testing.T) {
	for seed := uint64(1); seed <= 4; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			o := options()
			o.Duration = 4 * time.Second
			o.Adjust = func(p *Plan, d draw) {
				p.Nodes = 3
				p.Faults = []Fault{{Kind: Wipe, Node: p.node(d), At: d.between(time.Second, 3*time.Second), For: d.between(time.Millisecond, time.Second)}}
			}
			r := Run(t, seed, o)
			t.Logf("seed %d: %v", seed, r.Stats)
			if r.Stats.Snapshots == 0 {
				t.Error("nobody needed a snapshot")
			}
			report(t, r, fmt.Sprintf("go test ./internal/sim -run TestR1LostDisk/seed=%d", seed))
		})
	}
}

func options() Options { return settings.Options() }

func report(t *testing.T, r *Report, command string) {
	t.Helper()
	settings.Report(t, r, command)
}
