package workload

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spandb/spand/integration/check"
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/pgwire"
	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/sql/kvmem"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// bubble is a server of one process over the in-memory store, in virtual time.
type bubble struct {
	store  *flawed
	conns  chan net.Conn
	done   chan struct{}
	served chan error
	engine *sql.Engine
	cancel context.CancelFunc
	// breakage is in how many reads of a client's connection one breaks it; 0: none.
	breakage int
	dials    atomic.Uint64
}

func openBubble(t *testing.T) *bubble {
	t.Helper()
	b := &bubble{
		store: &flawed{KV: kvmem.New(truetime.NewManual(truetime.ManualOptions{}))},
		conns: make(chan net.Conn), done: make(chan struct{}), served: make(chan error, 1),
	}
	var err error
	if b.engine, err = sql.NewEngine(sql.Config{KV: b.store, Node: 1}); err != nil {
		t.Fatal(err)
	}
	if err := b.engine.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := pgwire.New(pgwire.Config{SQL: b.engine})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	b.cancel = cancel
	go func() { b.served <- s.Serve(ctx, b) }()
	return b
}

func (b *bubble) close(t *testing.T) {
	t.Helper()
	b.cancel()
	if err := <-b.served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	b.engine.Close()
}

// Accept, Close and Addr make a net.Listener of it.
func (b *bubble) Accept() (net.Conn, error) {
	select {
	case c := <-b.conns:
		return c, nil
	case <-b.done:
		return nil, net.ErrClosed
	}
}

func (b *bubble) Close() error {
	select {
	case <-b.done:
	default:
		close(b.done)
	}
	return nil
}

func (b *bubble) Addr() net.Addr { return &net.IPAddr{} }

func (b *bubble) Nodes() int { return 3 } // all the same one

func (b *bubble) Connect(ctx context.Context, _ int) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig("postgres://root@127.0.0.1/spand?sslmode=disable")
	if err != nil {
		return nil, err
	}
	cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		client, server := net.Pipe()
		select {
		case b.conns <- server:
		case <-b.done:
			return nil, net.ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return &slowConn{Conn: client, breakage: b.breakage, rng: rand.New(rand.NewPCG(9, b.dials.Add(1)))}, nil
	}
	return pgx.ConnectConfig(ctx, cfg)
}

// slowConn takes its time, so that transactions overlap, and sometimes breaks when an
// answer comes.
type slowConn struct {
	net.Conn
	breakage int
	rng      *rand.Rand
}

func (c *slowConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	time.Sleep(time.Duration(c.rng.IntN(2000)) * time.Microsecond)
	if c.breakage > 0 && c.rng.IntN(c.breakage) == 0 {
		c.Conn.Close()
		return 0, errors.New("the connection is broken")
	}
	return n, err
}

// flaws of a store, each of which breaks an invariant.
const (
	sound        = iota
	noReadLocks  // X2: read-write transactions read without locks
	staleReads   // X1: strong reads are a little old
	tornReads    // X4: each read of a read-only transaction has a timestamp of its own
	lostCommits  // R1: some commits are acknowledged and forgotten
	falseRefusal // X5: some commits are reported as not committed
	lostWrites   // X3: some transactions are there in part
	earlyStamps  // X1: some commits show timestamps of the past
)

// flawed is a store with a flaw, from the moment that one is set.
type flawed struct {
	kv.KV
	flaw  atomic.Int32
	count atomic.Int32
}

func (f *flawed) is(flaw int32) bool { return f.flaw.Load() == flaw }

// now reports whether the flaw is there and its turn, one in n, has come.
func (f *flawed) now(flaw int32, n int32) bool { return f.is(flaw) && f.count.Add(1)%n == 0 }

func (f *flawed) Begin(ctx context.Context, o kv.TxnOptions) kv.Txn {
	return &flawedTxn{Txn: f.KV.Begin(ctx, o), f: f, wrote: map[string]bool{}}
}

func (f *flawed) ReadOnly(ctx context.Context, at truetime.Timestamp) kv.Txn {
	if f.is(staleReads) && at == 0 {
		at = f.Clock().Now().Earliest.Add(-30 * time.Millisecond)
	}
	return &flawedTxn{Txn: f.KV.ReadOnly(ctx, at), f: f}
}

type flawedTxn struct {
	kv.Txn
	f     *flawed
	wrote map[string]bool
	n     int
}

// apart reports whether reads take place outside the transaction.
func (t *flawedTxn) apart() bool {
	return t.f.is(tornReads) && t.ReadOnly() || t.f.is(noReadLocks) && !t.ReadOnly() && len(t.wrote) == 0
}

func (t *flawedTxn) Get(ctx context.Context, ks []keys.Key, lock tablet.LockStrength, wait tablet.WaitPolicy) ([][]byte, error) {
	if t.apart() && lock != tablet.LockExclusive {
		other := t.f.KV.ReadOnly(ctx, 0)
		defer other.Rollback(ctx)
		return other.Get(ctx, ks, tablet.LockNone, wait)
	}
	return t.Txn.Get(ctx, ks, lock, wait)
}

