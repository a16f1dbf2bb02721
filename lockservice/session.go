package lockservice

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// SessionOptions of NewSession. The zero value is fine.
type SessionOptions struct {
	Cell  string        // default "local"
	TTL   time.Duration // how long the session outlives silence, 1 s to 60 s; default 12 s
	Grace time.Duration // how long jeopardy may last before the session counts as expired; default 45 s
	// Cache keeps what the session reads in memory, where it is read again without a
	// call until the server invalidates it; see doc.go.
	Cache bool
	// Name is for people: who this is, in spand.sessions; at most 256 bytes. Default: program,
	// host and process.
	Name string
}

// SessionState of Session.State.
type SessionState int

const (
	// Safe: the lease holds.
	Safe SessionState = iota
	// Jeopardy: the lease is over by the client's conservative count and has not been renewed;
	// whether the server still knows the session is not known. The cache is off and calls wait.
	Jeopardy
	// Expired: ended, by the server's word, by the end of the grace period, or closed.
	Expired
)

func (s SessionState) String() string { return [...]string{"safe", "jeopardy", "expired"}[s] }

// Session is a lease on everything that it holds in its cell: locks, ephemeral files, cached
// reads. Safe for concurrent use.
type Session struct {
	cell   *cell
	id     uint64
	ttl    time.Duration
	grace  time.Duration
	cache  *cache // nil: off
	handle atomic.Uint64
	// lease is the Clock's reading at which the local lease ends. Only read it for a quick
	// check: in jeopardy and when expired it lies in the past.
	lease atomic.Int64
	done  chan struct{} // closed when expired

	mu        sync.Mutex // below it: locks' and the cache's mutexes
	state     SessionState
	cause     error         // when expired
	changed   chan struct{} // closed at the next change of state
	timer     *time.Timer   // looks at the lease when something is due by it
	hurried   int64         // the lease for which an urgent beat was sent
	locks     map[*Lock]struct{}
	deletions []*deletion // Deletes under way
	// asking are the handles that ask for their lock; true: a Delete of their node has ended meanwhile, which may
	// have taken away what they are granted.
	asking map[*Handle]bool
	events subscriptions
	beats  beats
	// numbers of requests that are not answered yet, and the next one
	request uint64
	open    map[uint64]struct{}
}

// NewSession opens a session. It is kept alive until Close, or until the cell cannot be reached
// for TTL and Grace.
func (c *Client) NewSession(ctx context.Context, o SessionOptions) (*Session, error) {
	if o.Cell == "" {
		o.Cell = "local"
	}
	if o.Grace <= 0 {
		o.Grace = 45 * time.Second
	}
	if o.Name == "" {
		host, _ := os.Hostname()
		o.Name = fmt.Sprintf("%s %s %d", filepath.Base(os.Args[0]), host, os.Getpid())
		o.Name = strings.ToValidUTF8(strings.ToValidUTF8(o.Name, "?")[:min(len(o.Name), 256)], "")
	}
	if err := checkText("name", o.Name); err != nil {
		return nil, err
	}
	l, err := c.cell(o.Cell)
	if err != nil {
		return nil, err
	}
	s := &Session{
		cell: l, id: 1 + rand.Uint64N(1<<63), grace: o.Grace,
		done: make(chan struct{}), changed: make(chan struct{}),
		locks: map[*Lock]struct{}{}, asking: map[*Handle]bool{}, open: map[uint64]struct{}{}, request: 1,
	}
	req := &lockpb.CreateSessionRequest{Cell: o.Cell, Session: s.id, Client: o.Name, TtlNs: int64(o.TTL), Caches: o.Cache}
	// Any of the attempts may be the one that made the session: it counts from the first.
	sent := c.clock.Now()
	resp, err := l.call(ctx, nil, often, func() *lockpb.DoRequest {
		return &lockpb.DoRequest{Call: &lockpb.DoRequest_CreateSession{CreateSession: req}}
	}, notices{})
	if err != nil {
		return nil, err
	}
	made := resp.GetCreateSession()
	s.ttl = time.Duration(made.TtlNs)
	s.beats = beats{granted: s.ttl, epoch: made.Epoch}
	if o.Cache {
		s.cache = newCache()
	}
	s.events.init(s)
	end := sent + conservative(s.ttl)
	s.lease.Store(int64(end))
	s.mu.Lock()
	s.timer = time.AfterFunc(0, s.look)
	s.mu.Unlock()
	if !l.keeper.add(s) {
		s.end(ErrClosed)
		return nil, ErrClosed
	}
	return s, nil
}

// ID of the session in its cell.
func (s *Session) ID() uint64 { return s.id }

// TTL is what the server agreed to.
func (s *Session) TTL() time.Duration { return s.ttl }

// State tells how the session stands at this moment, by the clock.
func (s *Session) State() SessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookLocked()
	return s.state
}

