package cell

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
)

// Do answers one call on the leader; elsewhere it fails with NOT_LEADER or NO_LEADER, see
// Leading. It blocks the caller's goroutine until the answer is known or ctx ends. A call whose ctx
// ends fails with CANCELLED when it had no effect, with AMBIGUOUS when its command
// is under way. waiting, if set, is told the ticket of an Acquire that begins to wait.
// Answered elsewhere, as they are about more than a cell: ListCells and CreateCell, and of
// GetCell the leader's address.
func (c *Cell) Do(ctx context.Context, principal string, req *lockpb.DoRequest, waiting func(ticket int64)) *lockpb.DoResponse {
	resp := &lockpb.DoResponse{Id: req.Id}
	l, err := c.leading()
	if err == nil {
		r := request{l: l, ctx: ctx, principal: principal, waiting: waiting}
		err = r.answer(req, resp)
	}
	if err != nil {
		resp.Answer = &lockpb.DoResponse_Failure{Failure: c.failure(err)}
	}
	return resp
}

// request is one call.
type request struct {
	l         *leader
	ctx       context.Context
	principal string
	waiting   func(int64)
}

func (r *request) answer(req *lockpb.DoRequest, resp *lockpb.DoResponse) (err error) {
	switch q := req.Call.(type) {
	case *lockpb.DoRequest_Acquire:
		resp.Answer, err = r.acquire(q.Acquire, false)
	case *lockpb.DoRequest_TryAcquire:
		resp.Answer, err = r.acquire(q.TryAcquire, true)
	case *lockpb.DoRequest_Release:
		resp.Answer, err = r.release(q.Release)
	case *lockpb.DoRequest_GetContentsAndStat:
		resp.Answer, err = r.getContentsAndStat(q.GetContentsAndStat)
	case *lockpb.DoRequest_GetStat:
		resp.Answer, err = r.getStat(q.GetStat)
	case *lockpb.DoRequest_ReadDir:
		resp.Answer, err = r.readDir(q.ReadDir)
	case *lockpb.DoRequest_SetContents:
		resp.Answer, err = r.setContents(q.SetContents)
	case *lockpb.DoRequest_Open:
		resp.Answer, err = r.open(q.Open)
	case *lockpb.DoRequest_Close:
		resp.Answer, err = r.close(q.Close)
	case *lockpb.DoRequest_Delete:
		resp.Answer, err = r.delete(q.Delete)
	case *lockpb.DoRequest_SetAcl:
		resp.Answer, err = r.setACL(q.SetAcl)
	case *lockpb.DoRequest_SetQuota:
		resp.Answer, err = r.setQuota(q.SetQuota)
	case *lockpb.DoRequest_CreateSession:
		resp.Answer, err = r.createSession(q.CreateSession)
	case *lockpb.DoRequest_CloseSession:
		err = r.l.closeSession(r.ctx, state.SessionID(q.CloseSession.GetSession()), r.principal)
		resp.Answer = &lockpb.DoResponse_CloseSession{CloseSession: &lockpb.CloseSessionResponse{}}
	case *lockpb.DoRequest_GetSequencer:
		resp.Answer, err = r.getSequencer(q.GetSequencer)
	case *lockpb.DoRequest_SetSequencer:
		resp.Answer, err = r.setSequencer(q.SetSequencer)
	case *lockpb.DoRequest_CheckSequencer:
		resp.Answer, err = r.checkSequencer(q.CheckSequencer)
	case *lockpb.DoRequest_EndCheck:
		r.l.endCheck(q.EndCheck.GetPath(), q.EndCheck.GetCheck())
		resp.Answer = &lockpb.DoResponse_EndCheck{EndCheck: &lockpb.EndCheckResponse{}}
	case *lockpb.DoRequest_GetCell:
		resp.Answer = &lockpb.DoResponse_GetCell{GetCell: &lockpb.GetCellResponse{Cell: r.l.c.Status()}}
		err = r.l.valid()
	case *lockpb.DoRequest_ListSessions:
		resp.Answer, err = r.listSessions(q.ListSessions)
	case *lockpb.DoRequest_ListLocks:
		resp.Answer, err = r.listLocks(q.ListLocks)
	case *lockpb.DoRequest_LockHistory:
		resp.Answer, err = r.lockHistory(q.LockHistory)
	default:
		err = badRequest("a cell does not answer this call: %T", req.Call)
	}
	return err
}

