package cell

import (
	"context"

	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// outcome of a command.
type outcome struct {
	res *state.Result
	err error
}

// propose replicates cmd. then runs exactly once: on the applying goroutine when the command was
// applied, from any when it was not. Never called with l.mu held.
func (l *leader) propose(cmd *state.Command, maxTS truetime.Timestamp, then func(*state.Result, error)) {
	l.c.group.Propose(&paxosgroup.Proposal{
		Term: l.term, Timestamped: true, MaxTS: maxTS, Data: state.EncodeCommand(cmd), Frees: frees(cmd),
		Done: func(r any, _ truetime.Timestamp, err error) {
			res, _ := r.(*state.Result)
			if err == nil && res == nil {
				err = paxosgroup.ErrAmbiguous // applied by something that is not this machine
			}
			then(res, err)
		},
	})
}

// frees reports commands that only let go: with the hand-over that goes with them, they are carried
// on a full disk, too. A probe lets go of nothing.
func frees(cmd *state.Command) bool {
	switch cmd.Kind {
	case state.EndSession, state.Close, state.Release, state.Delete:
		return !cmd.Probe
	}
	return false
}

// carry proposes cmd and waits. When ctx ends first the error is errInFlight. after, if
// set, runs when the outcome is known, whether or not anybody waits.
func (l *leader) carry(ctx context.Context, cmd *state.Command, maxTS truetime.Timestamp, after func(*state.Result, error)) (*state.Result, error) {
	done := make(chan outcome, 1)
	l.propose(cmd, maxTS, func(res *state.Result, err error) {
		if after != nil {
			after(res, err)
		}
		done <- outcome{res, err}
	})
	select {
	case o := <-done:
		return o.res, o.err
	case <-ctx.Done():
		return nil, errInFlight
	}
}
