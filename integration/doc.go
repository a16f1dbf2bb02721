// Package integration starts clusters for tests: real spand processes, driven
// by the real clients (psql, pgbench, pgx), killed, paused and restarted.
//
// `go test ./integration` runs every test in its short form. At length, each with
// -v -timeout 30m to see its figures:
//
//	-run 'TestPgbench$' -pgbench.scale=10 -pgbench.seconds=60
//	-run TestPgbenchWhileNodesDie -pgbench.scale=10 -integration.long
//	-run TestDeathAtEveryStep -integration.long
//
// Tests demand behaviour, not speed: only the long form of TestPgbenchWhileNodesDie
// looks at the clock.
package integration
