package txn

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// share is what one tablet has to do with a commit.
type share struct {
	desc   keys.Descriptor
	term   uint64
	staged uint32
	hull   hull // locks held there; lo nil: none
	writes []tablet.Write
	bytes  int
	// sent: a prepare has been sent, so the tablet may be prepared.
	sent bool
	ts   truetime.Timestamp // of the prepare
}

// anchor is a key that finds the share's tablet, also after splits.
func (s *share) anchor() keys.Key {
	if len(s.writes) > 0 {
		return s.writes[0].Key
	}
	return s.hull.lo
}

func (s *share) target() tablet.Target {
	return tablet.Target{Group: s.desc.Group, Generation: s.desc.Generation}
}

// Commit commits and does commit wait: when it returns, the timestamp has
// definitely passed (X1). A commit of several tablets is answered as soon as its
// decision is durable there; its participants learn of it from the coordinator.
//
// ErrUnconfirmed, from an optimistic transaction, leaves it open: Insist or Rollback
// follows. Any other error but *UnknownOutcomeError means that the transaction has not
// committed and never will. When ctx ends after the commit has been sent, its
// outcome is still found out, for at most Config.OutcomeTimeout.
func (t *Txn) Commit(ctx context.Context) (truetime.Timestamp, error) {
	if t.ro {
		if t.finished {
			return 0, ErrFinished
		}
		t.finished = true
		if t.failed != nil {
			return 0, t.failed
		}
		return t.at, nil
	}
	if err := t.usable(); err != nil {
		if !t.finished {
			t.finish()
			t.release()
			t.c.count(err)
		}
		return 0, err
	}
	ts, err := t.commit(ctx)
	if err == ErrUnconfirmed {
		return 0, err // still open
	}
	t.finish()
	if err == nil {
		t.releaseRefused()
		return ts, nil
	}
	t.c.count(err)
	return 0, err
}

func (c *Client) count(err error) {
	var aborted *tablet.AbortedError
	var unknown *UnknownOutcomeError
	switch {
	case errors.As(err, &aborted):
		c.stats.Aborted.Add(1)
	case errors.As(err, &unknown):
		c.stats.UnknownOutcome.Add(1)
	}
}

func (t *Txn) commit(ctx context.Context) (truetime.Timestamp, error) {
	if len(t.expect) > 0 {
		return t.commitOptimistic(ctx)
	}
	t.mu.Lock()
	t.seen(t.loaded)
	t.mu.Unlock()
	if t.stager != nil || t.buf.bytes > t.c.cfg.InlineBytes {
		if err := t.stageRest(ctx); err != nil {
			t.release()
			return 0, err
		}
	}
	if t.buf.len() == 0 {
		return t.commitReads(ctx)
	}
	var back backoff
	for {
		shares, err := t.plan(ctx)
		if err == nil && t.elderly() && t.blind(shares) {
			if err = t.lockBlind(ctx, shares); err == nil {
				shares, err = t.plan(ctx)
			}
		}
		if err != nil {
			t.release()
			return 0, t.fail(err)
		}
		if len(shares) > 1 {
			return t.commitTwoPhase(ctx, shares)
		}
		s := &shares[0]
		if err := t.lastBound(); err != nil {
			t.release()
			return 0, err
		}
		resp, err := t.commitOnePhase(ctx, s)
		var re *tablet.RangeError
		if errors.As(err, &re) {
			// Nothing was executed; the map was stale: plan again.
			if err := t.c.learnRange(ctx, s.anchor(), &s.desc, re, &back); err != nil {
				t.release()
				return 0, err
			}
			continue
		}
		return t.endOnePhase(ctx, s, resp, err)
	}
}

// endOnePhase ends the transaction by what its one tablet answered.
func (t *Txn) endOnePhase(ctx context.Context, s *share, resp *tablet.CommitResponse, err error) (truetime.Timestamp, error) {
	var unknown *unknownError
	if errors.As(err, &unknown) {
		resp = new(tablet.CommitResponse)
		resp.TS, err = t.learn(ctx, s.anchor(), unknown)
		var uo *UnknownOutcomeError
		if errors.As(err, &uo) {
			return 0, err // it may have committed: nothing may be undone
		}
	}
	if err != nil {
		t.release()
		return 0, err
	}
	t.c.stats.OnePhase.Add(1)
	return t.commitWait(ctx, resp, 1)
}

// elderly reports whether the transaction is so old that a tablet which does not
// know it may have to take it for one whose outcome it has forgotten (X5).
func (t *Txn) elderly() bool {
	return t.c.cfg.Clock.Now().Latest > t.id.Age.Add(elderlyAfter)
}

