package state

import (
	"github.com/spandb/spand/truetime"
)

// SessionID names a session; never 0 and never used again within the events that the cell
// remembers.
type SessionID uint64

// HandleID is the client's number of a handle, unique within its session.
type HandleID uint64

// Mode of a hold.
type Mode uint8

const (
	Exclusive Mode = 1
	Shared    Mode = 2
)

// Kind of a command.
type Kind uint8

const (
	CreateSession Kind = iota + 1
	EndSession         // Cause says why
	Open               // creates a node, or holds an ephemeral one open
	Close              // gives up an ephemeral node held open, and the handle's hold
	SetContents
	Delete
	SetACL
	SetQuota
	Release // ends a hold (none if it is not there), then grants Grants
	Grant   // grants Grants
	SetCell // in the first cell: a cell that exists from now on
	SetLeaseFactor
)

// Command is one replicated change. Which fields matter depends on Kind; the codec in
// codec.go keeps the others out of the log.
type Command struct {
	Kind      Kind
	Session   SessionID
	Handle    HandleID
	Path      string
	Instance  uint64 // 0: whatever node is there
	Request   uint64 // repeated requests of a session take effect once; 0: not numbered
	Answered  uint64 // requests of the session below this are forgotten
	Principal string // who asks, for access control

	Client       string     // CreateSession
	TTL          int64      // CreateSession, nanoseconds
	Caches       bool       // CreateSession
	Cause        Cause      // EndSession, Release
	Create       CreateMode // Open; SetContents: IfAbsent or none
	Dir          bool       // Open
	Ephemeral    bool       // Open
	Contents     []byte     // Open, SetContents
	IfGeneration *uint64    // SetContents (0: only if there is no file, with Create), Delete
	ACL          *ACL       // Open (nil: inherit), SetACL
	Quota        Quota      // SetQuota
	Attempt      uint64     // Release: acquires of the handle up to this one are cancelled
	// Hold, if not 0, has Release end this hold only, and only if no later acquire than Attempt was
	// answered with it; no acquire is cancelled. A Delete is refused unless the node's lock has it.
	Hold uint64
	// Probe has a SetContents, Delete or SetACL do nothing but be refused: what would be carried
	// out is left alone, and Result.Spared set.
	Probe       bool
	Cell        Cell   // SetCell
	LeaseFactor uint32 // SetLeaseFactor, 1 to MaxLeaseFactor

	// Grants, in the queue's order: each is carried out if the lock admits it at this
	// point and neither delay nor cancellation stands against it, else skipped.
	Grants []GrantTo
}

// GrantTo is one waiter to be given a lock.
type GrantTo struct {
	Session  SessionID
	Handle   HandleID
	Path     string
	Instance uint64
	Mode     Mode
	Attempt  uint64
	Delay    int64 // lock-delay after an unclean loss, nanoseconds
}

// Cause of a hold's or session's end.
type Cause uint8

const (
	Released Cause = iota + 1 // by its holder
	Closed                    // the session or the handle was closed
	Expired                   // the session's lease ran out: unclean, lock-delay applies
	Deleted                   // the node is gone
)

func (c Cause) String() string {
	switch c {
	case Released:
		return "released"
	case Closed:
		return "closed"
	case Expired:
		return "expired"
	case Deleted:
		return "deleted"
	}
	return "unknown"
}

// CreateMode says what Open does about a node that is not there.
type CreateMode uint8

const (
	CreateNone CreateMode = iota
	CreateIfAbsent
	CreateExclusive // and refuses one that is there
)

// ACL names the files under acl/ that list who may.
type ACL struct{ Read, Write, Change string }

// Quota bounds a directory with all below it, or says what is used; 0: no bound.
type Quota struct{ Bytes, Nodes uint64 }

// Cell is a cell that exists, by its group.
type Cell struct {
	Name     string
	Group    uint64
	Replicas []Replica // same order everywhere
}

