package cell

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// leader is what a replica has while it leads in one term. Nothing of it is replicated:
// the next leader begins with every session renewed, no queue and no cache known.
type leader struct {
	c        *Cell
	clock    truetime.Clock
	term     uint64             // also the epoch that clients see
	aclFiles string             // path of the directory of the cell's ACL files
	floor    truetime.Timestamp // earlier leaders' promises lie below it
	born     truetime.Timestamp // when it began
	ctx      context.Context    // ends with the term
	stop     context.CancelFunc

	promised atomic.Int64 // highest E of a fence check (L2); see Promised
	waiting  atomic.Int64 // Acquires in queues
	beats    atomic.Int64 // since the load was last looked at

	mu        sync.Mutex // guards all below; before c.mu
	ended     bool
	sessions  map[state.SessionID]*session
	leases    leases
	locks     map[string]*lock
	ticket    int64 // last one given
	checks    checks
	cache     caches
	subs      map[string][]*subscription
	wheel     wheel
	lingerers lingerers
	streams   map[*Stream]struct{}
	opening   map[handleKey][]*opening
	// giving is the factor that beats' leases get: at most the one logged.
	giving uint32
}

func newLeader(c *Cell, lease paxosgroup.Lease) *leader {
	l := &leader{
		c: c, clock: c.cfg.Clock, term: lease.Term, floor: lease.Floor,
		locks: make(map[string]*lock), subs: make(map[string][]*subscription), streams: make(map[*Stream]struct{}),
		opening: make(map[handleKey][]*opening),
	}
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.cache.init(lease.Term)
	l.wheel.init()
	// Every session counts as renewed now (paper 2.9): whatever an earlier leader gave it, it gave
	// it before, and at most by the factor that is logged.
	c.mu.RLock()
	defer c.mu.RUnlock()
	l.born = l.momentLocked()
	l.giving = c.st.LeaseFactor()
	l.aclFiles = c.st.ACLFiles()
	l.sessions = make(map[state.SessionID]*session, c.st.SessionCount())
	after, more := state.SessionID(0), true
	for more {
		var list []*state.Session
		list, more = c.st.Sessions(after, 10_000)
		for _, d := range list {
			s := l.addLocked(d, l.born)
			if s.caches {
				l.cache.strangers++
			}
			s.stranger = s.caches
			after = d.ID
		}
	}
	return l
}

// start begins what a leader does on its own.
func (l *leader) start() {
	l.c.wg.Go(l.watchLeases)
	l.c.wg.Go(l.watchLoad)
}

// end stops everything that leads on: goroutines, streams, waiters. What is in flight is
// answered by the group.
func (l *leader) end() {
	var stranded []*flight
	l.mu.Lock()
	l.ended = true
	for _, lk := range l.locks {
		lk.drain(l, granted{err: l.c.notLeader()})
		stranded = appendFlight(stranded, lk.strandLocked())
	}
	l.wheel.stop()
	l.lingerers.stop()
	streams := l.streams
	l.streams = nil
	l.mu.Unlock()
	l.stop()
	for st := range streams {
		st.finish()
	}
	for _, f := range stranded {
		l.arrive(f, nil, l.c.notLeader())
	}
}

// applied follows a command: what it changed is visible. Runs on the applying goroutine.
func (l *leader) applied(cmd *state.Command, res *state.Result, ch *state.Changes) {
	if cmd.Kind != state.CreateSession && cmd.Kind != state.SetACL && len(ch.Ended)+len(ch.Events)+len(ch.Freed) == 0 {
		return
	}
	var out outgoing
	var next []*flight
	l.mu.Lock()
	if cmd.Kind == state.CreateSession && res.Session != nil && l.sessions[res.Session.ID] == nil {
		l.c.mu.RLock()
		from := l.momentLocked()
		l.c.mu.RUnlock()
		l.addLocked(res.Session, from)
		l.wakeLeasesLocked()
	}
	if cmd.Kind == state.SetACL {
		l.rejudgeLocked(cmd.Path, &out)
	}
	for i := range ch.Events {
		l.publishLocked(&ch.Events[i], &out)
	}
	for _, id := range ch.Ended {
		l.goneLocked(id, &out)
	}
	for _, path := range ch.Freed {
		if lk := l.locks[path]; lk != nil {
			next = appendFlight(next, l.pumpLocked(lk))
		}
	}
	out.sendLocked(l)
	l.mu.Unlock()
	l.launch(next)
}

