package tablet

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// leader is what a replica has while it leads in one term: the lock table, and
// the timer that looks after silent gateways and unsettled transactions.
type leader struct {
	t    *Tablet
	term uint64
	lt   *lockTable
	ctx  context.Context // ends with the term
	stop context.CancelFunc
	done <-chan struct{} // ctx's

	// promised is the highest timestamp that reads have asked the group to promise;
	// a split hands it to the child (R3).
	promised atomic.Int64
	// plausible is a timestamp up to which note need not ask the clock.
	plausible atomic.Int64
	// splitAt is the key of a split that waits to be proposed, nil if none:
	// transactions that would straddle it are refused meanwhile.
	splitAt atomic.Pointer[[]byte]

	armed atomic.Bool
	mu    sync.Mutex // guards the fields below; a leaf
	timer *time.Timer
	ended bool
	told  map[keys.TxnID]time.Time // when hooks last heard of a transaction
	// progress is closed and renewed when a prepared or staged transaction has gone.
	progress chan struct{}
}

// tickEvery is the pace of the leader's timer, while there is anything to watch.
const tickEvery = 500 * time.Millisecond

// Times between repeated calls of the hooks about one transaction, and how long
// the reason of an abort is kept for its transaction.
const (
	inDoubtEvery = time.Second
	decidedEvery = 3 * time.Second
	deadKept     = 60 * time.Second
)

func newLeader(t *Tablet, lease paxosgroup.Lease) *leader {
	v := t.m.view.Load()
	l := &leader{t: t, term: lease.Term, told: make(map[keys.TxnID]time.Time), progress: make(chan struct{})}
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.done = l.ctx.Done()
	l.promised.Store(int64(lease.Floor))
	l.lt = newLockTable(lease.Term, v.desc.Span, lockConfig{
		grace: t.cfg.WoundGrace, inquireEvery: t.cfg.InquireEvery, patience: t.cfg.Patience, budget: t.cfg.LockBudget, maxWaiting: t.cfg.MaxWaiting,
	}, &t.stats)
	l.lt.gen = v.desc.Generation
	l.lt.inquire = func(id keys.TxnID, _ Anchor, abort bool) { l.inquire(id, abort) }
	return l
}

// end stops everything that leads on: waiters, timer, goroutines.
func (l *leader) end() {
	l.mu.Lock()
	l.ended = true
	if l.timer != nil {
		l.timer.Stop()
	}
	l.mu.Unlock()
	l.stop()
	var to keys.NodeID
	if l.t.isBound() {
		if to = l.t.group.Leader(); to == l.t.cfg.Node {
			to = 0
		}
	}
	l.lt.close(&paxosgroup.NotLeaderError{Group: l.t.cfg.Group, Leader: to})
}

// inquire passes a question about a prepared transaction to the hook.
func (l *leader) inquire(id keys.TxnID, abort bool) {
	m := l.t.m
	m.mu.RLock()
	p, ok := m.prepared[id]
	m.mu.RUnlock()
	if ok && l.t.cfg.Hooks.Inquire != nil {
		l.t.cfg.Hooks.Inquire(l.t, p.inDoubt(id), abort)
	}
}

// killByID aborts a transaction's unfinished part at this tablet.
func (l *leader) killByID(id keys.TxnID, why *AbortedError) {
	l.lt.mu.Lock()
	defer l.lt.mu.Unlock()
	if tx := l.lt.txns[id]; tx != nil && tx.phase == phaseActive {
		l.lt.killLocked(tx, why)
	}
}

// implausible is how far beyond our clock a timestamp to be promised may lie (T2).
const implausible = 2 * time.Second

// note records a timestamp about to be promised. What lies far beyond our clock is
// refused before it is recorded: the promise would be, but a split would hand it to the
// child for ever. The clock is asked once in a while, not for every read; how far a
// timestamp lies from the one before it says nothing, as a clock that runs fast creeps.
func (l *leader) note(t truetime.Timestamp) error {
	for {
		old := l.promised.Load()
		if int64(t) <= old {
			return nil
		}
		if int64(t) > l.plausible.Load() {
			now := l.t.cfg.Clock.Now()
			if err := truetime.CheckReceived(l.t.cfg.Clock, t, implausible); err != nil {
				return err
			}
			if now.Latest != truetime.Max {
				l.plausible.Store(int64(now.Latest.Add(implausible)))
			}
		}
		if l.promised.CompareAndSwap(old, int64(t)) {
			return nil
		}
	}
}

// noteProgress wakes who waits for a prepared or staged transaction to go.
func (l *leader) noteProgress() {
	l.mu.Lock()
	close(l.progress)
	l.progress = make(chan struct{})
	l.mu.Unlock()
}

func (l *leader) progressed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.progress
}

// errInFlight: the caller's context ended before its proposal was answered.
var errInFlight = errors.New("tablet: proposal still in flight")

// call is one proposal awaited.
type call struct {
	res *result
	ts  truetime.Timestamp
	err error
	ch  chan struct{}
}

