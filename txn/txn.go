package txn

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// Txn is one transaction. It belongs to one goroutine; a context that ends
// interrupts it. After an error from any method it can only be rolled back.
// Retryable conflicts are *tablet.AbortedError; *UnknownOutcomeError comes from
// Commit alone. Keys and values given to it are retained: they must not be
// changed afterwards.
type Txn struct {
	c        *Client
	id       keys.TxnID
	ro       bool
	past     bool // any replica may answer (a read-only transaction in the past)
	finished bool
	at       truetime.Timestamp // of a read-only transaction

	maxSeen truetime.Timestamp // highest version read or loaded (X1)
	bound   truetime.Timestamp // lowest of BoundCommit; 0: none
	// ask is AskBound's, asked its newest answer and asking how long all answers took.
	ask    func() (truetime.Timestamp, error)
	asked  truetime.Timestamp
	asking time.Duration
	failed error // what ended it, other than Commit and Rollback
	result CommitResult

	optimistic bool                 // reads may be guessed
	expect     []tablet.Expectation // what was guessed; the commit has it confirmed
	guessed    keys.Descriptor      // the tablet of all of it
	known      map[string][]byte    // newest values under locks held, nil: no row

	buf    writeBuffer
	open   []*RowIter // scans that may read on: their spans are not staged
	stager *stager    // from the first staged chunk on
	// stageAt is how many buffered bytes to try staging at again, after some
	// could not be staged because of open scans.
	stageAt int

	// lost is set by the heartbeat when a tablet no longer knows the transaction.
	lost atomic.Bool

	prev, next *Txn // Client.live; guarded by Client.mu

	mu sync.Mutex // guards parts and loaded against heartbeat, stager, Load; a leaf
	// parts are the tablets at which the transaction holds or has asked for locks.
	parts []part
	// loaded is the highest commit timestamp of Load.
	loaded  truetime.Timestamp
	inline  [1]part
	readReq tablet.ReadRequest // reused by single-tablet reads
}

// part is one tablet's share of a transaction.
type part struct {
	group      keys.GroupID
	generation uint64
	term       uint64   // lease of the first lock there; 0: none granted yet
	staged     uint32   // chunks laid down or on their way
	stagedGen  uint64   // generation of the tablet then
	start      keys.Key // of the tablet's span: finds it when nothing is locked yet
	hull                // what is locked
}

// ID is the transaction's id, zero when read-only.
func (t *Txn) ID() keys.TxnID { return t.id }

// ReadOnly reports whether the transaction was begun by Client.ReadOnly.
func (t *Txn) ReadOnly() bool { return t.ro }

// ReadTimestamp of a read-only transaction, else 0.
func (t *Txn) ReadTimestamp() truetime.Timestamp { return t.at }

// Result tells more about a successful Commit.
func (t *Txn) Result() CommitResult { return t.result }

// usable says why the transaction cannot go on, nil when it can.
func (t *Txn) usable() error {
	switch {
	case t.finished:
		return ErrFinished
	case t.failed != nil:
		return t.failed
	case t.lost.Load():
		t.failed = &tablet.AbortedError{Txn: t.id, Reason: tablet.AbortLocksLost}
		return t.failed
	}
	if t.stager != nil {
		if err := t.stager.failure(); err != nil {
			t.failed = err
			return err
		}
	}
	return nil
}

// fail remembers an error after which the locks held may be gone.
func (t *Txn) fail(err error) error {
	var aborted *tablet.AbortedError
	if t.failed == nil && errors.As(err, &aborted) {
		t.failed = err
	}
	return err
}

// Put buffers a write of v (nil is the empty value).
func (t *Txn) Put(ctx context.Context, k keys.Key, v []byte) error {
	if v == nil {
		v = []byte{}
	}
	return t.write(ctx, k, v)
}

// Delete buffers the deletion of k.
func (t *Txn) Delete(ctx context.Context, k keys.Key) error { return t.write(ctx, k, nil) }

func (t *Txn) write(ctx context.Context, k keys.Key, v []byte) error {
	if t.ro {
		return ErrReadOnly
	}
	if err := t.usable(); err != nil {
		return err
	}
	t.buf.set(k, v)
	if len(t.expect) > 0 && t.buf.bytes > t.c.cfg.InlineBytes {
		return ErrUnconfirmed // too much for one request
	}
	if t.buf.bytes > t.c.cfg.StageAfter && t.buf.bytes > t.stageAt {
		t.optimistic = false // what is staged stays, so the statement must not run again
		return t.stageBuffer(ctx)
	}
	return nil
}

