// Package exec runs the plans of package plan over a transaction.
//
// A FROM tree becomes a tree of operators that fill the slots of one frame (see
// package plan) and are advanced row by row; what is above them yields output rows.
// Rows and datums are reused: whoever keeps one copies it. Text may alias the store's
// buffers, which stay valid until the transaction ends.
//
// Memory is bounded: scans stream, and what collects rows (sort, hash, DISTINCT,
// materialised inputs) charges a budget, of the statement and of all the node's
// together, and fails with 53200 when one is used up (memory.go).
//
// Locks (X2): reads of a read-write transaction take the context's default lock,
// shared; UPDATE, DELETE and FOR UPDATE scan with exclusive locks; INSERT takes
// exclusive locks on the keys whose absence it relies on before it writes them.
// Package exec starts no goroutine and keeps no lock; a Context belongs to one
// goroutine.
package exec
