// Package integration starts clusters for tests, other people's too: nodes in the test's own
// process ([InProcess]), in virtual time ([Virtual]), or real spand processes
// ([Processes]), behind one set of handles that kill, pause and restart them, cut their
// network, set their clocks, move their leaders, pause their lock clients, and fail their
// clients' statements and commits.
//
//	c := integration.Start(t, integration.Options{Nodes: 3})
//	conn := c.Connect(0)
//	c.Kill(1)
//
// docs/testing-your-app.md explains them by examples. [Start] and [Cluster] are the
// contract with other modules; Nodes and Proxy of a Cluster, the functions on a [Node] and
// what they need are for this package's own tests of real processes, driven by the real
// clients (psql, pgbench, pgx).
//
// # Invariants
//
//   - A node that was killed says nothing more: its connections, to peers and to clients,
//     are broken before it is stopped.
//   - What a paused node computes on its stopped clock leaves it only after the clock goes
//     on: the network closes first and opens last.
//   - Nothing outlives the test: no goroutine, process, listener or file.
//
// Each backend states its goroutines and locks (inprocess.go, gate.go, proxy.go).
//
// # This package's own tests
//
// `go test ./integration` runs every test in its short form. At length, each with
// -v -timeout 30m to see its figures:
//
//	-run 'TestPgbench$' -pgbench.scale=10 -pgbench.seconds=60
//	-run TestPgbenchWhileNodesDie -pgbench.scale=10 -integration.long
//	-run TestDeathAtEveryStep -integration.long
//	-run 'TestFaults$' -integration.minutes=30 -integration.seed=1 -timeout 60m
//	-run TestFaultsInNamespaces -integration.minutes=5 (as root: TCP itself sees the partitions)
//
// A [Nemesis] does what a seed says to the processes of a [Cluster] and to the [Network]
// between them (a [Proxy] in the test's process, or [Namespaces] of the kernel's). [Health] follows it and
// knows when a majority was alive; a [Meter] measures how long tablets answered nobody then.
// Goroutines are owned by Proxy, Meter, Cluster and the lock clients of TestFaults, and end with them. Lock order: none of
// their mutexes is held while another one is taken, but for Proxy.mu before path.mu.
//
// Tests demand behaviour, not speed: only the long form of TestPgbenchWhileNodesDie, and
// TestFaults, look at the clock.
package integration