func (t *flawedTxn) Scan(ctx context.Context, r kv.ScanRequest) kv.RowIter {
	if t.apart() && r.Lock != tablet.LockExclusive {
		r.Lock = tablet.LockNone
		return t.f.KV.ReadOnly(ctx, 0).Scan(ctx, r)
	}
	return t.Txn.Scan(ctx, r)
}

func (t *flawedTxn) Put(ctx context.Context, k keys.Key, v []byte) error {
	t.wrote[string(k)] = true
	if t.n++; t.n > 1 && t.f.now(lostWrites, 40) {
		return nil
	}
	return t.Txn.Put(ctx, k, v)
}

func (t *flawedTxn) Commit(ctx context.Context) (truetime.Timestamp, error) {
	if len(t.wrote) > 0 && t.f.now(lostCommits, 40) {
		t.Rollback(ctx)
		return t.f.Clock().Now().Latest, nil
	}
	ts, err := t.Txn.Commit(ctx)
	if err != nil || len(t.wrote) == 0 {
		return ts, err
	}
	if t.f.now(earlyStamps, 10) {
		return ts.Add(-50 * time.Millisecond), nil
	}
	if t.f.now(falseRefusal, 40) {
		return 0, &tablet.AbortedError{Txn: t.ID()}
	}
	return ts, nil
}

// run sets tables up, runs all kinds for some virtual seconds over a store with a flaw,
// and judges what they saw.
func (b *bubble) run(t *testing.T, flaw int32, for_ time.Duration) (*check.History, *check.Report) {
	t.Helper()
	o := Options{Seed: 5, Clients: 2 * len(DefaultKinds())}
	if flaw == sound {
		o.Log = t.Logf
	}
	if err := Setup(t.Context(), b, o); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // so that the schema is old enough for staleReads
	b.store.flaw.Store(flaw)
	ctx, cancel := context.WithTimeout(t.Context(), for_)
	defer cancel()
	h := Run(ctx, b, o)
	b.store.flaw.Store(sound)
	b.breakage = 0
	final, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := Finale(final, b, h); err != nil {
		t.Fatal(err)
	}
	return h, check.Judge(h, check.Options{})
}

func TestSoundStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBubble(t)
		defer b.close(t)
		h, r := b.run(t, sound, 2*time.Second)
		t.Logf("%s%v", Summary(h), r)
		if len(r.All()) > 0 {
			t.Errorf("%d violations", len(r.All()))
		}
		for _, k := range DefaultKinds() {
			if !strings.Contains(Summary(h), k) {
				t.Errorf("nobody ran %s", k)
			}
		}
	})
}

// Connections break while an answer is on its way: outcomes are unknown, and whatever
// they are, nothing is wrong.
func TestBreakingConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBubble(t)
		defer b.close(t)
		b.breakage = 100
		h, r := b.run(t, sound, 2*time.Second)
		t.Logf("%s%v", Summary(h), r)
		if len(r.All()) > 0 {
			t.Errorf("%d violations", len(r.All()))
		}
		if r.Unknown < 10 || r.Observed < 3 {
			t.Errorf("%d unknown outcomes, %d of them seen committed: too few", r.Unknown, r.Observed)
		}
	})
}

// What each flaw of the store must lead to, among other things.
func TestFlawsAreFound(t *testing.T) {
	for _, x := range []struct {
		name string
		flaw int32
		for_ time.Duration
		want []string
	}{
		{"X2 no read locks", noReadLocks, 3 * time.Second, []string{"write skew", "phantom", "lost update"}},
		{"X1 stale reads", staleReads, time.Second, []string{"stale read", "not linearizable"}},
		{"X4 torn reads", tornReads, time.Second, []string{"fractured read"}},
		{"R1 lost commits", lostCommits, time.Second, []string{"lost write"}},
		{"X5 false refusals", falseRefusal, time.Second, []string{"G1a"}},
		{"X3 lost writes", lostWrites, 1500 * time.Millisecond, []string{"lost write", "wrong counter", "wrong total"}},
		{"X1 early timestamps", earlyStamps, time.Second, []string{"timestamps against real time"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := openBubble(t)
				defer b.close(t)
				_, r := b.run(t, x.flaw, x.for_)
				found := map[string]bool{}
				for _, v := range r.Violations {
					if !found[v.Anomaly] {
						found[v.Anomaly] = true
						t.Log(v)
					}
				}
				for _, w := range x.want {
					ok := false
					for a := range found {
						ok = ok || strings.Contains(a, w)
					}
					if !ok {
						t.Errorf("no %q was found, only %v", w, found)
					}
				}
			})
		})
	}
}