// Replica of a cell.
type Replica struct{ Node, ID uint64 }

// Result of a command.
type Result struct {
	Err     *Error
	Node    *Info     // Open, SetContents, SetACL, SetQuota: after the command
	Created bool      // Open
	Session *Session  // CreateSession: as it is now
	Ended   bool      // Release, EndSession: there was one
	Spared  bool      // of a Probe: it would have been carried out
	Grants  []Granted // one for each of Command.Grants
}

// Granted answers a GrantTo: a hold, the same one again when the handle held it in that
// mode already, or why not.
type Granted struct {
	Hold    Hold
	Already bool
	Err     *Error
}

// Info describes a node: what Stat shows. Immutable.
type Info struct {
	Path                                  string
	Dir, Ephemeral                        bool
	Instance, ContentGen, LockGen, ACLGen uint64
	Length                                uint64
	Checksum                              uint64
	Children                              uint32
	ACL                                   ACL
	Revision                              uint64
	Modified                              truetime.Timestamp
	Quota, Used                           Quota
}

// Hold is a lock held. Immutable.
type Hold struct {
	Path       string
	Instance   uint64
	Session    SessionID
	Handle     HandleID
	Mode       Mode
	Generation uint64
	Number     uint64 // distinguishes holds of one cell
	Attempt    uint64 // the highest that was answered with this hold
	Delay      int64
	Since      truetime.Timestamp
}

// Lock is a lock that is held or delayed.
type Lock struct {
	Path         string
	Holds        []Hold             // by session and handle
	DelayedUntil truetime.Timestamp // 0: not delayed
}

// Ended is a hold that has ended.
type Ended struct {
	Hold
	Entry  uint64 // grows with every hold that ends in the cell
	Client string // of the session
	Until  truetime.Timestamp
	Cause  Cause
}

// Right to a node.
type Right uint8

const (
	Read   Right = iota + 1
	Write        // also to take its lock, in whatever mode (OSDI'06 2.4), and to create below it
	Change       // of its ACL and quota
)

// Session is an open session. Immutable.
type Session struct {
	ID                SessionID
	Client            string
	Principal         string
	TTL               int64
	Caches            bool
	Created           truetime.Timestamp
	Locks, Ephemerals uint32 // holds, ephemeral nodes held open
}

// EventKind is lock.proto's. Those that only a leader knows of are not here.
type EventKind uint8

const (
	ContentsChanged EventKind = 1
	ChildAdded      EventKind = 2
	ChildRemoved    EventKind = 3
	ChildModified   EventKind = 4
	HandleInvalid   EventKind = 6
	LockAcquired    EventKind = 7
)

// OfContents reports whether events of this kind tell of what takes the Read right to see: a file's contents, a
// directory's children. That a node is gone, or its lock held, anybody may ask.
func (k EventKind) OfContents() bool { return k == ContentsChanged || k.ofChild() }

// Event is a change that the cell remembers for subscribers. Immutable.
type Event struct {
	Revision   uint64 // no other event has it
	Kind       EventKind
	Path       string // of the node whose subscribers hear of it
	Child      string // name, of Child events
	Instance   uint64 // of the node at Path
	Generation uint64 // of the contents (for Child events, the child's) or of the lock
	// Readers is the file that listed who might read the node (ACL.Read), "" everybody: of events that only
	// they may hear of.
	Readers string
}

// Changes are what a command did, for whoever serves the cell: events to deliver, locks
// that may now be granted, sessions that ended.
type Changes struct {
	Events []Event
	Freed  []string // paths whose lock lost a hold, or whose node went
	Ended  []SessionID
	Cells  []Cell // new ones
}

// Contents stores files' contents. Keys are never used twice: Put may be repeated, and
// what was deleted is not asked for again once the log has been replayed. Put must copy
// what it keeps.
type Contents interface {
	Put(number uint64, contents []byte)
	Delete(number uint64)
}
