package txn

import (
	"context"
	"errors"
	"sync"

	"github.com/spandb/spand/internal/crashpoint"
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// commitTwoPhase commits at several tablets (OSDI'12 section 4.2.1):
//
//	gateway            participants            coordinator (one of the tablets)
//	  |-- Prepare ------->| logs writes, locks      |
//	  |<-- prepare ts ----|                         |
//	  |-- Decide(participants, max prepare ts) ---->| logs outcome and own writes
//	  |<-- s ---------------------------------------|
//	  | commit wait       |<------- Resolve(s) -----| (recovery.go, asynchronously)
//
// Until Decide is sent the gateway alone can decide, so a failure before is an
// abort without asking anybody. Whatever dies: a prepared participant asks the
// coordinator's anchor with abort-if-undecided, the first command applied there
// wins (X5).
func (t *Txn) commitTwoPhase(ctx context.Context, shares []share) (truetime.Timestamp, error) {
	if BreakReadParticipants {
		shares = t.breakReads(ctx, shares)
	}
	coord := t.coordinator(shares)
	shares[0], shares[coord] = shares[coord], shares[0]
	anchor := tablet.Anchor{Group: shares[0].desc.Group, Key: shares[0].writes[0].Key}

	crashpoint.Pass(crashpoint.GatewayBegun)
	prepared, err := t.prepareAll(ctx, anchor, shares[1:])
	own := shares[0]
	var back backoff
	for err == nil {
		crashpoint.Pass(crashpoint.GatewayPrepared)
		if err = t.lastBound(); err != nil {
			break
		}
		var resp *tablet.CommitResponse
		resp, err = t.decide(ctx, &own, anchor, prepared)
		if err == nil {
			return t.decided(ctx, resp, len(prepared)+1)
		}
		var re *tablet.RangeError
		var unknown *unknownError
		switch {
		case errors.As(err, &re):
			// The coordinator has split and nothing was executed: the side with the
			// anchor decides, the other one becomes a participant.
			if err = t.c.learnRange(ctx, anchor.Key, &own.desc, re, &back); err != nil {
				break
			}
			var pieces []share
			if pieces, err = t.redivide(ctx, &own); err != nil {
				break
			}
			rest := pieces[:0]
			for _, p := range pieces {
				if p.desc.Span.Contains(anchor.Key) {
					own = p
				} else {
					rest = append(rest, p)
				}
			}
			var more []share
			more, err = t.prepareAll(ctx, anchor, rest)
			prepared = append(prepared, more...)
		case errors.As(err, &unknown):
			resp = new(tablet.CommitResponse)
			resp.TS, err = t.learn(ctx, anchor.Key, unknown)
			var uo *UnknownOutcomeError
			switch {
			case err == nil:
				return t.decided(ctx, resp, len(prepared)+1)
			case errors.As(err, &uo):
				// It may have committed: nothing may be undone. The coordinator's
				// leader and the participants settle it among themselves.
				return 0, err
			}
		}
	}
	t.undo(append(prepared, own))
	return 0, err
}

func (t *Txn) decided(ctx context.Context, resp *tablet.CommitResponse, participants int) (truetime.Timestamp, error) {
	t.c.stats.TwoPhase.Add(1)
	crashpoint.Pass(crashpoint.GatewayDecided)
	s, err := t.commitWait(ctx, resp, participants)
	crashpoint.Pass(crashpoint.GatewayVisible)
	return s, err
}

// coordinator picks the share with most to write, which then need not log it
// twice; among equals one that is led by this node.
func (t *Txn) coordinator(shares []share) int {
	best, weight := -1, -1
	for i := range shares {
		s := &shares[i]
		if len(s.writes) == 0 {
			continue // the anchor must be a written key: it finds the outcome
		}
		w := 2 * (s.bytes + int(s.staged)*t.c.cfg.ChunkBytes)
		if t.c.cfg.Dialer.Leader(s.desc.Group) == t.c.cfg.Node {
			w++
		}
		if w > weight {
			best, weight = i, w
		}
	}
	return best
}

// prepareAll prepares shares in parallel. It returns what has been prepared, or
// may have been, also beside an error: what undo has to deal with.
func (t *Txn) prepareAll(ctx context.Context, anchor tablet.Anchor, shares []share) ([]share, error) {
	if len(shares) == 0 {
		return nil, nil
	}
	pctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	results := make([][]share, len(shares))
	var wg sync.WaitGroup
	one := func(i int) {
		var err error
		if results[i], err = t.prepare(pctx, anchor, shares[i]); err != nil {
			cancel(err) // the others need not go on; the first error counts
		} else if len(shares) > 1 {
			crashpoint.Pass(crashpoint.GatewaySomePrepared)
		}
	}
	for i := 1; i < len(shares); i++ {
		wg.Go(func() { one(i) })
	}
	one(0)
	wg.Wait()
	var all []share
	for _, r := range results {
		all = append(all, r...)
	}
	if err := context.Cause(pctx); err != nil {
		return all, err
	}
	return all, nil
}

// prepare prepares one share; when its tablet has split, the pieces of it.
func (t *Txn) prepare(ctx context.Context, anchor tablet.Anchor, s share) ([]share, error) {
	req := &tablet.PrepareRequest{
		Target: s.target(), Txn: t.ref(s.term), Writes: s.writes, Staged: s.staged,
		Coordinator: anchor, AnchorKey: s.anchor(), MinTS: t.minTS(), MaxTS: t.maxTS(),
	}
	s.sent = true
	var resp *tablet.PrepareResponse
	err := t.c.do(ctx, &s.desc, true, func(ctx context.Context, p Participant) (err error) {
		resp, err = p.Prepare(ctx, req)
		return err
	})
	if err == nil {
		s.ts = resp.TS
		return []share{s}, nil
	}
	var re *tablet.RangeError
	if !errors.As(err, &re) {
		return []share{s}, err
	}
	var back backoff
	if err := t.c.learnRange(ctx, s.anchor(), &s.desc, re, &back); err != nil {
		return []share{s}, err
	}
	pieces, err := t.redivide(ctx, &s)
	if err != nil {
		return []share{s}, err
	}
	var all []share
	for _, p := range pieces {
		done, err := t.prepare(ctx, anchor, p)
		all = append(all, done...)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// redivide divides one share again after its tablet has split.
func (t *Txn) redivide(ctx context.Context, s *share) ([]share, error) {
	if s.staged > 0 {
		return nil, &tablet.AbortedError{Txn: t.id, Reason: tablet.AbortLocksLost, Key: s.anchor()}
	}
	pieces, err := t.c.divide(ctx, nil, s.writes, nil)
	if err != nil || s.hull.lo == nil {
		return pieces, err
	}
	return t.c.divide(ctx, pieces, nil, &part{group: s.desc.Group, generation: s.desc.Generation, term: s.term, hull: s.hull})
}

// decide asks the coordinator to commit.
func (t *Txn) decide(ctx context.Context, own *share, anchor tablet.Anchor, prepared []share) (*tablet.CommitResponse, error) {
	req := &tablet.DecideRequest{
		Target: own.target(), Txn: t.ref(own.term), AnchorKey: anchor.Key, Writes: own.writes, Staged: own.staged,
		Participants: make([]tablet.Anchor, len(prepared)),
		MinTS:        t.minTS(), MaxTS: t.maxTS(), Finished: t.c.ended(),
	}
	for i := range prepared {
		p := &prepared[i]
		req.Participants[i] = tablet.Anchor{Group: p.desc.Group, Key: p.anchor()}
		req.MinTS = max(req.MinTS, p.ts)
	}
	var resp *tablet.CommitResponse
	err := t.c.do(ctx, &own.desc, false, func(ctx context.Context, p Participant) (err error) {
		resp, err = p.Decide(ctx, req)
		return err
	})
	return resp, err
}

// undo aborts a transaction that has certainly not been decided to commit and,
// the gateway being the only one who could, never will be: prepared participants
// are told so in the background, unprepared locks are dropped. What is not
// reached finds out by inquiry.
func (t *Txn) undo(shares []share) {
	type where struct {
		key  keys.Key
		desc keys.Descriptor
		term uint64
		sent bool
	}
	list := make([]where, len(shares))
	touched := map[keys.GroupID]bool{}
	for i := range shares {
		s := &shares[i]
		list[i] = where{s.anchor(), s.desc, s.term, s.sent}
		touched[s.desc.Group] = true
	}
	t.c.background(t.c.cfg.OutcomeTimeout, func(ctx context.Context) {
		var wg sync.WaitGroup
		for _, w := range list {
			wg.Go(func() {
				if w.sent {
					err := t.c.resolve(ctx, w.key, t.id, tablet.Outcome{Status: tablet.OutcomeAborted})
					if err != nil {
						t.c.cfg.Logger.Debug("txn: undoing a prepare", "txn", t.id.String(), "err", err)
					}
				}
				t.abortAt(ctx, &w.desc, w.term)
			})
		}
		wg.Wait()
	})
	// Tablets whose prepare was never sent, after an early error.
	t.release()
}

// resolve tells the participant that holds anchor the outcome, wherever the
// anchor is now.
func (c *Client) resolve(ctx context.Context, anchor keys.Key, id keys.TxnID, out tablet.Outcome) error {
	return c.routed(ctx, anchor, true, func(ctx context.Context, desc *keys.Descriptor, p Participant) error {
		return p.Resolve(ctx, &tablet.ResolveRequest{
			Target: tablet.Target{Group: desc.Group, Generation: desc.Generation},
			Key:    anchor, Txn: id, Outcome: out,
		})
	})
}
