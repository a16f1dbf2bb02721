// Package catalog keeps the schema: descriptors of databases, schemas, tables and
// indexes, stored as ordinary rows under keys.SystemPrefix and changed by ordinary
// transactions, so that DDL and DML commit together.
//
// # The schema lease (B2)
//
// One key holds the global schema version V. A node uses descriptors of version V
// only under a lease with end E, which it gets by reading the version key with a
// shared lock; E is the clock's earliest instant before that read plus the lease's
// duration. What a lease allows:
//
//   - a read-only transaction at t <= E, where the lease was still current after t
//     had been chosen;
//   - a commit of a read-write transaction with s <= E (BoundCommit), counted as in
//     flight from EnterCommit to LeaveCommit, after the descriptors it used were
//     found unchanged.
//
// A transaction that changed the schema takes the exclusive lock on the version key
// when it commits, so that no lease can be had any more; makes every node drop its
// lease (HandleRevoke: commits in flight are awaited, and every read timestamp
// chosen under the lease has passed); for a node that does not answer it waits until
// no lease can be valid; then it writes V+1 and commits. So whatever used version V
// has a timestamp below the DDL's, and whatever uses V+1 has one above.
//
// A read-only transaction in the past needs no lease: the version key at its timestamp
// says which descriptors were in force (past.go).
//
// # Physical ids
//
// An index's rows live under (database id, table id, physical id). TRUNCATE, ADD
// PRIMARY KEY and CREATE INDEX take a new physical id from a counter that never
// goes back. Before its first row is written an "orphan" job row is committed on its
// own; the transaction that publishes the id deletes that row, and the cleaner may
// take it away first, in which case the publishing transaction aborts: rows under
// ids that nobody names are always found again. Ids taken out of use leave a "drop"
// job, due when no reader at an older timestamp can need them.
//
// # Concurrency
//
// Manager is safe for concurrent use; View belongs to one transaction. Goroutines:
// Start's renewal loop and cleaner, and one per renewal in flight; Close ends them
// all and waits. Locks: Manager.mu, then cache.mu; neither is held across I/O or a
// wait. Descriptors are immutable once published; whoever changes one clones it.
package catalog
