package sim

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// control is a negative control: what breaking an invariant must bring to light.
type control struct {
	seeds    int      // within so many it must be found
	finds    []string // by a violation of one of these
	planOnly bool     // the plan's faults break it, without a switch
	options  Options
}

// controls by name: the invariant, and which of the things that keep it is broken.
// docs/verification.md lists them.
var controls = map[string]control{
	// Clocks that err by more than they admit, each alone too little for its peers to see.
	"T1": {seeds: 5, finds: []string{"X1", "X4"}, planOnly: true, options: Options{Epsilon: 10 * time.Millisecond, LyingClocks: true, Unforgiving: true, FixedClocks: true, Adjust: wildClocks}},
	// A forward step that enters a log keeps everybody from writing there, for ever.
	"T2receive": {seeds: 30, finds: []string{"R1"}, options: Options{Epsilon: 4 * time.Millisecond, FixedClocks: true, Adjust: leapForward}},
	// A leader whose clock lies behind believes promises for longer than they are kept.
	"T2peer":  {seeds: 10, finds: []string{"R2"}, options: Options{Epsilon: 4 * time.Millisecond, FixedClocks: true, Adjust: lateLeaders}},
	"T2start": {seeds: 5, finds: []string{"X1", "X4"}, options: Options{Epsilon: 4 * time.Millisecond, FixedClocks: true, Adjust: lateStart}},

	"R1sync":   {seeds: 5, finds: []string{"R1"}, options: Options{Adjust: crashAll}},
	"R1failed": {seeds: 20, finds: []string{"R1"}, options: Options{Adjust: failingDisks}},

	// A leader that is cut off goes on answering reads; others move on. What it
	// answers lies in the past (X1 by the registers or the audits, X4, X2 of a
	// transaction that only reads).
	"R2":        {seeds: 40, finds: []string{"X1", "X2", "X4"}, options: Options{Epsilon: 4 * time.Millisecond, Adjust: cutOffLeaders}},
	"R2promise": {seeds: 20, finds: []string{"R2", "X1", "X2", "X4"}, options: Options{Epsilon: 4 * time.Millisecond, Adjust: cutOffLeaders}},
	"R2abstain": {seeds: 20, finds: []string{"R2", "X1", "X2", "X4"}, options: Options{Epsilon: 4 * time.Millisecond, Adjust: forgetfulVoters}},

	// Readers with fast clocks have been promised more than a successor's clock says.
	"R3floor": {seeds: 20, finds: []string{"X1", "X2", "X4"}, options: Options{Epsilon: 50 * time.Millisecond, Adjust: handOvers}},
	"R3split": {seeds: 60, finds: []string{"X1", "X2", "X4"}, options: Options{Duration: 3 * time.Second, Adjust: promisedSplits}},
	"R3end":   {seeds: 40, finds: []string{"X1", "X2", "X4"}, options: Options{Adjust: leaseEnds}},

	"R4start":   {seeds: 20, finds: []string{"X1", "X2", "X4"}, options: Options{Epsilon: time.Millisecond, Duration: 4 * time.Second, Adjust: eagerLeaders}},
	"R4release": {seeds: 20, finds: []string{"R2", "X1", "X2", "X4"}, options: Options{Adjust: lostReleases}},

	// Clocks that disagree by up to 2ε, on a network that is faster.
	"X1":      {seeds: 10, finds: []string{"X1"}, options: Options{Epsilon: 30 * time.Millisecond, Adjust: fastNetwork}},
	"X1short": {seeds: 10, finds: []string{"X1"}, options: Options{Epsilon: 30 * time.Millisecond, Adjust: fastNetwork}},
	"X1stamp": {seeds: 10, finds: []string{"X1"}, options: Options{Epsilon: 30 * time.Millisecond, Adjust: fastNetwork}},
	"X1read":  {seeds: 10, finds: []string{"X1"}, options: Options{Epsilon: 30 * time.Millisecond, Adjust: fastNetwork}},

	// Transactions go on without the locks that died with a leader.
	"X2":         {seeds: 20, finds: []string{"X2", "X4"}, options: Options{Adjust: lostLocks}},
	"X2shared":   {seeds: 10, finds: []string{"X2"}, options: Options{Adjust: calm}},
	"X2range":    {seeds: 10, finds: []string{"X2"}, options: Options{Adjust: scanners}},
	"X2deadlock": {seeds: 10, finds: []string{"X2"}, options: Options{Adjust: upgrades}},
	"X2wound":    {seeds: 20, finds: []string{"X2"}, options: Options{Adjust: crowd}},

	// Half of a transaction is lost.
	"X3forget":  {seeds: 40, finds: []string{"X3", "X4", "R4"}, options: Options{Adjust: restlessLeaders}},
	"X3abort":   {seeds: 40, finds: []string{"X3", "X4"}, options: Options{Adjust: unreachableLeaders}},
	"X3locks":   {seeds: 20, finds: []string{"X2"}, options: Options{Adjust: skewed}},
	"X3reads":   {seeds: 20, finds: []string{"X2", "X4"}, options: Options{Adjust: remoteReaders}},
	"X3release": {seeds: 20, finds: []string{"X2", "X4"}, options: Options{Epsilon: 50 * time.Millisecond, Adjust: remoteReaders}},

	"X4safe":     {seeds: 10, finds: []string{"X4"}, options: Options{Adjust: slowFollowers}},
	"X4prepared": {seeds: 10, finds: []string{"X4"}, options: Options{Adjust: divided}},
	"X4flight":   {seeds: 10, finds: []string{"X4"}, options: Options{Adjust: calm}},
	"X4follower": {seeds: 30, finds: []string{"X4"}, options: Options{Adjust: divided}},
	"X4mark":     {seeds: 10, finds: []string{"X4"}, options: Options{Adjust: collecting}},

	// Who asks what became of a commit hears that it was aborted; a copy commits again.
	"X5":         {seeds: 10, finds: []string{"X5"}, options: Options{Adjust: lostAnswers}},
	"X5absent":   {seeds: 20, finds: []string{"X5", "X3"}, options: Options{Adjust: stalledCoordinators}},
	"X5finished": {seeds: 20, finds: []string{"X5"}, options: Options{Adjust: lateCopies}},
	"X5decided":  {seeds: 40, finds: []string{"X3", "X4"}, options: Options{Epsilon: 50 * time.Millisecond, Adjust: divided}},

	// Parent and child of a split both serve the child's keys.
	"B1":         {seeds: 10, finds: []string{"X1", "X2", "X4"}, options: Options{Adjust: lateSplits}},
	"B1prepared": {seeds: 20, finds: []string{"X3", "X4"}, options: Options{Adjust: busySplits}},
	"B1locks":    {seeds: 20, finds: []string{"X2", "X4"}, options: Options{Adjust: busySplits}},

	"B2": {seeds: 10, finds: []string{"B2"}, options: Options{Adjust: calm}},
	// Lock clients believe in leases that are over, or whose leader cannot know that they
	// are not; fenced commits are overtaken by the next holder's.
	"L1clock":   {seeds: 10, finds: []string{"L1"}, planOnly: true, options: Options{Adjust: slowWatches}},
	"L1session": {seeds: 10, finds: []string{"L1", "C2.8"}, options: Options{Adjust: busyLockers}},
	"L1renew":   {seeds: 60, finds: []string{"L1"}, options: Options{Adjust: lonelyLeaders}},
	// One who is cut off goes on with a lock that it keeps.
	"L1kept": {seeds: 40, finds: []string{"L1"}, options: Options{Adjust: cutOffKeepers}},
	// A hold whose release was lost passes for the next one.
	"L1released": {seeds: 100, finds: []string{"L1"}, options: Options{Adjust: lostReleasers}},
	"L2ask":      {seeds: 10, finds: []string{"L2"}, options: Options{Adjust: busyLockers}},
	"L2fence":    {seeds: 20, finds: []string{"L2"}, options: Options{Adjust: hastyCommits}},
	"L2floor":    {seeds: 60, finds: []string{"L2"}, options: Options{Adjust: movingCells}},
	"C2.7cache":  {seeds: 10, finds: []string{"C2.7"}, options: Options{Adjust: cutOffReaders}},
	// A lock that its holder believes to be free, and nobody else gets.
	"C2.4ordered": {seeds: 60, finds: []string{"C2.4"}, options: Options{Adjust: lostOrders}},

	"D1": {seeds: 60, finds: []string{"R1", "R4", "F1"}, options: Options{Adjust: tornCrashes}},
}

