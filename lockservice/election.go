package lockservice

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"sync"
	"sync/atomic"
	"time"
)

// ErrNoLeader: nobody leads at the moment.
var ErrNoLeader = errors.New("lockservice: nobody is elected")

// Election elects one of many sessions. It is a directory with a file "lock", whose holder leads,
// and while somebody does an ephemeral file "leader" with his value. Both go with the leader's
// session at one instant, so the value is never that of a leader who is dead to the cell. Safe
// for concurrent use.
type Election struct {
	s     *Session
	path  string
	delay time.Duration

	mu     sync.Mutex
	seat   *Handle // on the lock; nil: no campaign yet
	lock   *Lock   // nil: not elected
	leader *Handle // the file with the value
}

// ElectionOptions of NewElection.
type ElectionOptions struct {
	// LockDelay after a leader that vanished: how long nobody else is elected.
	LockDelay time.Duration
}

// NewElection names an election by its directory, which the first campaign makes.
func NewElection(s *Session, path string, o ElectionOptions) *Election {
	return &Election{s: s, path: path, delay: o.LockDelay}
}

// Leader of an election, as others see it.
type Leader struct {
	Value []byte
	// Term grows with every leader and distinguishes them; 0: nobody leads.
	Term uint64
	// Revision of the cell at the value's last change.
	Revision uint64
}

func (e *Election) lockPath() string   { return e.path + "/lock" }
func (e *Election) leaderPath() string { return e.path + "/leader" }

// Campaign waits until this session is elected, in the order of the campaigns, or ctx ends. Of a
// session that leads already it changes the value. Leadership is the lock that it returns: its
// Context ends when it may be over, its Sequencer proves it to stores.
func (e *Election) Campaign(ctx context.Context, value []byte) (*Lock, error) {
	if l := e.Leading(); l != nil {
		if err := e.Proclaim(ctx, value); err == nil || !errors.Is(err, ErrNoLeader) {
			return l, err
		}
	}
	seat, err := e.sit(ctx)
	if err != nil {
		return nil, err
	}
	l, err := seat.Lock(ctx)
	if err != nil {
		return nil, err
	}
	f, err := e.enthrone(ctx, l, value)
	if err != nil {
		unlock(l)
		return nil, err
	}
	e.mu.Lock()
	e.lock, e.leader = l, f
	e.mu.Unlock()
	return l, nil
}

// unlock gives a lock back although the caller's context may be over.
func unlock(l *Lock) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // Unlock goes on by itself
	l.Unlock(ctx)
}

// sit opens the lock, making it if need be.
func (e *Election) sit(ctx context.Context) (*Handle, error) {
	e.mu.Lock()
	seat := e.seat
	e.mu.Unlock()
	if seat != nil {
		return seat, nil
	}
	if err := e.s.MkdirAll(ctx, e.path); err != nil {
		return nil, err
	}
	seat, err := e.s.Open(ctx, e.lockPath(), OpenOptions{Create: CreateIfAbsent, LockDelay: e.delay})
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.seat == nil {
		e.seat = seat
	}
	return e.seat, nil // another Campaign's: one handle is as good as the other
}

// enthrone makes the file with the value. This session holds the lock: a file that is there
// is kept alive by somebody who should not have opened it. It is deleted as what it was under this
// lock: if that is lost meanwhile, the file may be the next leader's.
func (e *Election) enthrone(ctx context.Context, l *Lock, value []byte) (*Handle, error) {
	left := e.s.Node(e.leaderPath())
	left.fence = new(atomic.Pointer[string])
	left.fence.Store(&l.sequencer)
	for {
		f, err := e.s.Open(ctx, e.leaderPath(), OpenOptions{Create: CreateExclusive, Ephemeral: true, Contents: value})
		if !errors.Is(err, ErrExists) {
			return f, err
		}
		st, err := left.Stat(ctx)
		if err == nil {
			left.instance = st.Instance
			err = left.Delete(ctx)
			left.instance = 0
		}
		if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrStaleHandle) {
			return nil, err
		}
	}
}

// Leading returns the lock by which this session leads, or nil.
func (e *Election) Leading() *Lock {
	e.mu.Lock()
	l := e.lock
	e.mu.Unlock()
	if l == nil {
		return nil
	}
	if st := l.State(); st == LockLost || st == LockReleased {
		return nil
	}
	return l
}

// Proclaim changes the leader's value. ErrNoLeader when this session does not lead: then
// nothing is written, however late the call arrives.
func (e *Election) Proclaim(ctx context.Context, value []byte) error {
	if e.Leading() == nil {
		return ErrNoLeader
	}
	e.mu.Lock()
	f := e.leader
	e.mu.Unlock()
	_, err := f.SetContents(ctx, value)
	if errors.Is(err, ErrStaleHandle) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrClosed) {
		return ErrNoLeader
	}
	return err
}

// Resign gives leadership up, so that the next one can be elected. Of a session that does not
// lead it does nothing.
func (e *Election) Resign(ctx context.Context) error {
	e.mu.Lock()
	l, f := e.lock, e.leader
	e.lock, e.leader = nil, nil
	e.mu.Unlock()
	if l == nil {
		return nil
	}
	// The value goes before the lock does: it never stands for a leader who has resigned.
	err := f.Delete(ctx)
	if errors.Is(err, ErrStaleHandle) || errors.Is(err, ErrNotFound) {
		err = nil
	}
	if e := f.Close(ctx); err == nil {
		err = e
	}
	if e := l.Unlock(ctx); err == nil {
		err = e
	}
	if errors.Is(err, ErrLockLost) {
		return nil
	}
	return err
}

// Leader returns who leads now. ErrNoLeader.
func (e *Election) Leader(ctx context.Context) (Leader, error) {
	value, st, err := e.s.Node(e.leaderPath()).Contents(ctx)
	if errors.Is(err, ErrNotFound) {
		return Leader{}, ErrNoLeader
	}
	if err != nil {
		return Leader{}, err
	}
	return Leader{Value: bytes.Clone(value), Term: st.Instance, Revision: st.Revision}, nil
}

// Observe yields who leads now and every later leader and value, the latest of those that came
// in quick succession; a Leader of Term 0 when nobody does. It ends with an error when ctx or
// the session does, or with the loop.
func (e *Election) Observe(ctx context.Context) iter.Seq2[Leader, error] {
	return func(yield func(Leader, error) bool) {
		var sub *Subscription
		err := e.s.MkdirAll(ctx, e.path)
		if err == nil {
			sub, err = e.s.Node(e.path).Subscribe(ctx, SubscribeOptions{Kinds: []EventKind{ChildAdded, ChildRemoved, ChildModified}})
		}
		if err != nil {
			yield(Leader{}, err)
			return
		}
		defer sub.Close()
		first := true
		var last Leader
		for {
			now, err := e.Leader(ctx)
			if err != nil && !errors.Is(err, ErrNoLeader) {
				yield(Leader{}, err)
				return
			}
			if first || now.Term != last.Term || now.Revision != last.Revision {
				if !yield(now, nil) {
					return
				}
			}
			first, last = false, now
			for {
				ev, err := sub.Next(ctx)
				if err != nil {
					yield(Leader{}, err)
					return
				}
				if ev.Kind == EventsLost || ev.Child == "leader" && ev.Revision > last.Revision {
					break
				}
			}
		}
	}
}
