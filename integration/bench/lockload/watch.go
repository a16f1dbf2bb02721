package lockload

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// The fan-out: watchers of one file, by clients as separate processes would have them.
const (
	watchers     = 1000
	watchClients = 10
	pipelined    = 16 // writers that fan out at once, for the rate
)

// watch: a file is written, and the next write waits until every watcher has been told of the one
// before. "watch p50" and "watch p99" are milliseconds from the call of the write to the
// receipt of the last watcher, with one writer; "watch events" is events a second
// that the watchers received, with 16 writers.
func (r *run) watch(ctx context.Context) (Figures, error) {
	files, done, err := r.files(ctx, 1, Session.File)
	if err != nil {
		return nil, err
	}
	t := newTally(watchers)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	a, err := r.audience(watching, t)
	if err != nil {
		return nil, err
	}

	var times []time.Duration
	_, err = rate(ctx, 1, r.Length, func(ctx context.Context, _ int) error {
		took, err := fanOut(ctx, files[0], t)
		times = append(times, took)
		return err
	})
	if err != nil {
		return nil, err
	}
	perSecond, err := rate(ctx, pipelined, r.Length, func(ctx context.Context, _ int) error {
		_, err := fanOut(ctx, files[0], t)
		return err
	})
	stop()
	f := Figures{"watch p50": percentile(times, 50), "watch p99": percentile(times, 99), "watch events": perSecond * watchers}
	return f, firstError(err, a.leave(ctx), done())
}

// fanOut writes once and waits until all watchers know.
func fanOut(ctx context.Context, f File, t *tally) (time.Duration, error) {
	began := time.Now()
	version, err := f.Set(ctx, contents)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, fmt.Errorf("not all watchers were told of version %d", version))
	defer cancel()
	last, err := t.complete(ctx, version)
	return last.Sub(began), err
}

// audience is the watchers of the first of the files: clients, and sessions of theirs that
// watch once each.
type audience struct {
	clients  []Client
	sessions [][]Session // by client
}

func (r *run) audience(ctx context.Context, t *tally) (*audience, error) {
	a := &audience{make([]Client, watchClients), make([][]Session, watchClients)}
	return a, Together(ctx, watchClients, func(_ context.Context, i int) (err error) {
		if a.clients[i], err = r.toLeader(ctx); err != nil {
			return err
		}
		for range watchers / watchClients {
			s, err := a.clients[i].Session(ctx)
			if err != nil {
				return err
			}
			a.sessions[i] = append(a.sessions[i], s)
			var seen uint64
			err = s.Watch(ctx, "file-0", func(version uint64) {
				if version > seen {
					seen = version
					t.receive(version, time.Now())
				}
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (a *audience) leave(ctx context.Context) error {
	return Together(ctx, watchClients, func(_ context.Context, i int) error {
		for _, s := range a.sessions[i] {
			if err := s.Close(); err != nil {
				return err
			}
		}
		return a.clients[i].Close()
	})
}

// tally tells when every watcher has received a version.
type tally struct {
	watchers int

	mu       sync.Mutex // guards receipts
	receipts map[uint64]*receipt
}

// receipt is what is known of one version: the watcher may hear of it before the writer does.
type receipt struct {
	count int
	last  time.Time
	all   chan struct{} // closed when count is the number of watchers
}

func newTally(watchers int) *tally {
	return &tally{watchers: watchers, receipts: map[uint64]*receipt{}}
}

// of returns what is known of a version; mu is held.
func (t *tally) of(version uint64) *receipt {
	r := t.receipts[version]
	if r == nil {
		r = &receipt{all: make(chan struct{})}
		t.receipts[version] = r
	}
	return r
}

// receive notes that one more watcher was told of a version.
func (t *tally) receive(version uint64, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.of(version)
	r.count++
	r.last = now
	if r.count == t.watchers {
		close(r.all)
	}
}

// complete waits for the last watcher's receipt, says when it was, and forgets the version. It is
// called once per version.
func (t *tally) complete(ctx context.Context, version uint64) (time.Time, error) {
	t.mu.Lock()
	r := t.of(version)
	t.mu.Unlock()
	select {
	case <-r.all:
	case <-ctx.Done():
		return time.Time{}, context.Cause(ctx)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.receipts, version)
	return r.last, nil
}
