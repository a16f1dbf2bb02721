package cell

import (
	"context"
	"errors"
	"slices"

	"github.com/spandb/spand/lockservice/cell/state"
)

// opening is an Open of a session that is on its way into the log. It may wait for caches there, and
// must not come after the Close of its handle: what it then held open would be nobody's.
type opening struct {
	l    *leader
	key  handleKey
	give context.CancelCauseFunc // ends its waiting
	done chan struct{}           // closed when its outcome is known, or there will be none
}

// handleKey names a handle of a cell.
type handleKey struct {
	session state.SessionID
	handle  state.HandleID
}

var errClosed = errors.New("the handle was closed")

// openingLocked enters an Open; the context is the one to go on with, and give(nil) is due once
// the call is answered.
func (l *leader) openingLocked(ctx context.Context, key handleKey) (context.Context, *opening) {
	o := &opening{l: l, key: key, done: make(chan struct{})}
	ctx, o.give = context.WithCancelCause(ctx)
	l.opening[key] = append(l.opening[key], o)
	return ctx, o
}

// overLocked: nothing more comes of it.
func (o *opening) overLocked() {
	rest := slices.DeleteFunc(o.l.opening[o.key], func(p *opening) bool { return p == o })
	if len(rest) == 0 {
		delete(o.l.opening, o.key)
	} else {
		o.l.opening[o.key] = rest
	}
	close(o.done)
}

// giveOpeningsUp ends the waiting of a handle's Opens, and waits until those that are in the
// log have been applied, or will never be.
func (l *leader) giveOpeningsUp(ctx context.Context, key handleKey) error {
	l.mu.Lock()
	list := slices.Clone(l.opening[key])
	l.mu.Unlock()
	for _, o := range list {
		o.give(errClosed)
		if err := l.await(ctx, o.done); err != nil {
			return err
		}
	}
	return nil
}