// elderlyAfter lies far below the tablets' horizon of 60 s, because they remember only
// so many outcomes: while one idle transaction keeps a node from declaring its others
// ended, a busy tablet forgets what is a few seconds old.
const elderlyAfter = time.Second

func (t *Txn) blind(shares []share) bool {
	for i := range shares {
		if shares[i].term == 0 {
			return true
		}
	}
	return false
}

// blindPatience bounds how long a commit waits for the locks of blind writes: nobody
// can cancel it meanwhile.
const blindPatience = time.Second

// lockBlind takes the locks of blind writes before the commit, so that their
// tablets know an elderly transaction when it commits.
func (t *Txn) lockBlind(ctx context.Context, shares []share) error {
	var ks []keys.Key
	for i := range shares {
		if shares[i].term != 0 {
			continue
		}
		for j := range shares[i].writes {
			ks = append(ks, shares[i].writes[j].Key)
		}
	}
	for start := time.Now(); ; {
		bounded, cancel := context.WithTimeout(ctx, blindPatience)
		err := t.getFrom(bounded, ks, nil, make([][]byte, len(ks)), tablet.LockExclusive, tablet.WaitBlock)
		cancel()
		var nobody *UnavailableError
		switch {
		case !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil:
			return err
		case !errors.As(err, &nobody):
			return &tablet.AbortedError{Txn: t.id, Reason: tablet.AbortRefused, Key: ks[0]}
		case time.Since(start) > t.c.cfg.RetryTimeout:
			return nobody
		}
	}
}

// commitOnePhase sends the commit to the only tablet involved.
func (t *Txn) commitOnePhase(ctx context.Context, s *share) (*tablet.CommitResponse, error) {
	c := t.c
	req := &tablet.CommitRequest{
		Target: s.target(), Txn: t.ref(s.term), Writes: s.writes, Staged: s.staged,
		MinTS: t.minTS(), MaxTS: t.maxTS(), Finished: c.ended(), Expect: t.expect,
	}
	// What writes nothing may be repeated: it is confirmed anew.
	repeatable := len(s.writes) == 0
	// The usual case without a closure: the leader is here.
	if c.cfg.Dialer.Leader(s.desc.Group) == c.cfg.Node {
		if p, err := c.cfg.Dialer.Participant(c.cfg.Node, s.desc.Group); err == nil {
			resp, err := p.Commit(ctx, req)
			if err == nil {
				return resp, nil
			}
			a := attempt{node: c.cfg.Node}
			switch v := c.judge(ctx, s.desc.Group, &a, err); {
			case v == final || v == remap:
				return nil, err
			case v >= unclear && !repeatable:
				return nil, &unknownError{cause: err, strange: v == strange}
			}
		}
	}
	var resp *tablet.CommitResponse
	err := c.do(ctx, &s.desc, repeatable, func(ctx context.Context, p Participant) (err error) {
		resp, err = p.Commit(ctx, req)
		return err
	})
	return resp, err
}

// minTS bounds the commit timestamp from below: above all that was read.
func (t *Txn) minTS() truetime.Timestamp {
	if t.maxSeen == 0 {
		return 0
	}
	return t.maxSeen + 1
}

// commitWait returns once what resp says was committed has definitely passed (X1). The
// transaction has committed; only a clock that fails meanwhile keeps it from being
// acknowledged.
func (t *Txn) commitWait(ctx context.Context, resp *tablet.CommitResponse, participants int) (truetime.Timestamp, error) {
	clock := t.c.cfg.Clock
	t.result = CommitResult{TS: resp.TS, Participants: participants, Epsilon: resp.Epsilon, Gross: resp.Since, Asking: t.asking}
	stats := &t.c.stats
	stats.CommitWaits.Add(1)
	until := resp.TS
	if BreakShortWait {
		until = until.Add(-clock.Now().Epsilon())
	}
	if !truetime.After(clock, until) && !BreakCommitWait {
		// The wait is as short as the clock is uncertain: ctx may not cut it off,
		// because nobody may hear of the commit before its end.
		wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.c.cfg.OutcomeTimeout)
		defer cancel()
		began := time.Now()
		if err := clock.AwaitAfter(wctx, until); err != nil {
			return 0, &UnknownOutcomeError{Txn: t.id, Cause: err}
		}
		t.result.Net = time.Since(began)
		t.result.Gross += t.result.Net
		stats.WaitNet.Add(uint64(t.result.Net))
	}
	stats.WaitGross.Add(uint64(t.result.Gross))
	return resp.TS, nil
}

