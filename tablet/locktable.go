package tablet

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/spandb/spand/internal/keys"
	"github.com/tidwall/btree"
)

// lockTable holds the locks of one leader in one term (X2). It lives in memory:
// a successor starts with the locks of prepared transactions alone, and requests
// that carry another term are refused.
//
// A lock is on a point or on a range, shared or exclusive. Requests that cannot
// be granted queue in order of arrival; a request waits for every conflicting
// holder and for every conflicting request queued before it, except that a
// transaction never waits for a request that it blocks itself already (so an
// upgrade overtakes).
//
// Deadlock is impossible because waits point from younger to older transactions
// only (wound-wait), but for these, which end by themselves: an older request
// waits out a short grace before it wounds a younger one; committing
// transactions are waited for, they wait for nobody; prepared ones are asked
// about at their coordinator; commit and prepare have patience with older ones that
// are about to end, but only so long. A granted request or a queue never gains a blocker
// that it has not judged: whoever overtakes was a blocker already, and a
// transaction that falls back from committing to active kicks those who wait.
//
// mu guards everything below it and is never held across a wait, a call of the
// group or a hook. Waiters wait on a channel of their own.
type lockTable struct {
	term    uint64
	cfg     lockConfig
	stats   *Stats
	inquire func(id keys.TxnID, coordinator Anchor, abort bool) // called without mu

	// writers counts transactions between proposal and release, so that reads of
	// an idle tablet need not take mu (X4).
	writers atomic.Int32
	// epoch counts releases of written locks, each after the writes became visible:
	// unchanged, nothing that a reader saw before has changed since.
	epoch atomic.Uint64
	// tick is coarse time: advanced by the leader's timer, compared with txnState.tick.
	tick atomic.Uint32

	mu       sync.Mutex
	closed   error     // set once: leadership is over
	bounds   keys.Span // the tablet's span; a split shrinks it
	moved    error     // what requests outside bounds get
	gen      uint64    // of the descriptor that bounds are of: a split is in the view first
	keys     btree.Map[string, *keyLock]
	granted  intervalTree[*rangeLock]
	waiting  intervalTree[*waiter] // requests for ranges in the queue
	txns     map[keys.TxnID]*txnState
	seq      uint64 // arrival order, also ids in the trees
	nwaiting int
	dirty    []*waiter // waiters to look at again; see settleLocked
	freeKeys []*keyLock
}

type lockConfig struct {
	grace        time.Duration // an older waiter's patience with younger holders
	inquireEvery time.Duration // between inquiries about a prepared blocker
	patience     time.Duration // of commit and prepare with older ones that are about to end
	budget       int           // point locks of one transaction before escalation
	maxWaiting   int           // queued requests before ErrOverloaded
}

// txnPhase of a transaction at this tablet.
type txnPhase uint8

const (
	phaseActive     txnPhase = iota
	phaseCommitting          // its outcome is proposed or being carried out: never wounded
	phasePreparing           // its prepare is proposed
	phasePrepared            // only its coordinator decides (X3)
	phaseDead                // aborted; kept for a while so that it learns why
)

func (p txnPhase) String() string {
	return [...]string{"active", "committing", "preparing", "prepared", "aborted"}[p]
}

// txnState is a transaction at this tablet. Guarded by lockTable.mu, but for s.
type txnState struct {
	id     keys.TxnID
	terms  []uint64 // accepted beside the table's own: of the tablets it was inherited from
	client keys.NodeID
	phase  txnPhase
	tick   uint32 // last sign of life
	// s is the timestamp assigned to the commit or prepare in flight or done, 0
	// before. Set inside the group's serial step, so a reader that promised t
	// afterwards finds every s <= t here (X4).
	s           atomic.Int64
	coordinator Anchor
	points      []*keyLock
	inline      [4]*keyLock // room for a small transaction's points
	ranges      []*rangeLock
	waits       []*waiter
	escalateAt  int
	dead        *AbortedError
	killed      atomic.Bool                 // dead is set; for readers without mu
	event       chan struct{}               // closed at the next change of phase; nil: nobody listens
	movedAt     uint64                      // generation of the latest split that took locks to a child
	staged      atomic.Pointer[stagedReads] // own staged writes, for own reads
}

// keyLock is the lock on one key. It exists while it is held or waited for.
type keyLock struct {
	key     string
	holders []holder
	waiters []*waiter
	inline  [1]holder
}

type holder struct {
	tx       *txnState
	strength LockStrength
	write    bool // the transaction writes the key: readers must look (X4)
}

// rangeLock is a granted lock on [start, end).
type rangeLock struct {
	start, end string
	id         uint64
	tx         *txnState
	strength   LockStrength
	write      bool // stands for written keys (escalated, staged)
}

