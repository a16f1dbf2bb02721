package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spandb/spand/integration/check"
)

// Target is a cluster as its clients see it.
type Target interface {
	Nodes() int
	// Connect dials node i (from 0).
	Connect(ctx context.Context, node int) (*pgx.Conn, error)
}

// Options of a run. The zero value will do.
type Options struct {
	Seed uint64
	// Clients is how many there are; 16 by default.
	Clients int
	// Kinds are the workloads among which clients are dealt in turn; DefaultKinds by default.
	Kinds []string
	// Think is the longest pause between a client's transactions; 10 ms by default.
	Think time.Duration
	// Timeout of each statement and connection; 5 s by default.
	Timeout time.Duration
	// Log is told of errors that are nobody's ordinary business; nil: silent.
	Log func(format string, args ...any)
}

func (o Options) withDefaults() Options {
	if o.Clients == 0 {
		o.Clients = 16
	}
	if o.Kinds == nil {
		o.Kinds = DefaultKinds()
	}
	if o.Think == 0 {
		o.Think = 10 * time.Millisecond
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	return o
}

// kind is a workload.
type kind struct {
	name string
	// optional: not run unless asked for.
	optional bool
	// tables are the statements that make its tables, first rows and tablets.
	tables []string
	// first is what the first rows are in the history's terms.
	first func() []check.Op
	step  func(*client)
	// final reads everything into a transaction of the history.
	final func(*attempt) error
}

// kinds in the order in which clients are dealt.
func kinds() []kind {
	return []kind{
		appendKind, registerKind, bankKind, skewKind, predicateKind, monotonicKind, sequentialKind, forkKind, onceKind,
		staleKind, outcomeKind,
	}
}

// DefaultKinds are the kinds that every server can run.
func DefaultKinds() (names []string) {
	for _, k := range kinds() {
		if !k.optional {
			names = append(names, k.name)
		}
	}
	return names
}

func (o Options) kinds() (ks []kind, err error) {
	for _, name := range o.Kinds {
		i := slices.IndexFunc(kinds(), func(k kind) bool { return k.name == name })
		if i < 0 {
			return nil, fmt.Errorf("workload: no kind is called %q", name)
		}
		ks = append(ks, kinds()[i])
	}
	return ks, nil
}

// Setup makes the tables of the kinds asked for anew, their first rows, and divides them into tablets.
// It tries every node in turn until ctx ends.
func Setup(ctx context.Context, t Target, o Options) error {
	o = o.withDefaults()
	ks, err := o.kinds()
	if err != nil {
		return err
	}
	done := map[string]bool{} // statements, which kinds may share
	for _, k := range ks {
		for _, sql := range k.tables {
			if done[sql] {
				continue
			}
			done[sql] = true
			if err := insist(ctx, t, func(conn *pgx.Conn) error {
				_, err := conn.Exec(ctx, sql)
				return err
			}); err != nil {
				return fmt.Errorf("workload: %s: %w", sql, err)
			}
		}
	}
	return nil
}

// insist calls f with a connection to one node after another until it succeeds, or fails
// for another reason than that its node was not to be had.
func insist(ctx context.Context, t Target, f func(*pgx.Conn) error) error {
	for i := 0; ; i++ {
		err := func() error {
			conn, err := t.Connect(ctx, i%t.Nodes())
			if err != nil {
				return err
			}
			defer closeConn(ctx, conn)
			return f(conn)
		}()
		if err == nil || i >= t.Nodes() && final(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// closeConn closes a connection and returns when nothing of it is left.
func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	conn.Close(ctx)
	<-conn.PgConn().CleanupDone()
}

// Run runs the clients until ctx ends, and returns what they saw. The transactions that
// are under way then are brought to an end, within a few timeouts.
func Run(ctx context.Context, t Target, o Options) *check.History {
	o = o.withDefaults()
	ks, err := o.kinds()
	if err != nil {
		panic(err)
	}
	h := check.NewHistory()
	for i, k := range ks {
		if k.first != nil && !slices.Contains(o.Kinds[:i], k.name) {
			first := h.Begin(-1, 0, "setup")
			first.Ops = k.first()
			h.End(first, check.OK, nil)
		}
	}
	shared := &shared{}
	var clients sync.WaitGroup
	for i := range o.Clients {
		c := &client{
			id: i, o: o, target: t, kind: ks[i%len(ks)], history: h, shared: shared,
			rng: rand.New(rand.NewPCG(o.Seed, uint64(i))),
		}
		clients.Go(func() { c.run(ctx) })
	}
	clients.Wait()
	return h
}

// shared is what clients tell one another, outside the system under test.
type shared struct {
	mu     sync.Mutex
	recent []int64 // the last keys of the kind sequential
}

const recentKeys = 32

func (s *shared) publish(k int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recent = append(s.recent, k)
	if len(s.recent) > recentKeys {
		s.recent = s.recent[len(s.recent)-recentKeys:]
	}
}

// last returns the n keys published last, or fewer.
func (s *shared) last(n int) []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.recent[max(0, len(s.recent)-n):])
}

// Finale reads everything once the cluster is healthy again and adds it to h. It tries
// every node in turn until ctx ends.
func Finale(ctx context.Context, t Target, h *check.History) error {
	o := Options{Timeout: 30 * time.Second}.withDefaults()
	ran := map[string]bool{}
	for _, x := range h.Txns() {
		ran[x.Kind] = true
	}
	for i, k := range kinds() {
		if k.final == nil || !ran[k.name] {
			continue
		}
		c := &client{id: o.Clients, o: o, target: t, kind: k, history: h, rng: rand.New(rand.NewPCG(1, uint64(i)))}
		var first error
		for node := i; ; node++ {
			err := c.finale(ctx, node%t.Nodes())
			if err == nil {
				break
			}
			if first == nil {
				first = err
			}
			if ctx.Err() != nil {
				c.close(ctx)
				return fmt.Errorf("workload: final read of %s: at first %w, at last %w", k.name, first, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		c.close(ctx)
	}
	return nil
}
