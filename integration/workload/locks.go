package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spandb/spand/integration/check"
	"github.com/spandb/spand/lockservice"
)

// LockTarget is a cluster whose lock service can be reached.
type LockTarget interface {
	Target
	// LockAddrs are the nodes' rpc addresses.
	LockAddrs() []string
	// DialLocks connects to one of them.
	DialLocks(ctx context.Context, addr string) (net.Conn, error)
}

// LockOptions of Locks. The zero value will do.
type LockOptions struct {
	Seed uint64
	// Clients is how many there are, each as if on a machine of its own; 6 by default.
	Clients int
	// First is the number of the first client, where others run elsewhere.
	First int
	// Locks and Files are how many there are, at least two locks; 3 each by default.
	Locks, Files int
	// TTL of sessions; 2 s by default. Jeopardy lasts twice as long at most.
	TTL time.Duration
	// Think is the longest pause between two steps; 20 ms by default.
	Think time.Duration
	// Timeout of each call, statement and wait for a lock; 3 s by default.
	Timeout time.Duration
	// Steps are what clients do, one as likely as another; DefaultLockSteps by default.
	Steps []string
	// Exact: a hold ends the moment its context does. In virtual time; in real time a
	// goroutine may hear of it late, and a hold counts until it was last seen by the clock.
	Exact bool
	// Clock is that of client i, on which its leases run; nil: the machine's.
	Clock func(i int) lockservice.Clock
	// Sent, if given, is called when a call of a kind ("acquire", "set_contents", …) or a
	// beat goes out.
	Sent func(kind string)
	// Log is told of errors that are nobody's ordinary business; nil: silent.
	Log func(format string, args ...any)
}