// waiter is a queued request. All fields but ch are guarded by lockTable.mu.
type waiter struct {
	tx         *txnState
	start, end string // end empty: a point
	strength   LockStrength
	write      bool
	refuse     bool // commit or prepare: does not wait for an older transaction
	patient    bool // ... but for one that is about to end
	seq        uint64
	kl         *keyLock
	ch         chan struct{} // holds one signal: done, or look again
	done       bool
	err        error
	queued     bool
	marked     bool        // in dirty
	left       *time.Timer // until it gives up its place: its call has timed out
}

func newLockTable(term uint64, bounds keys.Span, cfg lockConfig, stats *Stats) *lockTable {
	return &lockTable{term: term, cfg: cfg, stats: stats, bounds: bounds, txns: make(map[keys.TxnID]*txnState),
		inquire: func(keys.TxnID, Anchor, bool) {}}
}

// str views b as a string without copying, for look-ups that do not keep it.
func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func conflict(a, b LockStrength) bool {
	if BreakSharedLocks {
		return a == LockExclusive && b == LockExclusive
	}
	return a == LockExclusive || b == LockExclusive
}

func pointIn(key, start, end string) bool {
	if end == "" {
		return key == start
	}
	return start <= key && key < end
}

func (w *waiter) point() bool { return w.end == "" }

func (w *waiter) key() keys.Key { return keys.Key(w.start) }

// signal wakes the waiter without ever blocking.
func (w *waiter) signal() {
	select {
	case w.ch <- struct{}{}:
	default:
	}
}

// txn finds or creates the record of ref (X2): locks of another term are lost.
func (lt *lockTable) txn(ref *TxnRef, create bool) (*txnState, error) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	return lt.txnLocked(ref, create)
}

func (lt *lockTable) txnLocked(ref *TxnRef, create bool) (*txnState, error) {
	if lt.closed != nil {
		return nil, lt.closed
	}
	if BreakLostLocks {
		ref, create = &TxnRef{ID: ref.ID, Client: ref.Client}, true
	}
	tx := lt.txns[ref.ID]
	if ref.Term != 0 && ref.Term != lt.term && (tx == nil || !slices.Contains(tx.terms, ref.Term)) {
		return nil, &AbortedError{Txn: ref.ID, Reason: AbortLocksLost}
	}
	if tx == nil {
		if ref.Term != 0 || !create {
			return nil, &AbortedError{Txn: ref.ID, Reason: AbortLocksLost}
		}
		tx = &txnState{id: ref.ID, client: ref.Client, escalateAt: lt.cfg.budget}
		lt.txns[ref.ID] = tx
	}
	tx.tick = lt.tick.Load()
	if BreakWounds {
		lt.breakWound(tx)
	}
	if tx.phase == phaseDead {
		return nil, tx.dead
	}
	return tx, nil
}

// usableLocked says why tx cannot take locks now, nil if it can.
func (lt *lockTable) usableLocked(tx *txnState, sp keys.Span) error {
	switch {
	case lt.closed != nil:
		return lt.closed
	case tx.phase == phaseDead:
		return tx.dead
	case tx.phase != phaseActive:
		return errFinishing
	case !BreakSpans && !lt.bounds.Covers(sp):
		return lt.moved
	}
	return nil
}

// tryLocked grants the lock if nothing is in its way. With write, the key is
// marked as one that the transaction is about to write.
func (lt *lockTable) tryLocked(tx *txnState, sp keys.Span, st LockStrength, write bool) (bool, error) {
	if err := lt.usableLocked(tx, sp); err != nil {
		return false, err
	}
	if !sp.IsPoint() {
		start, end := str(sp.Start), str(sp.End)
		if lt.coversRange(tx, start, end, st) {
			return true, nil
		}
		w := waiter{tx: tx, start: start, end: end, strength: st, seq: ^uint64(0)}
		if lt.blockedLocked(&w) {
			return false, nil
		}
		lt.addRangeLocked(tx, string(sp.Start), string(sp.End), st, write)
		return true, nil
	}
	key := str(sp.Start)
	kl, _ := lt.keys.Get(key)
	if kl != nil {
		for i := range kl.holders {
			if h := &kl.holders[i]; h.tx == tx && h.strength >= st {
				h.write = h.write || write
				return true, nil
			}
		}
	}
	if r := lt.ownRange(tx, key, st); r != nil {
		if !write || r.write {
			return true, nil
		}
		lt.addPointLocked(tx, sp.Start, kl, st, write)
		return true, nil
	}
	if kl != nil || lt.granted.len() != 0 || lt.waiting.len() != 0 {
		w := waiter{tx: tx, start: key, strength: st, seq: ^uint64(0), kl: kl}
		if lt.blockedLocked(&w) {
			return false, nil
		}
	}
	lt.addPointLocked(tx, sp.Start, kl, st, write)
	if len(tx.points) >= tx.escalateAt {
		lt.escalateLocked(tx)
	}
	return true, nil
}

