package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"

	"github.com/spandb/spand/integration/check"
	"github.com/spandb/spand/lockservice"
)

// machine is one client of the lock service, with its network and its clock.
type machine struct {
	l    *Locks
	id   int
	rng  *rand.Rand
	gate *gate

	// Of the present life; nil between two.
	client   *lockservice.Client
	s        *lockservice.Session
	caches   bool            // it does
	ctx      context.Context // ends with it
	cancel   context.CancelFunc
	watchers []*watcher
	standing map[standing]*lockHandle

	conn *pgx.Conn // SQL; nil: none
	node int

	n       int64                // values made
	handles uint64               // of locks, opened
	made    map[string]madeValue // by path: the last contents that were set
}

type madeValue struct{ instance, generation uint64 }

func newMachine(l *Locks, id int) *machine {
	return &machine{
		l: l, id: id, rng: rand.New(rand.NewPCG(l.o.Seed, 1<<32+uint64(id))), gate: newGate(l.target.DialLocks),
		made: map[string]madeValue{}, standing: map[standing]*lockHandle{},
	}
}

func (m *machine) one(n int) bool { return m.rng.IntN(n) == 0 }

func (m *machine) between(lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	return lo + time.Duration(m.rng.Int64N(int64(hi-lo)))
}

// next makes a value that nobody else makes.
func (m *machine) next() int64 {
	m.n++
	return int64(m.id+2)*10_000_000 + m.n
}

// DefaultLockSteps are what clients do when nothing else is asked for.
func DefaultLockSteps() []string {
	return []string{"lock", "lock", "lock", "again", "burst", "keep", "keep", "eager", "share", "try", "set", "set", "swap", "look", "look", "look", "check", "check", "bare", "delete", "rest"}
}

// run makes steps until ctx ends.
func (m *machine) run(ctx context.Context) {
	for {
		// A nanosecond of its own, so that in virtual time clients do not meet by their pauses.
		think := m.between(time.Microsecond, m.l.o.Think).Truncate(time.Microsecond) + time.Microsecond + time.Duration(m.id)
		if !pause(ctx, think) {
			return
		}
		if m.s == nil || m.s.Err() != nil {
			m.renew(ctx)
			continue
		}
		m.step(ctx)
	}
}

// renew begins another life, after a while if it does not succeed.
func (m *machine) renew(ctx context.Context) {
	m.end(ctx)
	within, cancel := context.WithTimeout(ctx, m.l.o.Timeout)
	defer cancel()
	if err := m.begin(within); err != nil {
		m.end(ctx)
		pause(ctx, 50*time.Millisecond)
		return
	}
	m.watch(within)
}

// begin connects and opens a session, with an ephemeral file that tells of it.
func (m *machine) begin(ctx context.Context) error {
	opts := []lockservice.Option{
		lockservice.WithDialer(m.gate.dial), lockservice.WithGRPC(grpc.WithStreamInterceptor((&recorder{l: m.l, client: m.id}).stream)),
	}
	switch {
	case m.l.o.Clock != nil:
		opts = append(opts, lockservice.WithClock(m.l.o.Clock(m.id)))
	case m.id%2 == 0: // the recorder hears of the others' calls alone
		opts = append(opts, lockservice.WithLanes())
	}
	client, err := lockservice.Dial(ctx, strings.Join(m.l.target.LockAddrs(), ","), opts...)
	if err != nil {
		return err
	}
	m.client = client
	m.ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	m.caches = m.one(2) && m.id >= 0
	m.s, err = client.NewSession(ctx, lockservice.SessionOptions{TTL: m.l.o.TTL, Grace: 2 * m.l.o.TTL, Cache: m.caches, Name: fmt.Sprint("client ", m.id)})
	if err != nil {
		return err
	}
	m.l.mu.Lock()
	m.l.known[m.s.ID()] = &known{}
	m.l.mu.Unlock()
	if m.id < 0 {
		return nil // the directory is yet to be made
	}
	_, err = m.s.Open(ctx, ephemeralRoot+"/"+m.alive(), lockservice.OpenOptions{Create: lockservice.CreateIfAbsent, Ephemeral: true})
	return err
}

// alive is the name of the present session's ephemeral file.
func (m *machine) alive() string { return strconv.FormatUint(m.s.ID(), 10) }

