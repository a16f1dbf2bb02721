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

// Settings are what a test that runs seeds takes from its command line.
type Settings struct {
	Seeds    int    // how many
	Seed     uint64 // this one alone, if not 0
	First    uint64
	Repeat   int // each seed so often
	Duration time.Duration
	Log      bool
	Debug    bool
	Keep     bool
}

// Flags registers -sim.… flags, seeds being the default of how many.
func (s *Settings) Flags(fs *flag.FlagSet, seeds int) {
	fs.IntVar(&s.Seeds, "sim.seeds", seeds, "how many seeds to run")
	fs.Uint64Var(&s.Seed, "sim.seed", 0, "run this seed alone")
	fs.Uint64Var(&s.First, "sim.first", 1, "the first seed")
	fs.IntVar(&s.Repeat, "sim.repeat", 1, "how often to run each seed")
	fs.DurationVar(&s.Duration, "sim.duration", 0, "virtual time of faults per seed (default 8s)")
	fs.BoolVar(&s.Log, "sim.log", false, "add the rooms' log lines to the trace")
	fs.BoolVar(&s.Debug, "sim.debug", false, "add the rooms' debug lines to the trace")
	fs.BoolVar(&s.Keep, "sim.keep", false, "write the traces of passing seeds too")
}

// Options of a run under these settings.
func (s *Settings) Options() Options {
	return Options{Duration: s.Duration, Log: s.Log, LogDebug: s.Debug}
}

// Run runs the seeds, side by side, each as a test of its own. command runs one of
// them again when its number is appended.
func (s *Settings) Run(t *testing.T, command string) {
	first, count := s.First, s.Seeds
	if s.Seed != 0 {
		first, count = s.Seed, 1
	}
	for seed := first; seed < first+uint64(count); seed++ {
		for range s.Repeat {
			t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
				if count > 1 || s.Repeat > 1 {
					t.Parallel()
				}
				r := Run(t, seed, s.Options())
				t.Logf("seed %d: %v", seed, r.Stats)
				s.Report(t, r, fmt.Sprint(command, seed))
			})
		}
	}
}

// Report fails t for a run with violations, and says how to run it again.
func (s *Settings) Report(t *testing.T, r *Report, command string) {
	t.Helper()
	if len(r.Violations) == 0 && !s.Keep {
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
