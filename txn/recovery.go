package txn

import (
	"context"
	"sync"
	"time"

	"github.com/spandb/spand/internal/crashpoint"
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
)

// Forgetter lets go of decided transactions that every participant has
// acknowledged; *tablet.Tablet is one.
type Forgetter interface {
	Forget(ctx context.Context, txns []keys.TxnID) error
}

// Recovery finishes what two-phase commits leave to be done after the gateway
// has answered, or has died: participants in doubt ask the coordinator, the
// coordinator's leader tells its participants (X3, X5). Both go on until they
// succeed or the client closes; both are harmless to repeat, so a leader that
// has lost its office needs not be told to stop. All methods return at once and
// may be called concurrently, also from a state machine's apply.
//
// Its goroutines, one per transaction under way, belong to the client and end
// with Client.Close; at most recoveryWindow of them have a request out at one
// tablet, so that a tablet which does not answer holds up nobody else's business.
type Recovery struct {
	c *Client

	mu sync.Mutex // a leaf
	// windows has room for the requests out at each tablet.
	windows map[keys.GroupID]chan struct{}
	// busy are the tasks under way.
	busy map[recoveryTask]bool
	// forgotten are the transactions to forget, collected for forgetEvery.
	forgotten map[Forgetter][]keys.TxnID
}

// recoveryTask names what must not run twice at once.
type recoveryTask struct {
	txn  keys.TxnID
	kind taskKind
	key  string // the participant's own anchor; empty for a delivery
}

type taskKind uint8

const (
	taskSettle taskKind = iota
	taskAsk
	taskDeliver
)

const (
	recoveryWindow = 64
	// forgetEvery is how long acknowledged transactions are collected before one
	// command forgets them all: it is bookkeeping, nobody waits for it.
	forgetEvery = 50 * time.Millisecond
	// maxForget bounds the command.
	maxForget = 4096
)

// NewRecovery returns a Recovery that works through c.
func NewRecovery(c *Client) *Recovery {
	return &Recovery{
		c: c, windows: map[keys.GroupID]chan struct{}{},
		busy: map[recoveryTask]bool{}, forgotten: map[Forgetter][]keys.TxnID{},
	}
}

// Hooks returns the hooks of a tablet's replica that recovery fills; the node adds
// SplitApplied.
func (r *Recovery) Hooks() tablet.Hooks {
	return tablet.Hooks{
		InDoubt: func(_ *tablet.Tablet, txns []tablet.InDoubt) { r.Settle(txns...) },
		Decided: func(t *tablet.Tablet, txns []tablet.Decided) { r.Deliver(t, txns...) },
		Inquire: func(_ *tablet.Tablet, txn tablet.InDoubt, abort bool) {
			if abort {
				r.Settle(txn)
			} else {
				r.Ask(txn)
			}
		},
	}
}

// Settle asks the coordinator of each prepared transaction for the outcome, with
// abort-if-undecided, and resolves the participant with it.
func (r *Recovery) Settle(list ...tablet.InDoubt) {
	for _, d := range list {
		r.start(recoveryTask{d.Txn, taskSettle, string(d.Anchor)}, func(ctx context.Context) error {
			return r.settle(ctx, &d, true)
		})
	}
}

// Ask resolves a prepared transaction if its coordinator has an outcome, because
// a reader waits; a transaction in progress is left alone.
func (r *Recovery) Ask(d tablet.InDoubt) {
	r.start(recoveryTask{d.Txn, taskAsk, string(d.Anchor)}, func(ctx context.Context) error {
		return r.settle(ctx, &d, false)
	})
}

func (r *Recovery) settle(ctx context.Context, d *tablet.InDoubt, abort bool) error {
	var out tablet.Outcome
	err := r.at(ctx, d.Coordinator.Key, func() (err error) {
		out, err = r.c.inquire(ctx, &tablet.InquireRequest{
			Txn: d.Txn, AnchorKey: d.Coordinator.Key, Abort: abort, Prepared: true,
		})
		return err
	})
	if err != nil {
		return err
	}
	if out.Status != tablet.OutcomeCommitted && out.Status != tablet.OutcomeAborted {
		// Undecided, or too old to say: nothing may be concluded from that (X3).
		if abort {
			r.c.cfg.Logger.Error("txn: the coordinator does not know a prepared transaction", "txn", d.Txn.String())
		}
		return nil
	}
	crashpoint.Pass(crashpoint.OutcomeHeard)
	return r.resolve(ctx, d.Anchor, d.Txn, out)
}

