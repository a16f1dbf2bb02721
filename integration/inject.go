package integration

import (
	"regexp"
	"slices"
	"sync"

	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/tablet"
)

// Failure is what [Cluster.Inject] makes happen: a [Fault] or a [LoseCommit].
type Failure interface{ injection() *Injection }

// Fault fails statements.
type Fault struct {
	// Match chooses statements by their text, without parameters' values; nil: all. It is
	// called by many sessions at once. See [SQL].
	Match func(statement string) bool
	// Times is how many statements fail; 0: one, negative: all until Remove.
	Times int
	// Code is the SQLSTATE, "40001" by default. That one is in every respect what a lost
	// conflict is: the transaction has failed, its locks are gone, nothing of it is
	// left, and message and hint are the usual ones. (A real conflict in the first statement
	// of a transaction is mostly not seen: the server tries again by itself.)
	Code string
	// Message for another code.
	Message string
	// Nodes at which to fail; nil: all.
	Nodes []int
}

// LoseCommit breaks the connection of a client that commits, instead of an answer: the
// client cannot know the outcome, and either is possible.
type LoseCommit struct {
	// Match chooses transactions by the text of any of their statements, a single one
	// outside of a block included; nil: all that may have written.
	Match func(statement string) bool
	// Times is how many commits are lost; 0: one, negative: all until Remove.
	Times int
	// Committed says whether the transaction commits before the connection breaks, or
	// is rolled back.
	Committed bool
	// Nodes at which to lose; nil: all.
	Nodes []int
}

// SQL returns a Match: statements that a regular expression finds, in either case.
func SQL(pattern string) func(statement string) bool {
	return regexp.MustCompile("(?is)" + pattern).MatchString
}

// Injection is a Failure that was injected.
type Injection struct {
	match     func(string) bool
	nodes     []int
	commit    bool // at a commit, else at a statement
	committed bool
	err       error

	in   *injector
	hits int // under in.mu
	left int // negative: for ever
}

func (f Fault) injection() *Injection {
	x := &Injection{match: f.Match, nodes: f.Nodes, left: f.Times}
	switch f.Code {
	case "", string(sqlstate.SerializationFailure):
		x.err = &tablet.AbortedError{Reason: tablet.AbortWounded}
	default:
		x.err = &sqlstate.Error{Code: sqlstate.Code(f.Code), Message: f.Message}
	}
	return x
}

func (f LoseCommit) injection() *Injection {
	return &Injection{match: f.Match, nodes: f.Nodes, left: f.Times, commit: true, committed: f.Committed, err: sql.ErrConnectionLost}
}

// Inject makes statements or commits fail from now on, on connections that stand too.
// Of several injections that match, the oldest strikes. Not in mode Processes.
func (c *Cluster) Inject(f Failure) *Injection {
	c.t.Helper()
	if c.mode == Processes {
		c.check(errElsewhere, "Inject")
	}
	x := f.injection()
	if x.left == 0 {
		x.left = 1
	}
	x.in = &c.injector
	c.checkNodes(x.nodes...)
	x.in.mu.Lock()
	defer x.in.mu.Unlock()
	x.in.all = append(x.in.all, x)
	return x
}

// Hits returns how often it has struck.
func (x *Injection) Hits() int {
	x.in.mu.Lock()
	defer x.in.mu.Unlock()
	return x.hits
}

// Remove ends it.
func (x *Injection) Remove() {
	x.in.mu.Lock()
	defer x.in.mu.Unlock()
	x.in.all = slices.DeleteFunc(x.in.all, func(o *Injection) bool { return o == x })
}

// injector is what is injected into a cluster.
type injector struct {
	mu  sync.Mutex // guards all below; not held while a Match runs
	all []*Injection
}

func (in *injector) at(node int) sql.Faults { return injectorAt{in, node} }

// injectorAt implements sql.Faults for a node.
type injectorAt struct {
	in   *injector
	node int
}

// NewSession implements sql.Faults.
func (a injectorAt) NewSession() sql.SessionFaults { return &faultySession{injectorAt: a} }

// faultySession implements sql.SessionFaults.
type faultySession struct {
	injectorAt
	armed []*Injection // LoseCommits that a statement of the transaction has matched
}

// present returns the injections at this node, of one kind.
func (s *faultySession) present(commit bool) (out []*Injection) {
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	for _, x := range s.in.all {
		if x.commit == commit && (x.nodes == nil || slices.Contains(x.nodes, s.node)) {
			out = append(out, x)
		}
	}
	return out
}

// strike uses x up by one; false: it is over.
func (x *Injection) strike() bool {
	x.in.mu.Lock()
	defer x.in.mu.Unlock()
	if !slices.Contains(x.in.all, x) {
		return false
	}
	x.hits++
	if x.left--; x.left == 0 {
		x.in.all = slices.DeleteFunc(x.in.all, func(o *Injection) bool { return o == x })
	}
	return true
}

func (x *Injection) matches(query string) bool { return x.match == nil || x.match(query) }

// Statement implements sql.SessionFaults.
func (s *faultySession) Statement(query string, first bool) error {
	if first {
		s.armed = s.armed[:0]
	}
	for _, x := range s.present(true) {
		if x.matches(query) && !slices.Contains(s.armed, x) {
			s.armed = append(s.armed, x)
		}
	}
	for _, x := range s.present(false) {
		if x.matches(query) && x.strike() {
			return x.err
		}
	}
	return nil
}

// Commit implements sql.SessionFaults.
func (s *faultySession) Commit(done bool) error {
	for _, x := range s.armed {
		if x.committed == done && x.strike() {
			return x.err
		}
	}
	return nil
}
