package cell

import (
	"encoding/binary"
	"fmt"
	"hash/crc64"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// Group is what a cell needs of its replica of the group; *paxosgroup.Group is one.
type Group interface {
	Propose(*paxosgroup.Proposal)
	Valid(term uint64) error
	LeaseEnd(term uint64) (truetime.Timestamp, error)
	Tight() bool
	Leader() keys.NodeID
}

// Config of a Cell. Zero values take the default.
type Config struct {
	Name   string // of the cell
	Group  keys.GroupID
	Node   keys.NodeID
	Clock  truetime.Clock
	Reader storage.Reader
	Logger *slog.Logger
	// BusyBeats is the number of beats per second above which leases get longer
	// (default 30,000).
	BusyBeats int
	// MaxWaiting bounds the Acquires that wait (default 100,000).
	MaxWaiting int
	// CellsChanged, if set, is told after a cell was added to the list that Cells
	// returns, on every replica. It is called by Apply and must not block.
	CellsChanged func()
}

// Cell is one replica of a cell: the state machine of its group, and what the server
// talks to. All methods may be called concurrently, but those of
// paxosgroup.StateMachine, which the host calls one at a time.
type Cell struct {
	cfg Config

	bind  sync.Once
	bound atomic.Bool
	group Group

	mu sync.RWMutex // guards st and fresh; see doc.go for the order
	st *state.State
	// fresh are contents whose batch may not be visible yet.
	fresh map[uint64][]byte

	leader atomic.Pointer[leader]
	wg     sync.WaitGroup // goroutines of leaders
}

// New makes a replica. Its state comes by Restore; Bind must follow before it serves.
func New(cfg Config) *Cell {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.BusyBeats <= 0 {
		cfg.BusyBeats = 30_000
	}
	if cfg.MaxWaiting <= 0 {
		cfg.MaxWaiting = 100_000
	}
	return &Cell{cfg: cfg, st: state.New(cfg.Name), fresh: make(map[uint64][]byte)}
}

// Bind gives the cell its group, once.
func (c *Cell) Bind(g Group) {
	c.bind.Do(func() {
		c.group = g
		c.bound.Store(true)
	})
}

// Close ends leadership's goroutines and waits for them. The group must have stopped
// calling before.
func (c *Cell) Close() {
	c.Follow()
	c.wg.Wait()
}

// Name returns the cell's name, Group its group.
func (c *Cell) Name() string        { return c.cfg.Name }
func (c *Cell) Group() keys.GroupID { return c.cfg.Group }

// Cells returns the cells that exist; only the first cell knows them.
func (c *Cell) Cells() []state.Cell {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.st.Cells()
}

// Checksum of the state, equal on replicas that applied the same commands.
func (c *Cell) Checksum() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.st.Checksum()
}

// valueVersion begins every value: the contents follow.
const valueVersion = 1

func (c *Cell) contentsKey(number uint64) []byte {
	k := make([]byte, 0, 17)
	k = append(k, byte(storage.ClassStage))
	k = binary.BigEndian.AppendUint64(k, uint64(c.cfg.Group))
	return binary.BigEndian.AppendUint64(k, number)
}

// batchContents lets a command's contents go to the batch; c.mu is held.
type batchContents struct {
	c *Cell
	b *storage.Batch
}

func (w batchContents) Put(number uint64, contents []byte) {
	v := append(make([]byte, 0, 1+len(contents)), valueVersion)
	v = append(v, contents...)
	w.b.Put(w.c.contentsKey(number), v)
	w.c.fresh[number] = v
}

func (w batchContents) Delete(number uint64) {
	w.b.Delete(w.c.contentsKey(number))
	delete(w.c.fresh, number)
}

// Apply implements paxosgroup.StateMachine.
func (c *Cell) Apply(b *storage.Batch, pc paxosgroup.Command) (any, error) {
	cmd, err := state.DecodeCommand(pc.Data)
	if err != nil {
		return nil, fmt.Errorf("cell %s: %w", c.cfg.Name, err)
	}
	c.mu.Lock()
	if b.Len() == 0 && len(c.fresh) > 0 {
		clear(c.fresh) // the batch that they were in is visible
	}
	res, ch := c.st.Apply(cmd, pc.Index, pc.TS, batchContents{c, b})
	c.mu.Unlock()
	if l := c.leader.Load(); l != nil {
		l.applied(cmd, &res, &ch)
	}
	if len(ch.Cells) > 0 && c.cfg.CellsChanged != nil {
		c.cfg.CellsChanged()
	}
	return &res, nil
}