// start proposes p in this term. after, if set, runs exactly once, on the applying
// goroutine when the command was applied: its writes are visible by then, and
// whether or not anybody still waits, it does what must follow.
func (l *leader) start(p *paxosgroup.Proposal, after func(*result, truetime.Timestamp, error)) *call {
	c := &call{ch: make(chan struct{})}
	p.Term = l.term
	p.Done = func(res any, s truetime.Timestamp, err error) {
		c.res, _ = res.(*result)
		if err == nil && c.res == nil {
			err = paxosgroup.ErrAmbiguous // applied by something that is not this machine
		}
		c.ts, c.err = s, err
		if after != nil {
			after(c.res, s, err)
		}
		close(c.ch)
	}
	if err := l.t.allowed(p.Data); err != nil {
		p.Done(nil, 0, err)
		return c
	}
	p.Frees = frees(p.Data)
	l.t.group.Propose(p)
	return c
}

// propose is start and wait. When ctx ends first the error is errInFlight.
func (l *leader) propose(ctx context.Context, p *paxosgroup.Proposal, after func(*result, truetime.Timestamp, error)) (*result, truetime.Timestamp, error) {
	c := l.start(p, after)
	select {
	case <-c.ch:
		return c.res, c.ts, c.err
	default:
	}
	select {
	case <-c.ch:
		return c.res, c.ts, c.err
	case <-ctx.Done():
		return nil, 0, errInFlight
	}
}

// ambiguous translates the errors after which a command may yet take effect.
func ambiguous(err error, id keys.TxnID) error {
	if errors.Is(err, paxosgroup.ErrAmbiguous) || errors.Is(err, errInFlight) {
		return &AmbiguousError{Txn: id}
	}
	return err
}

// arm starts the timer if there is none: an idle tablet has none.
func (l *leader) arm() {
	if l.armed.Load() || !l.armed.CompareAndSwap(false, true) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	if l.timer == nil {
		l.timer = time.AfterFunc(tickEvery, l.onTick)
	} else {
		l.timer.Reset(tickEvery)
	}
}

// onTick runs on the timer's goroutine.
func (l *leader) onTick() {
	select {
	case <-l.done:
		return
	default:
	}
	// Disarmed first: a transaction that arrives from now on arms it again.
	l.armed.Store(false)
	busy := l.lt.expire(ticks(l.t.cfg.ClientSilence), ticks(deadKept))
	if l.lookAfter() || busy {
		l.arm()
	}
}

func ticks(d time.Duration) uint32 { return uint32((d + tickEvery - 1) / tickEvery) }

// expire advances coarse time and drops transactions whose gateways are silent
// and dead ones that have had time to hear of it. It reports whether any are left.
func (lt *lockTable) expire(silence, kept uint32) bool {
	now := lt.tick.Add(1)
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if lt.closed != nil {
		return false
	}
	for id, tx := range lt.txns {
		if len(tx.waits) > 0 {
			tx.tick = now // a call that waits is a sign of life
		}
		switch age := now - tx.tick; {
		case tx.phase == phaseActive && age > silence && len(tx.points)+len(tx.ranges) == 0:
			lt.dropLocked(tx) // it has lost nothing, but a request that holds it must not lock any more
		case tx.phase == phaseActive && age > silence:
			lt.stats.Expired.Add(1)
			lt.killLocked(tx, &AbortedError{Txn: id, Reason: AbortLocksLost})
		case tx.phase == phaseDead && age > kept:
			delete(lt.txns, id)
		}
	}
	return len(lt.txns) > 0
}

// lookAfter drops orphaned chunks and reports what is unsettled to the hooks. It
// reports whether there is anything left to watch.
func (l *leader) lookAfter() bool {
	t, m := l.t, l.t.m
	now := time.Now()
	var orphans []keys.TxnID
	var indoubt []InDoubt
	var decided []Decided
	m.mu.RLock()
	l.mu.Lock()
	due := func(id keys.TxnID, every time.Duration) bool {
		if now.Sub(l.told[id]) < every {
			return false
		}
		l.told[id] = now
		return true
	}
	for id := range l.told {
		if m.prepared[id] == nil && m.decided[id] == nil {
			delete(l.told, id)
		}
	}
	for id, p := range m.prepared {
		if now.Sub(p.since) >= t.cfg.InDoubtAfter && due(id, inDoubtEvery) {
			indoubt = append(indoubt, p.inDoubt(id))
		}
	}
	for id, d := range m.decided {
		if _, seen := l.told[id]; !seen {
			l.told[id] = now // announced when it was decided, or by Lead
		} else if due(id, decidedEvery) {
			decided = append(decided, Decided{Txn: id, TS: d.ts, Participants: d.parts})
		}
	}
	for id, s := range m.staged {
		if s.status == stageOpen {
			orphans = append(orphans, id)
		}
	}
	l.mu.Unlock()
	busy := len(m.prepared)+len(m.decided)+len(m.staged) > 0
	gen := m.view.Load().desc.Generation
	m.mu.RUnlock()

	for _, id := range orphans {
		l.lt.mu.Lock()
		tx := l.lt.txns[id]
		live := tx != nil && tx.phase != phaseDead
		l.lt.mu.Unlock()
		if !live {
			l.start(&paxosgroup.Proposal{Data: encodeDropStage(gen, id)}, nil)
		}
	}
	if BreakAbortPrepared {
		l.breakAbort(indoubt)
	} else if len(indoubt) > 0 && t.cfg.Hooks.InDoubt != nil {
		t.cfg.Hooks.InDoubt(t, indoubt)
	}
	if len(decided) > 0 && t.cfg.Hooks.Decided != nil {
		t.cfg.Hooks.Decided(t, decided)
	}
	return busy
}
