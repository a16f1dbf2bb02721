package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/spandb/spand/lockservice/lockpb"
)

// Meter measures how long tablets, and the first cell of the lock service, answer nobody: a
// client for each of its tablets at each node writes a row there again and again, and one takes
// and releases a lock of the cell. It owns those goroutines; Stop ends them.
type Meter struct {
	c      *Cluster
	h      *Health
	began  time.Time
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex      // guards all below
	ok       [][][]time.Time // by tablet, the cell being the last, and by node
	attempts int
	failed   map[string]int // by SQLSTATE or so
}

const (
	meterTablets = 3
	meterCell    = meterTablets // in the cell's place
	meterPace    = 25 * time.Millisecond
	// meterPatience is how long a client waits for an answer before it connects anew:
	// longer than what it measures may take.
	meterPatience = 8 * time.Second
)

// meterKey is the row that the client at a node writes in a tablet.
func meterKey(tablet, node int) int { return 100*tablet + node }

// SetupMeter makes the table `availability`, in tablets of its own, and the files to be locked.
func SetupMeter(ctx context.Context, c *Cluster) error {
	conn, err := pgx.Connect(ctx, c.Nodes[0].URL())
	if err != nil {
		return err
	}
	defer closeConn(conn)
	setup := []string{"create table availability (k int primary key, v bigint not null)"}
	for t := range meterTablets {
		setup = append(setup, fmt.Sprintf("split table availability by (%d)", meterKey(t, 0)))
		for n := range c.Nodes {
			setup = append(setup, fmt.Sprintf("insert into availability values (%d, 0)", meterKey(t, n)))
		}
	}
	for _, sql := range setup {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return setupMeterLocks(ctx, c)
}

func meterLock(n *Node) string { return "/ls/local/availability-" + n.Name }

// setupMeterLocks makes the files whose locks the meter takes.
func setupMeterLocks(ctx context.Context, c *Cluster) error {
	conn, err := grpc.NewClient("passthrough:///"+c.Nodes[0].RPCAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, n := range c.Nodes {
		if _, err := lockpb.NewLockServiceClient(conn).SetContents(ctx, &lockpb.SetContentsRequest{Handle: &lockpb.Handle{Path: meterLock(n)}, Create: true}); err != nil {
			return err
		}
	}
	return nil
}

// StartMeter begins to measure.
func StartMeter(c *Cluster, h *Health) *Meter {
	run, cancel := context.WithCancel(context.Background())
	m := &Meter{c: c, h: h, began: time.Now(), cancel: cancel, ok: make([][][]time.Time, meterTablets+1), failed: map[string]int{}}
	for t := range m.ok {
		m.ok[t] = make([][]time.Time, len(c.Nodes))
		for n := range c.Nodes {
			if t == meterCell {
				m.wg.Go(func() { m.probeCell(run, n) })
				continue
			}
			m.wg.Go(func() { m.probe(run, t, n) })
		}
	}
	return m
}

func (m *Meter) probe(ctx context.Context, tablet, node int) {
	n, key := m.c.Nodes[node], meterKey(tablet, node)
	var conn *pgx.Conn
	for ctx.Err() == nil {
		if conn == nil || conn.IsClosed() {
			attempt, cancel := context.WithTimeout(ctx, time.Second)
			c, err := pgx.Connect(attempt, n.URL())
			cancel()
			if err != nil {
				conn = nil
				pause(meterPace, ctx.Done())
				continue
			}
			conn = c
		}
		attempt, cancel := context.WithTimeout(ctx, meterPatience)
		_, err := conn.Exec(attempt, "update availability set v = v + 1 where k = $1", key)
		cancel()
		m.note(ctx, tablet, node, err)
		pause(meterPace, ctx.Done())
	}
	if conn != nil {
		closeConn(conn)
	}
}

// note counts an attempt that has just ended.
func (m *Meter) note(ctx context.Context, tablet, node int, err error) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attempts++
	if err == nil {
		m.ok[tablet][node] = append(m.ok[tablet][node], now)
	} else if ctx.Err() == nil {
		m.failed[kindOf(err)]++
	}
}

// probeCell takes and releases a lock of the first cell through a node, which forwards to the
// leader. Not a change of a file: that may, after a fail-over, have to wait for the leases of clients
// that cached and died (OSDI'06 2.7), which is no fail-over's fault.
func (m *Meter) probeCell(ctx context.Context, node int) {
	n := m.c.Nodes[node]
	conn, err := grpc.NewClient("passthrough:///"+n.RPCAddr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: meterPace, Multiplier: 1, MaxDelay: meterPace}, MinConnectTimeout: time.Second}))
	if err != nil {
		return // of a malformed address
	}
	defer conn.Close()
	locks := lockpb.NewLockServiceClient(conn)
	h := &lockpb.Handle{Path: meterLock(n), Session: uint64(meterKey(meterCell, node)) + 1, Handle: 1}
	for try := uint64(1); ctx.Err() == nil; try++ {
		attempt, cancel := context.WithTimeout(ctx, meterPatience)
		_, err := locks.CreateSession(attempt, &lockpb.CreateSessionRequest{Cell: "local", Session: h.Session, Client: "meter", TtlNs: int64(time.Minute)}) // or renews it
		if err == nil {
			_, err = locks.TryAcquire(attempt, &lockpb.AcquireRequest{Handle: h, Attempt: try})
		}
		if err == nil {
			_, err = locks.Release(attempt, &lockpb.ReleaseRequest{Handle: h, Attempt: try})
		}
		cancel()
		m.note(ctx, meterCell, node, err)
		pause(meterPace, ctx.Done())
	}
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn.Close(ctx)
}

