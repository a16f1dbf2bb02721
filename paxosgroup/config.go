package paxosgroup

import (
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/truetime"
)

// Store is what the host needs of the node's storage; *storage.Store is one.
type Store interface {
	storage.Reader
	// Append makes records durable, in order, and calls done from one goroutine at a
	// time, in order. It does not wait for I/O and retains recs.
	Append(recs []storage.GroupRecord, done func(error))
	// Queue is Append for a caller who calls WriteQueued soon afterwards, which may write
	// on his goroutine: then it calls begun first, and until it returns all callbacks run
	// on that goroutine.
	Queue(recs []storage.GroupRecord, done func(error))
	WriteQueued(begun func())
	// Apply makes a batch visible together with its applied index.
	Apply(b *storage.Batch) error
	// Space says what may be let in, by what is free on the disk.
	Space() storage.Space

	// BeginInstall marks g's data incomplete, durably, and wipes spans; until
	// FinishInstall a restart finds the marker, and the replica's term and vote.
	BeginInstall(g keys.GroupID, r keys.ReplicaID, spans [][2][]byte) error
	// InstallChunk adds engine keys and values.
	InstallChunk(g keys.GroupID, kvs []storage.KV) error
	// FinishInstall replaces what the store knows of g by state, forgets its log
	// entries and removes the marker, durably.
	FinishInstall(g keys.GroupID, state storage.GroupState) error
}

// Config of a Host. Durations of zero take the default.
type Config struct {
	Node      keys.NodeID
	Cluster   [16]byte      // identity of the cluster; frames of another are dropped
	Nodes     []keys.NodeID // all members, this node included
	Clock     truetime.Clock
	Store     Store
	Transport Transport // nil only when Nodes has no other node
	Logger    *slog.Logger
	// Name tells a node's name, for people; nil: "node 1".
	Name func(keys.NodeID) string

	// Incarnation grows with every start of the node; 0 takes Clock's Latest.
	Incarnation uint64
	// FirstLife says that the node has never run before, so that there are no promises
	// that it could have forgotten: its replicas vote at once.
	FirstLife bool
	// LeaseDuration is how long a promise binds (default 1.5 s). It bounds both how
	// long a dead leader is waited for and how long a restarted node abstains.
	// Leases hold while it exceeds 2ε of leader and follower each plus a
	// heartbeat's interval and delay; with less the group does not serve.
	LeaseDuration time.Duration
	// SoloLease is the lease of groups of one replica (default 300 ms), which nobody
	// else can take: it need only exceed 2ε. After a restart the group's first
	// timestamps lie this far ahead.
	SoloLease         time.Duration
	HeartbeatInterval time.Duration // of node pairs (default 150 ms)
	TickInterval      time.Duration // of active groups (default 100 ms)
	// ElectionTicks without word from a quorum make a leader step down (default 10).
	ElectionTicks int
	// CampaignInterval separates attempts to be elected; each adds a random part
	// of its own length (default 300 ms).
	CampaignInterval time.Duration
	// CampaignJitter spreads the first attempts after a leader's death (default 100 ms).
	CampaignJitter time.Duration
	// BalanceInterval separates looks for groups to hand to their preferred node
	// (default 3 s); negative: never.
	BalanceInterval time.Duration
	// BalancePatience is how long such a hand-over is put off for a machine that is
	// busy whenever it is looked at (default 30 s).
	BalancePatience time.Duration
	// Tolerance beyond Now().Latest of timestamps in received entries (T2; default 2 s).
	Tolerance time.Duration
	// SnapshotTimeout without progress aborts a snapshot (default 30 s: a
	// receiver's checkpoint may be in the way).
	SnapshotTimeout time.Duration
	// GroupBudget bounds the bytes of commands queued and in flight per group
	// (default 16 MiB).
	GroupBudget int
	// TailBudget bounds the bytes of applied entries that all groups together keep in
	// memory for replicas that lag or are down (default 64 MiB). One that falls behind
	// what is kept gets a snapshot.
	TailBudget int
	Workers    int // default 4
	// Rand yields the jitter; nil seeds one from the node's id and incarnation.
	Rand *rand.Rand

	// ClockSuspect is told of a peer whose interval cannot agree with ours (T2);
	// at most one call per ping. May be nil.
	ClockSuspect func(error)
	// ClockOutvoted is told, with a *truetime.OutvotedError, that the clock disagrees with
	// those of a majority of Nodes, so that it must vouch for nothing any more: whoever
	// owns the clock sees to that, else the call is repeated. May be nil.
	ClockOutvoted func(error)
	// GroupFailed is told when a replica stopped itself. May be nil.
	GroupFailed func(keys.GroupID, error)
	// UnknownGroup is told, at most once a second per group, of messages for a
	// replica that is not open here. May be nil. Must not block.
	UnknownGroup func(g keys.GroupID, r keys.ReplicaID, from keys.NodeID)
}

