// Package state is the replicated state of a lock service's cell: its tree of files and
// directories, its sessions, the locks and who holds them, and what the cell remembers of its
// past (events, ended holds).
//
// It is deterministic and alone: Apply changes it by one command, whose outcome depends on
// the state, the command, its index and its timestamp and on nothing else. Replicas that
// applied the same commands encode to the same bytes. It has no clock, no goroutine and
// no lock; whoever owns a State (package cell) serialises calls. What only a leader knows
// (leases, queues, caches, streams) is not here.
//
// # Invariants
//
//   - L1: of an exclusive lock there is at most one hold, and then no shared one. The lock's
//     generation is drawn from one counter of the cell when the lock goes from free to
//     held, so it grows also over nodes that are deleted and made again.
//   - What ends a session ends its holds and its ephemeral nodes in the same command.
//   - A repeated request (session, number) has one effect and one answer.
//   - D1: contents are kept under their checksum; a State that does not decode is refused.
package state
