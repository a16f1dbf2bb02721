package node

import (
	"context"
	"strconv"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/truetime"
)

// lockViews are the tables that show the lock service, all cells of it, as their
// leaders know it. Numbers of sessions and handles are text: clients draw them from all
// 64 bits.
func (n *Node) lockViews() []sql.View {
	return []sql.View{
		{Schema: "spand", Name: "locks", Columns: columns("cell text, path text, mode text, generation bigint, hold bigint, sequencer text, session text, handle text, client text, " +
			"since timestamptz, held_seconds float, waiters bigint, delayed_until timestamptz"), Rows: n.heldRows},
		{Schema: "spand", Name: "sessions", Columns: columns("cell text, session text, client text, principal text, ttl_seconds float, lease_seconds float, created timestamptz, " +
			"locks bigint, ephemerals bigint, caches boolean"), Rows: n.sessionRows},
		{Schema: "spand", Name: "lock_history", Columns: columns("cell text, entry bigint, path text, mode text, generation bigint, hold bigint, sequencer text, session text, client text, " +
			"held_from timestamptz, held_until timestamptz, ended text"), Rows: n.lockHistoryRows},
	}
}

// sqlPrincipal is who asks the lock service on behalf of SQL.
const sqlPrincipal = "sql"

// askLocks makes a call of the lock service for SQL.
func (n *Node) askLocks(ctx context.Context, req *lockpb.DoRequest) (*lockpb.DoResponse, error) {
	resp := n.locks.Do(ctx, sqlPrincipal, req)
	f := resp.GetFailure()
	if f == nil {
		return resp, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, &sqlstate.Error{Code: sqlstate.CannotConnectNow, Message: "could not ask the lock service", Detail: f.GetMessage() + ".",
		Hint: "A majority of the nodes that keep the locks' cell must be alive and reachable from this node."}
}

// eachCell calls f with the name of every cell.
func (n *Node) eachCell(ctx context.Context, f func(cell string) error) error {
	resp, err := n.askLocks(ctx, &lockpb.DoRequest{Call: &lockpb.DoRequest_ListCells{ListCells: &lockpb.ListCellsRequest{}}})
	if err != nil {
		return err
	}
	for _, c := range resp.GetListCells().GetCells() {
		if err := f(c.GetName()); err != nil {
			return err
		}
	}
	return nil
}

// orNull is NULL for what is not there.
func orNull(s string) types.Datum {
	if s == "" {
		return types.Null
	}
	return types.Text(s)
}

func number(id uint64) types.Datum {
	if id == 0 {
		return types.Null
	}
	return types.Text(strconv.FormatUint(id, 10))
}

// hold shows mode, generation, hold and text of a sequencer, NULLs for a lock that
// nobody holds.
func hold(q *lockpb.Sequencer) []types.Datum {
	if q.GetGeneration() == 0 {
		return []types.Datum{types.Null, types.Null, types.Null, types.Null}
	}
	mode := "exclusive"
	if q.GetMode() == lockpb.Mode_SHARED {
		mode = "shared"
	}
	return []types.Datum{types.Text(mode), count(q.GetGeneration()), count(q.GetHold()), types.Text(q.GetText())}
}

// secondsSince is how long ago a timestamp was, NULL for none.
func (n *Node) secondsSince(ts int64) types.Datum {
	if ts == 0 {
		return types.Null
	}
	return types.Float(max(0, n.clock.Now().Earliest.Sub(truetime.Timestamp(ts))).Seconds())
}

func (n *Node) heldRows(ctx context.Context, emit func([]types.Datum) error) error {
	return n.eachCell(ctx, func(cell string) error {
		for after, more := "", true; more; {
			resp, err := n.askLocks(ctx, &lockpb.DoRequest{Call: &lockpb.DoRequest_ListLocks{ListLocks: &lockpb.ListLocksRequest{Cell: cell, After: after}}})
			if err != nil {
				return err
			}
			list := resp.GetListLocks()
			for _, l := range list.GetLocks() {
				row := append([]types.Datum{types.Text(cell), types.Text(l.GetSequencer().GetPath())}, hold(l.GetSequencer())...)
				row = append(row, number(l.GetSession()), number(l.GetHandle()), orNull(l.GetClient()),
					timestamp(truetime.Timestamp(l.GetSince())), n.secondsSince(l.GetSince()), count(l.GetWaiters()), timestamp(truetime.Timestamp(l.GetDelayedUntil())))
				if err := emit(row); err != nil {
					return err
				}
			}
			after, more = list.GetNext(), list.GetMore() && list.GetNext() != ""
		}
		return nil
	})
}

func (n *Node) sessionRows(ctx context.Context, emit func([]types.Datum) error) error {
	seconds := func(ns int64) types.Datum { return types.Float(time.Duration(ns).Seconds()) }
	return n.eachCell(ctx, func(cell string) error {
		for after, more := uint64(0), true; more; {
			resp, err := n.askLocks(ctx, &lockpb.DoRequest{Call: &lockpb.DoRequest_ListSessions{ListSessions: &lockpb.ListSessionsRequest{Cell: cell, After: after}}})
			if err != nil {
				return err
			}
			list := resp.GetListSessions()
			for _, s := range list.GetSessions() {
				after = s.GetSession()
				err := emit([]types.Datum{types.Text(cell), number(after), orNull(s.GetClient()), types.Text(s.GetPrincipal()), seconds(s.GetTtlNs()), seconds(s.GetLeaseNs()),
					timestamp(truetime.Timestamp(s.GetCreated())), count(s.GetLocks()), count(s.GetEphemerals()), types.Bool(s.GetCaches())})
				if err != nil {
					return err
				}
			}
			more = list.GetMore() && len(list.GetSessions()) > 0
		}
		return nil
	})
}

func (n *Node) lockHistoryRows(ctx context.Context, emit func([]types.Datum) error) error {
	return n.eachCell(ctx, func(cell string) error {
		for after, more := uint64(0), true; more; {
			resp, err := n.askLocks(ctx, &lockpb.DoRequest{Call: &lockpb.DoRequest_LockHistory{LockHistory: &lockpb.LockHistoryRequest{Cell: cell, After: after}}})
			if err != nil {
				return err
			}
			list := resp.GetLockHistory()
			for _, h := range list.GetHolds() {
				after = h.GetEntry()
				row := append([]types.Datum{types.Text(cell), count(after), types.Text(h.GetSequencer().GetPath())}, hold(h.GetSequencer())...)
				row = append(row, number(h.GetSession()), orNull(h.GetClient()),
					timestamp(truetime.Timestamp(h.GetFrom())), timestamp(truetime.Timestamp(h.GetUntil())), types.Text(h.GetEnded()))
				if err := emit(row); err != nil {
					return err
				}
			}
			more = list.GetMore() && len(list.GetHolds()) > 0
		}
		return nil
	})
}
