// Package cell is one replica of a lock service's cell: the state machine of its group
// (package state is what it replicates), and everything that only a leader knows: sessions' leases,
// who waits for a lock, which promises about holds were made, who is to be told of what, and who caches
// what. Section numbers are those of Burrows, "The Chubby lock service" (OSDI 2006).
//
// A [Cell] is driven from two sides. Its group calls the methods of paxosgroup.StateMachine; a
// server calls Do with everything that clients ask (Begin, with what is frequent and needs
// no goroutine), and brings their beats over Streams. Contents of files are engine keys (storage.ClassStage under the group's id);
// all else is in memory, captured by checkpoints.
//
// # Invariants
//
//   - Reads are linearizable: state first, then Group.Valid. A write is answered when its
//     command is applied. What is announced (events, grants) has been applied.
//   - L1: a session's holds end only by a command, and a command for its expiry is proposed
//     only After(the lease's end), which is counted from the receipt of the last beat
//     (Now().Latest + lease). Its client counts from the sending. A beat is answered only
//     while Group.Valid holds after its receipt was noted, so that the next leader, which
//     begins with every session renewed, comes later; with leases up to the factor that is
//     logged (load.go). A session whose end is under way is neither renewed nor answered
//     before that is applied.
//   - L2: see below.
//   - 2.4: locks are given in the order of tickets; a shared waiter does not pass an exclusive one. A
//     command that frees a lock carries the next grants: one entry per acquire that needs not wait,
//     one per release, and a hand-over costs no more than the release.
//   - 2.4: a release of which the caller was told that it is in order (early.go) precedes, in the log, whatever ends or
//     begins a hold of its lock and was asked for later; reads of holds, checks and fences that are asked
//     for later wait until it is applied. It was announced before the caller was told, under a lease that was valid
//     afterwards. Nobody is in the queue of a lock whose release lingers. The caller still gets
//     the outcome; while it has none, the release may be lost with the leader.
//   - 2.4: an Acquire whose caller goes away leaves no hold that nobody knows of: its waiter leaves the
//     queue, or its grant, being under way, is released again. That release names the hold, and ends
//     no later one; and when the handle has asked again, the hold is that call's, which
//     supersedes the earlier (takeOverLocked, disownLocked). Nobody is told of a hold that an
//     announced command may end. Should the leader go first, the caller was told
//     AMBIGUOUS: its handle asks again, or releases. An answer that was given while the caller was
//     there counts as heard.
//   - 2.5: a subscriber gets each event at least once, in the order of revisions; unacknowledged ones
//     go again over a new stream. Queues and subscriptions are bounded: who is slow, or goes on from
//     long ago, is served from what the state remembers, or told EVENTS_LOST.
//   - 2.3, 2.5: who may not read a node hears nothing of changes to its contents, neither by events, remembered ones
//     included, nor by invalidations. He is told that a subscription is denied when that is listed, or when his
//     right goes, and so not by the next change (denied.go).
//   - 2.5, 2.7: a holder that subscribes to conflicting requests hears of everybody who waits for what
//     it holds, whichever came first, the waiter, the grant or the subscription, and under
//     every leader (conflict.go); of a TryAcquire or Delete, unless it is refused in the moments in which
//     the holder is between two leaders or streams. Of a thousand locks at a time; then notices are dropped.
//   - 2.7: nothing is changed while anybody may cache it, or was told to forget it and has not said
//     that it did, by whichever change (cachers.go).
//
// # Fences (L2)
//
// A transaction fenced by a sequencer must not commit at or after the timestamp of a commit by the
// lock's next holder. A check answers E, and the coordinator commits at s <= E or not at
// all. It remains to see that the next holder's commits have s' > E. A commit timestamp is at least
// Now().Latest at its coordinator after the commit was asked for, and the next holder
// asks after it was granted the lock; so it suffices that no hold ends, by whatever
// command, at a true time <= E. Commands are applied after they are proposed: none that may end
// the hold may be proposed before After(E), for any E that was answered.
//
//   - Under one leader. A check notes E at the lock, under leader.mu, before it answers. A command
//     that may end holds (Release, Close, Delete, EndSession) is announced under leader.mu,
//     then waits until After(every E noted at what it may end) or until that was given up, and
//     only then is proposed; from the announcement to the outcome, checks of these holds
//     wait. So either the check came first, and is waited for, or it waits, and finds the
//     hold gone or still there. What a command may end is named by session and handle, not by the
//     holds that there are, so that a grant applied in between is covered; a whole session is marked
//     itself. No other command ends a hold: an ephemeral node stays while its lock is held, and the state
//     refuses to delete a node that another session holds the lock of.
//   - Between leaders. E < Group.LeaseEnd, taken before E was noted, and the answer goes
//     only if Group.Valid holds after it was noted. A lease that runs out has a
//     successor only After(its end), hence at a true time > E, and whatever that one proposes comes
//     later. A term may end before its lease: by a hand-over, or because the leader was deposed, when
//     the same replica may lead again at once (its own lease keeps only others
//     from leading). Whenever a term ends the group asks for Promised, after Valid and LeaseEnd have
//     begun to refuse, and makes it part of its floor, which outlives the term, so that the Lease.Floor
//     of whoever leads next covers it. A check either noted its E before, and is covered, or
//     its Valid refuses, and E is not answered. A leader proposes nothing that ends a hold
//     before After(Lease.Floor).
//   - Commands that an earlier leader proposed and that are applied later are covered by that leader's
//     own waiting; those that a successor finds unapplied under an older lease are void (R4).
//   - An EndCheck gives E up: the coordinator knows its outcome, so that no commit under this
//     E is to come.
//
// Pauses change nothing: E is a timestamp, compared with commit timestamps, not a
// duration. Clocks enter through After (true time > E) and Now().Latest (>= true time), so they may
// be wrong within ε. The bounds of E (1 s; the session's lease, at whose end the lock is to be had again)
// only limit how long a release may have to wait.
//
// # Goroutines
//
// A leader has two of its own, watchLeases and watchLoad, and starts more while sessions
// end (reap, at most maxReapers), lock-delays with waiters pass (awaitDelayLocked), grants
// that could not be logged are to be tried again (pumpLaterLocked) and
// grants for callers that are gone are given back; all end with the term, and Close waits for
// them. The wheel's timer runs turn, that of lingering releases departDue. Do, Begin and Beat run on their callers'; Proposal.Done on the
// group's applying goroutine. A call that was begun has no goroutine: it is answered by whoever knows
// its outcome (Done, as a rule), unless its session is ending, for whose end one waits.
//
// # Locks
//
// leader.mu, then Cell.mu. leader.mu guards all of leader that is not atomic, Cell.mu the
// replicated state; Apply takes Cell.mu, gives it up, and then takes leader.mu. Neither is
// held across Propose (which may answer at once), a wait, or I/O. Functions whose name ends in
// Locked need leader.mu. What they find to be proposed is collected (flight) and goes when the mutex is
// free; leases are collected too (outgoing), but go before it is given up: a Stream's send
// only queues, and what one session is told must be queued in the order in which it was noted as told. A
// clock and the group's lease may be asked under leader.mu: both are leaves, as are the mutexes
// of Streams' queues. A waiter is told its outcome (waiter.then, and so the answer of a begun call)
// with leader.mu, and possibly Cell.mu, held: what it calls queues, or writes the answer to a socket as far as
// that takes it at once (lockservice/server's lanes): the one I/O under them, which never waits.
package cell
