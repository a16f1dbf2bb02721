package txn

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
)

// attempt is the state of one request's tries against one tablet.
type attempt struct {
	node  keys.NodeID // tried last
	hint  keys.NodeID // who leads, by the last refusal
	next  int         // replica to try when nobody knows the leader
	tries int
	blind bool // the node was not the one believed to lead
	quick int  // retries without waiting: hints followed
	back  backoff
	since time.Time // of the first failure
}

// verdict on an error of a participant.
type verdict uint8

const (
	final   verdict = iota // the answer: hand it out
	remap                  // RangeError: the map was stale, nothing was executed
	again                  // certainly not executed; another try may do it
	unclear                // may have been executed (X5)
	strange                // an error that no one documents: it may have been, too
)

// judge classifies err and learns from it who leads.
func (c *Client) judge(ctx context.Context, group keys.GroupID, a *attempt, err error) verdict {
	switch e := err.(type) { // the common ones arrive unwrapped
	case *tablet.AbortedError, *tablet.LockUnavailableError:
		return final
	case *tablet.RangeError:
		return remap
	case *tablet.AmbiguousError:
		return unclear
	case *paxosgroup.NotLeaderError:
		return c.notLeader(group, a, e)
	}
	var (
		aborted     *tablet.AbortedError
		unavailable *tablet.LockUnavailableError
		rangeErr    *tablet.RangeError
		notLeader   *paxosgroup.NotLeaderError
		unreachable *UnreachableError
		ambiguous   *tablet.AmbiguousError
		tooOld      *tablet.TooOldError
	)
	switch {
	case errors.As(err, &aborted), errors.As(err, &unavailable), errors.As(err, &tooOld):
		return final
	case errors.As(err, &ambiguous):
		return unclear
	case errors.As(err, &rangeErr):
		return remap
	case errors.As(err, &notLeader):
		return c.notLeader(group, a, notLeader)
	case errors.Is(err, paxosgroup.ErrOverloaded):
		a.hint = a.node
		return again
	case errors.Is(err, paxosgroup.ErrDiskFull), errors.Is(err, paxosgroup.ErrTooLarge):
		return final
	case errors.Is(err, ErrNotSent):
		c.forget(group, a)
		return again
	case errors.As(err, &unreachable),
		errors.Is(err, paxosgroup.ErrStopped), errors.Is(err, paxosgroup.ErrAmbiguous),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		c.forget(group, a)
		return unclear
	}
	return strange
}

// forget drops the belief that the node tried last leads, but not what has been learnt
// meanwhile.
func (c *Client) forget(group keys.GroupID, a *attempt) {
	if c.cfg.Dialer.Leader(group) == a.node {
		c.cfg.Dialer.Learned(group, 0)
	}
}

func (c *Client) notLeader(group keys.GroupID, a *attempt, e *paxosgroup.NotLeaderError) verdict {
	c.cfg.Dialer.Learned(group, e.Leader)
	if e.Leader != 0 && e.Leader != a.node {
		a.hint = e.Leader
	}
	return again
}

// pick chooses the node to try next.
func (c *Client) pick(desc *keys.Descriptor, a *attempt) keys.NodeID {
	n := a.hint
	a.blind = n != 0 || a.tries > 0
	a.hint = 0
	if n == 0 && a.tries == 0 {
		n = c.cfg.Dialer.Leader(desc.Group)
	}
	if n == 0 && len(desc.Replicas) > 0 {
		a.blind = true
		n = desc.Replicas[a.next%len(desc.Replicas)].Node
		a.next++
		if n == a.node && len(desc.Replicas) > 1 {
			n = desc.Replicas[a.next%len(desc.Replicas)].Node
			a.next++
		}
	}
	a.node = n
	a.tries++
	return n
}

// pause waits before another try, or says why there is none. A hint is followed
// at once, the first two times.
func (c *Client) pause(ctx context.Context, group keys.GroupID, a *attempt, err error) error {
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	if a.since.IsZero() {
		a.since = time.Now()
	}
	if a.hint != 0 && a.hint != a.node && a.quick < 2 {
		a.quick++
		return nil
	}
	if _, bounded := ctx.Deadline(); !bounded && time.Since(a.since) > c.cfg.RetryTimeout {
		return &UnavailableError{Group: group, Cause: err}
	}
	if werr := a.back.wait(ctx); werr != nil {
		if errors.Is(werr, context.DeadlineExceeded) {
			return errors.Join(werr, &UnavailableError{Group: group, Cause: err})
		}
		return werr
	}
	return nil
}

// do runs f against the leader of desc's tablet until it is answered: it
// follows leaders and waits for elections. A RangeError is handed out (see
// routed). When repeatable is false, a call that may have been executed ends it
// with *unknownError (X5: commits are never repeated blindly).
func (c *Client) do(ctx context.Context, desc *keys.Descriptor, repeatable bool, f func(context.Context, Participant) error) error {
	var a attempt
	for {
		err := c.try(ctx, desc, &a, f)
		if err == nil {
			return nil
		}
		v := c.judge(ctx, desc.Group, &a, err)
		switch {
		case v == final || v == remap:
			return err
		case v >= unclear && !repeatable:
			return &unknownError{cause: err, strange: v == strange}
		case v == strange:
			return err
		}
		if perr := c.pause(ctx, desc.Group, &a, err); perr != nil {
			return perr
		}
	}
}

