package txn

import (
	"context"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// Participant is one tablet's replica as a transaction sees it. *tablet.Tablet
// is the local twin (a function call, no encoding), rpcParticipant the remote
// one. Errors are those of packages tablet and paxosgroup, the same from both.
type Participant interface {
	Read(context.Context, *tablet.ReadRequest) (*tablet.ReadResponse, error)
	Commit(context.Context, *tablet.CommitRequest) (*tablet.CommitResponse, error)
	Prepare(context.Context, *tablet.PrepareRequest) (*tablet.PrepareResponse, error)
	Decide(context.Context, *tablet.DecideRequest) (*tablet.CommitResponse, error)
	Inquire(context.Context, *tablet.InquireRequest) (tablet.Outcome, error)
	Resolve(context.Context, *tablet.ResolveRequest) error
	Abort(context.Context, *tablet.AbortRequest) error
	Stage(context.Context, *tablet.StageRequest) (*tablet.StageResponse, error)
	Heartbeat(context.Context, *tablet.HeartbeatRequest) (*tablet.HeartbeatResponse, error)
	Split(context.Context, *tablet.SplitRequest) (*tablet.SplitResponse, error)
}

// Router finds tablets. tablet/directory's cache is one.
type Router interface {
	// Lookup returns the descriptor of the tablet that holds key, from the cache
	// where it can.
	Lookup(ctx context.Context, key keys.Key) (keys.Descriptor, error)
	// LookupBefore returns the descriptor of the tablet that holds the greatest
	// keys below key: where a backward scan from key begins.
	LookupBefore(ctx context.Context, key keys.Key) (keys.Descriptor, error)
	// Update learns newer descriptors from a RangeError; older generations are ignored.
	Update(...keys.Descriptor)
	// Evict drops what is cached for key.
	Evict(key keys.Key)
}

// Dialer reaches a tablet's replica on a node: the local tablet when node is
// this one.
type Dialer interface {
	Participant(node keys.NodeID, group keys.GroupID) (Participant, error)
	// Leader guesses who leads group, 0 when unknown; Learned corrects it, 0 forgets.
	Leader(group keys.GroupID) keys.NodeID
	Learned(group keys.GroupID, leader keys.NodeID)
}

// CommitResult of a transaction.
type CommitResult struct {
	TS           truetime.Timestamp
	Participants int
	// Epsilon of the clock that chose TS, when it did; 0 when the answer was lost and
	// the outcome learnt by asking.
	Epsilon time.Duration
	// Gross is the time from the choice of TS until After(TS), the way of a remote
	// leader's answer not counted; Net what of it was left when replication was done.
	Gross, Net time.Duration
	// Asking is how long AskBound's bounds took.
	Asking time.Duration
}
