// Package integration starts clusters for tests: real spand processes, driven
// by the real clients (psql, pgbench, pgx), killed, paused and restarted.
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
// Goroutines are owned by Proxy, Meter and Cluster, and end with them. Lock order: none of
// their mutexes is held while another one is taken, but for Proxy.mu before path.mu.
//
// Tests demand behaviour, not speed: only the long form of TestPgbenchWhileNodesDie, and
// TestFaults, look at the clock.
package integration
