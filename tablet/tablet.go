package tablet

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/internal/version"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// Config of a tablet's replica.
type Config struct {
	Group  keys.GroupID
	Node   keys.NodeID // this node
	Clock  truetime.Clock
	Reader storage.Reader
	Logger *slog.Logger // nil: discards
	Hooks  Hooks
	// Version is the cluster's, which says what commands may be proposed; nil: version.V1.
	Version *version.Gate

	// WoundGrace is how long an older transaction waits for a younger one before it
	// wounds it, because holders are often about to commit. 0: the default, 3 ms;
	// negative: none.
	WoundGrace time.Duration
	// ReadInquireAfter is how long a reader waits for a prepared transaction before
	// its coordinator is asked (default 10 ms), and the pause between inquiries
	// about one (default 200 ms) is InquireEvery.
	ReadInquireAfter, InquireEvery time.Duration
	// Patience is how long a commit or prepare waits for an older transaction that
	// is about to end (default 100 ms).
	Patience time.Duration
	// InDoubtAfter is the age from which prepared transactions are reported to
	// Hooks.InDoubt again and again (default 3 s).
	InDoubtAfter time.Duration
	// ClientSilence is how long an unprepared transaction lives without a sign of
	// its gateway (default 5 s).
	ClientSilence time.Duration
	// LockBudget is the number of point locks of one transaction from which they are
	// exchanged for ranges (default 20,000).
	LockBudget int
	// MaxWaiting bounds requests queued for locks (default 10,000).
	MaxWaiting int
	// VersionHorizon is the age below which no version is collected (default 1 h).
	VersionHorizon time.Duration
}

func (c *Config) setDefaults() {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.WoundGrace, 3*time.Millisecond)
	def(&c.ReadInquireAfter, 10*time.Millisecond)
	def(&c.InquireEvery, 200*time.Millisecond)
	def(&c.Patience, 100*time.Millisecond)
	def(&c.InDoubtAfter, 3*time.Second)
	def(&c.ClientSilence, 5*time.Second)
	def(&c.VersionHorizon, time.Hour)
	if c.LockBudget <= 0 {
		c.LockBudget = 20_000
	}
	if c.MaxWaiting <= 0 {
		c.MaxWaiting = 10_000
	}
}

// Hooks are how a tablet asks for what lies above it: settling transactions at
// other tablets, opening a split's child. txn and the node fill them; nil ones
// are left out. None may block; all but SplitApplied may call the tablet from
// another goroutine of theirs.
type Hooks struct {
	// InDoubt hands over prepared transactions that nobody seems to settle: all of
	// them when this replica begins to lead, later those older than
	// Config.InDoubtAfter, about once a second each. Ask the coordinator (abort if
	// undecided), then Tablet.Resolve.
	InDoubt func(t *Tablet, txns []InDoubt)
	// Decided hands over committed transactions whose participants are to be told:
	// right after the decision, again when this replica begins to lead, and every
	// few seconds. Resolve each at its anchor, then Tablet.Forget.
	Decided func(t *Tablet, txns []Decided)
	// Inquire asks for one prepared transaction's outcome because somebody waits: a
	// reader (abort false), or an older transaction that wants to wound it (true).
	Inquire func(t *Tablet, txn InDoubt, abort bool)
	// SplitApplied is called by Apply, on every replica, when the tablet has split:
	// open the child's group before returning. It must not block on I/O.
	SplitApplied func(t *Tablet, s SplitApplied)
}

// InDoubt is a prepared transaction.
type InDoubt struct {
	Txn         keys.TxnID
	Coordinator Anchor             // whom to ask
	Anchor      keys.Key           // ResolveRequest.Key at this tablet
	TS          truetime.Timestamp // prepare timestamp
	Since       time.Time          // when this replica learned of it
}

// Decided is a committed transaction with participants that have not acknowledged.
type Decided struct {
	Txn          keys.TxnID
	TS           truetime.Timestamp
	Participants []Anchor
}

// SplitApplied is what a split leaves for its child (B1).
type SplitApplied struct {
	Parent, Child keys.Descriptor
	State         []byte             // the child's machine state: GroupConfig.Initial
	Holder        keys.NodeID        // who holds the parent's lease, hence the child's: GroupConfig.InheritedHolder
	Floor         truetime.Timestamp // the highest promise known here (R3): GroupConfig.Floor
	// Witness is an engine key that becomes visible together with the last write
	// that the parent applied to the child's keys; Inherit the unprepared locks of
	// the right side when this replica led, else nil. Both are NewChild's business.
	Witness []byte
	Inherit *Inheritance
}