// caller checks the session that a handle names, if any.
func (r *request) caller(h *lockpb.Handle, needed bool) (*session, error) {
	if h == nil {
		return nil, badRequest("the call has no handle")
	}
	if h.Session == 0 {
		if needed {
			return nil, badRequest("the call needs a session")
		}
		return nil, nil
	}
	return r.l.live(r.ctx, state.SessionID(h.Session), r.principal)
}

// command begins a command through a handle.
func (r *request) command(kind state.Kind, h *lockpb.Handle) *state.Command {
	return command(kind, h, r.principal)
}

func command(kind state.Kind, h *lockpb.Handle, principal string) *state.Command {
	return &state.Command{
		Kind: kind, Session: state.SessionID(h.GetSession()), Handle: state.HandleID(h.GetHandle()), Path: h.GetPath(), Instance: h.GetInstance(),
		Principal: principal,
	}
}

// releasing gives the lock back that an attempt through h took, or may have taken.
func releasing(h *lockpb.Handle, attempt uint64, principal string) *state.Command {
	cmd := command(state.Release, h, principal)
	cmd.Attempt, cmd.Cause = attempt, state.Released
	return cmd
}

// carry carries out a command that may end nobody's hold, under the handle's sequencer.
func (r *request) carry(cmd *state.Command, h *lockpb.Handle, paths []string) (*state.Result, error) {
	p, err := r.fence(cmd, h)
	if err != nil {
		return nil, err
	}
	res, err := r.l.refusal(r.ctx, cmd, p.until())
	if res == nil && err == nil {
		res, err = r.l.change(r.ctx, cmd, paths, p)
	}
	r.l.lift(p, err)
	if err != nil {
		return nil, err
	}
	if res.Err != nil {
		return nil, res.Err
	}
	return res, nil
}

// selfFence is how long a command under a handle's sequencer may take to get its timestamp.
const selfFence = 500 * time.Millisecond

// fence makes sure that the sequencer that the command's handle is bound to is valid when
// the command is applied; nil: it is bound to none.
func (r *request) fence(cmd *state.Command, h *lockpb.Handle) (*promise, error) {
	q, bound, err := r.l.sequencerOf(cmd.Session, cmd.Handle, h.GetSequencer())
	if err != nil || !bound {
		return nil, err
	}
	if r.answered(cmd) {
		return nil, nil // it took effect while the sequencer was valid, and does not again
	}
	ahead := selfFence
	if cmd.Kind == state.Delete && q.Path == cmd.Path {
		ahead = 0 // it would wait for its own promise
		cmd.Hold = q.Hold
	}
	f, err := r.l.checkSequencer(r.ctx, q, ahead)
	if err != nil {
		if r.answered(cmd) {
			return nil, nil // meanwhile, and a Delete may have taken the lock with it
		}
		return nil, err
	}
	if ahead == 0 {
		return nil, nil
	}
	return &promise{q.Path, f.check, f.until}, nil
}

// answered reports whether a command is the repetition of one that has been carried out.
func (r *request) answered(cmd *state.Command) bool {
	c := r.l.c
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.st.Answered(cmd.Session, cmd.Request)
}

// fenceRead does the same for a read that has been made.
func (r *request) fenceRead(h *lockpb.Handle) error {
	q, bound, err := r.l.sequencerOf(state.SessionID(h.GetSession()), state.HandleID(h.GetHandle()), h.GetSequencer())
	if err != nil || !bound {
		return err
	}
	_, err = r.l.checkSequencer(r.ctx, q, 0)
	return err
}

func (r *request) createSession(q *lockpb.CreateSessionRequest) (*lockpb.DoResponse_CreateSession, error) {
	id := q.GetSession()
	for id == 0 {
		id = rand.Uint64()
	}
	given, err := r.l.createSession(r.ctx, &state.Command{
		Kind: state.CreateSession, Session: state.SessionID(id), Principal: r.principal, Client: q.GetClient(), TTL: q.GetTtlNs(), Caches: q.GetCaches(),
	})
	if err != nil {
		return nil, err
	}
	return &lockpb.DoResponse_CreateSession{CreateSession: &lockpb.CreateSessionResponse{Session: id, TtlNs: int64(given), Epoch: r.l.term}}, nil
}