// kindOf names an error in a few words: its SQLSTATE, if it has one.
func kindOf(err error) string {
	var said interface{ SQLState() string }
	switch {
	case errors.As(err, &said):
		return said.SQLState()
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer"
	}
	if st, ok := grpcstatus.FromError(err); ok && st.Code() != codes.OK {
		return st.Code().String()
	}
	return "connection"
}

// Availability is what a Meter found.
type Availability struct {
	// Worst is the longest outage of each tablet after each fault, longest first: as
	// long as nobody, at whatever node, had success, while a majority was alive.
	Worst []Outage
	// Cells are those of the first cell.
	Cells []Outage
	// Returns are likewise those that began with the return of a majority.
	Returns []Outage
	// Gateways are the longest outages that clients at one live node saw.
	Gateways          []Outage
	Writes, Attempts  int
	FailedByCondition map[string]int
}

// Stop ends the measurement.
func (m *Meter) Stop() Availability {
	now := time.Now()
	m.cancel()
	m.wg.Wait()
	a := Availability{Attempts: m.attempts, FailedByCondition: m.failed}
	for t, nodes := range m.ok {
		name := fmt.Sprintf("tablet %d", t+1)
		if t == meterCell {
			name = "the lock service's cell"
		}
		var all []time.Time
		for n, times := range nodes {
			all = append(all, times...)
			for _, o := range m.notable(m.h.outages(fmt.Sprintf("%s through %s", name, m.c.Nodes[n].Name), n, times, m.began, now)) {
				if !o.Return {
					a.Gateways = append(a.Gateways, o)
				}
			}
		}
		a.Writes += len(all)
		slices.SortFunc(all, time.Time.Compare)
		for _, o := range m.notable(m.h.outages(name, -1, all, m.began, now)) {
			switch {
			case o.Return:
				a.Returns = append(a.Returns, o)
			case t == meterCell:
				a.Cells = append(a.Cells, o)
			default:
				a.Worst = append(a.Worst, o)
			}
		}
	}
	for _, list := range [][]Outage{a.Worst, a.Cells, a.Returns, a.Gateways} {
		slices.SortFunc(list, func(a, b Outage) int { return int(b.Length() - a.Length()) })
	}
	return a
}

// notable drops what is no longer than a loaded machine takes anyway.
func (m *Meter) notable(list []Outage) []Outage {
	const noise = 300 * time.Millisecond
	for i := range list {
		if list[i].Length() < noise {
			return list[:i]
		}
		list[i].Cause = m.h.during(list[i].From, list[i].To)
	}
	return list
}
