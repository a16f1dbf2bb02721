// Package lockservice is the Go client of spand's lock service: Chubby's contract (Burrows, OSDI
// 2006) with handles that do not lie.
//
//	c, err := lockservice.Dial(ctx, "127.0.0.1:15433")
//	s, err := c.NewSession(ctx, lockservice.SessionOptions{})
//	f, err := s.Open(ctx, "/ls/local/jobs/nightly", lockservice.OpenOptions{Create: lockservice.CreateIfAbsent})
//	l, err := f.Lock(ctx)
//	err = work(l.Context(), l.Sequencer()) // ends when the lock may be lost
//	err = l.Unlock(ctx)
//
// # What a lock promises
//
// While the session is Safe, nobody else holds the lock in a conflicting mode, at any instant of
// true time. A session is a lease: the server counts it from its receipt of a beat, the client
// from the beat's sending, on a clock that runs through suspends, less what clocks may drift
// (0.1 %). So the client's lease ends first, and with it Lock.Context.
//
// When the lease is over and the cell has not answered, the session is in Jeopardy: the server
// may know it still, or not. Contexts of its locks have ended, its cache is off, its calls wait.
// If the cell answers within the grace period (45 s) that it knows the session, it is Safe
// again and its locks are held as before; Lock.Context then returns a new context. Else it is
// Expired, and its locks are lost. A fail-over of the cell that takes less than 45 % of the TTL
// shows in none of this.
//
// # What no lock can promise
//
// A process can be paused between looking at its lock and writing to a store, for longer than any
// lease. When it wakes up the write goes out, and nothing in that process can prevent it. So a
// lock protects a store only if the store refuses what comes too late: pass it Lock.Sequencer.
// spand's SQL checks it inside the commit (SET LOCAL spand.fence = '...'), a Handle checks it
// after SetSequencer, another store asks Client.CheckSequencer or, if it cannot, keeps the
// highest generation that it has seen and refuses lower ones (ParseSequencer).
//
// # Calls
//
// A call goes to the leader of its cell and follows it: it is tried again until it is answered, its
// context ends or its session does, and takes effect at most once however often it was sent.
// Changes through a session carry a number by which the cell knows them again; a retried
// acquire finds its own hold or its place in the queue; a lock that was asked for and given up
// is given back in the background, and so is one whose release was in order but may have been lost with the leader. Only a change without a session (Client.Node) may fail with
// ErrAmbiguous.
//
// Calls go over a connection of their own (a lane, package internal/lane: a length and a DoRequest, or back
// a DoResponse) where a node welcomes that, else over a gRPC stream (LockService.Do); leases and events
// always over gRPC.
//
// Errors name what happened to errors.Is (ErrNotFound, ErrLockHeld, …); status.FromError finds the gRPC
// status with the service's ErrorInfo. A call that ends with its context returns the context's
// cause, and with it what the last attempt met, if that is known.
//
// # Cache
//
// A session with Cache keeps contents, Stats, listings and the absence of nodes that it has read.
// The server has every cache forget what a change is about before the change is acknowledged,
// or waits until the caching session's lease is over; the client uses an entry only while its own
// lease holds and drops all in jeopardy and when the cell has another leader. So cached reads
// are as linearizable as others. They cost no call, and writers of what is cached one round
// trip to every reader.
//
// # Locks that are kept
//
// A Handle with OpenOptions.KeepLock caches its lock as well (paper 2.7): Unlock leaves the hold at
// the cell, and the next Lock takes it over without a call. It is taken over only while the session is
// Safe, by the clock, so that it promises what every Lock does. The cell tells the holder as soon as
// another asks, and then it is given back. See there for what the Locks of one hold share.
//
// # Goroutines and locks
//
// A Client runs, for every node that it calls, one goroutine that reads answers and one that
// writes calls, and for a lane one more, that pings and writes what the kernel would not take at once, all
// of which end when their stream breaks; for every cell with sessions one that sends
// beats and one that reads leases, which end with the last session; and short ones that undo
// what was given up, or give back what was kept, which end with the session. Client.Close ends and
// awaits all of them. What is kept costs no goroutine, but a timer per handle, which Handle.Close
// and the session's end stop.
// Session state changes on the timers and on these goroutines; no callback of the user runs there.
//
// Lock order: a Handle's turn, then Session.mu, then keeper.mu or cache.mu. Client.mu, peer.mu and
// callStream.mu are innermost. No mutex is held during I/O or a wait; under Session.mu a turn is
// taken only if it is free. A turn lasts from before a lock is asked for until it was given back at
// the cell, or is kept: then nobody has the turn, and whoever takes it finds the kept hold.
package lockservice