// ownRange returns a range lock of tx that covers key with at least st.
func (lt *lockTable) ownRange(tx *txnState, key string, st LockStrength) *rangeLock {
	if len(tx.ranges) > 8 {
		var own *rangeLock
		lt.granted.visit(key, "", func(r *rangeLock) bool {
			if r.tx == tx && r.strength >= st {
				own = r
			}
			return own == nil
		})
		return own
	}
	for _, r := range tx.ranges {
		if r.strength >= st && pointIn(key, r.start, r.end) {
			return r
		}
	}
	return nil
}

func (lt *lockTable) coversRange(tx *txnState, start, end string, st LockStrength) bool {
	for _, r := range tx.ranges {
		if r.strength >= st && r.start <= start && end <= r.end {
			return true
		}
	}
	return false
}

// addPointLocked grants tx the key, kl being its lock if there is one.
func (lt *lockTable) addPointLocked(tx *txnState, key []byte, kl *keyLock, st LockStrength, write bool) {
	if kl == nil {
		if n := len(lt.freeKeys); n > 0 {
			kl = lt.freeKeys[n-1]
			lt.freeKeys = lt.freeKeys[:n-1]
		} else {
			kl = &keyLock{}
			kl.holders = kl.inline[:0]
		}
		kl.key = string(key)
		lt.keys.Set(kl.key, kl)
	}
	for i := range kl.holders {
		if h := &kl.holders[i]; h.tx == tx {
			h.strength = max(h.strength, st)
			h.write = h.write || write
			return
		}
	}
	kl.holders = append(kl.holders, holder{tx, st, write})
	if tx.points == nil {
		tx.points = tx.inline[:0]
	}
	tx.points = append(tx.points, kl)
	lt.stats.LocksHeld.Add(1)
}

// addRangeLocked grants tx a range, joining it to one of its own that it touches:
// the pages of one long scan become one lock.
func (lt *lockTable) addRangeLocked(tx *txnState, start, end string, st LockStrength, write bool) *rangeLock {
	for i := len(tx.ranges) - 1; i >= 0 && i >= len(tx.ranges)-4; i-- {
		r := tx.ranges[i]
		if r.strength != st || r.write != write || r.end < start || end < r.start {
			continue
		}
		lt.granted.remove(r.start, r.id)
		r.start, r.end = min(r.start, start), max(r.end, end)
		lt.granted.insert(r.start, r.end, r.id, r)
		return r
	}
	lt.seq++
	r := &rangeLock{start: start, end: end, id: lt.seq, tx: tx, strength: st, write: write}
	lt.granted.insert(start, end, r.id, r)
	tx.ranges = append(tx.ranges, r)
	lt.stats.LocksHeld.Add(1)
	return r
}

// eachBlocker calls f for every transaction that w must wait for: conflicting
// holders, and conflicting requests queued before it, unless w's transaction
// blocks those already. It stops when f returns false.
func (lt *lockTable) eachBlocker(w *waiter, f func(tx *txnState) bool) {
	ranges := func(r *rangeLock) bool {
		return BreakRangeLocks || r.tx == w.tx || !conflict(r.strength, w.strength) || f(r.tx)
	}
	queued := func(o *waiter) bool {
		return o.seq >= w.seq || o.tx == w.tx || !conflict(o.strength, w.strength) || lt.holdsAgainst(w.tx, o) || f(o.tx)
	}
	keyed := func(kl *keyLock) bool {
		for i := range kl.holders {
			if h := &kl.holders[i]; h.tx != w.tx && conflict(h.strength, w.strength) && !f(h.tx) {
				return false
			}
		}
		for _, o := range kl.waiters {
			if !queued(o) {
				return false
			}
		}
		return true
	}
	if w.point() {
		kl := w.kl
		if kl == nil {
			kl, _ = lt.keys.Get(w.start)
		}
		if kl != nil && !keyed(kl) {
			return
		}
	} else {
		ok := true
		lt.keys.Ascend(w.start, func(k string, kl *keyLock) bool {
			if k >= w.end {
				return false
			}
			ok = keyed(kl)
			return ok
		})
		if !ok {
			return
		}
	}
	if lt.granted.visit(w.start, w.end, ranges) {
		lt.waiting.visit(w.start, w.end, queued)
	}
}

func (lt *lockTable) blockedLocked(w *waiter) bool {
	blocked := false
	lt.eachBlocker(w, func(*txnState) bool {
		blocked = true
		return false
	})
	return blocked
}

