package lockservice

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// Create says what Open does about a node that is not there.
type Create int

const (
	CreateNone      Create = iota // ErrNotFound
	CreateIfAbsent                // make it
	CreateExclusive               // make it, ErrExists if it is there
)

// OpenOptions of Open. The zero value opens what is there.
type OpenOptions struct {
	Create    Create
	Directory bool // make a directory
	// Ephemeral makes a node that goes when no session holds it open any more.
	Ephemeral bool
	Contents  []byte // of a file that is made
	ACL       *ACL   // of a node that is made; nil: its parent's
	// LockDelay: how long nobody else gets the lock after this session expired while it held
	// it through this handle, so that what it sent before can arrive before another's does.
	// At most 60 s. A Release or Close is not delayed.
	LockDelay time.Duration
	// KeepLock has the handle cache its lock (paper 2.7): after Unlock it keeps the hold for at most so
	// long, and the next Lock or TryLock, or RLock or TryRLock after a shared one, takes it over
	// without a call, if the session is safe. As soon as the cell says that another wants the lock, it is
	// given back: at once if nobody uses it, else by Unlock. For locks that one client takes again
	// and again and others seldom. 0: Unlock gives the lock back.
	//
	// What is taken over is the same hold: its Locks have one Sequencer. No other handle held the
	// lock in between, so a fence keeps off everybody else as ever (L2). But it does not tell two critical
	// sections of this handle from each other: what the first sent under its sequencer, or a goroutine of it
	// that goes on after Unlock, is not refused during the second. Who needs a generation of
	// its own for every critical section leaves KeepLock 0.
	//
	// While the hold is kept it is a hold to all others: a TryLock or Delete of theirs is refused with
	// ErrLockHeld once, before it is given back, and a client that dies makes them wait for its lease
	// and LockDelay, whether it used the lock or not.
	KeepLock time.Duration
	// DurableUnlock has Unlock wait until the release is on disk at a majority, instead of until it is
	// in order (see Lock.Unlock).
	DurableUnlock bool
}

// Handle is a node that the session has open, and the place of at most one hold of its lock,
// which a Lock has or the handle keeps.
// See Node for the methods that read and change it.
type Handle struct {
	Node
	created   bool
	stat      *Stat
	lockDelay time.Duration
	durable   bool
	// turn has room for one: who is in it may ask for the lock, or has it. A retry must meet
	// only its own hold at the server, so the next attempt waits until the last one is undone.
	turn    chan struct{}
	attempt atomic.Uint64
	keep    keeping

	// life ends with Close, under the session's mutex: a lock is entered before it or refused.
	life context.Context
	end  context.CancelCauseFunc
}

// Open finds or makes a node. ErrNotFound, ErrExists, ErrIsDirectory, ErrNotDirectory,
// ErrQuotaExceeded, ErrTooLarge and what Node says.
func (s *Session) Open(ctx context.Context, path string, o OpenOptions) (*Handle, error) {
	h := &Handle{Node: *s.Node(path), lockDelay: o.LockDelay, durable: o.DurableUnlock, keep: keeping{most: o.KeepLock}, turn: make(chan struct{}, 1)}
	h.number, h.fence = s.handle.Add(1), new(atomic.Pointer[string])
	h.life, h.end = context.WithCancelCause(context.Background())
	if err := errors.Join(checkContents(path, o.Contents), o.ACL.check(), checkDelay(path, o.LockDelay)); err != nil {
		return nil, err
	}
	contents := bytes.Clone(o.Contents)
	makes := o.Create != CreateNone || o.Ephemeral
	resp, err := h.change(ctx, func(request, _ uint64) *lockpb.DoRequest {
		if !makes {
			request = 0 // reads only: nothing to remember
		}
		return &lockpb.DoRequest{Call: &lockpb.DoRequest_Open{Open: &lockpb.OpenRequest{
			Handle: h.wire(), Request: request, Create: lockpb.Create(o.Create),
			Directory: o.Directory, Ephemeral: o.Ephemeral, Contents: contents, Acl: o.ACL.wire()}}}
	})
	if err != nil {
		var refused *Error
		if ctx.Err() != nil || errors.As(err, &refused) && refused.unsure {
			// It may be open there all the same, and would keep an ephemeral node alive.
			h.undo(func() *lockpb.DoRequest { return h.closing() }, nil)
		}
		return nil, err
	}
	h.stat = statOf(resp.GetOpen().GetStat())
	h.created = resp.GetOpen().GetCreated()
	h.instance = h.stat.Instance
	return h, nil
}

// Session that has it open.
func (h *Handle) Session() *Session { return h.s }

// Created says whether Open made the node.
func (h *Handle) Created() bool { return h.created }

// Opened is the node's Stat as it was opened.
func (h *Handle) Opened() *Stat { return h.stat }

// Close gives up the handle, with the lock that it holds or keeps and the ephemeral node that it keeps
// alive; who waits for the lock through it gets ErrClosed. When ctx ends first, or with
// ErrDiskFull, the client goes on trying while the session lives.
func (h *Handle) Close(ctx context.Context) error {
	if !h.s.released(h) {
		return nil
	}
	_, err := h.call(ctx, often, h.closing)
	if unfinished(ctx, err) {
		h.undo(h.closing, nil)
	}
	if errors.Is(err, ErrStaleHandle) || errors.Is(err, ErrNotFound) {
		return nil // there is nothing left to close
	}
	return err
}

func (h *Handle) closing() *lockpb.DoRequest {
	return &lockpb.DoRequest{Call: &lockpb.DoRequest_Close{Close: &lockpb.CloseRequest{Handle: h.wire()}}}
}

// unfinished: what gave something up has not done so, and is to go on in the background:
// its caller went away, or the cell can change nothing now.
func unfinished(ctx context.Context, err error) bool {
	return err != nil && (ctx.Err() != nil || errors.Is(err, ErrDiskFull))
}

// undo makes a call whose caller is gone, on a goroutine that ends with the session at the
// latest, then calls after.
func (h *Handle) undo(build func() *lockpb.DoRequest, after func()) {
	started := h.cell.c.start(func() {
		for b := newBackoff(); ; {
			_, err := h.call(h.cell.c.ctx, often, build)
			if !errors.Is(err, ErrDiskFull) || b.wait(h.cell.c.ctx, h.s) != nil {
				break
			}
		}
		if after != nil {
			after()
		}
	})
	if !started && after != nil {
		after()
	}
}

// SetSequencer binds the handle to a sequencer, of any lock in the cell: from then on reads and changes
// through the handle fail with ErrStaleSequencer once that is no longer valid, also under later
// leaders of the cell, and nothing is read from the cache. So what a paused holder writes when it
// wakes up cannot overwrite its successor's.
func (h *Handle) SetSequencer(ctx context.Context, sequencer string) error {
	if err := checkText("sequencer", sequencer); err != nil {
		return err
	}
	_, err := h.call(ctx, often, func() *lockpb.DoRequest {
		return &lockpb.DoRequest{Call: &lockpb.DoRequest_SetSequencer{SetSequencer: &lockpb.SetSequencerRequest{Handle: h.wire(), Sequencer: sequencer}}}
	})
	if err == nil {
		h.fence.Store(&sequencer)
	}
	return err
}
