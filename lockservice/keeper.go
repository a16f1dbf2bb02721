package lockservice

import (
	"context"
	"sync"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// beatsAtOnce bounds the beats in one message.
const beatsAtOnce = 1024

// keeper keeps the sessions of a cell alive over one KeepAlive stream to the leader, on goroutines
// that run while there are sessions: run, which writes, and per stream a reader.
type keeper struct {
	cell *cell
	wake chan struct{} // something is in due, or a session came or went

	mu      sync.Mutex // a session's may be held above it
	members map[uint64]*Session
	granted map[time.Duration]int // leases of members as they were last given, counted
	due     []*Session            // to send a beat
	running bool
	silent  time.Duration // since then nothing came although beats are out; 0: no beat is out
	hurried time.Duration // since then an urgent beat waits, and nothing came; 0: none does

	// The Clock and package time's monotonic clock at the last tick; run's alone.
	tickAt time.Duration
	tick   time.Time
}

func (k *keeper) init(l *cell) {
	k.cell, k.wake = l, make(chan struct{}, 1)
	k.members, k.granted = map[uint64]*Session{}, map[time.Duration]int{}
}

func (k *keeper) all() []*Session {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := make([]*Session, 0, len(k.members))
	for _, s := range k.members {
		all = append(all, s)
	}
	return all
}

// add begins to keep a session alive; false when the client is closed.
func (k *keeper) add(s *Session) bool {
	k.mu.Lock()
	k.members[s.id] = s
	k.granted[s.ttl]++
	start := !k.running
	k.running = true
	k.mu.Unlock()
	if start && !k.cell.c.start(k.run) {
		return false
	}
	k.request(s)
	return true
}

func (k *keeper) remove(s *Session) {
	k.mu.Lock()
	if k.members[s.id] == s {
		delete(k.members, s.id)
		k.forgetLocked(s.beats.granted)
	}
	k.mu.Unlock()
	k.poke()
}

func (k *keeper) forgetLocked(granted time.Duration) {
	if k.granted[granted]--; k.granted[granted] == 0 {
		delete(k.granted, granted)
	}
}

// regrantLocked notes that the session's lease is another now. The session's mutex is held.
func (k *keeper) regrantLocked(s *Session, granted time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.members[s.id] == s {
		k.forgetLocked(s.beats.granted)
		k.granted[granted]++
	}
	s.beats.granted = granted
}

// hurriesLocked notes that a beat which is to be answered at once goes out. A session's mutex is held.
func (k *keeper) hurriesLocked() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.hurried == 0 {
		k.hurried = k.cell.c.clock.Now()
	}
}

func (k *keeper) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// request has a beat of the session sent soon.
func (k *keeper) request(s *Session) {
	s.mu.Lock()
	k.requestLocked(s)
	s.mu.Unlock()
}

// requestLocked wants the session's mutex held.
func (k *keeper) requestLocked(s *Session) {
	if s.beats.queued {
		return
	}
	s.beats.queued = true
	k.mu.Lock()
	k.due = append(k.due, s)
	k.mu.Unlock()
	k.poke()
}

// run serves the sessions over one stream after the other. It ends with the last session.
func (k *keeper) run() {
	b := newBackoff()
	redirected := false
	k.tickAt, k.tick = k.cell.c.clock.Now(), time.Now()
	for {
		k.awake()
		k.mu.Lock()
		if len(k.members) == 0 || k.cell.c.ctx.Err() != nil {
			k.running, k.due = false, nil
			k.mu.Unlock()
			return
		}
		k.mu.Unlock()
		n, err := k.cell.target(k.cell.c.ctx)
		if err == nil {
			var answered bool
			if answered, err = k.serve(n); answered {
				b = newBackoff()
			}
			if err == nil {
				continue // no session is left, perhaps
			}
		}
		refused, f := judge(err)
		if f == redirect {
			k.cell.leads(refused.leader.Addr)
			if !redirected {
				redirected = true
				continue
			}
		} else {
			k.cell.lost(n)
		}
		redirected = false
		if b.wait(k.cell.c.ctx, nil) != nil {
			continue // closed: ends above
		}
	}
}