// Tablet is one replica of a tablet: the state machine of its group, and what
// transactions talk to. All methods may be called concurrently, but those of
// paxosgroup.StateMachine, which the host calls one at a time.
type Tablet struct {
	cfg   Config
	m     *machine
	mvcc  mvcc
	stats Stats

	bind   sync.Once
	bound  chan struct{} // closed by Bind
	group  Group
	leader atomic.Pointer[leader]
	wg     sync.WaitGroup // goroutines of leaders

	started atomic.Bool // something has been applied
	// splitting is set from before the descriptor shrinks until SplitApplied has returned.
	splitting atomic.Bool
	opened    bool // Restore has given it the state that it begins with
	inherit   *Inheritance
	witness   atomic.Pointer[[]byte] // until the parent's writes are known to be visible

	// Owned by the applying goroutine: chunks staged in a batch not yet visible.
	chunks map[chunkID][]byte
	// settling is guarded by m.mu, nsettling its length for those without.
	settling  []settling
	nsettling atomic.Int32
	// materialising counts the commits whose chunks began to become versions here.
	materialising atomic.Uint64
	// written counts versions put by a leader's commits since the last collection.
	collecting sync.Mutex // at most one Collect at a time; never contended by requests
}

// New makes a replica. Its state comes by Restore: that of a checkpoint, or
// InitialState. Bind must follow before it can serve.
func New(cfg Config) *Tablet {
	cfg.setDefaults()
	return &Tablet{cfg: cfg, m: newMachine(), mvcc: newMVCC(cfg.Reader), bound: make(chan struct{})}
}

// NewChild makes the replica of a split's child. The node opens its group with
// s.State as initial state.
func NewChild(cfg Config, s SplitApplied) *Tablet {
	t := New(cfg)
	t.inherit = s.Inherit
	w := s.Witness
	t.witness.Store(&w)
	return t
}

// Bind gives the tablet its group, once.
func (t *Tablet) Bind(g Group) {
	t.bind.Do(func() {
		t.group = g
		close(t.bound)
	})
}

func (t *Tablet) isBound() bool {
	select {
	case <-t.bound:
		return true
	default:
		return false
	}
}

// Group returns the tablet's group id.
func (t *Tablet) Group() keys.GroupID { return t.cfg.Group }

// Descriptor returns the tablet's descriptor as this replica has applied it.
func (t *Tablet) Descriptor() keys.Descriptor { return t.m.view.Load().desc }

// Splitting reports whether a split is being applied: Descriptor may not cover the child
// any more while nobody has been told of it yet. Who sees a descriptor, and after that
// Splitting false, knows that the children of all splits before have been handed over.
func (t *Tablet) Splitting() bool { return t.splitting.Load() }

// LowWater returns the low-water mark: reads below it are refused.
func (t *Tablet) LowWater() truetime.Timestamp { return t.m.view.Load().lowWater }

// Highest returns the highest timestamp of any command applied.
func (t *Tablet) Highest() truetime.Timestamp {
	t.m.mu.RLock()
	defer t.m.mu.RUnlock()
	return t.m.now
}

// Close ends leadership's goroutines and waits for them. The group must have
// stopped calling before.
func (t *Tablet) Close() {
	t.Follow()
	t.wg.Wait()
}

// Capture implements paxosgroup.StateMachine.
func (t *Tablet) Capture() []byte {
	t.m.mu.RLock()
	defer t.m.mu.RUnlock()
	return t.m.encode()
}

// Restore implements paxosgroup.StateMachine. A replica that leads does not get
// snapshots.
func (t *Tablet) Restore(state []byte) error {
	n := newMachine()
	if len(state) > 0 {
		if err := n.decode(state); err != nil {
			return fmt.Errorf("tablet: group %d: %w", t.cfg.Group, err)
		}
	}
	if t.opened {
		// A snapshot: another leader has committed since, and did not know the locks
		// that a split's parent had here (X2).
		t.inherit = nil
	}
	t.opened = true
	m := t.m
	m.mu.Lock()
	defer m.mu.Unlock()
	m.prepared, m.decided, m.staged, m.outcomes, m.now = n.prepared, n.decided, n.staged, n.outcomes, n.now
	m.view.Store(n.view.Load())
	t.settling = nil
	t.nsettling.Store(0)
	t.chunks = nil
	return nil
}