func (r *Recovery) resolve(ctx context.Context, anchor keys.Key, id keys.TxnID, out tablet.Outcome) error {
	return r.at(ctx, anchor, func() error { return r.c.resolve(ctx, anchor, id, out) })
}

// at runs f, a request to the tablet that holds key, once there is room for it.
func (r *Recovery) at(ctx context.Context, key keys.Key, f func() error) error {
	desc, err := r.c.cfg.Router.Lookup(ctx, key)
	if err != nil {
		return err
	}
	r.mu.Lock()
	window := r.windows[desc.Group]
	if window == nil {
		window = make(chan struct{}, recoveryWindow)
		r.windows[desc.Group] = window
	}
	r.mu.Unlock()
	select {
	case window <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-window }()
	return f()
}

// Deliver tells the participants of each decided commit of coordinator f, and
// has f forget it once all have acknowledged.
func (r *Recovery) Deliver(f Forgetter, list ...tablet.Decided) {
	for _, d := range list {
		left := d.Participants
		r.start(recoveryTask{d.Txn, taskDeliver, ""}, func(ctx context.Context) error {
			var err error
			crashpoint.Hold(crashpoint.Deliver)
			if left, err = r.deliver(ctx, &d, left); err == nil {
				crashpoint.Pass(crashpoint.DeliveredAll)
				r.forget(f, d.Txn)
			}
			return err
		})
	}
}

// deliver tells the participants in left, in parallel, and returns those that
// have not acknowledged, with an error of one.
func (r *Recovery) deliver(ctx context.Context, d *tablet.Decided, left []tablet.Anchor) ([]tablet.Anchor, error) {
	out := tablet.Outcome{Status: tablet.OutcomeCommitted, TS: d.TS}
	errs := make([]error, len(left))
	one := func(i int) {
		if errs[i] = r.resolve(ctx, left[i].Key, d.Txn, out); errs[i] == nil && len(left) > 1 {
			crashpoint.Pass(crashpoint.DeliveredSome)
		}
	}
	var wg sync.WaitGroup
	for i := range left {
		if i == len(left)-1 {
			one(i)
			break
		}
		wg.Go(func() { one(i) })
	}
	wg.Wait()
	var again []tablet.Anchor
	var first error
	for i, err := range errs {
		if err != nil {
			again = append(again, left[i])
			first = err
		}
	}
	return again, first
}

// forget collects transactions for a while. One that is not forgotten (the
// tablet has another leader by now) is announced again and ends here again.
func (r *Recovery) forget(f Forgetter, id keys.TxnID) {
	r.mu.Lock()
	ids := append(r.forgotten[f], id)
	r.forgotten[f] = ids
	r.mu.Unlock()
	if len(ids) > 1 {
		return
	}
	r.c.background(r.c.cfg.OutcomeTimeout, func(ctx context.Context) {
		timer := time.NewTimer(forgetEvery)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		r.mu.Lock()
		ids := r.forgotten[f]
		delete(r.forgotten, f)
		r.mu.Unlock()
		for len(ids) > 0 && ctx.Err() == nil {
			n := min(len(ids), maxForget)
			if err := f.Forget(ctx, ids[:n]); err != nil {
				r.c.cfg.Logger.Debug("txn: forget", "txns", n, "err", err)
				return
			}
			ids = ids[n:]
		}
	})
}

// start runs f in the background until it succeeds, unless it runs already.
func (r *Recovery) start(key recoveryTask, f func(context.Context) error) {
	r.mu.Lock()
	running := r.busy[key]
	r.busy[key] = true
	r.mu.Unlock()
	if running {
		return
	}
	done := func() {
		r.mu.Lock()
		delete(r.busy, key)
		r.mu.Unlock()
	}
	ok := r.c.spawn(func() {
		defer done()
		ctx := r.c.ctx
		var back backoff
		for {
			err := f(ctx)
			if err == nil || ctx.Err() != nil {
				return
			}
			r.c.cfg.Logger.Warn("txn: recovery goes on trying", "txn", key.txn.String(), "err", err)
			if back.wait(ctx) != nil {
				return
			}
		}
	})
	if !ok {
		done()
	}
}