// MaxClockError is the largest ε with which a cluster of that many nodes serves under
// the default leases, with a margin for heartbeats: a lease is worth its duration less 2ε
// of each of two nodes, or less 2ε for a single one.
func MaxClockError(nodes int) time.Duration {
	if nodes == 1 {
		return 100 * time.Millisecond
	}
	return 250 * time.Millisecond
}

func (c *Config) setDefaults() error {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.LeaseDuration, 1500*time.Millisecond)
	def(&c.SoloLease, 300*time.Millisecond)
	def(&c.HeartbeatInterval, 150*time.Millisecond)
	def(&c.TickInterval, 100*time.Millisecond)
	def(&c.CampaignInterval, 300*time.Millisecond)
	def(&c.CampaignJitter, 100*time.Millisecond)
	def(&c.BalanceInterval, 3*time.Second)
	def(&c.BalancePatience, 30*time.Second)
	def(&c.Tolerance, 2*time.Second)
	def(&c.SnapshotTimeout, 30*time.Second)
	if BreakReceived {
		c.Tolerance = 1 << 61
	}
	if c.ElectionTicks == 0 {
		c.ElectionTicks = 10
	}
	if c.GroupBudget == 0 {
		c.GroupBudget = 16 << 20
	}
	if c.TailBudget == 0 {
		c.TailBudget = 64 << 20
	}
	if c.Workers == 0 {
		c.Workers = 4
	}
	switch {
	case c.Node == 0:
		return errors.New("paxosgroup: node id 0")
	case c.Clock == nil || c.Store == nil || c.Logger == nil:
		return errors.New("paxosgroup: Clock, Store and Logger are required")
	case c.LeaseDuration < 3*c.HeartbeatInterval:
		return fmt.Errorf("paxosgroup: a lease of %v needs heartbeats more often than every %v", c.LeaseDuration, c.HeartbeatInterval)
	case c.ElectionTicks < 2 || c.Workers < 1 || c.GroupBudget < 0 || c.TailBudget < 0 || c.TickInterval <= 0 || c.CampaignInterval <= 0:
		return errors.New("paxosgroup: ElectionTicks, Workers, a budget or an interval is out of range")
	}
	self := false
	for _, n := range c.Nodes {
		self = self || n == c.Node
	}
	if !self {
		return fmt.Errorf("paxosgroup: node %d is not among the members %v", c.Node, c.Nodes)
	}
	if len(c.Nodes) > 1 && c.Transport == nil {
		return errors.New("paxosgroup: several nodes and no transport")
	}
	if c.Incarnation == 0 {
		now := c.Clock.Now()
		if now.Latest == truetime.Max {
			return fmt.Errorf("paxosgroup: cannot start on a clock that does not vouch for the time: %w", c.Clock.Err())
		}
		c.Incarnation = uint64(now.Latest)
	}
	if c.Rand == nil {
		c.Rand = rand.New(rand.NewPCG(uint64(c.Node), c.Incarnation))
	}
	return nil
}

func clusterHash(id [16]byte) uint64 {
	h := fnv.New64a()
	h.Write(id[:])
	return h.Sum64()
}

// GroupConfig opens one replica.
type GroupConfig struct {
	ID       keys.GroupID
	Replica  keys.ReplicaID
	Replicas []keys.Replica // the voters at the start
	Machine  StateMachine
	// Recovered is what storage.Open found of the group, nil for one that is new on
	// this node.
	Recovered *storage.Recovered
	// Initial is the machine's state where no checkpoint has one: bootstrap, or
	// what the parent of a split hands down.
	Initial []byte
	// Incomplete opens a replica whose data is missing or half received: it
	// neither votes nor applies until a leader's snapshot has arrived.
	Incomplete bool

	// InheritedHolder and InheritedUntil bind a split's child to its parent's lease:
	// until then (the parent's PromisedUntil on this node), and as long as this node's
	// promise to the holder lasts, only the holder may be elected (B1); a holder
	// that cannot lead the child waives the second. Floor is a timestamp that the parent's
	// leaders may have promised.
	InheritedHolder keys.NodeID
	InheritedUntil  truetime.Timestamp
	Floor           truetime.Timestamp
	// Preferred is where leadership settles; 0: wherever it is.
	Preferred keys.NodeID
}

// Every group starts from this virtual snapshot, so that all replicas construct
// the same beginning without exchanging a word.
const (
	startIndex = 10
	startTerm  = 5
)