func (r *request) open(q *lockpb.OpenRequest) (*lockpb.DoResponse_Open, error) {
	h := q.GetHandle()
	s, err := r.caller(h, q.GetEphemeral())
	if err != nil {
		return nil, err
	}
	if q.GetCreate() == lockpb.Create_CREATE_NONE && !q.GetEphemeral() {
		info, err := r.stat(h)
		if err != nil || !info.Ephemeral || s == nil {
			if err == nil {
				err = r.l.valid()
			}
			return &lockpb.DoResponse_Open{Open: &lockpb.OpenResponse{Stat: statOf(info)}}, err
		}
	}
	cmd := r.command(state.Open, h)
	cmd.Request = q.GetRequest()
	cmd.Create = state.CreateMode(q.GetCreate())
	cmd.Dir, cmd.Ephemeral, cmd.Contents = q.GetDirectory(), q.GetEphemeral(), q.GetContents()
	if a := q.GetAcl(); a != nil {
		cmd.ACL = aclIn(a)
	}
	var paths []string
	if cmd.Create != state.CreateNone {
		paths = changedBy(cmd.Path)
	}
	ctx, over := r.ctx, func() {}
	if s != nil {
		// What the session gets by this must be there when its end is prepared.
		r.l.mu.Lock()
		if s.ending {
			gone := s.goneLocked()
			r.l.mu.Unlock()
			if err := r.l.await(r.ctx, gone); err != nil {
				return nil, err
			}
			return nil, sessionExpired(s.id)
		}
		s.flights++
		var o *opening
		ctx, o = r.l.openingLocked(ctx, handleKey{cmd.Session, cmd.Handle})
		r.l.mu.Unlock()
		defer o.give(nil)
		over = func() {
			o.overLocked()
			r.l.arrivedLocked(s)
		}
	}
	res, err := r.l.changeThen(ctx, cmd, paths, nil, over)
	if err != nil {
		return nil, err
	}
	if res.Err != nil {
		return nil, res.Err
	}
	return &lockpb.DoResponse_Open{Open: &lockpb.OpenResponse{Stat: statOf(res.Node), Created: res.Created}}, nil
}

func (r *request) close(q *lockpb.CloseRequest) (*lockpb.DoResponse_Close, error) {
	s, err := r.caller(q.GetHandle(), false)
	if err != nil {
		return nil, err
	}
	answer := &lockpb.DoResponse_Close{Close: &lockpb.CloseResponse{}}
	if s == nil {
		return answer, nil // nothing is remembered of such a handle
	}
	cmd := r.command(state.Close, q.GetHandle())
	r.l.cancelQueued(cmd)
	if err := r.l.giveOpeningsUp(r.ctx, handleKey{cmd.Session, cmd.Handle}); err != nil {
		return nil, err
	}
	res, err := r.l.endHolds(r.ctx, &ending{session: cmd.Session, handle: cmd.Handle}, cmd)
	if err == nil && res.Err != nil {
		err = res.Err
	}
	if err == nil {
		r.l.mu.Lock()
		if s.box != nil {
			delete(s.box.fences, cmd.Handle)
		}
		r.l.mu.Unlock()
	}
	return answer, err
}

func (r *request) setContents(q *lockpb.SetContentsRequest) (*lockpb.DoResponse_SetContents, error) {
	h := q.GetHandle()
	if _, err := r.caller(h, false); err != nil {
		return nil, err
	}
	if len(q.GetContents()) > state.MaxContents {
		return nil, refuse(state.TooLarge, h.GetPath(), "contents of %d bytes are too large for %s: a file has at most %d", len(q.GetContents()), h.GetPath(), state.MaxContents)
	}
	cmd := r.command(state.SetContents, h)
	cmd.Request, cmd.Answered = q.GetRequest(), q.GetAnsweredBelow()
	cmd.Contents, cmd.IfGeneration = q.GetContents(), q.IfGeneration
	paths := changedIn(cmd.Path)
	if q.GetCreate() {
		cmd.Create = state.CreateIfAbsent
		paths = changedBy(cmd.Path)
	}
	res, err := r.carry(cmd, h, paths)
	if err != nil {
		return nil, err
	}
	return &lockpb.DoResponse_SetContents{SetContents: &lockpb.SetContentsResponse{Stat: statOf(res.Node)}}, nil
}

