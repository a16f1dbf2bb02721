// Package xact keeps what became of transactions for the clients that asked for their
// ids: pg_current_xact_id() and pg_xact_status().
//
// A client that loses its connection at COMMIT reconnects, to any node, and asks. The
// store keeps outcomes for its own use, under its own ids and for a minute (X5); this
// package keeps one row per transaction that asked for its id, in a system table
// keyed by that id, for an hour.
//
// # Why an answer is right, and final
//
// Before a transaction is told its id it takes the exclusive lock on the id's row
// (Assign), finds none there, and holds the lock to its end (X2). Its commit writes the
// row (Record), so the row and the transaction's other writes are there together
// or not at all. An inquiry (Status) that finds a row is done: rows never change.
// One that finds none tries to lock the row:
//
//   - It cannot: the transaction holds the lock, so it is alive, or prepared and not
//     yet settled. It is in progress. A dead gateway's locks expire, and what it
//     left prepared is settled by its coordinator, so this passes.
//   - It can, and there is still no row: the transaction has lost its lock or given it
//     up, and will never commit, because a commit fails without the locks taken under
//     it. The inquiry writes an aborted row in its place. That makes the answer final
//     without further argument: the row is what the next one reads, and an id
//     guessed before it was handed out is not handed out any more.
//
// So the first of commit and abort-if-absent wins, as for the store's own outcomes, and
// fail-overs, restarts and splits change nothing about it: the row and the locks of
// prepared transactions are replicated, other locks are lost with their leader, and
// with them the commit.
//
// # Ids
//
// An id is microseconds since 2000 above the node's number, so it fits the positive half
// of a bigint until 2071. Its time has passed before it is shown: an id beyond
// Now().Latest was never handed out. On one node they only grow; a restarted
// node begins beyond what it gave before (see Config.Node). Rows are in the order of
// node and time: each node's writes are at one place, the nodes' are apart.
//
// # What is not kept
//
// A row goes an hour (Config.Keep) after it was written. Before the first one of a time
// goes, the low-water mark in the store is raised above that time; an inquiry that finds
// neither row nor lock answers "not known" below the mark, and for ids older
// than Keep. So a transaction that was aborted more than Keep after it was told its
// id is not known at once, while its commit would be for Keep.
//
// # Concurrency
//
// A Table's methods may be called concurrently. It starts one goroutine, the cleaner,
// between Start and Close. There are no mutexes.
package xact
