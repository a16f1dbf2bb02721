package lockload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// run is one row's measurement.
type run struct {
	Config
	dial  func(context.Context, []string) (Client, error)
	owner *owner
}

// rows by name. A row's figures are named where it is measured.
var rows = map[string]func(*run, context.Context) (Figures, error){
	"acquire":  (*run).acquire,
	"durable":  (*run).durable,
	"kept":     (*run).kept,
	"handover": (*run).handOver,
	"write":    (*run).write,
	"read":     (*run).read,
	"cached":   (*run).cached,
	"watch":    (*run).watch,
	"sessions": (*run).sessions,
	"failover": (*run).failOver,
}

// toLeader is a client that talks to the leader only. A store's clients that spread over the
// members have two of three calls forwarded, which costs CPU; where all members share a
// machine, as in this benchmark, nothing is gained by it.
func (r *run) toLeader(ctx context.Context) (Client, error) {
	c, err := r.dial(ctx, r.Members)
	if err != nil {
		return nil, err
	}
	leader, err := c.Leader(ctx)
	if err = firstError(err, c.Close()); err != nil {
		return nil, err
	}
	return r.dial(ctx, []string{leader})
}

// acquire: every client takes and gives back a lock of its own. "acquire 16" is pairs a second
// of 16 clients.
func (r *run) acquire(ctx context.Context) (Figures, error) {
	return r.pairs(ctx, "acquire", Session.Lock, 1, 16, 64)
}

// durable: the same with every release on disk before the next acquire.
func (r *run) durable(ctx context.Context) (Figures, error) {
	return r.pairs(ctx, "durable", Session.DurableLock, 1, 16)
}

// kept: the same of locks that stay with their clients in between, where the store has such.
func (r *run) kept(ctx context.Context) (Figures, error) {
	return r.pairs(ctx, "kept", Session.KeptLock, 1, 16)
}

func (r *run) pairs(ctx context.Context, row string, prepare prepareLock, numbers ...int) (Figures, error) {
	f := Figures{}
	for _, clients := range numbers {
		locks, done, err := r.locks(ctx, clients, prepare, func(i int) string { return fmt.Sprintf("%s-%d-%d", row, clients, i) })
		if err != nil {
			return nil, err
		}
		n, err := rate(ctx, clients, r.Length, func(ctx context.Context, i int) error { return pair(ctx, locks[i]) })
		if err = firstError(err, done()); err != nil {
			return nil, err
		}
		f[fmt.Sprintf("%s %d", row, clients)] = n
	}
	return f, nil
}

func pair(ctx context.Context, l Lock) error {
	if err := l.Acquire(ctx); err != nil {
		return err
	}
	return l.Release(ctx)
}

type prepareLock func(Session, context.Context, string) (Lock, error)

// locks are one per client, each of a session of its own, over the connections of one process.
func (r *run) locks(ctx context.Context, clients int, prepare prepareLock, name func(int) string) ([]Lock, func() error, error) {
	c, err := r.toLeader(ctx)
	if err != nil {
		return nil, nil, err
	}
	var sessions []Session
	var locks []Lock
	for i := range clients {
		s, err := c.Session(ctx)
		if err != nil {
			return nil, nil, err
		}
		l, err := prepare(s, ctx, name(i))
		if err != nil {
			return nil, nil, err
		}
		sessions, locks = append(sessions, s), append(locks, l)
	}
	return locks, func() error {
		for _, s := range sessions {
			if err := s.Close(); err != nil {
				return err
			}
		}
		return c.Close()
	}, nil
}

// A contended lock has waiters behind its holder, who keeps it for so long that the one before
// stands in the queue again.
const (
	waiters = 8
	hold    = time.Millisecond
)

// handOver: one more client than waiters pass a lock round, each queueing again as soon as it
// has given the lock back. "handover p50" and "handover p99" are milliseconds from
// the call of Release to the return of the next one's Acquire.
func (r *run) handOver(ctx context.Context) (Figures, error) {
	locks, done, err := r.locks(ctx, waiters+1, Session.Lock, func(int) string { return "handover" })
	if err != nil {
		return nil, err
	}
	var holders atomic.Int32
	var mu sync.Mutex // guards what is below also from a lock that is none
	var released time.Time
	var times []time.Duration
	_, err = rate(ctx, waiters+1, r.Length, func(ctx context.Context, i int) error {
		if err := locks[i].Acquire(ctx); err != nil {
			return err
		}
		now := time.Now()
		if holders.Add(1) > 1 {
			return errors.New("two clients hold one lock")
		}
		pause(ctx, hold)
		mu.Lock()
		if !released.IsZero() {
			times = append(times, now.Sub(released))
		}
		released = time.Now()
		mu.Unlock()
		holders.Add(-1)
		return locks[i].Release(ctx)
	})
	if err = firstError(err, done()); err != nil {
		return nil, err
	}
	times = times[len(times)/10:] // until everybody queues, and the connections are warm
	return Figures{"handover p50": percentile(times, 50), "handover p99": percentile(times, 99)}, nil
}

// contents of the files: 100 bytes.
var contents = []byte("0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrs")[:100]

// files are one per client, of one session.
func (r *run) files(ctx context.Context, clients int, open func(Session, context.Context, string) (File, error)) ([]File, func() error, error) {
	c, err := r.toLeader(ctx)
	if err != nil {
		return nil, nil, err
	}
	s, err := c.Session(ctx)
	if err != nil {
		return nil, nil, err
	}
	var files []File
	for i := range clients {
		f, err := open(s, ctx, fmt.Sprintf("file-%d", i))
		if err == nil {
			_, err = f.Set(ctx, contents)
		}
		if err != nil {
			return nil, nil, err
		}
		files = append(files, f)
	}
	return files, func() error { return firstError(s.Close(), c.Close()) }, nil
}

// write: every client replaces the 100 bytes of a file of its own. "write 64" is writes a second
// of 64 clients.
func (r *run) write(ctx context.Context) (Figures, error) {
	f := Figures{}
	for _, clients := range []int{1, 64} {
		n, err := r.fileRate(ctx, clients, Session.File, func(ctx context.Context, f File) error {
			_, err := f.Set(ctx, contents)
			return err
		})
		if err != nil {
			return nil, err
		}
		f[fmt.Sprintf("write %d", clients)] = n
	}
	return f, nil
}

// read: every client reads a file of its own, linearizably. "read 64" is reads a second.
func (r *run) read(ctx context.Context) (Figures, error) {
	n, err := r.fileRate(ctx, 64, Session.File, get)
	return Figures{"read 64": n}, err
}

// cached: as read, from the cache of one process. "cached 64" is reads a second.
func (r *run) cached(ctx context.Context) (Figures, error) {
	n, err := r.fileRate(ctx, 64, Session.CachedFile, get)
	return Figures{"cached 64": n}, err
}

func get(ctx context.Context, f File) error {
	got, err := f.Get(ctx)
	if err == nil && len(got) != len(contents) {
		err = fmt.Errorf("read %d bytes, not %d", len(got), len(contents))
	}
	return err
}

func (r *run) fileRate(ctx context.Context, clients int, open func(Session, context.Context, string) (File, error), op func(context.Context, File) error) (float64, error) {
	files, done, err := r.files(ctx, clients, open)
	if err != nil {
		return 0, err
	}
	n, err := rate(ctx, clients, r.Length, func(ctx context.Context, i int) error { return op(ctx, files[i]) })
	return n, firstError(err, done())
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