// Spans implements paxosgroup.StateMachine: the versions of the tablet's keys and
// its staged chunks.
func (t *Tablet) Spans() [][2][]byte {
	d := t.m.view.Load().desc
	stage := binary.BigEndian.AppendUint64([]byte{byte(storage.ClassStage)}, uint64(t.cfg.Group))
	spans := [][2][]byte{{stage, keys.PrefixEnd(stage)}}
	if len(d.Span.End) > 0 {
		spans = append(spans, [2][]byte{appendDataBound(nil, d.Span.Start), appendDataBound(nil, d.Span.End)})
	}
	return spans
}

// Lead implements paxosgroup.StateMachine. The lock table starts with what is
// replicated: the locks of prepared transactions, and those of committed ones
// whose chunks are not materialised yet (X3).
func (t *Tablet) Lead(lease paxosgroup.Lease) {
	t.Follow()
	l := newLeader(t, lease)
	m := t.m
	if BreakForgetPrepared {
		clear(m.prepared)
	}
	var indoubt []InDoubt
	var decided []Decided
	var unfinished []keys.TxnID
	for id, p := range m.prepared {
		l.lt.restorePrepared(id, p, m.staged[id])
		indoubt = append(indoubt, p.inDoubt(id))
	}
	for id, d := range m.decided {
		decided = append(decided, Decided{Txn: id, TS: d.ts, Participants: d.parts})
	}
	for id, s := range m.staged {
		if s.status == stageCommitted {
			l.lt.restoreCommitted(id, s)
			unfinished = append(unfinished, id)
		}
	}
	if t.inherit != nil {
		// Nothing has been applied since the split, so nothing was committed by a
		// leader that did not honour these locks.
		if !t.started.Load() {
			l.lt.adopt(t.inherit)
		}
		t.inherit = nil
	}
	t.leader.Store(l)
	t.cfg.Logger.Debug("tablet leads", "group", uint64(t.cfg.Group), "term", lease.Term, "prepared", len(indoubt), "decided", len(decided))
	for _, id := range unfinished {
		l.startMaterialise(id)
	}
	if len(indoubt) > 0 && t.cfg.Hooks.InDoubt != nil {
		t.cfg.Hooks.InDoubt(t, indoubt)
	}
	if len(decided) > 0 && t.cfg.Hooks.Decided != nil {
		t.cfg.Hooks.Decided(t, decided)
	}
	l.arm()
}

// Follow implements paxosgroup.StateMachine: unprepared locks are gone, who waits
// for one is sent to the next leader.
func (t *Tablet) Follow() {
	if l := t.leader.Swap(nil); l != nil {
		l.end()
		t.cfg.Logger.Debug("tablet follows", "group", uint64(t.cfg.Group), "term", l.term)
	}
}

// Busy implements paxosgroup.StateMachine: unprepared locks would be lost (X2).
func (t *Tablet) Busy() bool {
	l := t.leader.Load()
	return l != nil && l.lt.anyUnprepared()
}

func (p *preparedTxn) inDoubt(id keys.TxnID) InDoubt {
	return InDoubt{Txn: id, Coordinator: p.coordinator, Anchor: p.anchor, TS: p.ts, Since: p.since}
}

// leading returns the leader state while the lease is valid, else where to go.
func (t *Tablet) leading() (*leader, error) {
	if !t.isBound() {
		return nil, &paxosgroup.NotLeaderError{Group: t.cfg.Group}
	}
	l := t.leader.Load()
	if l == nil {
		n := t.group.Leader()
		if n == t.cfg.Node {
			n = 0 // elected, but not yet leading: not to be recommended
		}
		return nil, &paxosgroup.NotLeaderError{Group: t.cfg.Group, Leader: n}
	}
	if err := t.group.Valid(l.term); err != nil {
		return nil, err
	}
	if t.witness.Load() != nil && !t.parentVisible() {
		return nil, &paxosgroup.NotLeaderError{Group: t.cfg.Group, Leader: t.cfg.Node}
	}
	return l, nil
}

// parentVisible reports whether the writes that a split's parent applied before
// the split can be read: the child may be up before the batch of that split is.
func (t *Tablet) parentVisible() bool {
	w := t.witness.Load()
	if w == nil {
		return true
	}
	if _, ok, err := t.cfg.Reader.Get(*w); err != nil || !ok {
		return false
	}
	t.witness.Store(nil)
	return true
}