// Savepoint marks the write buffer.
func (t *Txn) Savepoint() int { return t.buf.savepoint() }

// RollbackTo drops the writes after mark; locks stay. It fails when some of them
// have been staged already, which large transactions do; then only Rollback is left.
func (t *Txn) RollbackTo(mark int) error {
	if t.finished {
		return ErrFinished
	}
	return t.buf.rollbackTo(mark)
}

// BoundCommit demands a commit timestamp s <= ts (B2, L2); the lowest bound holds.
func (t *Txn) BoundCommit(ts truetime.Timestamp) {
	if ts != 0 && (t.bound == 0 || ts < t.bound) {
		t.bound = ts
	}
}

// AskBound has Commit call ask, on its own goroutine, for one more bound (L2: how long a
// lock is certain to be held) immediately before each request that may have the commit
// timestamp assigned goes out: after chunks are staged, locks taken and participants
// prepared, so that the bound may be a short one. An error of ask ends the transaction,
// certainly without a commit. Of several answers (nothing was executed in between) the
// newest counts. A transaction that wrote nothing is asked about, too.
func (t *Txn) AskBound(ask func() (truetime.Timestamp, error)) { t.ask = ask }

// lastBound asks for the bound of AskBound. The caller sends the commit at once.
func (t *Txn) lastBound() error {
	if t.ask == nil || BreakFence {
		return nil
	}
	began := time.Now()
	until, err := t.ask()
	t.asking += time.Since(began)
	if err == nil {
		t.asked = until
	}
	return err
}

// maxTS bounds the commit timestamp from above, 0: no bound.
func (t *Txn) maxTS() truetime.Timestamp {
	if t.asked != 0 && (t.bound == 0 || t.asked < t.bound) {
		return t.asked
	}
	return t.bound
}

// AwaitVisible returns once everything read so far may be shown to a client:
// every version's timestamp has definitely passed (X1).
func (t *Txn) AwaitVisible(ctx context.Context) error {
	if len(t.expect) > 0 {
		return ErrUnconfirmed
	}
	t.optimistic = false // what is shown stays shown
	if t.maxSeen == 0 || BreakVisible || truetime.After(t.c.cfg.Clock, t.maxSeen) {
		return nil
	}
	return t.c.cfg.Clock.AwaitAfter(ctx, t.maxSeen)
}

func (t *Txn) seen(ts truetime.Timestamp) {
	if ts > t.maxSeen {
		t.maxSeen = ts
	}
}

// part returns the index of the share at desc's tablet and the term to send
// there, making the share before the first request goes out, so that Rollback
// knows where to go. When the tablet is a child of a split of one where locks are
// held, the child has inherited them with the term under which they were taken (B1).
func (t *Txn) part(desc *keys.Descriptor) (i int, sent uint64) {
	t.mu.Lock()
	for i := range t.parts {
		p := &t.parts[i]
		if p.group == desc.Group && (p.lo == nil || p.overlaps(desc.Span)) { // else splits took it all
			term := p.term
			t.mu.Unlock()
			return i, term
		}
	}
	p := part{group: desc.Group, generation: desc.Generation, start: desc.Span.Start}
	for i := range t.parts {
		if q := &t.parts[i]; q.term != 0 && q.overlaps(desc.Span) {
			p.term, p.hull = q.term, q.clip(desc.Span)
		}
	}
	if t.parts == nil {
		t.parts = t.inline[:0]
	}
	t.parts = append(t.parts, p)
	i = len(t.parts) - 1
	t.mu.Unlock()
	return i, p.term
}

// granted records what a request at part i, sent with a term, was granted under
// another: gets, and s unless it is empty.
func (t *Txn) granted(i int, desc *keys.Descriptor, sent, term uint64, gets []keys.Key, s keys.Span) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &t.parts[i]
	if err := t.meet(p, sent, term); err != nil {
		return err
	}
	p.generation = desc.Generation
	for _, k := range gets {
		p.addPoint(k)
	}
	if s.IsPoint() && s.Start != nil || bytes.Compare(s.Start, s.End) < 0 {
		p.addSpan(s)
	}
	return nil
}

// meet records the term of an answer from p's tablet, mu held. A request sent with a
// term was granted only because the locks of that term stand. One of two first
// contacts at once knew of none: if the other was granted under another term, one
// of them has lost its locks with the leader (X2).
func (t *Txn) meet(p *part, sent, term uint64) error {
	if sent == 0 && p.term != 0 && p.term != term {
		return &tablet.AbortedError{Txn: t.id, Reason: tablet.AbortLocksLost, Key: p.start}
	}
	p.term = term
	return nil
}

