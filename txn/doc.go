// Package txn runs transactions over tablets: it is the client of the tablets'
// participant interface, and what finishes two-phase commits that a failure
// interrupted.
//
// A Client is a node's gateway. A read-write Txn buffers its writes and reads at
// the leaseholders with locks (X2); its own writes are merged into what it reads.
// It commits in one phase when a single tablet is involved, else in two, with one of the
// tablets as coordinator (X3); large ones lay their writes down at the tablets first,
// in chunks. A read-only Txn reads at one timestamp without locks (X4). An
// optimistic Txn reads what this node's replica happens to have and has it confirmed
// by the request that commits (optimistic.go), so that it makes one trip.
//
// What the package guarantees, and how:
//
//   - X1: a commit timestamp lies above every version that the transaction read
//     (MinTS), and Commit returns after commit wait, which overlaps nothing but
//     the network here: the rest of it passed while the command was replicated.
//     AwaitVisible does the same for what was read.
//   - X2: every tablet that granted a lock takes part in the commit under the term
//     of its lease, so a lock lost anywhere makes the commit fail. A tablet that
//     splits hands locks to its child; the hull of what is locked there says
//     which children to ask.
//   - X3: a prepared participant is only ever resolved with an outcome from the
//     coordinator's anchor, or by the gateway while no decision has been sent.
//     The anchor is a key written by the transaction, so it follows splits.
//   - X5: a commit or a decision is sent again only after an answer that says it
//     was not executed. After a lost answer the gateway inquires, with
//     abort-if-undecided, and reports the truth; UnknownOutcomeError is left for
//     when nobody answers in time. Each commit also tells which of the node's
//     transactions have ended, so that tablets may forget their outcomes.
//   - B1: a request that a stale map has sent astray is refused unexecuted
//     (RangeError); the map is corrected and the remaining keys go to the right tablet.
//   - B2, L2: BoundCommit and AskBound pass s <= E to whoever assigns the timestamp: the
//     one tablet of a one-phase commit, a coordinator, or commitReads.
//
// Goroutines: the client's heartbeat, from NewClient to Close; background work
// (rollbacks, recovery, staging), started through Client.spawn and awaited by Close,
// its context ending with Close; within a call, one per further tablet, joined
// before the call returns. With one tablet, on this node, a transaction starts no
// goroutine and makes no channel.
//
// Lock order: Client.mu, then Txn.mu; stager.mu, then Txn.mu. No mutex is held across a
// call to a participant, the router or the clock.
package txn