func init() {
	for name, c := range controls {
		if c.options.Duration == 0 {
			c.options.Duration = 6 * time.Second
		}
		controls[name] = c
	}
}

// TestNegativeControls shows that the simulation finds what it is there to find.
func TestNegativeControls(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "sim.test")
	build := exec.Command("go", "test", "-c", "-tags", "spandbreak", "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building with the tag spandbreak: %v\n%s", err, out)
	}
	for _, name := range slices.Sorted(maps.Keys(controls)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := exec.Command(binary, "-test.run=^TestBroken$", "-test.v", "-sim.break="+name)
			run.Env = os.Environ()
			out, err := run.CombinedOutput()
			if err != nil {
				t.Fatalf("%s fails; try\n    go test -tags spandbreak ./internal/sim -run TestBroken -v -sim.break=%s\n%v\n%s", name, name, err, tail(string(out), 40))
			}
			for _, line := range strings.Split(string(out), "\n") {
				if strings.Contains(line, "found at seed") {
					t.Log(strings.TrimSpace(line))
					return
				}
			}
			t.Fatalf("no word of what was found:\n%s", out)
		})
	}
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// The table in docs/verification.md is that of the controls.
func TestControlsAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../../docs/verification.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, line := range strings.Split(string(b), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 8 { // | control | invariant | broken | found by | within | seen after |
			continue
		}
		name, ok := strings.CutPrefix(strings.TrimSpace(cells[1]), "`")
		if !ok {
			continue
		}
		name = strings.TrimSuffix(name, "`")
		c, ok := controls[name]
		if !ok || listed[name] {
			t.Errorf("%q is listed twice, or is no control", name)
			continue
		}
		listed[name] = true
		if invariant := strings.TrimSpace(cells[2]); !strings.HasPrefix(name, invariant) {
			t.Errorf("%s is listed for invariant %s", name, invariant)
		}
		if found := strings.TrimSpace(cells[4]); found != strings.Join(c.finds, ", ") {
			t.Errorf("%s is listed as found by %s, not %v", name, found, c.finds)
		}
		if within := strings.TrimSpace(cells[5]); within != fmt.Sprint(c.seeds) {
			t.Errorf("%s is listed as found within %s seeds, not %d", name, within, c.seeds)
		}
	}
	for name := range controls {
		if !listed[name] {
			t.Errorf("%s is not listed", name)
		}
	}
}