// Capture implements paxosgroup.StateMachine.
func (c *Cell) Capture() []byte {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.st.Encode()
}

// Restore implements paxosgroup.StateMachine. A replica that leads does not get
// snapshots.
func (c *Cell) Restore(data []byte) error {
	st := state.New(c.cfg.Name)
	if len(data) > 0 {
		var err error
		if st, err = state.Decode(data); err != nil {
			return fmt.Errorf("cell %s: %w", c.cfg.Name, err)
		}
	}
	c.mu.Lock()
	c.st = st
	clear(c.fresh)
	c.mu.Unlock()
	if c.cfg.CellsChanged != nil {
		c.cfg.CellsChanged()
	}
	return nil
}

// Spans implements paxosgroup.StateMachine: the files' contents.
func (c *Cell) Spans() [][2][]byte {
	p := c.contentsKey(0)[:9]
	return [][2][]byte{{p, keys.PrefixEnd(p)}}
}

// Busy implements paxosgroup.StateMachine: those who wait for a lock would have to queue
// anew.
func (c *Cell) Busy() bool {
	l := c.leader.Load()
	return l != nil && l.waiting.Load() > 0
}

// Unhurried implements paxosgroup.Unhurried: everything is asked of the leader.
func (c *Cell) Unhurried() {}

// Promised implements paxosgroup.Promiser (L2).
func (c *Cell) Promised() truetime.Timestamp {
	if l := c.leader.Load(); l != nil {
		return truetime.Timestamp(l.promised.Load())
	}
	return 0
}

// Lead implements paxosgroup.StateMachine.
func (c *Cell) Lead(lease paxosgroup.Lease) {
	c.Follow()
	l := newLeader(c, lease)
	c.cfg.Logger.Debug("cell leads", "cell", c.cfg.Name, "term", lease.Term, "sessions", len(l.sessions))
	c.leader.Store(l)
	l.start()
}

// Follow implements paxosgroup.StateMachine: who waits is sent to the next leader.
func (c *Cell) Follow() {
	if l := c.leader.Swap(nil); l != nil {
		l.end()
		c.cfg.Logger.Debug("cell follows", "cell", c.cfg.Name, "term", l.term)
	}
}

// leading returns the leader state while the lease is valid, else a *NotLeaderError.
func (c *Cell) leading() (*leader, error) {
	if !c.bound.Load() {
		return nil, &NotLeaderError{Cell: c.cfg.Name}
	}
	if l := c.leader.Load(); l != nil && c.group.Valid(l.term) == nil {
		return l, nil
	}
	return nil, c.notLeader()
}

func (c *Cell) notLeader() *NotLeaderError {
	n := c.group.Leader()
	if n == c.cfg.Node {
		n = 0 // elected, but not leading yet: not to be recommended
	}
	return &NotLeaderError{Cell: c.cfg.Name, Leader: n}
}

// Leading returns nil while this replica serves the cell, else a *NotLeaderError.
func (c *Cell) Leading() error {
	_, err := c.leading()
	return err
}

var crcTable = crc64.MakeTable(crc64.ECMA)

// read returns a node and, with contents, what is in it: as of one instant.
func (c *Cell) read(path string, instance uint64, contents bool) (*state.Info, []byte, error) {
	var missed uint64
	for {
		c.mu.RLock()
		info, number, serr := c.st.Info(path, instance)
		var v []byte
		if serr == nil && number != 0 {
			v = c.fresh[number]
		}
		c.mu.RUnlock()
		if serr != nil {
			return nil, nil, serr
		}
		if !contents || number == 0 {
			return info, nil, nil
		}
		if v == nil {
			var ok bool
			var err error
			if v, ok, err = c.cfg.Reader.Get(c.contentsKey(number)); err != nil {
				return nil, nil, fmt.Errorf("cell %s: contents of %s: %w", c.cfg.Name, path, err)
			}
			if !ok && number != missed {
				missed = number // replaced meanwhile: look again
				continue
			}
		}
		if len(v) == 0 || v[0] != valueVersion || crc64.Checksum(v[1:], crcTable) != info.Checksum {
			return nil, nil, refuse("DAMAGED", path, "the contents of %s are damaged on this replica", path) // D1
		}
		return info, v[1:], nil
	}
}
