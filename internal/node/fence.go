package node

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/spandb/spand/lockservice/lockpb"
	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/truetime"
)

// fences answer SQL for the locks of spand.fence (sql.Fencer): the leader of each lock's
// cell is asked to vouch for it.
type fences struct {
	n    *Node
	ends chan *lockpb.EndCheckRequest // promises to be given back
}

const (
	// fenceHold is how long a cell is asked to vouch for a lock: time for a commit, which is
	// asked about at the last moment. Whoever ends the hold meanwhile waits until the outcome
	// is known; so long only when this node does not say so.
	fenceHold = 250 * time.Millisecond
	// fenceRetry is how long to wait before a cell that nobody leads is asked again.
	fenceRetry = 20 * time.Millisecond
	// endWorkers give promises back at once; more than maxEnds that wait end by themselves.
	endWorkers = 4
	maxEnds    = 1024
)

func newFences(n *Node) *fences {
	f := &fences{n: n, ends: make(chan *lockpb.EndCheckRequest, maxEnds)}
	for range endWorkers {
		n.wg.Go(f.giveBack)
	}
	return f
}

func (f *fences) giveBack() {
	for {
		select {
		case end := <-f.ends:
			ctx, cancel := context.WithTimeout(f.n.background, fenceHold)
			f.n.locks.Do(ctx, sqlPrincipal, &lockpb.DoRequest{Call: &lockpb.DoRequest_EndCheck{EndCheck: end}})
			cancel()
		case <-f.n.background.Done():
			return
		}
	}
}

// Check asks about each lock, about several at once.
func (f *fences) Check(ctx context.Context, sequencers []string) (until truetime.Timestamp, done func(), err error) {
	answers := make([]*lockpb.CheckSequencerResponse, len(sequencers))
	errs := make([]error, len(sequencers))
	ask := func(i int) { answers[i], errs[i] = f.ask(ctx, sequencers[i]) }
	var wg sync.WaitGroup
	for i := 1; i < len(sequencers); i++ {
		wg.Go(func() { ask(i) })
	}
	ask(0)
	wg.Wait()
	done = func() {
		for i, a := range answers {
			if a == nil {
				continue
			}
			select {
			case f.ends <- &lockpb.EndCheckRequest{Path: pathOf(sequencers[i]), Check: a.Check}:
			default:
			}
		}
	}
	until = truetime.Max
	for i, a := range answers {
		if errs[i] != nil {
			done()
			return 0, nil, worst(errs)
		}
		until = min(until, truetime.Timestamp(a.ValidUntil))
	}
	return until, done, nil
}

// worst prefers an answer, that a lock is lost, to none.
func worst(errs []error) (err error) {
	for _, e := range errs {
		var stale *sql.StaleFenceError
		if err == nil || errors.As(e, &stale) {
			err = e
		}
	}
	return err
}

// ask asks about one lock until somebody answers, or ctx ends.
func (f *fences) ask(ctx context.Context, sequencer string) (*lockpb.CheckSequencerResponse, error) {
	req := &lockpb.DoRequest{Call: &lockpb.DoRequest_CheckSequencer{CheckSequencer: &lockpb.CheckSequencerRequest{
		Sequencer: sequencer, HoldNs: int64(fenceHold),
	}}}
	for {
		resp := f.n.locks.Do(ctx, sqlPrincipal, req)
		if a := resp.GetCheckSequencer(); a != nil {
			if !a.Valid {
				return nil, &sql.StaleFenceError{Sequencer: sequencer, Why: a.Why}
			}
			return a, nil
		}
		fail := resp.GetFailure()
		switch codes.Code(fail.GetCode()) {
		case codes.NotFound, codes.InvalidArgument: // no such cell or node, which only leaders say: nobody holds its lock
			return nil, &sql.StaleFenceError{Sequencer: sequencer, Why: fail.GetMessage()}
		case codes.Unavailable, codes.FailedPrecondition, codes.ResourceExhausted:
		default:
			return nil, errors.New(fail.GetMessage())
		}
		again := time.NewTimer(fenceRetry)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return nil, errors.New(fail.GetMessage())
		}
	}
}

// pathOf is the path of a sequencer, which ends with three parts between colons.
func pathOf(sequencer string) string {
	for range 3 {
		sequencer = sequencer[:max(strings.LastIndexByte(sequencer, ':'), 0)]
	}
	return sequencer
}
