package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
	"github.com/spandb/spand/truetime"
)

// fencer tells SQL until when locks are held (L2), by asking the leaders of their cells,
// here or elsewhere.
type fencer struct {
	n *Node
	// stale makes the error for a lock that is not held as its sequencer says.
	stale func(sequencer, why string) error
}

const (
	// fenceHold is how long a lock is asked to stay held: time for the commit request to get
	// its timestamp, and what a release waits for at most when a gateway dies.
	fenceHold = 250 * time.Millisecond
	// fencePause separates questions while a cell has no leader.
	fencePause = 20 * time.Millisecond
	// fenceEnd bounds the message that gives a promise up early.
	fenceEnd = time.Second
)

// Check returns a commit timestamp up to which all locks are held as their sequencers say,
// and what gives the promises behind it up. It goes on asking through a fail-over of the
// cell, until ctx ends.
func (f fencer) Check(ctx context.Context, sequencers []string) (until truetime.Timestamp, done func(), err error) {
	until = truetime.Max
	var made []*lockpb.EndCheckRequest
	done = func() { f.giveUp(made) }
	for _, q := range sequencers {
		a, err := f.ask(ctx, q)
		if err == nil && !a.GetValid() {
			err = f.stale(q, a.GetWhy())
		}
		if err != nil {
			done()
			return 0, nil, err
		}
		until = min(until, truetime.Timestamp(a.GetValidUntil()))
		made = append(made, &lockpb.EndCheckRequest{Path: pathOf(q), Check: a.GetCheck()})
	}
	if len(made) == 0 {
		return 0, nil, errors.New("no sequencer to check")
	}
	return until, done, nil
}

// pathOf cuts mode, generation and hold off a sequencer's text.
func pathOf(sequencer string) string {
	end := len(sequencer)
	for range 3 {
		end = max(strings.LastIndexByte(sequencer[:end], ':'), 0)
	}
	return sequencer[:end]
}

// cellOf returns the cell of a path.
func cellOf(path string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(path, "/ls/"), "/")
	return name
}

func (f fencer) ask(ctx context.Context, sequencer string) (*lockpb.CheckSequencerResponse, error) {
	req := &lockpb.DoRequest{Call: &lockpb.DoRequest_CheckSequencer{CheckSequencer: &lockpb.CheckSequencerRequest{Sequencer: sequencer, HoldNs: int64(fenceHold)}}}
	for {
		resp := f.n.locks.Do(ctx, sqlPrincipal, req)
		failure := resp.GetFailure()
		if failure == nil {
			return resp.GetCheckSequencer(), nil
		}
		switch failure.GetInfo().GetReason() {
		case "NO_LEADER", "NOT_LEADER", "AMBIGUOUS", "OVERLOADED", "CANCELLED":
		case "NO_SUCH_CELL", "BAD_PATH", "BAD_REQUEST", "NODE_NOT_FOUND", "SESSION_EXPIRED", "STALE_SEQUENCER":
			return nil, f.stale(sequencer, failure.GetMessage())
		default:
			return nil, errors.New(failure.GetMessage())
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s (%w)", failure.GetMessage(), context.Cause(ctx))
		case <-f.n.background.Done():
			return nil, errors.New(failure.GetMessage())
		case <-time.After(fencePause):
		}
	}
}

// giveUp ends promises, which spares a release the wait for them. It does not block: at
// this node's cells there is nothing to wait for, and others are told on the side.
func (f fencer) giveUp(checks []*lockpb.EndCheckRequest) {
	for _, c := range checks {
		req := &lockpb.DoRequest{Call: &lockpb.DoRequest_EndCheck{EndCheck: c}}
		if r, ok := f.n.cells.Get(cellOf(c.GetPath())); ok && r.Cell.Leading() == nil {
			f.n.locks.Do(f.n.background, sqlPrincipal, req)
			continue
		}
		f.n.wg.Go(func() {
			ctx, cancel := context.WithTimeout(f.n.background, fenceEnd)
			defer cancel()
			f.n.locks.Do(ctx, sqlPrincipal, req)
		})
	}
}
