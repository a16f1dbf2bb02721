package sim

import (
	"time"

	"github.com/spandb/spand/internal/keys"
)

// The plans of the lock service's negative controls. Cells fail over with their leaders
// like tablets, so these have few other clients.

// lockers has n lock clients, who do these steps, and no faults.
func (p *Plan) lockers(n int, ttl time.Duration, steps ...string) {
	p.Faults, p.Splits = nil, nil
	p.Clients = []string{"audit"}
	p.LockClients, p.LockTTL, p.LockSteps = n, ttl, steps
	p.LockDrift = 4e-4
	p.Think = ms(5)
}

// busyLockers hold locks, one after the other.
func busyLockers(p *Plan, _ draw) {
	p.lockers(6, 2*time.Second, "lock", "lock", "lock", "share", "check")
}

// slowWatches has clients whose clocks run at down to half the speed: they believe in
// leases that are over.
func slowWatches(p *Plan, d draw) {
	busyLockers(p, d)
	p.LockDrift = 0.5
}

// lonelyLeaders cuts the cell's leader off from the other nodes, but not from its clients,
// for longer than its lease and a session's.
func lonelyLeaders(p *Plan, _ draw) {
	p.lockers(9, time.Second, "lock", "lock", "check", "look")
	p.every(ms(400), ms(5000), func(at time.Duration) {
		p.fault(Fault{Kind: Isolate, Key: cellKey, At: at, For: 4 * time.Second})
	})
}

// hastyCommits are ready when they get the lock, and give it back without waiting for them,
// while the network of the node that leads their tables stands still.
func hastyCommits(p *Plan, d draw) {
	p.lockers(8, 4*time.Second, "eager")
	p.Nodes = 3
	p.Noise = Noise{Min: ms(1) / 10, Max: ms(1) / 2, Reorder: true}
	p.DiskLatency = 0
	// The cell is led by one node, and the tables by another.
	p.fault(Fault{Kind: Transfer, Key: cellKey, Node: 1, At: ms(10)})
	for i, k := range splitKeys {
		p.fault(Fault{Kind: Transfer, At: ms(20 + 10*i), Key: k, Node: 2})
	}
	p.every(ms(300), ms(250), func(at time.Duration) {
		p.fault(Fault{Kind: Stall, Node: 2, At: at, For: d.between(ms(50), ms(150))})
	})
}

// movingCells hands the cell's leadership over, again and again, under the same.
func movingCells(p *Plan, d draw) {
	hastyCommits(p, d)
	node := keys.NodeID(1)
	p.every(ms(300), ms(40), func(at time.Duration) {
		node = 4 - node // 3 and 1, in turn
		p.fault(Fault{Kind: Transfer, Key: cellKey, Node: node, At: at})
	})
}

// cutOffReaders read files from their caches, on machines that are cut off, while others
// change them.
func cutOffReaders(p *Plan, _ draw) {
	p.lockers(6, 2*time.Second, "look", "look", "look", "set", "rest")
}

// cutOffKeepers keep their locks, and want them again on machines that are cut off.
func cutOffKeepers(p *Plan, _ draw) {
	p.lockers(4, time.Second, "keep")
}

// lostOrders crashes the cell's leader while a release is in order and not logged, the last time so late that
// nobody asks for the lock by the same handle again before all heals.
func lostOrders(p *Plan, d draw) {
	p.lockers(2, 2*time.Second, "again", "again", "look")
	for _, at := range []int{300, 5000} {
		p.fault(Fault{Kind: Ambush, Key: "release", At: ms(at), Amount: d.between(0, ms(4)), For: ms(50)})
	}
}

// lostReleasers want a lock again that they have just released, while the cell's leader crashes in between.
func lostReleasers(p *Plan, d draw) {
	p.lockers(2, 2*time.Second, "burst", "burst", "burst", "check")
	p.every(ms(300), ms(1500), func(at time.Duration) {
		p.fault(Fault{Kind: Ambush, Key: "release", At: at, Amount: d.between(0, ms(4)), For: ms(50)})
	})
}