// outgoing are leases to be sent before l.mu is given up.
type outgoing struct {
	to     []*Stream
	leases []*lockpb.Lease
}

func (o *outgoing) add(to *Stream, lease *lockpb.Lease) {
	o.to, o.leases = append(o.to, to), append(o.leases, lease)
}

// sendLocked lets the answers go while the lease holds: their receipt, and what they tell, was
// noted before. In the order in which they were made: a client that acknowledges one acknowledges
// all that it was told before, so that none may overtake another (2.5, 2.7).
func (o *outgoing) sendLocked(l *leader) {
	if len(o.to) == 0 || !BreakRenew && l.c.group.Valid(l.term) != nil {
		return
	}
	for i, st := range o.to {
		if !st.closed.Load() {
			st.send(o.leases[i])
		}
	}
}

// session is what the leader knows of a session. There may be 100,000: what only some
// have is in box.
type session struct {
	id        state.SessionID
	principal string
	ttl       time.Duration
	end       truetime.Timestamp // of the lease: over when After(end)
	due       truetime.Timestamp // of its entry in leases

	beat   uint64        // number of the latest
	given  time.Duration // lease that it got
	stream *Stream       // that it came over
	// The beat is held in this list of the wheel.
	prev, next *session
	slot       int16 // -1: the beat has been answered
	index      int32 // in leases, -1: not there

	caches   bool
	stranger bool // may cache what an earlier leader told it
	ending   bool // an EndSession is under way: neither renewed nor answered
	expired  bool // because its lease is over

	flights int32         // commands in flight that may give it a hold or an ephemeral node
	gone    chan struct{} // closed when it has ended; nil: nobody waits
	landed  chan struct{} // closed when flights is 0 while ending
	box     *outbox
}

// momentLocked is when a lease that nobody was told of yet begins; c.mu is held. Without a clock that
// vouches it is the latest instant known to have been reached, or promised, by this or an earlier
// leader: what earlier ones gave they gave before, and a client that is told of a lease later is told
// of another, which counts from a moment that the clock vouched for.
func (l *leader) momentLocked() truetime.Timestamp {
	if now := l.clock.Now(); now.Latest != truetime.Max {
		return now.Latest
	}
	return max(l.floor, l.c.st.Highest())
}

// addLocked enters a session whose lease begins at from.
func (l *leader) addLocked(d *state.Session, from truetime.Timestamp) *session {
	s := &session{id: d.ID, principal: d.Principal, ttl: time.Duration(d.TTL), caches: d.Caches, slot: -1, index: -1}
	s.given = l.leaseOf(s.ttl)
	s.end = leaseEnd(from, s.given)
	l.sessions[s.id] = s
	l.leases.push(s)
	return s
}

func (s *session) goneLocked() <-chan struct{} {
	if s.gone == nil {
		s.gone = make(chan struct{})
	}
	return s.gone
}

// live returns a session that has not ended. One that is about to end is waited for: it is gone
// only when that is applied.
func (l *leader) live(ctx context.Context, id state.SessionID, principal string) (*session, error) {
	l.mu.Lock()
	s, err := l.presentLocked(id, principal)
	if err != errEnding {
		l.mu.Unlock()
		return s, err
	}
	gone := s.goneLocked()
	l.mu.Unlock()
	if err := l.await(ctx, gone); err != nil {
		return nil, err
	}
	return nil, sessionExpired(id)
}

// presentLocked is live without waiting: errEnding, and the session, if it is about to end.
func (l *leader) presentLocked(id state.SessionID, principal string) (*session, error) {
	s := l.sessions[id]
	switch {
	case s == nil:
		return nil, sessionExpired(id)
	case s.principal != principal:
		return nil, refuse("PERMISSION", "", "session %d is another's", id)
	case s.ending:
		return s, errEnding
	}
	return s, nil
}

// await waits for ch, the caller's end, or the leader's.
func (l *leader) await(ctx context.Context, ch <-chan struct{}) error {
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return gaveUp(ctx)
	case <-l.ctx.Done():
		return l.c.notLeader()
	}
}

// valid is what every answer passes last: what it tells was so under this lease.
func (l *leader) valid() error {
	if l.c.group.Valid(l.term) != nil {
		return l.c.notLeader()
	}
	return nil
}
