// Package kvmem is the in-memory twin of the transactional store (sql/kv), for
// tests: several versions per key, strict two-phase locking with point and range
// locks, wound-wait by age, lock-free reads at a timestamp, commit wait. It keeps
// nothing on disk and never drops a version. An optimistic transaction guesses
// wrong, always, so that whoever concludes anything from a guess is found out.
//
// Invariants: X1 (AwaitVisible and commit wait), X2 (locks are held to the
// outcome; a wounded transaction fails with *tablet.AbortedError), X4 (a read at
// t sees exactly the commits with s <= t), B2 (BoundCommit).
//
// Concurrency: one mutex guards the store and is never held while waiting; a
// transaction waits for another on that one's done channel. The package starts no
// goroutine.
package kvmem
