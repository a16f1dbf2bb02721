// Package integration starts clusters for tests: real spand processes, driven
// by the real clients (psql, pgbench, pgx), killed, paused and restarted.
package integration