// commitReads ends a transaction that wrote nothing. Its locks, if it has any, are
// what it stands on: once everything it has read is definitely in the past, each
// tablet confirms that they were held until then. At the instant between, all of
// them were held at once, above every version read and below every later
// commit: the transaction is serialized there (X2, X3).
func (t *Txn) commitReads(ctx context.Context) (truetime.Timestamp, error) {
	err := t.AwaitVisible(ctx)
	if err == nil {
		err = t.lastBound()
	}
	if err != nil {
		t.release()
		return 0, err
	}
	now := t.c.cfg.Clock.Now()
	if most := t.maxTS(); most != 0 && now.Latest > most {
		t.release()
		return 0, &tablet.AbortedError{Txn: t.id, Reason: tablet.AbortTooLate}
	}
	var back backoff
	for {
		shares, err := t.plan(ctx)
		if err != nil {
			t.release()
			return 0, err
		}
		if len(shares) == 0 {
			t.result = CommitResult{TS: now.Earliest, Asking: t.asking}
			return now.Earliest, nil
		}
		errs := make([]error, len(shares))
		confirm := func(i int) {
			s := &shares[i]
			req := &tablet.CommitRequest{Target: s.target(), Txn: t.ref(s.term), MinTS: t.minTS(), MaxTS: t.maxTS(), Finished: t.c.ended()}
			errs[i] = t.c.do(ctx, &s.desc, true, func(ctx context.Context, p Participant) error {
				_, err := p.Commit(ctx, req)
				return err
			})
		}
		var wg sync.WaitGroup
		for i := 1; i < len(shares); i++ {
			wg.Go(func() { confirm(i) })
		}
		confirm(0)
		wg.Wait()
		stale := false
		for i, err := range errs {
			var re *tablet.RangeError
			switch {
			case err == nil:
			case errors.As(err, &re) && len(shares) == 1:
				stale = true
				if err := t.c.learnRange(ctx, shares[i].anchor(), &shares[i].desc, re, &back); err != nil {
					t.release()
					return 0, err
				}
			case errors.As(err, &re):
				// Others have confirmed and let go of their locks; confirming again
				// would find them lost.
				t.c.cfg.Router.Update(re.Descriptors...)
				t.release()
				return 0, &tablet.AbortedError{Txn: t.id, Reason: tablet.AbortLocksLost, Key: shares[i].anchor()}
			default:
				t.release()
				return 0, err
			}
		}
		if !stale {
			t.result = CommitResult{TS: now.Earliest, Participants: len(shares), Asking: t.asking}
			return now.Earliest, nil
		}
	}
}

// plan divides the transaction by tablets, as the map is now: the writes, and
// the locks held without a write, which take part as well (X3).
func (t *Txn) plan(ctx context.Context) ([]share, error) {
	shares, err := t.c.divide(ctx, make([]share, 0, 1), t.buf.all(), nil)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	parts := t.parts
	t.mu.Unlock()
	for i := range parts {
		p := &parts[i]
		if p.term == 0 && p.staged == 0 {
			continue // asked, and holds nothing
		}
		if shares, err = t.c.divide(ctx, shares, nil, p); err != nil {
			return nil, err
		}
	}
	for i := range parts {
		p := &parts[i]
		if p.staged == 0 {
			continue
		}
		for j := range shares {
			s := &shares[j]
			if s.desc.Group == p.group && s.desc.Generation == p.stagedGen {
				continue
			}
			if s.desc.Group == p.group || p.overlaps(s.desc.Span) {
				// The tablet has split since chunks were laid down there (see stager).
				return nil, &tablet.AbortedError{Txn: t.id, Reason: tablet.AbortLocksLost, Key: p.lo}
			}
		}
	}
	return shares, nil
}

