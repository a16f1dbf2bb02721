// Package sql is the SQL engine of a node: sessions, transactions, statements,
// schema changes, COPY and the system relations. pgwire drives it through Server and
// Session; it runs over a KV (the transaction client, or kvmem in tests).
//
// A statement's way: parse (shape cache) -> plan (plan cache, by shape and schema
// version) -> exec over a transaction -> ResultWriter. An autocommit query runs as a
// lock-free read-only transaction; everything else in a read-write transaction that
// locks what it reads (SERIALIZABLE by two-phase locking).
//
// Invariants:
//
//   - X1: nothing that was read leaves through a ResultWriter before
//     Txn.AwaitVisible; a write of an autocommit statement is reported after Commit.
//   - X2: a statement that lost a conflict is tried again, with its age, only while
//     the client has seen nothing of its transaction; else it is 40001, and the
//     connection's next transaction inherits the age.
//   - X5: after an unknown outcome (08007) nothing is tried again.
//   - B2: every transaction that used descriptors commits under the schema lease,
//     after they were found unchanged; see package catalog.
//   - L2: a transaction under spand.fence commits only below what the locks' cells vouch for,
//     asked at the last moment; the argument stands in fence.go.
//   - F1: an error leaves no lock behind: a failed block without savepoints gives up
//     its locks at once, an implicit transaction is rolled back.
//
// VACUUM and ANALYZE are accepted for what they are here: old versions go by
// themselves and there are no statistics. Every isolation level asked for is given as
// SERIALIZABLE.
//
// Concurrency: an Engine's methods may be called concurrently. A Conn belongs to one
// goroutine, but for Cancel. The engine starts goroutines only through
// catalog.Manager, which Close ends. Locks: Engine.mu and Conn.cancelMu and the plan
// cache's shards, each a leaf; none is held across a call of the store.
package sql
