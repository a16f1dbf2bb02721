package integration

import (
	"flag"
	"testing"

	"github.com/spandb/spand/internal/sim"
)

var simulation sim.Settings

func init() { simulation.Flags(flag.CommandLine, 20) }

// TestSimulation runs whole clusters in virtual time under the faults of one seed each,
// and judges what clients saw; see package sim.
func TestSimulation(t *testing.T) {
	simulation.Run(t, "go test ./integration -run TestSimulation$ -sim.seed=")
}