// divide adds writes (sorted) and the locks of one part to the shares of their tablets.
func (c *Client) divide(ctx context.Context, shares []share, writes []tablet.Write, p *part) ([]share, error) {
	at := func(desc *keys.Descriptor) *share {
		for i := range shares {
			if s := &shares[i]; s.desc.Group == desc.Group {
				if desc.Generation < s.desc.Generation {
					s.desc = *desc // the share is no better than the oldest map used for it
				}
				return s
			}
		}
		shares = append(shares, share{desc: *desc})
		return &shares[len(shares)-1]
	}
	for len(writes) > 0 {
		desc, err := c.cfg.Router.Lookup(ctx, writes[0].Key)
		if err != nil {
			return nil, err
		}
		here := writesBefore(writes, desc.Span.End)
		if len(here) == 0 {
			return nil, errors.New("txn: the map answers a key with another tablet's span")
		}
		writes = writes[len(here):]
		s := at(&desc)
		s.writes = append(s.writes[:len(s.writes):len(s.writes)], here...)
		if len(s.writes) == len(here) {
			s.writes = here[:len(here):len(here)] // the usual case: no copy kept
		}
		for i := range here {
			s.bytes += len(here[i].Key) + len(here[i].Value) + 8
		}
	}
	if p == nil {
		return shares, nil
	}
	err := c.tablets(ctx, &p.hull, func(desc *keys.Descriptor) error {
		s := at(desc)
		piece := p.clip(desc.Span)
		s.hull.add(piece.lo, piece.hi, piece.incl)
		if p.group == desc.Group {
			s.term, s.staged = p.term, p.staged
		} else if s.term == 0 {
			s.term = p.term // inherited by a child of a split (B1)
		}
		return nil
	})
	return shares, err
}

// stageRest makes the commit commands small enough: what exceeds InlineBytes at
// a tablet is staged, and everything staged is acknowledged, before the commit begins.
func (t *Txn) stageRest(ctx context.Context) error {
	all := t.buf.all()
	if t.buf.bytes > t.c.cfg.InlineBytes {
		shares, err := t.c.divide(ctx, nil, all, nil)
		if err != nil {
			return err
		}
		var keep []tablet.Write
		var stage [][]tablet.Write
		for i := range shares {
			ws := shares[i].writes
			if shares[i].bytes > t.c.cfg.InlineBytes && len(ws) > 1 {
				stage = append(stage, append([]tablet.Write(nil), ws[:len(ws)-1]...))
				ws = ws[len(ws)-1:]
			}
			keep = append(keep, ws...)
		}
		if len(stage) > 0 {
			t.buf.reset(append([]tablet.Write(nil), keep...))
			for _, ws := range stage {
				if err := t.stageWrites(ctx, ws); err != nil {
					return err
				}
			}
		}
	}
	if t.stager != nil {
		return t.stager.barrier(ctx)
	}
	return nil
}

// learn finds out what became of a commit whose answer was lost: it asks the
// tablet that holds the anchor, with abort-if-undecided, until there is an
// answer (X5). It goes on beyond ctx, for OutcomeTimeout, but not beyond Close.
func (t *Txn) learn(ctx context.Context, anchor keys.Key, lost *unknownError) (truetime.Timestamp, error) {
	t.c.stats.Inquired.Add(1)
	limit := time.Now().Add(t.c.cfg.OutcomeTimeout)
	if d, ok := ctx.Deadline(); ok && d.After(limit) {
		limit = d
	}
	ictx, cancel := context.WithDeadline(context.WithoutCancel(ctx), limit)
	defer cancel()
	defer context.AfterFunc(t.c.ctx, cancel)() // a node that exits does not wait for it
	out, err := t.c.inquire(ictx, &tablet.InquireRequest{Txn: t.id, AnchorKey: anchor, Abort: true})
	if err != nil {
		return 0, &UnknownOutcomeError{Txn: t.id, Cause: errors.Join(err, lost.cause)}
	}
	switch out.Status {
	case tablet.OutcomeCommitted:
		return out.TS, nil
	case tablet.OutcomeAborted:
		if cerr := ctx.Err(); cerr != nil {
			return 0, cerr
		}
		if lost.strange {
			return 0, lost.cause
		}
		return 0, &tablet.AbortedError{Txn: t.id, Reason: tablet.AbortDecided, Key: bytes.Clone(anchor)}
	}
	return 0, &UnknownOutcomeError{Txn: t.id, Cause: lost.cause}
}

// inquire asks for an outcome until there is one. The command may be repeated:
// it always gives the first answer again. It fills in req's Target.
func (c *Client) inquire(ctx context.Context, req *tablet.InquireRequest) (tablet.Outcome, error) {
	var out tablet.Outcome
	var back backoff
	for {
		err := c.routed(ctx, req.AnchorKey, true, func(ctx context.Context, desc *keys.Descriptor, p Participant) (err error) {
			r := *req
			r.Target = tablet.Target{Group: desc.Group, Generation: desc.Generation}
			out, err = p.Inquire(ctx, &r)
			return err
		})
		if err != nil {
			return out, err
		}
		if out.Status != tablet.OutcomePending || !req.Abort {
			return out, nil
		}
		// A commit of the transaction is in flight there: it will be decided.
		if err := back.wait(ctx); err != nil {
			return out, err
		}
	}
}
