// Package pgwire speaks PostgreSQL's wire protocol, version 3, to clients on
// one side and drives sql.Session on the other. It frames and decodes messages,
// turns parameters into datums and rows into DataRow messages, runs the COPY
// sub-protocol, and guards the session: cancel requests, statement and idle
// time-outs, vanished clients, message and connection limits, draining. It knows
// no SQL: no query text is looked at here.
//
// # Invariants
//
//   - F1: no input crashes the process, leaks another connection's data or leaves
//     a transaction open. Whatever ends a connection (client gone, malformed
//     bytes, time-out, drain, a panic in its session) goes through one place,
//     conn.serve, which closes the session; and closing a session rolls back.
//   - After an error in an extended-protocol batch every message up to Sync is
//     discarded, and Sync is always answered with ReadyForQuery.
//   - A cancel request, a time-out or a lost client cancels the context of the
//     statement that runs at that moment and no other.
//   - A client that stalls cannot hold locks for ever: waiting in a transaction,
//     after an Execute without Sync, or by not reading a result inside a
//     transaction, it is idle, and idle_in_transaction_session_timeout ends its
//     connection with 25P03. What a cancelled statement has still to write it has
//     writeGrace to take.
//   - X1: rows are encoded as the session hands them over, which it does only
//     once they may be seen. Nothing is held back beyond a Sync.
//
// # Goroutines
//
// Serve accepts; each connection has one goroutine, conn.serve, which owns the
// session, the reader and the output buffer. A statement that runs longer than
// watchDelay gets a second one, peerWatch, that reads from the socket so that a
// vanished client is noticed; it ends when the statement does (its read is
// interrupted by a read deadline, and conn.serve awaits it before reading). The
// monitor's timer runs short callbacks that only cancel contexts and set
// deadlines. All of them have ended when Serve returns.
//
// # Locks
//
// Server.mu guards the table of connections; monitor.mu one connection's
// state. Server.mu may be held while taking monitor.mu, never the other way
// round. Neither is held across I/O or any call into a session.
//
// # What the session may rely on
//
// Query strings, names and text parameters are copies. The slice of datums
// given to Bind is not reused. FormatSettings, StatementTimeout and
// IdleInTransactionTimeout are asked for from within ResultWriter's Columns and
// Complete, so those must not wait for the statement that is running. The
// context of a call is cancelled when the statement is to stop; Session.Cancel
// is not used. Fail is called for errors found here (a parameter that does not
// parse), after which the session rolls its implicit transaction back at Sync.
// COPY TO should Write one row at a time: each Write is one CopyData message.
package pgwire
