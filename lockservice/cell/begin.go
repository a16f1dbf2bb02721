package cell

import (
	"context"
	"sync/atomic"

	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
	"github.com/spandb/spand/truetime"
)

// Begin carries out an Acquire, a TryAcquire or a Release as Do does, without keeping a goroutine
// waiting. It does not block. False: it has had no effect, and the call is one for Do, being of
// another kind, refused at once, or about to wait for more than its turn and its command. Otherwise
// answer is called once, from any goroutine, possibly before Begin returns and with the cell's
// locks held, so it must neither block nor call the cell; so must waiting, and ordered, which is called at most
// once, before answer, when a Release that asks for that is in order. Begin does not watch ctx:
// when the caller goes, before its answer or after, giveUp has to be called, which is what
// the end of ctx is to Do.
func (c *Cell) Begin(ctx context.Context, principal string, req *lockpb.DoRequest, waiting func(ticket int64), ordered func(), answer func(*lockpb.DoResponse)) (giveUp func(), begun bool) {
	l, err := c.leading()
	if err != nil {
		return nil, false
	}
	switch q := req.Call.(type) {
	case *lockpb.DoRequest_Acquire:
		return l.beginAcquire(ctx, principal, req.Id, q.Acquire, false, waiting, answer)
	case *lockpb.DoRequest_TryAcquire:
		return l.beginAcquire(ctx, principal, req.Id, q.TryAcquire, true, waiting, answer)
	case *lockpb.DoRequest_Release:
		return l.beginRelease(principal, req.Id, q.Release, ordered, answer)
	}
	return nil, false
}

func (l *leader) beginAcquire(ctx context.Context, principal string, id uint64, q *lockpb.AcquireRequest, try bool, waiting func(int64), answer func(*lockpb.DoResponse)) (func(), bool) {
	w, err := waiterFor(ctx, q, try)
	if err != nil {
		return nil, false
	}
	w.then = func(g granted) {
		switch {
		case g.err == errEnding && l.ended:
			answer(l.c.failed(id, l.c.notLeader()))
		case g.err == errEnding:
			wait, giveUp := context.WithCancel(ctx)
			w.giveUp = giveUp
			l.c.wg.Go(func() {
				defer giveUp()
				err := l.awaitGone(wait, w.s)
				if err == nil {
					err = sessionExpired(w.s.id)
				}
				answer(l.c.failed(id, err))
			})
		case g.err != nil:
			answer(l.c.failed(id, g.err))
		default:
			answer(acquired(id, &g))
		}
	}
	if l.enter(w, principal, waiting) != nil {
		return nil, false
	}
	return func() { l.abandon(w) }, true
}

// beginRelease is release where no promise and no cache stands in the way.
func (l *leader) beginRelease(principal string, id uint64, q *lockpb.ReleaseRequest, ordered func(), answer func(*lockpb.DoResponse)) (func(), bool) {
	h := q.GetHandle()
	if h.GetSession() == 0 {
		return nil, false
	}
	cmd := releasing(h, q.GetAttempt(), principal)
	if len(l.removes(cmd)) > 0 {
		return nil, false
	}
	e := &ending{session: cmd.Session, handle: cmd.Handle}
	f := &flight{cmd: cmd, end: e}
	tight := l.c.group.Tight() // see endChanging
	l.mu.Lock()
	if _, err := l.presentLocked(cmd.Session, principal); err != nil {
		l.mu.Unlock()
		return nil, false
	}
	if l.spentLocked(cmd) {
		l.mu.Unlock()
		l.answerReleased(id, answer)
		return func() {}, true
	}
	lk := l.announceAtLocked(e, cmd.Path)
	if !truetime.After(l.clock, l.promisedLocked(e)) {
		l.concludeLocked(e)
		l.tidyLocked(lk)
		l.mu.Unlock()
		return nil, false
	}
	fs := appendFlight(nil, l.departLocked(lk))
	held, next := l.cancelQueuedLocked(cmd)
	fs = appendFlight(fs, next)
	if !held && cmd.Attempt == 0 {
		l.concludeLocked(e)
		l.tidyLocked(lk)
		l.mu.Unlock()
		l.launch(fs)
		l.answerReleased(id, answer)
		return func() {}, true
	}
	f.locks = e.locks
	var answered atomic.Bool
	f.then = func(res *state.Result, err error) {
		if !answered.CompareAndSwap(false, true) {
			return
		}
		if err == nil && res.Err != nil {
			err = res.Err
		}
		if err != nil {
			answer(l.c.failed(id, err))
		} else {
			answer(released(id, res.Ended))
		}
	}
	if q.GetEarly() && !tight && lk.flights == 0 && len(lk.queue) == 0 && l.endsLocked(cmd) && !l.ended && l.valid() == nil {
		l.lingerLocked(lk, f)
		ordered()
	} else {
		if !tight {
			l.boardLocked(f, lk, e)
		}
		lk.flights++
		fs = append(fs, f)
	}
	l.mu.Unlock()
	l.launch(fs)
	return func() { f.then(nil, errInFlight) }, true
}

// answerReleased says that there was nothing to release.
func (l *leader) answerReleased(id uint64, answer func(*lockpb.DoResponse)) {
	if err := l.valid(); err != nil {
		answer(l.c.failed(id, err))
	} else {
		answer(released(id, false))
	}
}

func (c *Cell) failed(id uint64, err error) *lockpb.DoResponse {
	return &lockpb.DoResponse{Id: id, Answer: &lockpb.DoResponse_Failure{Failure: c.failure(err)}}
}

// acquired is the answer to an Acquire, in one piece of memory.
func acquired(id uint64, g *granted) *lockpb.DoResponse {
	a := &struct {
		resp   lockpb.DoResponse
		answer lockpb.DoResponse_Acquire
		body   lockpb.AcquireResponse
		seq    lockpb.Sequencer
	}{}
	fillSequencer(&a.seq, &g.hold)
	a.body.Sequencer, a.body.Already = &a.seq, g.already
	a.answer.Acquire = &a.body
	a.resp.Id, a.resp.Answer = id, &a.answer
	return &a.resp
}

// released is the answer to a Release, likewise.
func released(id uint64, ended bool) *lockpb.DoResponse {
	a := &struct {
		resp   lockpb.DoResponse
		answer lockpb.DoResponse_Release
		body   lockpb.ReleaseResponse
	}{}
	a.body.Released = ended
	a.answer.Release = &a.body
	a.resp.Id, a.resp.Answer = id, &a.answer
	return &a.resp
}
