// Package paxosgroup replicates state machines: many Raft groups per node, on
// one log per node (internal/storage), with leader leases per pair of nodes,
// closed timestamps, quiescence of idle groups, graceful hand-over and streamed
// snapshots. The name is the Spanner paper's; the protocol is Raft
// (go.etcd.io/raft/v3, which nothing else imports).
//
// A Host runs a node's groups. A Group is one replica; a StateMachine is what it
// replicates (a tablet, a lock service's cell). A Transport carries opaque
// frames between hosts.
//
// # Invariants
//
//   - R1: an entry is acknowledged after it is durable on a majority. Raft's
//     storage responses leave only from the callbacks of Store.Append and Queue; a record that
//     only moves the commit index asks for no sync, and whatever waits behind it
//     waits for the records before it.
//   - R2: at most one replica of a group holds the lease at an instant. See
//     lease.go, where the argument stands.
//   - R3: timestamps only grow. Assigning one, promising one and closing one
//     happen under Group.mu, over one floor; each lies below the lease end, and a
//     new leader's floor is Now().Latest at least, which is above all earlier
//     lease ends, and above every timestamp in the log, a hand-over's floor among
//     them. A group of one replica, which restarts without waiting, begins
//     SoloLease above its start.
//   - R4: an entry carries the term in which it was evaluated and is applied in
//     that term only, and not behind that term's release entry. Nothing is
//     proposed again; proposals are not forwarded. Lead is called after an entry
//     of the own term is applied and the lease is valid.
//   - T1, T2: a clock that does not vouch makes no promise, counts none and
//     casts no vote. Pongs show whether two clocks can both be right, and a node that a
//     majority contradicts is told so (clocks.go); entries and closed timestamps far
//     ahead of the own clock are refused.
//   - B1: a split's child is bound to its parent's lease holder from birth.
//   - An [Unhurried] machine's followers are told of commits late. To Raft these are messages that
//     the network delays: it asks nothing of them, and every later one says as much.
//   - W1: a group that is queued is never left with nobody to come for it (scheduler.go), nor is what
//     a transport has collected (Receiver).
//   - X4: a closed timestamp is used by a follower once it has applied the index
//     that came with it, in the term that it came in.
//
// # Fail-over
//
// Followers are not ticked: a follower campaigns when its promise to the
// leader's node has ended. So with LeaseDuration D, after the leader's node died
//
//	D + 2ε + CampaignJitter + one election (two round trips, two syncs)
//
// bounds the time until another serves, plus at most 2 CampaignInterval for each
// time that two candidates divided the votes. With the defaults that is 1.6 s,
// seldom more than 2.3 s. A restarted node neither votes nor campaigns for D
// after its start, so a cluster that was down altogether serves again after D.
// A hand-over (Transfer, Drain) waits for none of this.
//
// When clocks lie beyond ε: two leases may overlap by as much, so a read at one
// leader may miss the latest commits of the other; what is committed, and the
// agreement of replicas, never depend on clocks.
//
// # Goroutines
//
//   - Host.work, Config.Workers of them: all of Raft and of the state machines.
//     A group is with one worker at a time (Group.sched). One that has let go of its groups may
//     write the log and wait for the disk (Store.WriteQueued): one at a time, and never the only
//     one. They end when the scheduler is closed by Host.Close.
//   - One of the transport's at a time, in Receiver.Work: a helper, which does what a worker does, for
//     a few rounds, while no worker is at it (helper.go). It may wait for the disk as well.
//   - Host.run: ticks, heartbeats, ends of promises. Ends when Host.quit closes.
//   - sender.run, at most maxSenders: one per snapshot being sent. Ends with its
//     transfer, its leadership, or Host.quit.
//   - The transport's: Host.receive, and in it the installation of snapshots. The
//     store's, or a worker or helper that writes: the callbacks of Store.Append and Queue, which
//     only put the acknowledgement into an inbox and the group into the scheduler's queue.
//
// Host.Close waits for its own and for the helper, and so for a write and sync of the log that one
// of them has begun; transport and store are their owners' to stop, the store after the host.
//
// # Locks
//
// Group.mu, then Host.mu (the census of groups), or peer.mu; Host.mu and peer.mu
// are never held together. inbox.mu, Host.groups, Host.peers and the scheduler's
// mutex are leaves. Nothing waits for I/O, a timer or another goroutine with any
// of them held. Fields in Group.w belong to the worker, or helper, and have no lock.
// Host.installs.turn comes before all of them: a semaphore, which the receiver of
// a snapshot's frame holds across I/O and while it waits for the group's worker.
//
// Proposal.Assigned is called under Group.mu: a lock that it takes must never be
// held while calling the group.
//
// # Memory
//
// Per group: commands queued and in flight (Config.GroupBudget), and entries not
// applied yet, of which the flow to a follower is bounded. For all groups together:
// what is applied and kept in the tails of the log (Config.TailBudget, exceeded by what
// is written in one tick). A replica that lags or was down catches up from there,
// also after checkpoints; a group whose replicas all have everything keeps
// 4 MiB at most, and nothing when others need the room. A replica that is behind its
// leader's tail gets a snapshot. See retain.go.
package paxosgroup
