// Package state is the replicated state of a lock service's cell: its tree of files and
// directories, its sessions, the locks and who holds them, and what the cell remembers of its
// past (events, ended holds).
//
// It is deterministic and alone: Apply changes it by one command, whose outcome depends on
// the state, the command, its index and its timestamp and on nothing else. Replicas that
// applied the same commands encode to the same bytes. It has no clock, no goroutine and
// no lock; whoever owns a State (package cell) serialises calls: Apply alone, reads side by
// side. What reads return is never changed afterwards. What only a leader knows (leases,
// queues, caches, streams) is not here.
//
// # Invariants
//
//   - L1: of an exclusive lock there is at most one hold, and then no shared one. The lock's
//     generation is drawn from one counter of the cell when the lock goes from free to
//     held, so it grows also over nodes that are deleted and made again.
//   - What ends a session ends its holds and its ephemeral nodes in the same command. A session's
//     id is not used again within the memory of the cell.
//   - A repeated request (session, number) has one effect and one answer.
//   - D1: contents are kept under their checksum; a State that does not decode is refused.
//   - F1: no command makes Apply panic, no bytes make a decoder. No command takes a time that grows
//     with the cell: it costs what it changes, times logarithms, and a move of pointers to
//     the holds that the session or the lock has.
//
// # What follows from the paper, and what is ours
//
//   - A lock belongs to its path, a hold to the instance of the node. So the lock-delay of a lost
//     holder outlives the ephemeral node that went with it, and nobody gets around it by
//     making the node anew.
//   - An ephemeral node goes with the last handle that has it open, the last hold of its lock
//     and, a directory, its last child. Below an ephemeral directory there are ephemeral nodes only.
//   - A node's own ACL counts, not those of the directories above (OSDI'06 2.3); creating takes
//     the right to write the directory, locking in either mode the right to write the node (2.4).
//     An ACL can only name files that are there; whom a file names that was deleted since
//     has no right. That a session belongs to the principal who uses it is for the caller to
//     see to: it does not change.
//   - A file's creation is its first write: content generations begin at 1, 0 in a conditional
//     write is "not there", and who is subscribed to the path hears of changed contents.
//   - Root and <root>/acl cannot be deleted. A quota of 0 on the root is DefaultQuota.
package state