// holdsAgainst reports whether tx holds a lock that o waits for.
func (lt *lockTable) holdsAgainst(tx *txnState, o *waiter) bool {
	for _, r := range tx.ranges {
		if !conflict(r.strength, o.strength) {
			continue
		}
		if o.point() && pointIn(o.start, r.start, r.end) || !o.point() && r.start < o.end && o.start < r.end {
			return true
		}
	}
	if len(tx.points) == 0 {
		return false
	}
	holds := func(kl *keyLock) bool {
		for i := range kl.holders {
			if h := &kl.holders[i]; h.tx == tx && conflict(h.strength, o.strength) {
				return true
			}
		}
		return false
	}
	if o.point() {
		kl, ok := lt.keys.Get(o.start)
		return ok && holds(kl)
	}
	found := false
	lt.keys.Ascend(o.start, func(k string, kl *keyLock) bool {
		if k >= o.end {
			return false
		}
		found = holds(kl)
		return !found
	})
	return found
}

// enqueueLocked puts w at the end of the queue.
func (lt *lockTable) enqueueLocked(w *waiter) {
	lt.seq++
	w.seq = lt.seq
	if w.point() {
		kl, _ := lt.keys.Get(w.start)
		if kl == nil {
			kl = &keyLock{key: w.start}
			kl.holders = kl.inline[:0]
			lt.keys.Set(kl.key, kl)
		}
		w.kl = kl
		kl.waiters = append(kl.waiters, w)
	} else {
		lt.waiting.insert(w.start, w.end, w.seq, w)
	}
	w.queued = true
	w.tx.waits = append(w.tx.waits, w)
	lt.nwaiting++
}

// dequeueLocked takes w out of the queue; who waits behind it is looked at again
// by the caller's settleLocked.
func (lt *lockTable) dequeueLocked(w *waiter) {
	if !w.queued {
		return
	}
	w.queued = false
	lt.nwaiting--
	if i := slices.Index(w.tx.waits, w); i >= 0 {
		w.tx.waits = slices.Delete(w.tx.waits, i, i+1)
	}
	if !w.point() {
		lt.waiting.remove(w.start, w.seq)
		return
	}
	if i := slices.Index(w.kl.waiters, w); i >= 0 {
		w.kl.waiters = slices.Delete(w.kl.waiters, i, i+1)
	}
	lt.dropIfUnused(w.kl)
}

func (lt *lockTable) dropIfUnused(kl *keyLock) {
	if len(kl.holders) != 0 || len(kl.waiters) != 0 {
		return
	}
	lt.keys.Delete(kl.key)
	if len(lt.freeKeys) < 1024 && cap(kl.holders) <= 4 {
		clear(kl.holders[:cap(kl.holders)])
		kl.holders, kl.waiters, kl.key = kl.holders[:0], nil, ""
		lt.freeKeys = append(lt.freeKeys, kl)
	}
}

// completeLocked ends a queued request, granted (nil) or not.
func (lt *lockTable) completeLocked(w *waiter, err error) {
	if w.done {
		return
	}
	lt.dirtyAround(w.start, w.end, w.kl)
	lt.dequeueLocked(w)
	w.done, w.err = true, err
	w.signal()
}

// dirtyAround notes the waiters whose way a release in [start, end) may clear.
func (lt *lockTable) dirtyAround(start, end string, kl *keyLock) {
	if lt.nwaiting == 0 {
		return
	}
	note := func(w *waiter) bool {
		if !w.marked && !w.done {
			w.marked = true
			lt.dirty = append(lt.dirty, w)
		}
		return true
	}
	if end == "" {
		if kl != nil {
			for _, w := range kl.waiters {
				note(w)
			}
		}
	} else {
		lt.keys.Ascend(start, func(k string, kl *keyLock) bool {
			if k >= end {
				return false
			}
			for _, w := range kl.waiters {
				note(w)
			}
			return true
		})
	}
	lt.waiting.visit(start, end, note)
}

// settleLocked grants, in order of arrival, what has become grantable among the
// dirty waiters. With kick, those still blocked judge their blockers anew.
func (lt *lockTable) settleLocked(kick bool) {
	for len(lt.dirty) > 0 {
		batch := lt.dirty
		lt.dirty = nil
		slices.SortFunc(batch, func(a, b *waiter) int {
			if a.seq < b.seq {
				return -1
			}
			return 1
		})
		for _, w := range batch {
			w.marked = false
			if w.done {
				continue
			}
			if lt.blockedLocked(w) {
				if kick {
					w.signal()
				}
				continue
			}
			if w.point() {
				lt.addPointLocked(w.tx, []byte(w.start), w.kl, w.strength, w.write)
			} else {
				lt.addRangeLocked(w.tx, w.start, w.end, w.strength, w.write)
			}
			// Leaving the queue for the lock unblocks nobody: what conflicts with the
			// request conflicts with the lock.
			lt.dequeueLocked(w)
			w.done = true
			w.signal()
		}
		if lt.dirty == nil {
			lt.dirty = batch[:0]
		}
	}
}