func (o LockOptions) withDefaults() LockOptions {
	if o.Clients == 0 {
		o.Clients = 6
	}
	if o.Locks == 0 {
		o.Locks = 3
	}
	if o.Files == 0 {
		o.Files = 3
	}
	if o.TTL == 0 {
		o.TTL = 2 * time.Second
	}
	if o.Think == 0 {
		o.Think = 20 * time.Millisecond
	}
	if o.Timeout == 0 {
		o.Timeout = 3 * time.Second
	}
	if o.Steps == nil {
		o.Steps = DefaultLockSteps()
	}
	if o.Sent == nil {
		o.Sent = func(string) {}
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	return o
}

// Where the workload's nodes are.
const (
	lockRoot      = "/ls/local/work"
	ephemeralRoot = lockRoot + "/alive"
)

func lockPath(i int) string    { return fmt.Sprint(lockRoot, "/lock", i) }
func filePath(i int) string    { return fmt.Sprint(lockRoot, "/file", i) }
func fencedTable(i int) string { return fmt.Sprint("fenced", i) }

// fencedBy: the lock's table admits nobody but its exclusive holder. The others rely on
// those who write to name their locks.
func fencedBy(i int) bool { return i%2 == 0 }

// Locks are clients of the lock service, and what they saw.
//
// A client has one session at a time. It takes locks, exclusively or shared, by handles that it
// closes or uses again, and keeps some after Unlock and takes them over. While it holds one it commits
// to a table under its sequencer, asks whether its sequencer and others' are valid, and writes files
// through handles bound to it. It changes, reads (from its cache), deletes and watches files. Its machine is cut off or
// stands still, for less and for more than a lease, in the middle of all this, and then
// goes on as if nothing had happened; it dies with locks held, or leaves cleanly.
type Locks struct {
	o       LockOptions
	target  LockTarget
	History *check.LockHistory

	machines []*machine
	watching sync.WaitGroup // watchers and the census

	mu     sync.Mutex               // below it: the history's
	recent []string                 // sequencers
	epochs map[uint64]*check.LockOp // Led
	known  map[uint64]*known        // sessions of this workload
}

// known is what is known of a session.
type known struct {
	silent, gone bool
}

// NewLocks returns clients that have not begun. h collects what they see.
func NewLocks(t LockTarget, o LockOptions, h *check.LockHistory) *Locks {
	l := &Locks{o: o.withDefaults(), target: t, History: h, epochs: map[uint64]*check.LockOp{}, known: map[uint64]*known{}}
	for i := range l.o.Clients {
		l.machines = append(l.machines, newMachine(l, l.o.First+i))
	}
	return l
}

// Setup makes the files and tables. It tries every node in turn until ctx ends.
func (l *Locks) Setup(ctx context.Context) error {
	m := newMachine(l, -1)
	defer m.end(ctx)
	if err := m.begin(ctx); err != nil {
		return fmt.Errorf("workload: no session: %w", err)
	}
	for _, dir := range []string{lockRoot, ephemeralRoot} {
		if _, err := m.s.Open(ctx, dir, lockservice.OpenOptions{Create: lockservice.CreateIfAbsent, Directory: true}); err != nil {
			return fmt.Errorf("workload: %s: %w", dir, err)
		}
	}
	for i := range l.o.Locks {
		if _, err := m.s.Open(ctx, lockPath(i), lockservice.OpenOptions{Create: lockservice.CreateIfAbsent}); err != nil {
			return fmt.Errorf("workload: %s: %w", lockPath(i), err)
		}
	}
	for i := range l.o.Files {
		if err := m.setContents(ctx, m.s.Node(filePath(i)), filePath(i), lockservice.OrCreate()); err != nil {
			return fmt.Errorf("workload: %s: %w", filePath(i), err)
		}
	}
	for i := range l.o.Locks {
		create := "create table " + fencedTable(i) + " (place bigint primary key, generation bigint not null, n bigint not null)"
		if fencedBy(i) {
			create += " with (fenced_by = '" + lockPath(i) + "')"
		}
		for _, sql := range []string{"drop table if exists " + fencedTable(i), create} {
			if err := insist(ctx, l.target, func(conn *pgx.Conn) error {
				_, err := conn.Exec(ctx, sql)
				return err
			}); err != nil {
				return fmt.Errorf("workload: %s: %w", sql, err)
			}
		}
	}
	return m.leave(ctx)
}

// Adopt adds what clients in another process have seen, all of which have ended.
func (l *Locks) Adopt(h *check.LockHistory) {
	for _, op := range h.Ops() {
		l.History.Add(*op)
		if op.Kind == check.Silent {
			l.mu.Lock()
			l.known[op.Session] = &known{silent: true}
			l.mu.Unlock()
		}
	}
}

// End ends the clients without a Finale: they die.
func (l *Locks) End(ctx context.Context) {
	for _, m := range l.machines {
		m.end(ctx)
	}
	l.watching.Wait()
}

// Run runs the clients until ctx ends, and brings what is under way then to an end. Sessions
// and subscriptions last until Finale.
func (l *Locks) Run(ctx context.Context) {
	census, stop := context.WithCancel(ctx)
	defer stop()
	l.watching.Go(func() { l.census(census) })
	var clients sync.WaitGroup
	for _, m := range l.machines {
		clients.Go(func() { m.run(ctx) })
	}
	clients.Wait()
}

// Finale uses the healed cluster, and ends everything: the watchers must hear of a last
// change, then half of the sessions are closed and half of the clients die, and nothing may
// be left of any. It reads what was committed.
func (l *Locks) Finale(ctx context.Context) error {
	census, stop := context.WithCancel(ctx)
	l.watching.Go(func() { l.census(census) })
	err := l.finale(ctx)
	stop()
	l.End(ctx)
	return err
}

func (l *Locks) finale(ctx context.Context) error {
	last := newMachine(l, l.o.First+len(l.machines))
	defer last.end(ctx)
	if err := last.begin(ctx); err != nil {
		return fmt.Errorf("workload: no session in a healed cluster: %w", err)
	}
	for i := range l.o.Files {
		if err := last.setContents(ctx, last.s.Node(filePath(i)), filePath(i), lockservice.OrCreate()); err != nil {
			return fmt.Errorf("workload: last change of %s: %w", filePath(i), err)
		}
	}
	for i := range l.o.Locks {
		if err := last.lastHold(ctx, i); err != nil {
			return fmt.Errorf("workload: last hold of %s: %w", lockPath(i), err)
		}
	}
	if err := l.awaitHeard(ctx, last); err != nil {
		return err
	}
	for i, m := range l.machines {
		if i%2 == 0 {
			if err := m.leave(ctx); err != nil {
				return fmt.Errorf("workload: closing a session: %w", err)
			}
		} else {
			m.die()
		}
	}
	if err := l.awaitNothingLeft(ctx, last); err != nil {
		return err
	}
	if err := last.leave(ctx); err != nil {
		return fmt.Errorf("workload: closing the last session: %w", err)
	}
	return l.readLedgers(ctx)
}

// awaitHeard waits until every watcher whose session lives has heard of the last changes,
// or should have, and notes that it watched until then.
func (l *Locks) awaitHeard(ctx context.Context, last *machine) error {
	within, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for _, m := range l.machines {
		for _, w := range m.watchers {
			w.await(within, last.made[w.path]) // what it has not heard by then is for the judge
		}
	}
	pause(ctx, 1200*time.Millisecond) // longer than an event may take for the judge
	for _, m := range l.machines {
		for _, w := range m.watchers {
			w.finish()
		}
	}
	return ctx.Err()
}

// awaitNothingLeft waits until no session but last's is there, and nothing that one held.
func (l *Locks) awaitNothingLeft(ctx context.Context, last *machine) error {
	ctx, cancel := context.WithTimeout(ctx, 4*l.o.TTL+10*time.Second)
	defer cancel()
	for {
		left, err := l.left(ctx, last)
		if err == nil && left == "" {
			return nil
		}
		if !pause(ctx, 100*time.Millisecond) {
			return fmt.Errorf("workload: left behind by sessions that ended: %s (%w)", left, errors.Join(ctx.Err(), err))
		}
	}
}

func (l *Locks) left(ctx context.Context, last *machine) (string, error) {
	alive, err := last.s.Node(ephemeralRoot).ReadDir(ctx)
	if err != nil {
		return "", err
	}
	for _, st := range alive {
		if st.Name() != last.alive() {
			return "ephemeral file " + st.Path, nil
		}
	}
	sessions, err := l.listSessions(ctx)
	if err != nil {
		return "", err
	}
	for id := range sessions {
		if l.knows(id) && id != last.s.ID() {
			return fmt.Sprint("session ", id), nil
		}
	}
	held, err := l.listLocks(ctx)
	if err != nil {
		return "", err
	}
	for path, by := range held {
		if l.knows(by.session) {
			return fmt.Sprintf("%s held by session %d", path, by.session), nil
		}
	}
	return "", nil
}

// readLedgers says which of the fenced commits are there, and in what order.
func (l *Locks) readLedgers(ctx context.Context) error {
	byValue := map[int64]*check.LockOp{}
	for _, op := range l.History.Ops() {
		if op.Kind == check.Fenced {
			byValue[op.Value] = op
		}
	}
	for i := range l.o.Locks {
		err := insist(ctx, l.target, func(conn *pgx.Conn) error {
			rows, err := conn.Query(ctx, "select n, place from "+fencedTable(i))
			if err != nil {
				return err
			}
			found := map[int64]int{}
			var n, place int64
			if _, err := pgx.ForEachRow(rows, []any{&n, &place}, func() error {
				found[n] = int(place)
				return nil
			}); err != nil {
				return err
			}
			for n, place := range found {
				op := byValue[n]
				if op == nil {
					return fmt.Errorf("row %d of %s is nobody's", n, fencedTable(i))
				}
				op.There, op.Place = true, max(place, 0)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("workload: final read of %s: %w", fencedTable(i), err)
		}
		l.History.Note(check.LockOp{Kind: check.Ledger, Client: -1, Path: lockPath(i)})
	}
	return nil
}

const recentSequencers = 12

func (l *Locks) publish(sequencer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recent = append(l.recent, sequencer)
	l.recent = l.recent[max(0, len(l.recent)-recentSequencers):]
}

// aSequencer returns one of those published last, "" if there is none.
func (l *Locks) aSequencer(rng *rand.Rand) string {
	l.mu.Lock()
	recent := slices.Clone(l.recent)
	l.mu.Unlock()
	if len(recent) == 0 {
		return ""
	}
	return recent[rng.IntN(len(recent))]
}

// led notes what somebody heard who asked at an instant: that the leader of an epoch led then.
func (l *Locks) led(client int, epoch uint64, asked check.Instant) {
	if epoch == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	op := l.epochs[epoch]
	if op == nil {
		op = l.History.Begin(check.LockOp{Kind: check.Led, Client: client, Generation: epoch, Status: check.OK})
		op.End = op.Begin
		l.epochs[epoch] = op
	}
	if op.End.Before(asked) {
		op.End = asked
	}
}

func (l *Locks) knows(session uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[session] != nil
}

// pause waits, and reports whether it was not ctx that ended it.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
