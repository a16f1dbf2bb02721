// Package tablet is one replica of a tablet: a contiguous range of keys, their
// versions, and what transactions do to them at this place. It is the state
// machine of the tablet's group (package paxosgroup), and it answers reads,
// commits, prepares and decisions for gateways (package txn), which reach it by
// function call on the same node and by the messages of wire.go from others.
//
// State is of three kinds. Versions of rows lie in the engine (mvcc.go). What
// replicas must agree on without versions is the machine: descriptor, prepared
// transactions, outcomes, staged chunks (machine.go, capture.go); only log
// commands change it (commands.go, apply.go). What a leader needs for one term is
// the lock table (locktable.go, lockwait.go) and a timer (leader.go); it is lost
// with the term, but for what the machine lets the next leader rebuild
// (lockrestore.go).
//
// # Invariants
//
// The numbers are those of ARCHITECTURE.md.
//
//   - R3: reads note their timestamp and make the group promise it before they look
//     at anything; a split hands the highest one noted to its child.
//   - R4: every request is evaluated under one leader value, hence one term; its
//     command is proposed under that term and never again under another. The lease
//     is checked before a request is evaluated and again before it is answered.
//   - X2: a lock is granted only if no other transaction holds a conflicting one,
//     and is held until the outcome is applied and visible. Waits point from younger
//     to older transactions or to such as end by themselves (committing, prepared
//     and asked about), so there is no deadlock. In commit and prepare nobody waits
//     for an older transaction, but for a moment when that is about to end. A lock of
//     another term, or one that a split took elsewhere without the request knowing,
//     fails the commit. An optimistic commit (optimistic.go) gets its locks first and
//     compares what it expects under them.
//   - X3: a prepare replicates writes and all locks, shared and range locks too. From
//     then on only Resolve ends it. Its locks go after After(s), by a command whose
//     timestamp lies above s.
//   - X4: a read at t waits for every write or prepare at a timestamp at or below t
//     that overlaps what it reads, and for nothing else. Writes count from the
//     serial step that assigns the timestamp until they are visible in the engine,
//     large ones until the last chunk is. A follower answers only what its closed
//     timestamp and its replicated state leave no doubt about.
//   - X5: the first of commit, decide and abort-by-inquiry in the log wins. Outcomes
//     are kept until the gateway declares the transaction ended, at most for a
//     horizon and up to a number; committed records of two-phase transactions until
//     every participant has acknowledged. Whoever asks beyond that hears "not
//     known", never "aborted", except a prepared participant, for whom absence is
//     proof. A commit that may have been decided and forgotten is refused, and so is
//     one older than the horizon of which nothing is known here, not even a lock.
//   - B1: every request's keys are checked against the descriptor, and every command
//     carries the descriptor's generation: one that a split overtook is refused by
//     apply and evaluated again. Transactions that cannot be divided (prepared on
//     both sides, large and decided but not yet versions) hold a split up, new ones
//     of the kind are refused meanwhile. Unprepared locks go to the child, valid if
//     its first leader is on the same node. A commit, prepare, heartbeat or abort
//     of a transaction with such locks must come from a sender who knows of the split.
//
// # What a batch makes visible
//
// Apply writes into a batch that becomes visible later, together with others'.
// Three places take care. Locks and in-flight marks are dropped by the proposal's
// Done, which runs after visibility. A follower, which has no Done, keeps a note
// of versions just written for a transaction that no longer blocks readers, until
// the next batch begins (settling). A split's child may lead before its parent's
// batch is visible; it waits for a witness key of that batch.
//
// # Goroutines
//
// The host calls Apply, Lead, Follow, Capture and Restore from one goroutine at a
// time. Requests run on their callers' goroutines and end with their contexts; a
// proposal outlives its request and is finished by Done. A leader has a timer,
// armed only while there is something to watch, and each place kept in a lock's
// queue has one, for a second; their functions run on the timers' goroutines. There
// is one goroutine per committed large transaction, which ends when its chunks are
// versions or the term ends; and rarely one to release very many locks. Close waits
// for these goroutines.
//
// # Lock order
//
// machine.mu, leader.mu, lockTable.mu and the mutexes of stagedReads are leaves of
// each other but for machine.mu before leader.mu (lookAfter). None is held across
// a wait, a hook or a call of the group: the group calls Assigned under its own
// lock, and that takes none of ours.
package tablet