// try makes one call. Calls to other nodes are bounded by AttemptTimeout, so
// that a node that hangs is found out; locks waited for there are asked for again.
// They end sooner when somebody else leads by then: what a partition swallows
// or a stopped process has is not answered, and its successor waits for work.
func (c *Client) try(ctx context.Context, desc *keys.Descriptor, a *attempt, f func(context.Context, Participant) error) error {
	node := c.pick(desc, a)
	if node == 0 {
		return &UnreachableError{Cause: errors.Join(ErrNotSent, errNoReplica)}
	}
	p, err := c.cfg.Dialer.Participant(node, desc.Group)
	if err != nil {
		return &UnreachableError{Node: node, Cause: errors.Join(ErrNotSent, err)}
	}
	if node == c.cfg.Node {
		err = f(ctx, p)
	} else {
		err = c.tryThere(ctx, desc.Group, a, p, f)
	}
	if err == nil && a.blind {
		c.cfg.Dialer.Learned(desc.Group, node)
	}
	return err
}

// tryThere calls another node.
func (c *Client) tryThere(ctx context.Context, group keys.GroupID, a *attempt, p Participant, f func(context.Context, Participant) error) error {
	actx, cancel := context.WithTimeout(ctx, c.cfg.AttemptTimeout)
	defer cancel()
	var deposed atomic.Bool
	stop := c.watchLeader(group, a.node, func() {
		deposed.Store(true)
		cancel()
	})
	err := f(actx, p)
	stop()
	if deposed.Load() && errors.Is(err, context.Canceled) && ctx.Err() == nil {
		// Whoever gave up was not the caller; the one who leads by now is asked next.
		a.hint = c.cfg.Dialer.Leader(group)
		if !errors.Is(err, ErrNotSent) {
			err = &UnreachableError{Node: a.node, Cause: errDeposed}
		}
	}
	return err
}

// leaderWatch separates looks at who leads while a call is under way.
const leaderWatch = 100 * time.Millisecond

// watchLeader calls deposed once a node other than the one that was called is known
// to lead the group, unless it was known before. The caller must call stop.
func (c *Client) watchLeader(g keys.GroupID, called keys.NodeID, deposed func()) (stop func()) {
	known := c.cfg.Dialer.Leader(g)
	var (
		mu    sync.Mutex // guards both below
		over  bool
		timer *time.Timer
	)
	look := func() {
		mu.Lock()
		defer mu.Unlock()
		switch leader := c.cfg.Dialer.Leader(g); {
		case over:
		case leader != 0 && leader != called && leader != known:
			deposed()
		default:
			known = leader
			timer.Reset(leaderWatch)
		}
	}
	mu.Lock()
	timer = time.AfterFunc(leaderWatch, look)
	mu.Unlock()
	return func() {
		mu.Lock()
		over = true
		mu.Unlock()
		timer.Stop()
	}
}

// routed runs f against the tablet that holds key, following splits.
func (c *Client) routed(ctx context.Context, key keys.Key, repeatable bool, f func(context.Context, *keys.Descriptor, Participant) error) error {
	var back backoff
	for {
		desc, err := c.cfg.Router.Lookup(ctx, key)
		if err != nil {
			return err
		}
		err = c.do(ctx, &desc, repeatable, func(ctx context.Context, p Participant) error { return f(ctx, &desc, p) })
		var re *tablet.RangeError
		if !errors.As(err, &re) {
			return err
		}
		if err := c.learnRange(ctx, key, &desc, re, &back); err != nil {
			return err
		}
	}
}

// learnRange takes what a RangeError says into the map. When that brings
// nothing new for key (the tablet's children are not open yet, or its answer is
// older than our map) it asks the directory again, after a moment.
func (c *Client) learnRange(ctx context.Context, key keys.Key, used *keys.Descriptor, re *tablet.RangeError, back *backoff) error {
	c.cfg.Router.Update(re.Descriptors...)
	now, err := c.cfg.Router.Lookup(ctx, key)
	if err != nil {
		return err
	}
	if now.Group != used.Group || now.Generation != used.Generation {
		return ctx.Err()
	}
	c.cfg.Router.Evict(key)
	if back.since.IsZero() {
		back.since = time.Now()
	} else if _, bounded := ctx.Deadline(); !bounded && time.Since(back.since) > c.cfg.RetryTimeout {
		return &UnavailableError{Group: used.Group, Cause: re}
	}
	return back.wait(ctx)
}

// backoff waits 2 ms, doubling to 100 ms, with jitter.
type backoff struct {
	d     time.Duration
	since time.Time // of the first stale map without a newer one, see learnRange
}

func (b *backoff) wait(ctx context.Context) error {
	b.d = min(max(2*time.Millisecond, 2*b.d), 100*time.Millisecond)
	t := time.NewTimer(b.d/2 + jitter(b.d))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// jitter returns a duration below d that is as good as random. It is drawn from the
// clock, not from a seedless source, so that a simulated run repeats itself.
func jitter(d time.Duration) time.Duration {
	z := uint64(time.Now().UnixNano()) * 0x9e3779b97f4a7c15 // splitmix64
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return time.Duration((z ^ z>>31) % uint64(d))
}
