package sim

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	seedsFlag    = flag.Int("sim.seeds", 40, "how many seeds TestSimulation runs")
	seedFlag     = flag.Uint64("sim.seed", 0, "run this seed alone")
	firstFlag    = flag.Uint64("sim.first", 1, "the first seed")
	repeatFlag   = flag.Int("sim.repeat", 1, "how often to run each seed")
	durationFlag = flag.Duration("sim.duration", 0, "virtual time of faults per seed (default 8s)")
	logFlag      = flag.Bool("sim.log", false, "add the rooms' log lines to the trace")
	debugFlag    = flag.Bool("sim.debug", false, "add the rooms' debug lines to the trace")
	keepFlag     = flag.Bool("sim.keep", false, "write the traces of passing seeds too")
)

// TestSimulation runs seeds; see the package's comment.
func TestSimulation(t *testing.T) {
	first, count := *firstFlag, *seedsFlag
	if *seedFlag != 0 {
		first, count = *seedFlag, 1
	}
	for seed := first; seed < first+uint64(count); seed++ {
		for range *repeatFlag {
			t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
				if count > 1 || *repeatFlag > 1 {
					t.Parallel()
				}
				r := Run(t, seed, options())
				t.Logf("seed %d: %v", seed, r.Stats)
				report(t, r, fmt.Sprintf("go test ./internal/sim -run TestSimulation -sim.seed=%d", seed))
			})
		}
	}
}

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

func options() Options {
	return Options{Duration: *durationFlag, Log: *logFlag, LogDebug: *debugFlag}
}

// report fails t for a run with violations, and says how to run it again.
func report(t *testing.T, r *Report, command string) {
	t.Helper()
	if len(r.Violations) == 0 && !*keepFlag {
		return
	}
	file := filepath.Join(os.TempDir(), fmt.Sprintf("spand-sim-%d-%d.trace", r.Plan.Seed, time.Now().UnixNano()))
	if err := os.WriteFile(file, []byte(strings.Join(r.Trace, "\n")+"\n"), 0o644); err != nil {
		t.Error(err)
	}
	if len(r.Violations) == 0 {
		t.Logf("trace: %s", file)
		return
	}
	for i, v := range r.Violations {
		if i == 6 {
			t.Errorf("and %d more", len(r.Violations)-i)
			break
		}
		t.Errorf("%v", v)
	}
	t.Errorf("seed %d fails; trace: %s\nrun it again:\n    %s", r.Plan.Seed, file, command)
}
