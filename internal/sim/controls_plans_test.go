package sim

import (
	"slices"
	"time"

	"github.com/spandb/spand/internal/keys"
)

// The plans of the negative controls: faults and clients that make the consequence of
// one break likely.

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// every calls f at regular instants of the plan.
func (p *Plan) every(from, step time.Duration, f func(at time.Duration)) {
	for at := from; at < p.Duration; at += step {
		f(at)
	}
}

func (p *Plan) fault(f Fault) { p.Faults = append(p.Faults, f) }

// more adds n clients of a kind.
func (p *Plan) more(n int, kind string) {
	p.Clients = append(p.Clients, slices.Repeat([]string{kind}, n)...)
}

// calm has no faults, and clients that meet often.
func calm(p *Plan, _ draw) {
	p.Faults = nil
	p.Think = ms(5)
}

// fastNetwork is faster than the clocks are certain.
func fastNetwork(p *Plan, _ draw) {
	p.Noise.Max = ms(300) / 1000
	p.DiskLatency = ms(100) / 1000
}

// wildClocks errs by nearly 2ε, one way and the other: more than each clock admits,
// not more than two of three may contradict each other.
func wildClocks(p *Plan, _ draw) {
	calm(p, draw{})
	fastNetwork(p, draw{})
	p.Nodes = 3
	for id, e := range map[keys.NodeID]float64{1: 1.9, 2: 0, 3: -1.9} {
		p.fault(Fault{Kind: ClockMove, Node: id, Amount: time.Duration(e * float64(p.Epsilon))})
	}
}

// leapForward has a clock step far ahead, in time for the next elections. In the end the
// other nodes restart, whose clocks are right.
func leapForward(p *Plan, d draw) {
	p.Faults = nil
	p.Nodes = 3
	p.fault(Fault{Kind: ClockMove, Node: 2, At: ms(500), Amount: 10 * time.Minute})
	p.every(ms(1000), ms(2500), func(at time.Duration) {
		p.fault(Fault{Kind: Crash, At: at, For: ms(100), Key: splitKeys[d.IntN(len(splitKeys))]})
	})
	p.fault(Fault{Kind: Crash, Node: 1, At: p.Duration - ms(600), For: ms(100)})
	p.fault(Fault{Kind: Crash, Node: 3, At: p.Duration - ms(300), For: ms(100)})
}

// lateLeaders sets the clock of a node that leads back, leaves it time to be noticed, and
// cuts the node off.
func lateLeaders(p *Plan, _ draw) {
	p.leadFrom(1)
	p.Duration = 9 * time.Second
	p.fault(Fault{Kind: ClockMove, Node: 1, At: ms(300), Amount: -ms(1200)})
	p.fault(Fault{Kind: Isolate, Node: 1, At: ms(4500), For: 4 * time.Second})
}

// leadFrom has one node of three lead everything, and no other fault yet.
func (p *Plan) leadFrom(id keys.NodeID) {
	p.Faults = nil
	p.Nodes = 3
	for i, k := range splitKeys {
		p.fault(Fault{Kind: Transfer, At: ms(20 + 10*i), Key: k, Node: id})
	}
}

// lateStart restarts the only node with a clock that lies behind what it has stored.
func lateStart(p *Plan, _ draw) {
	p.Faults = nil
	p.Nodes = 1
	p.fault(Fault{Kind: Crash, Node: 1, At: ms(4500), For: ms(50)})
	p.fault(Fault{Kind: ClockMove, Node: 1, At: ms(4510), Amount: -3 * time.Second})
}

// crashAll has all nodes lose what they have not synced, again and again.
func crashAll(p *Plan, _ draw) {
	p.Faults = nil
	p.Think = ms(5)
	p.CheckpointInterval, p.CheckpointKeys = time.Minute, 100_000
	p.DiskLatency = ms(3)
	p.every(ms(1200), ms(3000), func(at time.Duration) {
		p.fault(Fault{Kind: CrashAll, At: at, For: ms(20)})
	})
}

// failingDisks has syncs fail at all nodes, and all of them crash a moment later.
func failingDisks(p *Plan, _ draw) {
	p.Faults = nil
	p.Think = ms(5)
	p.CheckpointInterval, p.CheckpointKeys = time.Minute, 100_000
	for id := range p.Nodes {
		p.fault(Fault{Kind: FailSync, Node: keys.NodeID(id + 1), At: ms(1000), For: ms(300)})
	}
	p.fault(Fault{Kind: CrashAll, At: ms(1200), For: ms(20)})
}

