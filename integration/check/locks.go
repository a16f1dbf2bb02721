package check

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// LockKind is what a client of the lock service learned or did.
type LockKind uint8

const (
	// Held: a lock was asked for (Begin), granted (From: Lock returned) and held until End:
	// the earlier of its Context ending and Unlock being called. An open end: for ever. OK:
	// Unlock was called, whatever came of it; Unknown: it was lost, or its client died. A hold at the
	// cell may be several here, one after the other: jeopardy lay between, or its handle kept it.
	Held LockKind = iota
	// Checked: the cell was asked whether a sequencer is valid.
	Checked
	// Fenced: a SQL commit under a sequencer.
	Fenced
	// Changed: a file's contents were set, or it was deleted.
	Changed
	// Looked: a file's contents or Stat were read, or that there is none.
	Looked
	// Watched: from Begin to End the session was subscribed to Path, and had heard what there
	// was to hear at End.
	Watched
	// Heard: an event arrived.
	Heard
	// Beat: a session's beat was sent (Begin) and answered with a lease of TTL (End).
	Beat
	// Closed: the client ended its session.
	Closed
	// Gone: the cell said that the session has ended.
	Gone
	// Seen: the cell said that the session is there.
	Seen
	// Silent: the client of the session died; no beat left it after Begin.
	Silent
	// Led: somebody saw, for the first time (Begin), another leader of the cell, of epoch Generation. It led
	// at End still.
	Led
	// Ledger: what the fenced commits have left in the store was read, in the end.
	Ledger
	// Stuck: in a healthy cluster, where nobody was at work, a lock could not be had from Begin to End. Session,
	// Generation and Hold say who had it then; 0: nobody.
	Stuck
)

var lockKindNames = [...]string{
	"held", "checked", "fenced", "changed", "looked", "watched", "heard", "beat", "closed", "gone", "seen", "silent", "led", "ledger", "stuck",
}

func (k LockKind) String() string { return lockKindNames[k] }

// Events that Heard and Watched name.
const (
	EventContents = "contents" // changed; with the generation
	EventLock     = "lock"     // acquired; with the generation
	EventInvalid  = "invalid"  // the node is gone
	EventLost     = "lost"     // the cell has forgotten some: read again
)

// Instant is a moment of true time: the time since the history's beginning, and a number that
// orders what happened at one and the same time. The zero Instant is none.
type Instant struct {
	At  time.Duration
	Seq int64
}

// never lies behind all instants.
var never = Instant{math.MaxInt64, math.MaxInt64}

// Before reports whether a came before b.
func (a Instant) Before(b Instant) bool {
	return a.At < b.At || a.At == b.At && a.Seq < b.Seq
}

func (a Instant) orNever() Instant {
	if a == (Instant{}) {
		return never
	}
	return a
}

// LockOp is one thing that a client of the lock service learned or did. Which fields matter
// depends on Kind.
type LockOp struct {
	ID     int
	Client int
	Kind   LockKind

	// Begin and End are call and return, unless Kind says otherwise. An End that is none
	// has not come.
	Begin, End Instant
	Status     Status
	Err        string

	Session  uint64
	Path     string
	Instance uint64
	// Generation of the lock (Held, Checked, Fenced, Heard of EventLock) or of the contents.
	Generation uint64

	Shared  bool          // Held
	Hold    uint64        // Held, Checked, Fenced, Stuck: the sequencer's hold number
	Handle  uint64        // Held: names the handle among the session's
	Keep    time.Duration // Held: for how long the handle keeps the hold after Unlock
	From    Instant       // Held: the lock was granted
	Freed   Instant       // Held: it had been given back, as Unlock of a handle that does not keep it, or Close, said
	Early   bool          // Held: Unlock said so when the release was in order, not yet on disk
	Delay   time.Duration // Held: lock-delay asked for
	Refused bool          // Checked, Fenced: the sequencer was called stale. Held: Lock did not wait, because others hold it.

	TS    int64 // Fenced: commit timestamp, nanoseconds since 1970; 0: not known
	There bool  // Fenced: the store shows it in the end
	Place int   // Fenced: its place, from 1, among those that read the highest before them; 0: none

	Conditional bool // Changed: only if the contents' generation was If
	If          uint64
	Deleted     bool  // Changed: the file was deleted. Looked: there was none.
	Value       int64 // Changed, Looked: names the contents; 0: not known
	Cached      bool  // Looked: through a session that caches

	Event string        // Heard, Watched
	TTL   time.Duration // Beat, Silent
}

// LockHistory collects what the clients of lock cells saw.
type LockHistory struct {
	start time.Time
	order atomic.Int64

	mu  sync.Mutex // guards ops
	ops []*LockOp
}

// NewLockHistory returns an empty history that begins now.
func NewLockHistory() *LockHistory { return NewLockHistoryAt(time.Now()) }

// NewLockHistoryAt returns one that began at start, for another process on the same machine
// to record its part in.
func NewLockHistoryAt(start time.Time) *LockHistory { return &LockHistory{start: start} }

// Start is when the history began.
func (h *LockHistory) Start() time.Time { return h.start }

// Now is the present instant. Each call returns a later one.
func (h *LockHistory) Now() Instant {
	return Instant{time.Since(h.start), h.order.Add(1)}
}

// Begin adds op, which begins now. It is the caller's until End or, of those that never end,
// until all clients have ended.
func (h *LockHistory) Begin(op LockOp) *LockOp {
	op.Begin = h.Now()
	return h.Add(op)
}

// Add adds op as it is.
func (h *LockHistory) Add(op LockOp) *LockOp {
	h.mu.Lock()
	defer h.mu.Unlock()
	op.ID = len(h.ops) + 1
	h.ops = append(h.ops, &op)
	return h.ops[len(h.ops)-1]
}

// Note adds op, which begins and ends now, and succeeded.
func (h *LockHistory) Note(op LockOp) {
	op.Begin, op.Status = h.Now(), OK
	op.End = op.Begin
	h.Add(op)
}

// End notes how op ended, now.
func (h *LockHistory) End(op *LockOp, s Status, err error) {
	op.Status = s
	if err != nil {
		op.Err = err.Error()
	}
	op.End = h.Now()
}

// Ops returns what was recorded, in the order of Add. What has not ended must not be looked
// at while its client runs.
func (h *LockHistory) Ops() []*LockOp {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*LockOp(nil), h.ops...)
}
