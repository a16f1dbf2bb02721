package sim

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// control is a negative control: what breaking an invariant must bring to light.
type control struct {
	seeds int             // within so many it must be found
	finds map[string]bool // by a violation of one of these
	// epsilon of the clocks; 0: the seed's
	epsilon time.Duration
	adjust  func(*Plan, draw)
}

var controls = map[string]control{
	// A leader that is cut off goes on answering reads; others move on. What it
	// answers lies in the past (X1 by the registers or the audits, X4, X2 of a
	// transaction that only reads).
	"R2": {seeds: 40, finds: map[string]bool{"X1": true, "X2": true, "X4": true}, epsilon: 4 * time.Millisecond, adjust: cutOffLeaders},
	// Clocks that disagree by up to 2ε, on a network that is faster.
	"X1": {seeds: 10, finds: map[string]bool{"X1": true}, epsilon: 30 * time.Millisecond, adjust: func(p *Plan, _ draw) {
		p.Noise.Max = 300 * time.Microsecond
		p.DiskLatency = 100 * time.Microsecond
	}},
	// Half of a transaction is lost.
	"X3forget": {seeds: 40, finds: map[string]bool{"X3": true, "X4": true, "R4": true}, adjust: restlessLeaders},
	"X3abort":  {seeds: 40, finds: map[string]bool{"X3": true, "X4": true}, adjust: unreachableLeaders},
	// Transactions go on without the locks that died with a leader.
	"X2": {seeds: 20, finds: map[string]bool{"X2": true, "X4": true}, adjust: lostLocks},
	// Who asks what became of a commit hears that it was aborted; a copy commits again.
	"X5": {seeds: 10, finds: map[string]bool{"X5": true}, adjust: lostAnswers},
	// Parent and child of a split both serve the child's keys.
	"B1": {seeds: 10, finds: map[string]bool{"X1": true, "X2": true, "X4": true}, adjust: lateSplits},
}

// lostLocks moves leaderships about under transactions that meet often and last.
func lostLocks(p *Plan, d draw) {
	restlessLeaders(p, d)
	p.Think = 5 * time.Millisecond
	p.Noise.Min, p.Noise.Max = 2*time.Millisecond, 5*time.Millisecond
	p.Clients = append(p.Clients, "bank", "bank", "bank", "bank", "mixed", "mixed", "mixed")
}

// lostAnswers drops messages all the time.
func lostAnswers(p *Plan, _ draw) {
	p.Noise.Drop = 0.02
}

// lateSplits divides the tablets while every gateway has the map of before.
func lateSplits(p *Plan, _ draw) {
	p.Splits, p.Faults = nil, nil
	for i, k := range splitKeys {
		p.Faults = append(p.Faults, Fault{Kind: Split, At: time.Duration(i+1) * 500 * time.Millisecond, Key: k})
	}
}

// cutOffLeaders isolates leaders, one after the other, for longer than a lease,
// while clients on both sides go on.
func cutOffLeaders(p *Plan, d draw) {
	p.Faults = nil
	for at := 300 * time.Millisecond; at < p.Duration; at += 3500 * time.Millisecond {
		p.Faults = append(p.Faults, Fault{Kind: Isolate, At: at, For: 3 * time.Second, Key: splitKeys[d.IntN(len(splitKeys))]})
	}
	p.Clients = append(p.Clients, "register", "register", "register", "audit", "audit", "audit")
}

// restlessLeaders moves leaderships about while transactions of several tablets run.
func restlessLeaders(p *Plan, d draw) {
	p.Splits = []string{acct(3), acct(6), reg(0)}
	p.InDoubtAfter = 300 * time.Millisecond
	for at := 400 * time.Millisecond; at < p.Duration; at += 300 * time.Millisecond {
		p.Faults = append(p.Faults, Fault{Kind: Transfer, At: at, Key: acct(d.IntN(accounts)), Node: p.node(d)})
	}
}

// unreachableLeaders cuts one leader after the other off for a moment, longer than a
// participant's patience and mostly shorter than a lease: decisions do not reach those
// whom they concern.
func unreachableLeaders(p *Plan, d draw) {
	restlessLeaders(p, d)
	p.Think = 5 * time.Millisecond
	p.Clients = append(p.Clients, "bank", "bank", "bank", "bank")
	for at := 300 * time.Millisecond; at < p.Duration; at += 800 * time.Millisecond {
		p.Faults = append(p.Faults, Fault{Kind: Isolate, At: at, For: d.between(400*time.Millisecond, 700*time.Millisecond), Key: acct(d.IntN(accounts))})
	}
}

// TestNegativeControls shows that the simulation finds what it is there to find.
func TestNegativeControls(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "sim.test")
	build := exec.Command("go", "test", "-c", "-tags", "spandbreak", "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building with the tag spandbreak: %v\n%s", err, out)
	}
	for name := range controls {
		t.Run(name, func(t *testing.T) {
			run := exec.Command(binary, "-test.run=^TestBroken$", "-test.v", "-sim.break="+name)
			run.Env = os.Environ()
			out, err := run.CombinedOutput()
			if err != nil {
				t.Fatalf("%s stays unseen; try\n    go test -tags spandbreak ./internal/sim -run TestBroken -v -sim.break=%s\n%v\n%s", name, name, err, tail(string(out), 40))
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
