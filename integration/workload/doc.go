// Package workload runs clients against a cluster, over pgx, and records what they saw
// for package check to judge.
//
// A client has one connection at a time, to a node of its choice, and makes one
// transaction after another of its kind. An attempt that fails is not repeated: each
// is a transaction of the history. What is not known to have failed is recorded as
// unknown: an error that came after COMMIT, or an autocommit write, was sent and that
// is not the server's word that nothing was committed.
//
// Kinds, each with a table or two that SPLIT TABLE divides into tablets:
//
//	append      lists of numbers as text, appended to and read; savepoints, blocks, singles
//	register    read, write, compare and set
//	bank        transfers across tablets with a ledger; audits of the total
//	skew        two doctors, of whom one must stay on call
//	predicate   insert unless a scan finds enough rows
//	monotonic   insert the highest number plus one, with commit timestamps
//	sequential  A, then B, in transactions of their own; nobody sees B without A
//	fork        two writes at a time, and many readers of both
//	once        a unique id and a counter, incremented together
//
// and, not by default, because they want a server that knows them:
//
//	stale       reads of append's lists at timestamps in the past
//	outcome     once, asking for the outcome where the answer was lost
//
// [Locks] are clients of the lock service, over package lockservice, which commit to SQL under
// the sequencers of their locks. What they saw is a check.LockHistory. Their machines are cut
// off and stand still now and then, by a gate around their connections.
//
// # Where it runs
//
// In real time or in a testing/synctest bubble: the package uses time.Now and time.Sleep
// only, randomness from Options.Seed only, waits with no mutex held, and all goroutines
// have ended when a function returns.
//
// # Goroutines and locks
//
// Run starts one goroutine per client, and returns after the last has ended; pgx's own,
// which closes a broken connection, is waited for too. The locks of shared are leaves.
//
// Locks.Run is like it, but for the goroutines that follow holds, events and the list of
// sessions, which Finale ends. The mutexes of watcher, gate and recordedStream are leaves; so is that of Locks, but for
// the history's.
package workload
