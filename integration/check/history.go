package check

import (
	"sync"
	"sync/atomic"
	"time"
)

// Status is how a transaction ended for its client.
type Status uint8

const (
	// Unknown: it may have committed, or may yet.
	Unknown Status = iota
	// OK: it was acknowledged.
	OK
	// Failed: it has not committed and never will.
	Failed
)

var statusNames = [...]string{"unknown", "ok", "failed"}

func (s Status) String() string { return statusNames[s] }

// OpKind is what a micro-operation does.
type OpKind uint8

const (
	// Append adds Value at the end of the list Key.
	Append OpKind = iota
	// List read the list Key as Values.
	List
	// Write sets the register Key to Value.
	Write
	// Read read the register Key as Value, or as nil (Null).
	Read
	// Differs learned that the register Key does not hold Value.
	Differs
	// Insert adds Value to the set Key.
	Insert
	// Scan read the set Key as Values, in any order.
	Scan
	// Add adds Value to the counter Key.
	Add
	// Count read the counter Key as Value.
	Count
	// Sum read something whose total must never change, named Key, as Value.
	Sum
)

var kindNames = [...]string{"append", "list", "write", "read", "differs", "insert", "scan", "add", "count", "sum"}

func (k OpKind) String() string { return kindNames[k] }

// Op is a micro-operation of a transaction that was executed and answered; of one whose
// outcome is unknown also the last, unanswered one if it writes.
type Op struct {
	Kind   OpKind
	Key    string
	Value  int64
	Null   bool
	Values []int64
	// Undone: the transaction went back to a savepoint before it.
	Undone bool
}

// Txn is one attempt at a transaction as its client saw it.
type Txn struct {
	ID     int
	Client int
	Node   int // from 0
	Kind   string

	// Begin and End are places in the true order of events: one that ended before
	// another began has End < Begin of that. End is 0 until it has ended.
	Begin, End int64
	// BeganAt and EndedAt are instants since the history's beginning.
	BeganAt, EndedAt time.Duration

	Status Status
	// TS is the commit timestamp, or of a transaction that only read its read
	// timestamp, in nanoseconds since 1970; 0 when not known.
	TS int64
	// Stale: it read the past, so that it may lack what was acknowledged before it began.
	Stale bool
	// Final: it began after all others had ended, in a healthy cluster.
	Final bool
	// Groups are the parts of the data that it touched or tried to, for Gaps.
	Groups []string
	Ops    []Op
	Err    string
}

// Writes reports whether t changes anything (or would have).
func (t *Txn) Writes() bool {
	for i := range t.Ops {
		switch t.Ops[i].Kind {
		case Append, Write, Insert, Add:
			if !t.Ops[i].Undone {
				return true
			}
		}
	}
	return false
}

// History collects transactions.
type History struct {
	start time.Time
	order atomic.Int64

	mu   sync.Mutex // guards txns
	txns []*Txn
}

// NewHistory returns an empty history that begins now.
func NewHistory() *History { return &History{start: time.Now()} }

// Begin notes a transaction that is about to be sent. It is the caller's until End.
func (h *History) Begin(client, node int, kind string) *Txn {
	t := &Txn{Client: client, Node: node, Kind: kind}
	h.mu.Lock()
	h.txns = append(h.txns, t)
	t.ID = len(h.txns)
	h.mu.Unlock()
	t.BeganAt = time.Since(h.start)
	t.Begin = h.order.Add(1)
	return t
}

// End notes that the client of t knows its outcome, or has given up. What it learns
// later without asking for the outcome, as the commit timestamp, it may still write down.
func (h *History) End(t *Txn, s Status, err error) {
	t.Status = s
	if err != nil {
		t.Err = err.Error()
	}
	t.EndedAt = time.Since(h.start)
	t.End = h.order.Add(1)
}

// Resolve notes that the client of t, whose outcome was unknown, has been told it now.
func (h *History) Resolve(t *Txn, s Status) {
	t.Status = s
	t.EndedAt = time.Since(h.start)
	t.End = h.order.Add(1)
}

// Txns returns the transactions in the order in which they began to be recorded. Those
// that have not ended must not be looked at while their clients run.
func (h *History) Txns() []*Txn {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*Txn(nil), h.txns...)
}

// Len is the number of transactions so far.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.txns)
}

// Elapsed is the time since the history's beginning.
func (h *History) Elapsed() time.Duration { return time.Since(h.start) }