// tornCrashes has the followers die again and again, in the middle of batches of several
// sectors.
func tornCrashes(p *Plan, d draw) {
	p.leadFrom(1)
	p.Think = ms(4)
	p.Noise.Max = ms(5)
	p.DiskLatency = ms(10)
	p.StageAfter = 0
	p.more(12, "mixed")
	id := keys.NodeID(2)
	p.every(ms(300), ms(120), func(at time.Duration) {
		p.fault(Fault{Kind: Crash, At: at + d.between(0, ms(40)), For: ms(20), Torn: true, Node: id})
		id = 5 - id
	})
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

// forgetfulVoters gives a leader one follower that holds its promise alone, and has
// that one restart while the leader is cut off.
func forgetfulVoters(p *Plan, _ draw) {
	p.leadFrom(1)
	p.more(6, "register")
	p.fault(Fault{Kind: OneWay, Node: 1, To: 3, At: ms(400), For: 5 * time.Second})
	p.fault(Fault{Kind: OneWay, Node: 3, To: 1, At: ms(400), For: 5 * time.Second})
	for _, at := range []int{2500, 4200} {
		p.fault(Fault{Kind: Isolate, Node: 1, At: ms(at), For: ms(1400)})
		p.fault(Fault{Kind: Crash, Node: 2, At: ms(at + 2), For: ms(5)})
	}
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

// lostLocks moves leaderships about under transactions that meet often and last.
func lostLocks(p *Plan, d draw) {
	restlessLeaders(p, d)
	p.Think = 5 * time.Millisecond
	p.Noise.Min, p.Noise.Max = 2*time.Millisecond, 5*time.Millisecond
	p.Clients = append(p.Clients, "bank", "bank", "bank", "bank", "mixed", "mixed", "mixed")
}

// handOvers moves leaderships about, and does nothing else, under many readers.
func handOvers(p *Plan, d draw) {
	p.Faults = nil
	p.Think = ms(5)
	fastNetwork(p, d)
	p.more(4, "audit")
	p.more(4, "register")
	p.every(ms(300), ms(150), func(at time.Duration) {
		p.fault(Fault{Kind: Transfer, At: at, Key: pick(d, acct(0), reg(0), mix(0)), Node: p.node(d)})
	})
}

// lateSplits divides the tablets while every gateway has the map of before.
func lateSplits(p *Plan, _ draw) {
	p.Splits, p.Faults = nil, nil
	for i, k := range splitKeys {
		p.Faults = append(p.Faults, Fault{Kind: Split, At: time.Duration(i+1) * 500 * time.Millisecond, Key: k})
	}
}

// busySplits divides the tablets under transactions that meet often, last, and reach
// across tablets.
func busySplits(p *Plan, d draw) {
	lateSplits(p, d)
	p.Splits = []string{acct(5)}
	p.Think = ms(4)
	p.Noise.Min, p.Noise.Max = ms(2), ms(5)
	p.more(6, "bank")
	p.more(6, "mixed")
	for i := range accounts {
		p.fault(Fault{Kind: Split, At: ms(300 + 350*i), Key: acct(i)})
		p.fault(Fault{Kind: Split, At: ms(450 + 350*i), Key: mix(i)})
	}
}

// leaseEnds has leaders die that have answered readers of the future.
func leaseEnds(p *Plan, d draw) {
	p.Faults = nil
	p.Think = ms(4)
	p.Ahead = 4 * time.Second
	p.more(6, "ahead")
	p.every(ms(500), ms(1000), func(at time.Duration) {
		p.fault(Fault{Kind: Crash, At: at, For: ms(20), Key: pick(d, acct(0), reg(0), mix(0))})
	})
}

// promisedSplits divides tablets while readers of the future go on: what they are
// promised between a split's proposal and its application only the leader knows.
func promisedSplits(p *Plan, _ draw) {
	p.Faults, p.Splits = nil, nil
	p.Noise = Noise{Min: ms(1) / 10, Max: ms(1) / 2}
	p.DiskLatency = ms(2)
	p.Think, p.Ahead = ms(2), ms(50)
	p.Clients = slices.Concat(slices.Repeat([]string{"bank"}, 8), slices.Repeat([]string{"blind"}, 4), slices.Repeat([]string{"ahead"}, 12))
	for i := range accounts {
		p.fault(Fault{Kind: Split, At: ms(100 + 250*i), Key: acct(i)})
		p.fault(Fault{Kind: Split, At: ms(225 + 250*i), Key: mix(i)})
	}
}

// eagerLeaders has the leader of everything die, and a node take over whose own disk is
// slow: its followers attest before its log has what its term begins with.
func eagerLeaders(p *Plan, _ draw) {
	p.leadFrom(1)
	p.Think = ms(3)
	p.DiskLatency = ms(2)
	p.Splits = []string{acct(5), reg(0), reg(3), mix(0)}
	p.more(12, "register")
	p.fault(Fault{Kind: SlowDisk, Node: 2, At: ms(200), For: time.Minute, Amount: ms(40)})
	p.fault(Fault{Kind: Crash, Node: 1, At: ms(1200), For: ms(2600)})
}

// lostReleases cuts a leader off in the middle of handing over.
func lostReleases(p *Plan, d draw) {
	p.Faults = nil
	p.Think = ms(4)
	p.more(6, "register")
	p.every(ms(300), ms(500), func(at time.Duration) {
		k := pick(d, acct(0), reg(0), mix(0))
		p.fault(Fault{Kind: Transfer, At: at, Key: k, Node: p.node(d)})
		p.fault(Fault{Kind: Stall, At: at + d.between(0, ms(10)), For: ms(200), Key: k})
	})
}

// scanners meet phantoms.
func scanners(p *Plan, d draw) {
	calm(p, d)
	p.more(8, "mixed")
}

// crowd is too many for too few rows.
func crowd(p *Plan, d draw) {
	calm(p, d)
	p.Noise.Min, p.Noise.Max = ms(1), ms(3)
	p.more(8, "bank")
	p.more(8, "mixed")
}

// upgrades have nothing but short transactions in each other's way, in any order.
func upgrades(p *Plan, d draw) {
	calm(p, d)
	p.Prompt = true
	p.Clients = slices.Repeat([]string{"bank"}, 12)
}

// divided has every transaction prepare somewhere, without faults.
func divided(p *Plan, d draw) {
	calm(p, d)
	p.Splits = []string{acct(2), acct(4), acct(6), acct(8)}
	p.more(4, "bank")
	p.more(2, "audit")
	p.more(2, "stale")
}

// remoteReaders read at tablets where they do not write.
func remoteReaders(p *Plan, d draw) {
	calm(p, d)
	p.Splits = []string{mix(2), mix(4), mix(6), mix(8), mix(10)}
	p.more(10, "mixed")
}

// stalledCoordinators have their network stand still, longer than participants wait
// before they ask, while leaderships move about: decisions come late.
func stalledCoordinators(p *Plan, d draw) {
	p.Faults = nil
	p.Think = ms(5)
	p.Splits = []string{acct(3), acct(6), reg(0), mix(2), mix(4), mix(6), mix(8), mix(10)}
	p.InDoubtAfter = ms(100)
	p.more(4, "bank")
	p.more(8, "mixed")
	p.every(ms(300), ms(900), func(at time.Duration) {
		p.fault(Fault{Kind: Stall, At: at, For: ms(500), Node: p.node(d)})
		for range 6 {
			p.fault(Fault{Kind: Transfer, At: at + d.between(ms(5), ms(100)), Key: pick(d, mix(d.IntN(mixed)), acct(d.IntN(accounts))), Node: p.node(d)})
		}
	})
}

// skewed transactions read where leaderships move about, and write, after they have
// prepared, where the network stands still; others write what they have read.
func skewed(p *Plan, d draw) {
	p.leadFrom(1)
	p.Think = ms(5)
	p.Splits = []string{acct(0), mix(0), mix(2), mix(4), mix(6)}
	p.Clients = append(slices.Repeat([]string{"skew"}, 12), slices.Repeat([]string{"blind"}, 6)...)
	p.every(ms(300), ms(900), func(at time.Duration) {
		p.fault(Fault{Kind: Stall, At: at, For: ms(500), Node: 1})
		for i, k := range []string{mix(0), mix(2), mix(4)} {
			p.fault(Fault{Kind: Transfer, At: at - ms(200), Key: k, Node: keys.NodeID(2 + i%2)})
			p.fault(Fault{Kind: Transfer, At: at + d.between(ms(5), ms(60)), Key: k, Node: keys.NodeID(3 - i%2)})
		}
	})
}

// slowFollowers apply late what they are told is closed.
func slowFollowers(p *Plan, d draw) {
	calm(p, d)
	p.more(4, "stale")
	p.every(ms(300), ms(800), func(at time.Duration) {
		p.fault(Fault{Kind: NoisyNet, At: at, For: ms(600), Noise: Noise{Drop: 0.1, Reorder: true, Min: ms(1), Max: ms(200)}})
	})
}

// collecting drops versions under readers of the past.
func collecting(p *Plan, d draw) {
	calm(p, d)
	p.VersionHorizon = ms(1500)
	p.more(6, "stale")
}

// lostAnswers drops messages all the time.
func lostAnswers(p *Plan, _ draw) {
	p.Noise.Drop = 0.02
}

// lateCopies delivers messages twice now and then, commits too, the second time late.
// There are no elections, so no first copy is refused.
func lateCopies(p *Plan, _ draw) {
	p.Faults, p.Splits = nil, nil
	p.Think = ms(3)
	p.Noise = Noise{Min: ms(1) / 10, Max: ms(1) / 2, Reorder: true} // else everybody waits for the late copies
	p.Clients = slices.Repeat([]string{"blind"}, 4)
	p.every(ms(100), ms(150), func(at time.Duration) {
		p.fault(Fault{Kind: NoisyNet, At: at, For: ms(10), Noise: Noise{Duplicate: 1, LateCopies: true, Reorder: true, Min: ms(1) / 10, Max: ms(400)}})
	})
}
