package lockservice

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"

	"github.com/spandb/spand/lockservice/lockpb"
)

// cell is what the client knows of a cell: who is believed to lead it, and the sessions there,
// which share a KeepAlive stream.
type cell struct {
	c      *Client
	name   string
	leader atomic.Pointer[peer] // nil: not known
	keeper keeper
}

func newCell(c *Client, name string) *cell {
	l := &cell{c: c, name: name}
	l.keeper.init(l)
	return l
}

func (l *cell) sessions() []*Session { return l.keeper.all() }

// leads notes who leads by the address that an answer named.
func (l *cell) leads(addr string) {
	if n := l.c.peer(addr); n != nil {
		if old := l.leader.Swap(n); old != nil && old != n {
			old.dismiss(l)
		}
	}
}

// target returns where to call: the leader, or if that is not known whoever a node says
// it is, or that node.
func (l *cell) target(ctx context.Context) (*peer, error) {
	if n := l.leader.Load(); n != nil {
		return n, nil
	}
	n := l.c.nextPeer()
	if n == nil {
		return nil, ErrClosed
	}
	at, err := l.ask(ctx, n)
	if err != nil {
		return nil, err
	}
	if at == "" {
		return n, nil
	}
	l.leads(at)
	if n = l.c.peer(at); n == nil {
		return nil, ErrClosed
	}
	return n, nil
}

// ask asks a node who leads; "" if it does not know. A node that is silent is not waited for.
func (l *cell) ask(ctx context.Context, n *peer) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, stallAfter, errSilent)
	defer cancel()
	resp, err := n.do(ctx, nil, nil, &lockpb.DoRequest{Call: &lockpb.DoRequest_GetCell{GetCell: &lockpb.GetCellRequest{Cell: l.name}}}, notices{})
	if err != nil {
		return "", err
	}
	cell := resp.GetGetCell().GetCell()
	if cell.GetEpoch() != 0 {
		// It is n. The address that it has for itself may be of no use from here: [::], or
		// one behind a forwarded port.
		return n.addr, nil
	}
	return cell.GetLeader().GetAddr(), nil
}

// revision returns the cell's revision now. A node that finds no leader to ask says what it knows,
// without an epoch: that is not now.
func (l *cell) revision(ctx context.Context, s *Session) (uint64, error) {
	b := newBackoff()
	for {
		resp, err := l.call(ctx, s, often, func() *lockpb.DoRequest {
			return &lockpb.DoRequest{Call: &lockpb.DoRequest_GetCell{GetCell: &lockpb.GetCellRequest{Cell: l.name}}}
		}, notices{})
		if err != nil {
			return 0, err
		}
		if c := resp.GetGetCell().GetCell(); c.GetEpoch() != 0 {
			return c.GetRevision(), nil
		}
		if n := l.leader.Load(); n != nil {
			l.lost(n)
		}
		if err := b.wait(ctx, s); err != nil {
			return 0, err
		}
	}
}

// lost notes that n did not answer for the cell.
func (l *cell) lost(n *peer) {
	if n != nil && l.leader.CompareAndSwap(n, nil) {
		n.dismiss(l)
	}
}

// doubt asks the other nodes who leads the cells that n was believed to lead, and breaks n's
// streams if it is another: n may be paused, or cut off from them. It runs on a goroutine of
// its own, one at a time for a node.
func (c *Client) doubt(n *peer) {
	if !n.doubted.CompareAndSwap(false, true) {
		return
	}
	defer n.doubted.Store(false)
	ctx, cancel := context.WithTimeout(c.ctx, stallAfter)
	defer cancel()
	c.mu.Lock()
	var cells []*cell
	for _, l := range c.cells {
		if l.leader.Load() == n {
			cells = append(cells, l)
		}
	}
	var others []*peer
	for _, a := range c.known {
		if a != n.addr {
			others = append(others, c.peerLocked(a))
		}
	}
	c.mu.Unlock()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, l := range cells {
		for _, o := range others {
			if o == nil {
				continue
			}
			wg.Go(func() { // one that is silent, too, holds up nobody
				at, err := l.ask(ctx, o)
				if err != nil || at == "" || at == n.addr {
					return
				}
				if p := c.peer(at); p != nil && l.leader.CompareAndSwap(n, p) {
					n.forsake(errSilent)
				}
			})
		}
	}
}

// repeats says whether an attempt whose answer was lost may be made again.
type repeats bool

const (
	once  repeats = false
	often repeats = true // reads, and changes that take effect once
)

// call makes a call of the cell, at its leader, until it is answered, ctx ends or the session
// (nil: none) does. Of a session in jeopardy it waits until that is safe again. build makes
// the request of an attempt; what it refers to is not changed afterwards.
func (l *cell) call(ctx context.Context, s *Session, rep repeats, build func() *lockpb.DoRequest, hear notices) (*lockpb.DoResponse, error) {
	b := newBackoff()
	redirected, unsure := false, false
	var last error
	for {
		if err := s.awaitSafe(ctx); err != nil {
			return nil, wrapLast(ctx, err, last)
		}
		n, err := l.target(ctx)
		var resp *lockpb.DoResponse
		if err != nil {
			var refused *Error
			if !errors.As(err, &refused) || refused.fate() != final {
				err = &unsent{err}
			}
		} else if resp, err = n.do(ctx, l, s, build(), hear); err == nil {
			if resp.GetOrdered() && l.leader.Load() != n { // it was deposed before this came
				n.dismiss(l)
			}
			return resp, nil
		}
		switch {
		case ctx.Err() != nil:
			return nil, wrapLast(ctx, context.Cause(ctx), last)
		case l.c.ctx.Err() != nil:
			return nil, ErrClosed
		case s.isOver():
			return nil, s.why()
		}
		refused, f := judge(err)
		last = refused
		var cut *broken
		if f == uncertain || errors.As(err, &cut) {
			if rep == once {
				return nil, &Error{Code: codes.Unknown, Reason: "AMBIGUOUS", Message: "whether the change took effect is not known: " + refused.Message}
			}
			unsure = true
		}
		switch f {
		case final:
			if refused.Reason == "SESSION_EXPIRED" && s != nil {
				s.end(refused)
			}
			told := *refused
			told.unsure = unsure
			return nil, &told
		case redirect:
			l.leads(refused.leader.Addr)
			if !redirected { // at once; if that one knows better again, after a moment
				redirected = true
				continue
			}
		case uncertain:
			l.lost(n)
		case again:
			if refused.Reason != "OVERLOADED" {
				l.lost(n)
			}
		}
		redirected = false
		if err := b.wait(ctx, s); err != nil {
			return nil, wrapLast(ctx, err, last)
		}
	}
}

// judge says what a failed attempt was and means. The status that a stream ended with is about the
// stream, not about the calls that were under way on it, unless it says where to go.
func judge(err error) (*Error, fate) {
	var refused *Error
	var cut *broken
	var not *unsent
	switch {
	case errors.As(err, &cut):
		if refused = errorOf(cut.cause); refused.fate() != redirect {
			return refused, uncertain
		}
	case errors.As(err, &not):
		if refused = errorOf(not.cause); refused.fate() != redirect {
			return refused, again
		}
	case errors.As(err, &refused):
	default:
		refused = errorOf(err)
	}
	return refused, refused.fate()
}

// wrapLast adds to the end of a context what the last attempt met.
func wrapLast(ctx context.Context, err, last error) error {
	if last == nil || ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%w (last attempt: %v)", err, last)
}
