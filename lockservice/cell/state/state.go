package state

import (
	"github.com/spandb/spand/truetime"
	"github.com/tidwall/btree"
)

// FirstCell exists from the start and knows the others.
const FirstCell = "local"

// What a cell is bounded by, beside the quotas of its directories.
const (
	MaxContents    = 256 << 10 // bytes of a file
	MaxClient      = 256       // bytes of a session's name for people
	MaxSessions    = 1_000_000
	MaxLeaseFactor = 60
)

// Lease times and lock-delays, nanoseconds.
const (
	MinTTL       = int64(1e9)
	DefaultTTL   = int64(12e9)
	MaxTTL       = int64(60e9)
	MaxLockDelay = int64(60e9)
)

// State is the replicated state of one cell. Reads may run side by side, Apply only alone.
type State struct {
	cell string
	root string // "/ls/<cell>"

	index    uint64             // of the last command applied
	at       truetime.Timestamp // highest of a command applied
	revision uint64             // of the last change; every event and every changed node has its own
	// Counters, each the last number drawn. None is ever set back, so that nothing of what they number
	// is mistaken for something of the same name in the past.
	instances   uint64
	contents    uint64 // keys of Contents
	generations uint64 // of locks
	holdNumbers uint64

	leaseFactor uint32

	nodes    map[string]*node // by path
	rootNode *node
	aclNode  *node // <root>/acl, the directory of the ACL files
	sessions btree.Map[SessionID, *session]
	departed departed
	locks    btree.Map[string, *lock] // by path, if held or delayed
	delays   delays                   // when delays pass; may name locks whose delay is another now
	held     int                      // holds
	events   eventLog
	history  history
	cells    btree.Map[string, Cell]
}

// New returns the state of a cell that is new: its root directory, and in it the
// directory of the ACL files.
func New(cell string) *State {
	s := empty(cell)
	s.revision = 1
	s.leaseFactor = 1
	s.rootNode = s.attach(nil, s.root, &node{acl: &ACL{}, dir: &directory{}})
	s.aclNode = s.attach(s.rootNode, s.root+"/acl", &node{acl: s.rootNode.acl, dir: &directory{}})
	return s
}

func empty(cell string) *State {
	s := &State{cell: cell, root: "/ls/" + cell, nodes: make(map[string]*node)}
	s.events.last = make(map[string]uint64)
	s.departed.ids = make(map[SessionID]struct{})
	return s
}

// attach numbers a node and puts it into the tree. The caller has charged the quotas.
func (s *State) attach(parent *node, path string, n *node) *node {
	s.instances++
	n.path, n.parent, n.instance, n.aclGen = path, parent, s.instances, 1
	n.revision, n.forgotten = s.revision, s.events.forgotten
	s.link(n)
	if parent != nil {
		s.charge(parent, 0, 1)
	}
	return n
}

// change is one command on its way through the state.
type change struct {
	*State
	c     *Command
	ts    truetime.Timestamp
	blobs Contents
	res   Result
	out   Changes
}
