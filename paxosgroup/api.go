package paxosgroup

import (
	"errors"
	"fmt"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/truetime"
)

// StateMachine is what a group replicates; tablet.Tablet is one, a lock
// service's cell another. The host calls all methods of one StateMachine from
// one goroutine at a time, in log order; they must not block on I/O, on a lock
// that is held across I/O, or on the group itself.
type StateMachine interface {
	// Apply executes one committed command deterministically: its outcome may
	// depend only on the command, on earlier commands and on the machine's state.
	// Writes go to b and become visible, with the index, after Apply returns and
	// before the proposer hears result. An error is fatal to the replica: a
	// command that this version does not know must stop it, never be skipped.
	Apply(b *storage.Batch, c Command) (result any, err error)

	// Lead announces that this replica leads: an entry of its own term has been
	// applied, and no other replica's lease can be valid (R2, R4). Everything the
	// machine promises from now on is under lease.Term.
	Lead(lease Lease)
	// Follow announces that the replica no longer leads. Proposals in flight are
	// answered on their own.
	Follow()
	// Busy reports whether others would suffer if this replica, which leads, followed
	// now: then a hand-over that is only for balance waits for a better moment.
	Busy() bool

	// Capture returns the machine's unversioned state for a checkpoint or a
	// snapshot; Restore puts it back (empty for a group that is new) before the
	// first Apply, or after a snapshot replaced the engine keys in Spans.
	Capture() []byte
	Restore(state []byte) error
	// Spans are the engine key ranges [lower, upper) that belong to the group:
	// what a snapshot carries and what a wiped replica deletes.
	Spans() [][2][]byte
}

// Promiser is implemented by state machines that promise instants without the group's
// knowledge, each below a LeaseEnd taken before and confirmed by a Valid called after the
// promise was noted. The Lease.Floor of whoever leads next covers them, also when the term
// ended before the lease: by a hand-over, or because the replica was deposed, when it may
// be elected again at once.
type Promiser interface {
	// Promised returns the highest instant promised since the last Lead. It is called
	// on the worker once Valid and LeaseEnd refuse, before the Follow of every term
	// led, with the group's mutex held: it must neither wait nor call the group.
	Promised() truetime.Timestamp
}

// Unhurried is implemented by state machines that nobody asks but where they lead. Their followers
// apply an entry when the next one comes or at the next tick, which spares the messages that would
// tell them at once that it is committed: of those that one entry takes, two of four per follower.
type Unhurried interface{ Unhurried() }

// Command is a committed entry as a state machine sees it.
type Command struct {
	Index uint64
	Term  uint64             // the lease under which it was evaluated and applied (R4)
	TS    truetime.Timestamp // the timestamp it was assigned, 0 if none
	Data  []byte             // valid until Apply returns; copy what is kept
}

// Lease is a term of leadership. A replica that leads in Term serves while
// Group.Valid says so; the lease end moves with the node pairs' promises.
type Lease struct {
	Term uint64
	// Floor is the highest timestamp that leaders of earlier terms can have
	// promised (R3).
	Floor truetime.Timestamp
}

// Proposal asks a group to replicate one command. Assigning its timestamp,
// closing timestamps and ordering it in the log are one serial step (R3).
type Proposal struct {
	// Term is the lease under which the command was evaluated. Under any other
	// the proposal fails with ErrNotLeader and is not retried (R4).
	Term uint64
	// Timestamped asks for a timestamp s: s >= Now().Latest, s > every earlier
	// promise of the group, MinTS <= s <= MaxTS (0: no bound), s < lease end.
	// When MaxTS cannot be met the proposal fails with ErrTooLate.
	Timestamped  bool
	MinTS, MaxTS truetime.Timestamp
	// Frees says that the command is small and lets go of what others wait for. It is carried also
	// below the disk's reserve, until the log has no room left but what the store itself needs.
	Frees bool
	// Data is the command. It is retained.
	Data []byte
	// Assigned, if set, is called inside the serial step, before the entry can
	// commit, so that readers above s can find the write in flight. Must be quick.
	Assigned func(s truetime.Timestamp)
	// Done is called exactly once, from the applying goroutine or, when the
	// proposal never entered the log, from any; it must not block. A nil error
	// comes with Apply's result. ErrAmbiguous means that the entry may or may
	// not be in the log.
	Done func(result any, s truetime.Timestamp, err error)
}

var (
	// ErrAmbiguous: leadership was lost with the entry in flight; it may yet commit.
	ErrAmbiguous = errors.New("paxosgroup: leadership lost while the command was in flight")
	// ErrTooLate: no timestamp <= MaxTS was left to assign.
	ErrTooLate = errors.New("paxosgroup: timestamp bound has passed")
	// ErrTooLarge: the command exceeds MaxCommand.
	ErrTooLarge = errors.New("paxosgroup: command too large")
	// ErrDiskFull: the node's store is below its reserve; reads go on, and so do commands that
	// free something, as long as they can.
	ErrDiskFull = errors.New("paxosgroup: no space left above the reserve")
	// ErrOverloaded: the group's budget of commands in flight is used up.
	ErrOverloaded = errors.New("paxosgroup: too many commands in flight")
	// ErrStopped: the host is shutting down or the replica was removed.
	ErrStopped = errors.New("paxosgroup: stopped")
)

// MaxCommand is the largest command in bytes (design: no entry exceeds 1 MiB).
const MaxCommand = 1 << 20

// NotLeaderError says that this replica does not hold the lease, and who
// probably does (0: unknown).
type NotLeaderError struct {
	Group  keys.GroupID
	Leader keys.NodeID
}

func (e *NotLeaderError) Error() string {
	return fmt.Sprintf("paxosgroup: not the leader of group %d (leader: node %d)", e.Group, e.Leader)
}

// Transport carries messages between hosts. Send is best effort, never blocks
// and may drop, delay or reorder between distinct calls; frames are opaque,
// versioned bytes. The real one lives in internal/rpc, the in-memory twin in
// paxosgroup/memtransport.go.
type Transport interface {
	// Send queues frame for node to. Class keeps lease heartbeats ahead of bulk.
	Send(to keys.NodeID, class Class, frame []byte)
	// Handle registers who takes what the other hosts send.
	Handle(Receiver)
}

// Receiver takes the frames that a Transport brings, one at a time of each peer and class, and
// retains none.
type Receiver interface {
	// Receive may block to exert backpressure.
	Receive(from keys.NodeID, class Class, frame []byte)
	// Collect is Receive for a frame of ClassRaft, and does not block, but leaves undone what the
	// frame asks for. Its caller must call Work afterwards, whatever else happens, and must not
	// wait for anything before. Transports that know that more frames are at hand collect them all
	// before that.
	Collect(from keys.NodeID, class Class, frame []byte)
	// Work does what was collected, or has others do it. It may wait for the disk as long as
	// that takes, so its caller must have others bring the frames that come meanwhile. Any
	// number of goroutines may be in it: all but one return at once.
	Work()
}

// Class of a frame: an own queue, and an own way to the peer (internal/rpc), each.
type Class uint8

const (
	ClassHeartbeat Class = iota // leases, closed timestamps, quiescence
	ClassRaft
	ClassSnapshot
)