// die ends the client as the death of its process does.
func (m *machine) die() {
	if m.client == nil {
		return
	}
	m.client.Close()
	if m.s != nil {
		m.l.mu.Lock()
		m.l.known[m.s.ID()].silent = true
		m.l.mu.Unlock()
		m.l.History.Begin(check.LockOp{Kind: check.Silent, Client: m.id, Session: m.s.ID(), TTL: m.s.TTL()})
	}
	m.forget()
}

// leave closes the session cleanly.
func (m *machine) leave(ctx context.Context) error {
	if m.s == nil || m.s.Err() != nil {
		m.die()
		return nil
	}
	op := m.l.History.Begin(check.LockOp{Kind: check.Closed, Client: m.id, Session: m.s.ID()})
	within, cancel := context.WithTimeout(ctx, m.l.o.Timeout)
	defer cancel()
	err := m.s.Close(within)
	m.l.History.End(op, outcome(err), err)
	m.client.Close()
	m.forget()
	return err
}

// forget ends what belongs to a life that is over.
func (m *machine) forget() {
	m.cancel()
	m.client, m.s, m.watchers = nil, nil, nil
	clear(m.standing)
}

// end gives up everything.
func (m *machine) end(ctx context.Context) {
	m.gate.open()
	m.die()
	m.disconnect(ctx)
}

// outcome of a call: a refusal by the cell has changed nothing, unless it is about the
// session, which may have ended after an attempt whose answer was lost.
func outcome(err error) check.Status {
	var refused *lockservice.Error
	switch {
	case err == nil:
		return check.OK
	case errors.As(err, &refused) && refused.Reason != "" && !errors.Is(err, lockservice.ErrAmbiguous) && !errors.Is(err, lockservice.ErrSessionExpired):
		return check.Failed
	}
	return check.Unknown
}

// note tells of an error that is not ordinary under faults.
func (m *machine) note(what string, err error) {
	var refused *lockservice.Error
	if !errors.As(err, &refused) {
		return
	}
	for _, e := range []error{
		lockservice.ErrSessionExpired, lockservice.ErrLockHeld, lockservice.ErrLockDelayed, lockservice.ErrGenerationMismatch, lockservice.ErrNotFound,
		lockservice.ErrStaleHandle, lockservice.ErrStaleSequencer, lockservice.ErrAmbiguous, lockservice.ErrDiskFull, lockservice.ErrClosed,
	} {
		if errors.Is(err, e) {
			return
		}
	}
	m.l.o.Log("workload: lock client %d: %s: %v", m.id, what, err)
}

func (m *machine) step(ctx context.Context) {
	within, cancel := context.WithTimeout(ctx, m.l.o.Timeout)
	defer cancel()
	switch step := m.l.o.Steps[m.rng.IntN(len(m.l.o.Steps))]; step {
	case "lock", "share", "try":
		m.holdOnce(ctx, step == "share", step == "try")
	case "again", "burst", "keep":
		m.holdAgain(ctx, step == "keep", step != "again")
	case "eager":
		m.eager(ctx)
	case "set":
		i := m.rng.IntN(m.l.o.Files)
		m.setContents(within, m.fileNode(i), filePath(i), lockservice.OrCreate())
	case "swap":
		m.swap(within)
	case "look":
		i := m.rng.IntN(m.l.o.Files)
		m.look(within, m.fileNode(i), filePath(i))
	case "check":
		if q := m.l.aSequencer(m.rng); q != "" {
			m.check(within, q)
		}
	case "bare":
		if i := m.rng.IntN(m.l.o.Locks); fencedBy(i) {
			m.commit(within, i, "", nil)
		}
	case "delete":
		m.delete(within)
	case "rest": // the network goes, or the client does
		switch m.rng.IntN(6) {
		case 0:
			m.die()
		case 1:
			m.leave(ctx)
		case 2:
			m.freeze(ctx)
		case 3:
			m.isolate(ctx, m.away())
		}
	default:
		panic("workload: no step is called " + step)
	}
}

// away is for how long a machine is away: mostly for less than a lease, or for more, or for
// more than jeopardy may last.
func (m *machine) away() time.Duration {
	ttl := m.l.o.TTL
	switch m.rng.IntN(6) {
	case 0, 1:
		return m.between(0, ttl/2)
	case 2, 3, 4:
		return m.between(ttl/2, 2*ttl)
	}
	return m.between(2*ttl, 4*ttl)
}

// freeze stops the machine for a while: whatever comes in or is to go out waits, and so does
// the client. Its clock goes on, as it does through a suspend.
func (m *machine) freeze(ctx context.Context) {
	m.gate.freeze()
	pause(ctx, m.away())
	m.gate.open()
}