// serve sends beats over a stream to a node until that breaks, and reports whether it brought
// any answer. The error is nil when no session is left.
func (k *keeper) serve(n *peer) (answered bool, err error) {
	stream, cancel, err := open(n, func(ctx context.Context, c lockpb.LockServiceClient) (lockpb.LockService_KeepAliveClient, error) {
		return c.KeepAlive(ctx)
	})
	if err != nil {
		return false, err
	}
	down := make(chan error, 1)
	var got bool // the reader's until down
	if !k.cell.c.start(func() {
		for {
			resp, err := stream.Recv()
			if err != nil {
				if cause := context.Cause(stream.Context()); cause == errSilent {
					err = cause
				}
				down <- err
				return
			}
			got = true
			k.answer(resp.Leases)
		}
	}) {
		cancel(ErrClosed)
		return false, ErrClosed
	}
	// Every session starts anew on a stream: what was out on the last one is not answered.
	k.mu.Lock()
	k.due, k.silent, k.hurried = nil, 0, 0
	k.mu.Unlock()
	for _, s := range k.all() {
		s.restart()
		k.mu.Lock()
		k.due = append(k.due, s)
		k.mu.Unlock()
	}
	k.poke()
	watch := time.NewTimer(mostTick)
	defer watch.Stop()
	for {
		select {
		case err := <-down:
			return got, err
		case <-watch.C:
			k.awake()
			limit := k.limit()
			if k.tooSilent(limit) {
				n.forsake(errSilent)
				return got, <-down
			}
			if k.overdue(min(limit/4, stallAfter)) || n.owes() {
				if now := k.cell.leader.Load(); now != nil && now != n {
					n.dismiss(k.cell)
					cancel(errSilent)
					return got, <-down
				}
				k.cell.c.start(func() { k.cell.c.doubt(n) })
			}
			watch.Reset(max(min(limit/8, mostTick), time.Millisecond))
		case <-k.wake:
			due, left := k.takeDue()
			if left == 0 {
				cancel(nil)
				<-down
				return got, nil
			}
			if !k.send(stream, due) {
				return got, <-down
			}
		}
	}
}

func (k *keeper) takeDue() (due []*Session, left int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	due, k.due = k.due, nil
	return due, len(k.members)
}

// send sends a beat of each session; false when the stream is broken.
func (k *keeper) send(stream lockpb.LockService_KeepAliveClient, due []*Session) bool {
	req := &lockpb.KeepAliveRequest{Cell: k.cell.name}
	for i, s := range due {
		if beat := s.beat(); beat != nil {
			req.Beats = append(req.Beats, beat)
		}
		if len(req.Beats) == beatsAtOnce || i == len(due)-1 && len(req.Beats) > 0 {
			k.mu.Lock()
			if k.silent == 0 {
				k.silent = k.cell.c.clock.Now()
			}
			k.mu.Unlock()
			if stream.Send(req) != nil {
				return false
			}
			req = &lockpb.KeepAliveRequest{Cell: k.cell.name}
		}
	}
	return true
}

// answer gives leases to their sessions.
func (k *keeper) answer(leases []*lockpb.Lease) {
	k.mu.Lock()
	k.silent, k.hurried = k.cell.c.clock.Now(), 0 // most sessions' beats are out at any time
	members := make([]*Session, len(leases))
	for i, l := range leases {
		s := k.members[l.Session]
		members[i] = s
	}
	k.mu.Unlock()
	for i, l := range leases {
		if s := members[i]; s != nil && s.leased(l) {
			k.request(s)
		}
	}
}

// limit is how long a server may be silent that has beats to answer: it holds a beat for a
// third of the lease, and some session with the shortest one always has a beat out.
func (k *keeper) limit() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	var shortest time.Duration
	for granted := range k.granted {
		if shortest == 0 || granted < shortest {
			shortest = granted
		}
	}
	if shortest == 0 {
		return time.Second
	}
	return shortest * 5 / 8
}

// mostTick is how long run goes at most without a look at what is due.
const mostTick = 500 * time.Millisecond

// awake has every session look at its lease when the Clock has gone further than the timers, which stand
// still while the machine is suspended: else contexts would stay alive until those have run.
func (k *keeper) awake() {
	at, now := k.cell.c.clock.Now(), time.Now()
	slept := (at - k.tickAt) - now.Sub(k.tick)
	k.tickAt, k.tick = at, now
	if slept < mostTick/5 {
		return
	}
	for _, s := range k.all() {
		s.look()
	}
}

// overdue reports that an urgent beat has waited for so long, and counts anew.
func (k *keeper) overdue(patience time.Duration) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.cell.c.clock.Now()
	if k.hurried == 0 || now-k.hurried < patience {
		return false
	}
	k.hurried = now
	return true
}

func (k *keeper) tooSilent(limit time.Duration) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.silent != 0 && k.cell.c.clock.Now()-k.silent > limit
}
