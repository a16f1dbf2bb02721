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
	ttls    map[time.Duration]int // of members, counted
	due     []*Session            // to send a beat
	running bool
	scale   float64       // by what the server extends leases now
	silent  time.Duration // since then nothing came although beats are out; 0: no beat is out
}

func (k *keeper) init(l *cell) {
	k.cell, k.wake = l, make(chan struct{}, 1)
	k.members, k.ttls = map[uint64]*Session{}, map[time.Duration]int{}
	k.scale = 1
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
	k.ttls[s.ttl]++
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
		if k.ttls[s.ttl]--; k.ttls[s.ttl] == 0 {
			delete(k.ttls, s.ttl)
		}
	}
	k.mu.Unlock()
	k.poke()
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
	for {
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
	k.due, k.silent, k.scale = nil, 0, 1
	k.mu.Unlock()
	for _, s := range k.all() {
		s.restart()
		k.mu.Lock()
		k.due = append(k.due, s)
		k.mu.Unlock()
	}
	k.poke()
	watch := time.NewTimer(time.Second)
	defer watch.Stop()
	for {
		select {
		case err := <-down:
			return got, err
		case <-watch.C:
			limit := k.limit()
			if k.tooSilent(limit) {
				n.forsake(errSilent)
				return got, <-down
			}
			watch.Reset(max(limit/8, time.Millisecond))
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
	k.silent = k.cell.c.clock.Now() // most sessions' beats are out at any time
	members := make([]*Session, len(leases))
	for i, l := range leases {
		s := k.members[l.Session]
		members[i] = s
		if s != nil && s.ttl > 0 {
			k.scale = max(1, float64(l.TtlNs)/float64(s.ttl))
		}
	}
	k.mu.Unlock()
	for i, l := range leases {
		if s := members[i]; s != nil && s.leased(l) {
			k.request(s)
		}
	}
}

// limit is how long a server may be silent that has beats to answer: it holds a beat for at
// most half the lease, and some session with the shortest one always has a beat out.
func (k *keeper) limit() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	var shortest time.Duration
	for ttl := range k.ttls {
		if shortest == 0 || ttl < shortest {
			shortest = ttl
		}
	}
	if shortest == 0 {
		return time.Second
	}
	return time.Duration(float64(shortest) * k.scale * 5 / 8)
}

func (k *keeper) tooSilent(limit time.Duration) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.silent != 0 && k.cell.c.clock.Now()-k.silent > limit
}
