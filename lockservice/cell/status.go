package cell

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
)

// Status describes the cell as this replica has applied it; Epoch is 0 where it does
// not lead. Name and address of the leader are the server's to add.
func (c *Cell) Status() *lockpb.Cell {
	c.mu.RLock()
	s := &lockpb.Cell{
		Name: c.cfg.Name, Group: uint64(c.cfg.Group), Revision: c.st.Revision(),
		Sessions: uint64(c.st.SessionCount()), Locks: uint64(c.st.LockCount()),
		Used: quotaOf(c.st.Used()), Quota: quotaOf(c.st.Quota()),
	}
	c.mu.RUnlock()
	if l, err := c.leading(); err == nil {
		s.Epoch = l.term
	}
	return s
}

// AddCell enters a cell into the list of cells. Only the leader of the first cell
// does; elsewhere it fails with a *NotLeaderError.
func (c *Cell) AddCell(ctx context.Context, n state.Cell) error {
	l, err := c.leading()
	if err != nil {
		return err
	}
	res, err := l.carry(ctx, &state.Command{Kind: state.SetCell, Cell: n}, 0, nil)
	if err != nil {
		return err
	}
	if res.Err != nil {
		return res.Err
	}
	return nil
}

func (r *request) listSessions(q *lockpb.ListSessionsRequest) (*lockpb.DoResponse_ListSessions, error) {
	l := r.l
	if err := l.awaitAllOrdered(r.ctx); err != nil {
		return nil, err
	}
	l.c.mu.RLock()
	list, more := l.c.st.Sessions(state.SessionID(q.GetAfter()), listLimit(q.GetLimit()))
	l.c.mu.RUnlock()
	now := l.clock.Now()
	l.mu.Lock()
	infos, cut := fit(list, func(d *state.Session) *lockpb.SessionInfo {
		i := &lockpb.SessionInfo{
			Session: uint64(d.ID), Client: d.Client, Principal: d.Principal, TtlNs: d.TTL, Created: int64(d.Created),
			Locks: d.Locks, Ephemerals: d.Ephemerals, Caches: d.Caches,
		}
		if s := l.sessions[d.ID]; s != nil && !s.ending {
			i.LeaseNs = int64(max(0, s.end.Sub(now.Latest)))
		}
		return i
	})
	l.mu.Unlock()
	a := &lockpb.ListSessionsResponse{Sessions: infos, More: more || cut}
	return &lockpb.DoResponse_ListSessions{ListSessions: a}, l.valid()
}

// placeText writes where a list of locks goes on: behind a path, or, since no path contains
// "//", behind one hold of its lock.
func placeText(p state.Place) string {
	if p.Session == 0 {
		return p.Path
	}
	return fmt.Sprintf("%s//%d.%d", p.Path, p.Session, p.Handle)
}

func parsePlace(text string) (p state.Place, err error) {
	path, hold, within := strings.Cut(text, "//")
	if p.Path = path; !within {
		return p, nil
	}
	session, handle, _ := strings.Cut(hold, ".")
	id, err1 := strconv.ParseUint(session, 10, 64)
	n, err2 := strconv.ParseUint(handle, 10, 64)
	if err1 != nil || err2 != nil || id == 0 {
		return p, badRequest("%.100q is neither a path nor what a list of locks ended with", text)
	}
	p.Session, p.Handle = state.SessionID(id), state.HandleID(n)
	return p, nil
}

func (r *request) listLocks(q *lockpb.ListLocksRequest) (*lockpb.DoResponse_ListLocks, error) {
	after, err := parsePlace(q.GetAfter())
	if err != nil {
		return nil, err
	}
	l := r.l
	if err := l.awaitAllOrdered(r.ctx); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.c.mu.RLock()
	a := l.listLocked(after, listLimit(q.GetLimit()))
	l.c.mu.RUnlock()
	l.mu.Unlock()
	return &lockpb.DoResponse_ListLocks{ListLocks: a}, l.valid()
}

// listLocked lists locks behind a place; c.mu is held.
func (l *leader) listLocked(after state.Place, limit int) *lockpb.ListLocksResponse {
	list, more := l.c.st.Locks(after, limit)
	// Those that are only waited for come from the queues.
	have := make(map[string]bool, len(list))
	last := ""
	for i := range list {
		have[list[i].Path] = true
		last = list[i].Path
	}
	for p, lk := range l.locks {
		if len(lk.queue)+len(lk.flyers) > 0 && !have[p] && p > after.Path && (!more || p < last) {
			list = append(list, state.Lock{Path: p})
		}
	}
	slices.SortFunc(list, func(a, b state.Lock) int { return strings.Compare(a.Path, b.Path) })
	now := l.clock.Now().Earliest
	a := &lockpb.ListLocksResponse{More: more}
	size := 0
	at := after
	add := func(i *lockpb.LockInfo, p state.Place) bool {
		if len(a.Locks) == limit || size >= maxPage {
			a.More = true
			return false
		}
		a.Locks, at = append(a.Locks, i), p
		size += proto.Size(i)
		return true
	}
list:
	for i := range list {
		k := &list[i]
		base := lockpb.LockInfo{}
		if k.DelayedUntil >= now {
			base.DelayedUntil = int64(k.DelayedUntil)
		}
		if lk := l.locks[k.Path]; lk != nil {
			base.Waiters = uint32(len(lk.queue) + len(lk.flyers))
		}
		for j := range k.Holds {
			h := &k.Holds[j]
			i := &lockpb.LockInfo{
				Sequencer: sequencerOf(h), Session: uint64(h.Session), Handle: uint64(h.Handle), Since: int64(h.Since),
				Waiters: base.Waiters, DelayedUntil: base.DelayedUntil,
			}
			if s, ok := l.c.st.Session(h.Session); ok {
				i.Client = s.Client
			}
			if !add(i, state.Place{Path: h.Path, Session: h.Session, Handle: h.Handle}) {
				break list
			}
		}
		if len(k.Holds) == 0 {
			if base.Waiters == 0 && base.DelayedUntil == 0 {
				at = state.Place{Path: k.Path} // its delay is just over
				continue
			}
			i := &lockpb.LockInfo{Sequencer: &lockpb.Sequencer{Path: k.Path}, Waiters: base.Waiters, DelayedUntil: base.DelayedUntil}
			if !add(i, state.Place{Path: k.Path}) {
				break list
			}
		}
	}
	if a.More {
		a.Next = placeText(at)
	}
	return a
}

func (r *request) lockHistory(q *lockpb.LockHistoryRequest) (*lockpb.DoResponse_LockHistory, error) {
	var err error
	if path := q.GetPath(); path != "" {
		err = r.l.awaitOrdered(r.ctx, path)
	} else {
		err = r.l.awaitAllOrdered(r.ctx)
	}
	if err != nil {
		return nil, err
	}
	c := r.l.c
	c.mu.RLock()
	list, more := c.st.History(q.GetPath(), q.GetAfter(), listLimit(q.GetLimit()))
	c.mu.RUnlock()
	holds, cut := fit(list, func(e state.Ended) *lockpb.HoldRecord {
		return &lockpb.HoldRecord{
			Entry: e.Entry, Sequencer: sequencerOf(&e.Hold), Session: uint64(e.Session), Client: e.Client,
			From: int64(e.Since), Until: int64(e.Until), Ended: e.Cause.String(),
		}
	})
	a := &lockpb.LockHistoryResponse{Holds: holds, More: more || cut}
	return &lockpb.DoResponse_LockHistory{LockHistory: a}, r.l.valid()
}