func (r *request) delete(q *lockpb.DeleteRequest) (*lockpb.DoResponse_Delete, error) {
	h := q.GetHandle()
	if _, err := r.caller(h, false); err != nil {
		return nil, err
	}
	cmd := r.command(state.Delete, h)
	cmd.Request, cmd.Answered, cmd.IfGeneration = q.GetRequest(), q.GetAnsweredBelow(), q.IfGeneration
	p, err := r.fence(cmd, h)
	if err != nil {
		return nil, err
	}
	res, err := r.l.deleteNode(r.ctx, cmd, p.until())
	r.l.lift(p, err)
	if err == nil && res.Err != nil && res.Err.Reason == state.LockHeld {
		r.l.mu.Lock()
		r.l.conflictLocked(cmd.Path, func(h *state.Hold) bool { return h.Session != cmd.Session })
		r.l.mu.Unlock()
	}
	if err == nil && res.Err != nil {
		err = res.Err
	}
	return &lockpb.DoResponse_Delete{Delete: &lockpb.DeleteResponse{}}, err
}

func (r *request) setACL(q *lockpb.SetACLRequest) (*lockpb.DoResponse_SetAcl, error) {
	h := q.GetHandle()
	if _, err := r.caller(h, false); err != nil {
		return nil, err
	}
	cmd := r.command(state.SetACL, h)
	cmd.Request, cmd.Answered = q.GetRequest(), q.GetAnsweredBelow()
	if a := q.GetAcl(); a != nil {
		cmd.ACL = aclIn(a)
	}
	res, err := r.carry(cmd, h, changedIn(cmd.Path))
	if err != nil {
		return nil, err
	}
	return &lockpb.DoResponse_SetAcl{SetAcl: &lockpb.SetACLResponse{Stat: statOf(res.Node)}}, nil
}

func (r *request) setQuota(q *lockpb.SetQuotaRequest) (*lockpb.DoResponse_SetQuota, error) {
	h := q.GetHandle()
	if _, err := r.caller(h, false); err != nil {
		return nil, err
	}
	cmd := r.command(state.SetQuota, h)
	cmd.Quota = state.Quota{Bytes: q.GetQuota().GetBytes(), Nodes: q.GetQuota().GetNodes()}
	res, err := r.carry(cmd, h, changedIn(cmd.Path))
	if err != nil {
		return nil, err
	}
	return &lockpb.DoResponse_SetQuota{SetQuota: &lockpb.SetQuotaResponse{Stat: statOf(res.Node)}}, nil
}

// waiterFor is who makes an Acquire.
func waiterFor(ctx context.Context, q *lockpb.AcquireRequest, try bool) (*waiter, error) {
	g, err := grantTo(q)
	if err != nil {
		return nil, err
	}
	if g.Attempt != 0 && q.GetReleased() >= g.Attempt {
		return nil, badRequest("attempt %d is among those released, up to %d", g.Attempt, q.GetReleased())
	}
	return &waiter{ctx: ctx, grant: g, ticket: q.GetTicket(), released: q.GetReleased(), try: try}, nil
}

// grantTo is what an Acquire asks for.
func grantTo(q *lockpb.AcquireRequest) (state.GrantTo, error) {
	h := q.GetHandle()
	if h.GetSession() == 0 {
		return state.GrantTo{}, badRequest("a lock needs a session")
	}
	g := state.GrantTo{
		Session: state.SessionID(h.GetSession()), Handle: state.HandleID(h.GetHandle()), Path: h.GetPath(), Instance: h.GetInstance(),
		Mode: state.Exclusive, Attempt: q.GetAttempt(), Delay: q.GetLockDelayNs(),
	}
	switch q.GetMode() {
	case lockpb.Mode_MODE_UNSPECIFIED, lockpb.Mode_EXCLUSIVE:
	case lockpb.Mode_SHARED:
		g.Mode = state.Shared
	default:
		return g, badRequest("%d is not a mode of locks", q.GetMode())
	}
	if d := q.GetLockDelayNs(); d < 0 || d > state.MaxLockDelay {
		return g, badRequest("a lock-delay is between 0 and %v, not %v", time.Duration(state.MaxLockDelay), time.Duration(d))
	}
	return g, nil
}