func (t *Txn) ref(term uint64) tablet.TxnRef {
	return tablet.TxnRef{ID: t.id, Term: term, Client: t.c.cfg.Node}
}

// finish ends the transaction's use; its locks are the caller's business.
func (t *Txn) finish() {
	t.finished = true
	t.c.end(t)
}

// Rollback releases everything, in the background where tablets are elsewhere.
// Harmless after Commit or another Rollback.
func (t *Txn) Rollback(context.Context) {
	if t.finished {
		return
	}
	if t.ro {
		t.finished = true
		return
	}
	t.finish()
	t.c.stats.RolledBack.Add(1)
	t.release()
}

// release drops the unprepared locks and staged chunks of every part, best
// effort: what is not reached loses its locks with the heartbeats.
func (t *Txn) release() {
	if t.stager != nil {
		t.stager.stop()
	}
	t.mu.Lock()
	parts := t.parts
	t.mu.Unlock()
	if len(parts) == 0 {
		return
	}
	if t.stager == nil && t.releaseLocal(parts) {
		return
	}
	t.c.background(t.c.cfg.AttemptTimeout, func(ctx context.Context) {
		if t.stager != nil {
			t.stager.wait()
		}
		var wg sync.WaitGroup
		for i := range parts {
			wg.Go(func() { t.releasePart(ctx, &parts[i]) })
		}
		wg.Wait()
	})
}

// releaseRefused cleans up behind a commit at tablets that granted nothing and took no
// part in it: a request whose call has timed out keeps its place there for a while
// (lock_timeout, with a savepoint), and may have been granted its lock since.
func (t *Txn) releaseRefused() {
	if len(t.expect) > 0 {
		return // all at one tablet, which has answered
	}
	t.mu.Lock()
	parts := t.parts
	t.mu.Unlock()
	for i := range parts {
		if p := &parts[i]; p.term == 0 && p.staged == 0 {
			t.c.background(t.c.cfg.AttemptTimeout, func(ctx context.Context) { t.releasePart(ctx, p) })
		}
	}
}

// releaseLocal is the usual case, without a goroutine: every tablet is here.
func (t *Txn) releaseLocal(parts []part) bool {
	for i := range parts {
		if t.c.cfg.Dialer.Leader(parts[i].group) != t.c.cfg.Node {
			return false
		}
	}
	for i := range parts {
		p, err := t.c.cfg.Dialer.Participant(t.c.cfg.Node, parts[i].group)
		if err != nil {
			return false
		}
		target := tablet.Target{Group: parts[i].group, Generation: parts[i].generation}
		if err := p.Abort(t.c.ctx, &tablet.AbortRequest{Target: target, Txn: t.ref(parts[i].term)}); err != nil {
			return false
		}
	}
	return true
}

// releasePart aborts at every tablet that p's locks reach into. One that has split
// since names its children, which have inherited some of them.
func (t *Txn) releasePart(ctx context.Context, p *part) {
	failed := func(err error) {
		t.c.cfg.Logger.Debug("txn: abort", "txn", t.id.String(), "group", uint64(p.group), "err", err)
	}
	h := p.hull
	if h.lo == nil {
		h.addPoint(p.start) // asked for locks and never heard of them
	}
	var back backoff
	for {
		var divided *tablet.RangeError
		var asked keys.Descriptor
		err := t.c.tablets(ctx, &h, func(desc *keys.Descriptor) error {
			err := t.abortAt(ctx, desc, p.term)
			if errors.As(err, &divided) {
				asked = *desc
				return err
			}
			if err != nil {
				failed(err)
			}
			return nil
		})
		if divided != nil {
			at := h.clip(asked.Span)
			err = t.c.learnRange(ctx, at.lo, &asked, divided, &back)
		}
		if err != nil {
			failed(err)
		}
		if divided == nil || err != nil {
			return
		}
	}
}

func (t *Txn) abortAt(ctx context.Context, desc *keys.Descriptor, term uint64) error {
	req := &tablet.AbortRequest{Txn: t.ref(term)}
	return t.c.do(ctx, desc, true, func(ctx context.Context, p Participant) error {
		req.Target = tablet.Target{Group: desc.Group, Generation: desc.Generation}
		return p.Abort(ctx, req)
	})
}

// spanOf returns scan bounds with a point made a range of one key.
func spanOf(s keys.Span) keys.Span {
	if s.IsPoint() {
		s.End = append(bytes.Clone(s.Start), 0)
	}
	return s
}