// isolate cuts the machine off from the lock service for a while; the client goes on.
func (m *machine) isolate(ctx context.Context, d time.Duration) {
	cut := m.one(2)
	if cut {
		m.gate.cut()
	} else {
		m.gate.freeze()
	}
	m.l.watching.Go(func() {
		pause(ctx, d)
		m.gate.open()
	})
}

// fileNode names a file through the session or, now and then, without one.
func (m *machine) fileNode(i int) *lockservice.Node {
	if m.one(5) {
		return m.client.Node(filePath(i))
	}
	return m.s.Node(filePath(i))
}

// look reads a file, and returns its version; nil: there is none, or it is not known.
func (m *machine) look(ctx context.Context, n *lockservice.Node, path string) *lockservice.Stat {
	op := m.l.History.Begin(check.LockOp{Kind: check.Looked, Client: m.id, Session: m.s.ID(), Path: path, Cached: m.caches})
	contents, st, err := n.Contents(ctx)
	switch {
	case err == nil:
		op.Instance, op.Generation = st.Instance, st.ContentGeneration
		op.Value, _ = strconv.ParseInt(string(contents), 10, 64)
		m.l.History.End(op, check.OK, nil)
		return st
	case errors.Is(err, lockservice.ErrNotFound):
		op.Deleted = true
		m.l.History.End(op, check.OK, nil)
	default:
		m.note("reading "+path, err)
		m.l.History.End(op, check.Failed, err)
	}
	return nil
}

func (m *machine) setContents(ctx context.Context, n *lockservice.Node, path string, conds ...lockservice.Condition) error {
	return m.change(ctx, n, check.LockOp{Path: path}, conds...)
}

func (m *machine) change(ctx context.Context, n *lockservice.Node, op check.LockOp, conds ...lockservice.Condition) error {
	op.Kind, op.Client, op.Session, op.Value = check.Changed, m.id, m.s.ID(), m.next()
	x := m.l.History.Begin(op)
	st, err := n.SetContents(ctx, []byte(strconv.FormatInt(op.Value, 10)), conds...)
	if err == nil {
		x.Instance, x.Generation = st.Instance, st.ContentGeneration
		m.made[op.Path] = madeValue{st.Instance, st.ContentGeneration}
	}
	m.l.History.End(x, outcome(err), err)
	m.note("changing "+op.Path, err)
	return err
}

// swap replaces a file's contents if they are what it has read.
func (m *machine) swap(ctx context.Context) {
	i := m.rng.IntN(m.l.o.Files)
	n := m.fileNode(i)
	st := m.look(ctx, n, filePath(i))
	if st == nil {
		return
	}
	m.change(ctx, n, check.LockOp{Path: filePath(i), Instance: st.Instance, Conditional: true, If: st.ContentGeneration}, lockservice.IfGeneration(st.ContentGeneration))
}

// delete removes one instance of a file.
func (m *machine) delete(ctx context.Context) {
	path := filePath(m.rng.IntN(m.l.o.Files))
	h, err := m.s.Open(ctx, path, lockservice.OpenOptions{})
	if err != nil {
		m.note("opening "+path, err)
		return
	}
	defer h.Close(ctx)
	op := m.l.History.Begin(check.LockOp{Kind: check.Changed, Client: m.id, Session: m.s.ID(), Path: path, Deleted: true, Instance: h.Opened().Instance})
	err = h.Delete(ctx)
	m.l.History.End(op, outcome(err), err)
	m.note("deleting "+path, err)
}

// check asks whether a sequencer is valid.
func (m *machine) check(ctx context.Context, text string) {
	q, err := lockservice.ParseSequencer(text)
	if err != nil {
		m.l.o.Log("workload: %v", err)
		return
	}
	op := m.l.History.Begin(check.LockOp{Kind: check.Checked, Client: m.id, Path: q.Path, Shared: q.Shared, Generation: q.Generation, Hold: q.Hold})
	m.checked(op, m.client.CheckSequencer(ctx, text))
}

// checked notes the answer to a check.
func (m *machine) checked(op *check.LockOp, err error) {
	switch {
	case err == nil:
		m.l.History.End(op, check.OK, nil)
	case errors.Is(err, lockservice.ErrStaleSequencer):
		op.Refused = true
		m.l.History.End(op, check.OK, err)
	default:
		m.note("checking a sequencer", err)
		m.l.History.End(op, check.Unknown, err)
	}
}
