package txn

import (
	"context"
	"errors"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// An optimistic transaction is for a statement of its own that reads by key and
// writes at one tablet led elsewhere. It makes one trip there instead of two:
//
//	gateway                  replica here        leader
//	  |-- Read(guess) ----------->|                |
//	  |<-- newest applied --------|                |
//	  |-- Commit(writes, expect: versions read) -->| locks, compares, commits
//	  |<-- s --------------------------------------|
//
// When a version was not the newest, the leader keeps the locks and answers with
// the newest ones: the statement runs again on these and commits, which is two
// trips, as without guessing.
//
// What is guessed may be old, and no snapshot: until the commit has confirmed it,
// nothing may be concluded from it, not even an error. So while Insist returns
// true, whatever the statement has come to is to be thrown away and the statement
// to be run again. AwaitVisible returns ErrUnconfirmed, so that no client is shown
// a guess by mistake (X1).
//
// Whatever does not fit (a scan, a second tablet, a leader on this node) makes the
// transaction an ordinary one, at once if it has guessed nothing yet, else by
// ErrUnconfirmed. So does whatever cannot be taken back (chunks staged, rows shown):
// after that nothing is guessed.

// maxExpect bounds what one commit has to confirm.
const maxExpect = 512

// guess answers a read from this node's replica. Not done, without an error: the
// transaction is an ordinary one from now on.
func (t *Txn) guess(ctx context.Context, ks []keys.Key, idx []int, out [][]byte, lock tablet.LockStrength, wait tablet.WaitPolicy) (done bool, err error) {
	if idx == nil {
		idx = positions(nil, 0, len(ks))
	}
	desc, err := t.c.cfg.Router.Lookup(ctx, ks[idx[0]])
	if err != nil {
		return false, err
	}
	if lock != tablet.LockExclusive || wait != tablet.WaitBlock || len(t.expect)+len(idx) > maxExpect || !allWithin(ks, idx, desc.Span) ||
		len(t.expect) > 0 && t.guessed.Group != desc.Group || t.c.cfg.Dialer.Leader(desc.Group) == t.c.cfg.Node {
		return false, t.stopGuessing()
	}
	resp := t.readReplica(ctx, &desc, &tablet.ReadRequest{
		Target: tablet.Target{Group: desc.Group, Generation: desc.Generation}, Guess: true, Gets: pickKeys(ks, idx),
	})
	if resp == nil || len(resp.Gets) != len(idx) {
		return false, t.stopGuessing()
	}
	t.guessed = desc
	for i, pos := range idx {
		v := &resp.Gets[i]
		e := tablet.Expectation{Key: ks[pos]}
		if out[pos] = rowOf(v); v.Exists {
			e.TS = v.TS
		}
		t.expect = append(t.expect, e)
	}
	return true, nil
}

// stopGuessing makes the transaction an ordinary one if it has guessed nothing yet.
func (t *Txn) stopGuessing() error {
	if len(t.expect) > 0 {
		return ErrUnconfirmed
	}
	t.optimistic = false
	return nil
}

// Insist makes an ordinary transaction of one that has guessed: its writes are
// dropped, locks that it has got stay, and the statement is to be run again. False:
// there is nothing to run again for.
func (t *Txn) Insist() bool {
	if t.finished || len(t.expect) == 0 {
		return false
	}
	t.optimistic, t.expect = false, nil
	t.buf.reset(nil)
	return true
}

// commitOptimistic has everything confirmed and committed by one request, or
// returns ErrUnconfirmed.
func (t *Txn) commitOptimistic(ctx context.Context) (truetime.Timestamp, error) {
	shares, err := t.plan(ctx)
	if err != nil {
		t.release()
		return 0, err
	}
	s := &share{desc: t.guessed}
	switch {
	case t.elderly(), len(shares) > 1, len(shares) == 1 && shares[0].desc.Group != s.desc.Group:
		return 0, ErrUnconfirmed
	case len(shares) == 1:
		s = &shares[0]
	}
	part, _ := t.part(&s.desc) // a rollback has to go there
	if err := t.lastBound(); err != nil {
		t.release()
		return 0, err
	}
	resp, err := t.commitOnePhase(ctx, s)
	var re *tablet.RangeError
	switch {
	case errors.As(err, &re):
		t.c.cfg.Router.Update(re.Descriptors...) // nothing was executed
		return 0, ErrUnconfirmed
	case err == nil && resp.Term != 0:
		if err := t.locked(part, &s.desc, resp); err != nil {
			t.release()
			return 0, err
		}
		return 0, ErrUnconfirmed
	}
	return t.endOnePhase(ctx, s, resp, err)
}

// locked accepts what the tablet found instead of what was expected, under locks.
func (t *Txn) locked(part int, desc *keys.Descriptor, resp *tablet.CommitResponse) error {
	ks := make([]keys.Key, len(t.expect))
	t.known = make(map[string][]byte, len(resp.Found))
	for i := range t.expect {
		ks[i] = t.expect[i].Key
		if i < len(resp.Found) {
			v := &resp.Found[i]
			t.known[string(ks[i])] = rowOf(v)
			t.seen(v.TS)
		}
	}
	return t.granted(part, desc, 0, resp.Term, ks, keys.Span{})
}