func (r *request) acquire(q *lockpb.AcquireRequest, try bool) (*lockpb.DoResponse_Acquire, error) {
	w, err := waiterFor(r.ctx, q, try)
	if err != nil {
		return nil, err
	}
	hold, already, err := r.l.acquire(w, r.principal, r.waiting)
	if err != nil {
		return nil, err
	}
	return &lockpb.DoResponse_Acquire{Acquire: &lockpb.AcquireResponse{Sequencer: sequencerOf(&hold), Already: already}}, nil
}

func (r *request) release(q *lockpb.ReleaseRequest) (*lockpb.DoResponse_Release, error) {
	h := q.GetHandle()
	if _, err := r.caller(h, true); err != nil {
		return nil, err
	}
	if err := r.l.awaitOrdered(r.ctx, h.GetPath()); err != nil {
		return nil, err
	}
	ended, err := r.l.release(r.ctx, releasing(h, q.GetAttempt(), r.principal))
	return &lockpb.DoResponse_Release{Release: &lockpb.ReleaseResponse{Released: ended}}, err
}

func (r *request) getSequencer(q *lockpb.GetSequencerRequest) (*lockpb.DoResponse_GetSequencer, error) {
	h := q.GetHandle()
	if _, err := r.caller(h, true); err != nil {
		return nil, err
	}
	if err := r.l.awaitOrdered(r.ctx, h.GetPath()); err != nil {
		return nil, err
	}
	c := r.l.c
	c.mu.RLock()
	hold, ok := c.st.HoldOf(state.SessionID(h.GetSession()), state.HandleID(h.GetHandle()), h.GetPath())
	c.mu.RUnlock()
	if err := r.l.valid(); err != nil {
		return nil, err
	}
	if !ok {
		return nil, refuse(state.LockNotHeld, h.GetPath(), "the handle does not hold the lock of %s", h.GetPath())
	}
	return &lockpb.DoResponse_GetSequencer{GetSequencer: &lockpb.GetSequencerResponse{Sequencer: sequencerOf(&hold)}}, nil
}

func (r *request) setSequencer(q *lockpb.SetSequencerRequest) (*lockpb.DoResponse_SetSequencer, error) {
	h := q.GetHandle()
	s, err := r.caller(h, true)
	if err != nil {
		return nil, err
	}
	seq, serr := state.ParseSequencer(q.GetSequencer())
	if serr != nil {
		return nil, serr
	}
	if _, err := r.l.checkSequencer(r.ctx, seq, 0); err != nil {
		return nil, err
	}
	r.l.mu.Lock()
	if b := s.have(); b.fences == nil {
		b.fences = make(map[state.HandleID]state.Sequencer)
	}
	s.box.fences[state.HandleID(h.GetHandle())] = seq
	r.l.mu.Unlock()
	return &lockpb.DoResponse_SetSequencer{SetSequencer: &lockpb.SetSequencerResponse{}}, r.l.valid()
}

func (r *request) checkSequencer(q *lockpb.CheckSequencerRequest) (*lockpb.DoResponse_CheckSequencer, error) {
	seq, serr := state.ParseSequencer(q.GetSequencer())
	if serr != nil {
		return nil, serr
	}
	if q.GetHoldNs() < 0 {
		return nil, badRequest("hold_ns is negative")
	}
	answer := &lockpb.CheckSequencerResponse{}
	f, err := r.l.checkSequencer(r.ctx, seq, time.Duration(q.GetHoldNs()))
	if why, ok := err.(*state.Error); ok && (why.Reason == state.StaleSequencer || why.Reason == state.SessionExpired) {
		answer.Why, err = why.Message, nil
	} else if err == nil {
		answer.Valid, answer.ValidUntil, answer.Check = true, int64(f.until), f.check
	}
	return &lockpb.DoResponse_CheckSequencer{CheckSequencer: answer}, err
}
