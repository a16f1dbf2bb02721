package workload

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/spandb/spand/integration/check"
	"github.com/spandb/spand/lockservice"
	"github.com/spandb/spand/lockservice/lockpb"
)

// watcher follows the events of one node.
type watcher struct {
	m    *machine
	s    *lockservice.Session
	path string
	op   *check.LockOp
	news chan struct{} // has room for one

	mu    sync.Mutex // a leaf
	heard map[madeValue]bool
}

// watch subscribes the new session to a file and to a lock.
func (m *machine) watch(ctx context.Context) {
	m.watchNode(ctx, filePath(m.rng.IntN(m.l.o.Files)), check.EventContents, lockservice.ContentsChanged, lockservice.HandleInvalid)
	m.watchNode(ctx, lockPath(m.rng.IntN(m.l.o.Locks)), check.EventLock, lockservice.LockAcquired)
}

func (m *machine) watchNode(ctx context.Context, path, event string, kinds ...lockservice.EventKind) {
	w := &watcher{m: m, s: m.s, path: path, news: make(chan struct{}, 1), heard: map[madeValue]bool{}}
	op := m.l.History.Begin(check.LockOp{Kind: check.Watched, Client: m.id, Session: m.s.ID(), Path: path, Event: event})
	sub, err := m.s.Node(path).Subscribe(ctx, lockservice.SubscribeOptions{Kinds: kinds})
	if err != nil {
		m.l.History.End(op, check.Failed, err)
		return
	}
	w.op = op
	m.watchers = append(m.watchers, w)
	until := m.ctx
	m.l.watching.Go(func() {
		defer sub.Close()
		for {
			e, err := sub.Next(until)
			if err != nil {
				return
			}
			w.hear(e)
		}
	})
}

func (w *watcher) hear(e lockservice.Event) {
	op := check.LockOp{Kind: check.Heard, Client: w.m.id, Session: w.s.ID(), Path: e.Path, Instance: e.Instance, Generation: e.Generation}
	switch e.Kind {
	case lockservice.ContentsChanged:
		op.Event = check.EventContents
	case lockservice.LockAcquired:
		op.Event = check.EventLock
	case lockservice.HandleInvalid:
		op.Event, op.Generation = check.EventInvalid, 0
	case lockservice.EventsLost:
		op.Event = check.EventLost
	default:
		return
	}
	w.m.l.History.Note(op)
	w.mu.Lock()
	w.heard[madeValue{e.Instance, e.Generation}] = true
	w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// await waits until the watcher has heard of v, its session ends, or ctx does.
func (w *watcher) await(ctx context.Context, v madeValue) {
	for {
		w.mu.Lock()
		heard := w.heard[v]
		w.mu.Unlock()
		if heard {
			return
		}
		select {
		case <-w.news:
		case <-w.s.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// finish notes that the session has watched until now, if it lives.
func (w *watcher) finish() {
	if w.s.Err() == nil {
		w.m.l.History.End(w.op, check.OK, nil)
	}
}

// census asks, again and again, which sessions there are.
func (l *Locks) census(ctx context.Context) {
	for pause(ctx, 150*time.Millisecond+13) {
		// A change of leader that nobody has noticed yet counts before what the leader says.
		asked := l.History.Now()
		epoch, err := l.epoch(ctx)
		if err != nil || epoch == 0 {
			continue
		}
		l.led(-1, epoch, asked)
		begun := l.History.Now()
		l.mu.Lock()
		ask := map[uint64]*known{}
		for id, k := range l.known {
			if !k.gone {
				ask[id] = k
			}
		}
		l.mu.Unlock()
		there, err := l.listSessions(ctx)
		if err != nil {
			continue
		}
		ended := l.History.Now()
		if after, err := l.epoch(ctx); err != nil || after != epoch {
			continue
		}
		for id, k := range ask {
			l.mu.Lock()
			silent := k.silent
			k.gone = k.gone || !there[id]
			l.mu.Unlock()
			switch op := (check.LockOp{Client: -1, Session: id, Begin: begun, End: ended, Status: check.OK}); {
			case !there[id]:
				op.Kind = check.Gone
				l.History.Add(op)
			case silent:
				op.Kind = check.Seen
				l.History.Add(op)
			}
		}
	}
}

// ask makes a call at one node after another until one answers.
func (l *Locks) ask(ctx context.Context, call func(context.Context, lockpb.LockServiceClient) error) (err error) {
	for _, addr := range l.target.LockAddrs() {
		if err = l.askAt(ctx, addr, call); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func (l *Locks) askAt(ctx context.Context, addr string, call func(context.Context, lockpb.LockServiceClient) error) error {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return l.target.DialLocks(ctx, addr) }))
	if err != nil {
		return err
	}
	defer conn.Close()
	within, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return call(within, lockpb.NewLockServiceClient(conn))
}

// epoch is that of the cell's leader, 0 if it is not known.
func (l *Locks) epoch(ctx context.Context) (epoch uint64, err error) {
	err = l.ask(ctx, func(ctx context.Context, c lockpb.LockServiceClient) error {
		resp, err := c.GetCell(ctx, &lockpb.GetCellRequest{Cell: "local"})
		epoch = resp.GetCell().GetEpoch()
		return err
	})
	return epoch, err
}

func (l *Locks) listSessions(ctx context.Context) (there map[uint64]bool, err error) {
	err = l.ask(ctx, func(ctx context.Context, c lockpb.LockServiceClient) error {
		there = map[uint64]bool{}
		for after, more := uint64(0), true; more; {
			resp, err := c.ListSessions(ctx, &lockpb.ListSessionsRequest{Cell: "local", After: after, Limit: 10_000})
			if err != nil {
				return err
			}
			for _, s := range resp.GetSessions() {
				after = s.Session
				there[after] = true
			}
			more = resp.GetMore() && len(resp.GetSessions()) > 0
		}
		return nil
	})
	return there, err
}

// holder of a lock.
type holder struct{ session, generation, hold uint64 }

// listLocks returns who holds what.
func (l *Locks) listLocks(ctx context.Context) (held map[string]holder, err error) {
	err = l.ask(ctx, func(ctx context.Context, c lockpb.LockServiceClient) error {
		held = map[string]holder{}
		for after, more := "", true; more; {
			resp, err := c.ListLocks(ctx, &lockpb.ListLocksRequest{Cell: "local", After: after, Limit: 10_000})
			if err != nil {
				return err
			}
			for _, x := range resp.GetLocks() {
				if q := x.GetSequencer(); q.GetGeneration() != 0 {
					held[q.GetPath()] = holder{x.Session, q.GetGeneration(), q.GetHold()}
				}
			}
			after, more = resp.GetNext(), resp.GetMore() && resp.GetNext() != ""
		}
		return nil
	})
	return held, err
}
