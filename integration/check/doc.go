// Package check judges what the clients of a cluster saw, and knows nothing else of
// it: no stores, no clocks of the system under test.
//
// A [History] is a list of transactions, one attempt each: where they began and ended
// in the true order of events, how they ended for their client, and the micro-operations
// whose answers the client got. [Check] returns a [Violation] for whatever no strictly
// serializable system that keeps its acknowledgements could have answered, told as a
// story of the few transactions concerned.
//
// # What is inferred
//
// The model is Elle (Kingsbury, Alvaro: Elle: Inferring Isolation Anomalies from
// Experimental Observations, VLDB 2020). Every value is written once, so a read names
// its writer. Values live in
//
//   - lists (append, list): a read shows the order of all appends before it, so the
//     longest read is the version order, and all others must be prefixes of it;
//   - registers (write, read, differs): nil is the first version, and whoever read one
//     version and wrote another says which follows which;
//   - sets that only grow (insert, scan): scans must contain one another, and what a
//     scan lacks was inserted after it (a predicate read);
//   - counters (add, count): what they hold must be the sum over the transactions
//     whose ids a scan of the ledger, in the same transaction, shows.
//
// Out of the version orders come Adya's dependencies between transactions: ww (the next
// version), wr (read it), rw (read the version before), and with the order of events rt
// (one had ended before the other began). A cycle of them is an anomaly, named by its
// edges: G0 (ww), G1c (ww, wr), G-single (one rw), G2-item (several rw), G2 (of predicate
// reads), and the same with -realtime where rt is needed. Shapes that have names of
// their own are called by them: write skew, long fork, causal reverse, stale read.
//
// Besides: G1a (read of what was refused or rolled back), G1b (read of what its writer
// has overwritten), values from nowhere, duplicates, reads that contradict their own
// transaction (internal), lost updates, lost acknowledgements (R1), transactions there in
// part (X3) or counted more than once (X5), totals that change, registers that are not
// linearizable (porcupine), timestamps that contradict real time (X1) or a dependency,
// so that a stale read at t must have seen exactly the versions up to t (X4).
//
// # Indeterminate outcomes
//
// A transaction of [Unknown] outcome may have committed or not, or may yet. It takes
// part, as committed, when a committed transaction has read what it wrote; it never ends.
//
// # Locks
//
// A [LockHistory] is what the clients of the lock service saw; [JudgeLocks] holds it
// to L1, L2 and the sections of Chubby's paper (Burrows, OSDI 2006) that it names as C2.4 to C2.8: holds
// in true time, from Lock's return to the end of the lock's Context or the call of Unlock, also where
// a handle takes its hold again; sequencers and fenced commits against them; releases that were
// forgotten; changes, reads and events of files; sessions against the answers to their
// beats. Instants are those of the clients' machine, so that no clock of the system under test has a say.
//
// # Limits
//
// The order of blind writes to a register is judged by porcupine only. Reads of
// transactions that failed are not judged. Sets have no deletions. Of the anomalies that
// one strongly connected component holds, the first found is told. The search for a cycle
// with a single rw has a budget; beyond it a cycle with more of them is told instead.
//
// Check takes time and memory linear in the history, but for porcupine, which has
// [Options.Patience] for each register; what it could not decide is in [Report.Undecided].
//
// # Concurrency
//
// Recording is safe for concurrent use, a Txn belonging to its client between Begin and
// End. Check starts no goroutine that outlives it. History.mu and LockHistory.mu are leaves.
package check
