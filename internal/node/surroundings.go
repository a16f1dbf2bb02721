package node

import (
	"context"
	"net"
	"time"

	"github.com/spandb/spand/internal/cells"
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/node/adminpb"
	"github.com/spandb/spand/internal/replicas"
	"github.com/spandb/spand/internal/rpc"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/internal/version"
	"github.com/spandb/spand/lockservice/server"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/tablet/directory"
	"github.com/spandb/spand/truetime"
	"github.com/spandb/spand/txn"
)

// Surroundings are what a node finds around itself. The zero value is the machine's
// own; tests put others in its place, so that what they run is this very assembly.
type Surroundings struct {
	// Clock, if given, is used instead of what --max-clock-error says, and
	// ClockSource is its name for people.
	Clock       truetime.Clock
	ClockSource string
	// FS holds the data directory; nil: the operating system's.
	FS storage.FS
	// SQL accepts clients instead of --sql-addr, RPC peers and clients of the lock service
	// instead of --rpc-addr; with Network the latter only.
	SQL, RPC net.Listener
	// Network makes the way to the peers instead of gRPC; --rpc-addr and --http-addr
	// are then not listened on.
	Network func(NetworkConfig) Network
	// Dial reaches a peer's RPC address instead of TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Exit is told of what the process must not survive (R1, D1) instead of ending it;
	// the node is of no use afterwards, and whoever gave Exit closes it.
	Exit func(error)
	// Opened is called when the node's groups run, before the cluster has answered.
	Opened func(*Node)
	// Tune changes what has no flag.
	Tune Tuning
}

// Tuning changes the rooms' settings before they are opened; nil functions change nothing.
type Tuning struct {
	Storage func(*storage.Options)
	Groups  func(*paxosgroup.Config)
	Txn     func(*txn.Config)
	Tablets func(*tablet.Config)
	SQL     func(*sql.Config)
	// CollectEvery separates collections of old versions; 0: 5 minutes, negative: none.
	CollectEvery time.Duration
}

// tune applies one of Tuning's functions.
func tune[T any](f func(*T), settings *T) {
	if f != nil {
		f(settings)
	}
}

// NetworkConfig is what a node tells its network about itself.
type NetworkConfig struct {
	Self        keys.NodeID
	Incarnation uint64 // above that of every earlier life of this node
	Versions    version.Range
	// Welcome answers a member whose data directory is new, from Listen on.
	Welcome func(context.Context, *adminpb.WelcomeRequest) (*adminpb.WelcomeResponse, error)
}

// Network is a node's way to its peers. Implementations: gRPC (grpc.go), and the
// simulation's.
type Network interface {
	paxosgroup.Transport
	txn.Caller
	HandleCalls(rpc.CallHandler)
	// Listen lets peers ask for a welcome.
	Listen()
	// Welcome asks a member what it knows of this node.
	Welcome(ctx context.Context, to keys.NodeID, req *adminpb.WelcomeRequest) (*adminpb.WelcomeResponse, error)
	// Start opens the way for frames and calls.
	Start() error
	// Close ends all traffic and waits for the handlers of calls.
	Close()
	// SetIncarnation corrects NetworkConfig.Incarnation, before Start.
	SetIncarnation(uint64)
	// Incarnation returns that of the latest life that was met of a peer, 0: none.
	Incarnation(keys.NodeID) uint64
	// Versions returns which versions of the cluster a member's program can run, once known.
	Versions(keys.NodeID) (version.Range, bool)
	Connected(keys.NodeID) bool
	CallsRefused() uint64
}

// Rooms are what a node is made of, for those who run nodes in their own process.
type Rooms struct {
	Clock     *truetime.Adjustable
	Store     *storage.Store
	Host      *paxosgroup.Host
	Replicas  *replicas.Set
	Cells     *cells.Set
	Locks     *server.Server
	Directory *directory.Directory
	Client    *txn.Client
	Engine    *sql.Engine
}

// Rooms returns the node's rooms. They live until the node is closed.
func (n *Node) Rooms() Rooms {
	return Rooms{n.clock, n.store, n.host, n.replicas, n.cells, n.locks, n.dir, n.client, n.engine}
}