// Changed returns a channel that is closed when the state is another than now.
func (s *Session) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Done is closed when the session has expired or was closed.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err says why the session ended: ErrSessionExpired or ErrClosed; nil before Done.
func (s *Session) Err() error {
	select {
	case <-s.done:
		return s.why()
	default:
		return nil
	}
}

// Close ends the session at the server: its locks are free at once, without lock-delay, and its
// ephemeral files go. Locally it ends at once. When ctx ends before the server has answered,
// the session expires there by itself.
func (s *Session) Close(ctx context.Context) error {
	s.end(ErrClosed)
	_, err := s.cell.call(ctx, nil, often, func() *lockpb.DoRequest {
		return &lockpb.DoRequest{Call: &lockpb.DoRequest_CloseSession{CloseSession: &lockpb.CloseSessionRequest{Cell: s.cell.name, Session: s.id}}}
	}, notices{})
	if errors.Is(err, ErrSessionExpired) {
		return nil
	}
	return err
}

// ended is Done, also of no session.
func (s *Session) ended() <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.done
}

func (s *Session) isOver() bool { return s != nil && s.Err() != nil }

// why is the error of a session that has ended.
func (s *Session) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// remaining is what is left of the local lease; not above 0: it is over.
func (s *Session) remaining() time.Duration {
	return time.Duration(s.lease.Load()) - s.cell.c.clock.Now()
}

// awaitSafe waits while the session is in jeopardy. The error is why it ended, or ctx's cause.
func (s *Session) awaitSafe(ctx context.Context) error {
	if s == nil || s.remaining() > 0 {
		return nil
	}
	for {
		s.mu.Lock()
		s.lookLocked()
		state, changed, cause := s.state, s.changed, s.cause
		s.mu.Unlock()
		switch state {
		case Safe:
			return nil
		case Expired:
			return cause
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// look is the timer's: it does what the clock says is due.
func (s *Session) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookLocked()
}

// lookLocked changes the state if the clock says so, and sets the timer for the next change.
func (s *Session) lookLocked() {
	if s.state == Expired {
		return
	}
	left := s.remaining()
	if early := s.beats.early(); left > early {
		s.timer.Reset(left - early)
		return
	}
	if left > 0 {
		if lease := s.lease.Load(); s.hurried != lease { // once
			s.hurried, s.beats.urgent = lease, true
			s.cell.keeper.requestLocked(s)
		}
		s.timer.Reset(left)
		return
	}
	if s.state == Safe {
		s.jeopardyLocked()
	}
	if left += s.grace; left > 0 {
		s.timer.Reset(left)
		return
	}
	s.endLocked(&Error{Code: codeExpired, Reason: "SESSION_EXPIRED",
		Message: fmt.Sprintf("session expired: the cell %q did not renew it within %v and the grace period of %v", s.cell.name, s.ttl, s.grace)})
}

func (s *Session) jeopardyLocked() {
	s.state = Jeopardy
	if s.cache != nil {
		s.cache.drop()
	}
	for l := range s.locks {
		l.turnLocked(LockJeopardy, ErrJeopardy)
	}
	s.noteLocked()
}

// renewLocked prolongs the lease to end, if that is later.
func (s *Session) renewLocked(end time.Duration) {
	s.lookLocked() // a lease that was over meanwhile was over, if only for a moment
	if s.state == Expired || int64(end) <= s.lease.Load() || end <= s.cell.c.clock.Now() {
		return
	}
	s.lease.Store(int64(end))
	s.lookLocked() // sets the timer
	if s.state == Jeopardy {
		s.state = Safe
		for l := range s.locks {
			if l.doomed == 0 {
				l.turnLocked(LockHeld, nil)
			}
		}
		s.noteLocked()
	}
}

// end ends the session locally, once.
func (s *Session) end(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(why)
}

func (s *Session) endLocked(why error) {
	if s.state == Expired {
		return
	}
	s.state, s.cause = Expired, why
	s.lease.Store(minDuration)
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.cache != nil {
		s.cache.drop()
	}
	for l := range s.locks {
		l.turnLocked(LockLost, fmt.Errorf("%w: %w", ErrLockLost, why))
	}
	clear(s.locks)
	s.events.endLocked(why)
	close(s.done)
	s.noteLocked()
	s.cell.keeper.remove(s)
}

func (s *Session) noteLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// numbered makes a request that changes something take effect once however often it is sent:
// it numbers it, and says below which number all are answered. The number is given back with
// answered, also when the caller gives up: he will not ask again.
func (s *Session) numbered() (number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	number = s.request
	s.request++
	s.open[number] = struct{}{}
	return number
}

func (s *Session) answered(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, number)
}

func (s *Session) answeredBelow() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	low := s.request
	for n := range s.open {
		low = min(low, n)
	}
	return low
}
