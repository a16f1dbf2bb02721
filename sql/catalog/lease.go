package catalog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// Peers reaches the other nodes of the cluster.
type Peers interface {
	// RevokeSchema calls HandleRevoke on every other node and returns one error per
	// node that did not confirm. It returns when all have answered or ctx ends.
	RevokeSchema(ctx context.Context, version uint64) []error
}

// NoPeers is the Peers of a single node.
type NoPeers struct{}

// RevokeSchema has nobody to ask.
func (NoPeers) RevokeSchema(context.Context, uint64) []error { return nil }

// Config of a Manager.
type Config struct {
	KV     kv.KV
	Peers  Peers // nil: NoPeers
	Logger *slog.Logger
	// Lived: this node of a cluster had a life before. Commits that it sent to other
	// nodes under that life's lease may still be on their way.
	Lived bool
	// LeaseDuration is how long a schema lease lasts (default 4 s); it must be the
	// same on every node. RenewEvery is how often a lease in use is renewed (1 s).
	LeaseDuration, RenewEvery time.Duration
	// GCHorizon is how long dropped rows stay for readers at older timestamps (1 h).
	// OrphanAge is when an unpublished physical id counts as abandoned (1 h).
	GCHorizon, OrphanAge time.Duration
	// CleanEvery is how often cleanup jobs are looked for (1 min).
	CleanEvery time.Duration
}

// Manager is a node's view of the schema.
type Manager struct {
	cfg    Config
	clock  truetime.Clock
	born   time.Time             // of this life
	former truetime.Timestamp    // leases of the node's earlier lives end before
	cur    atomic.Pointer[Lease] // nil: none
	inUse  atomic.Bool           // the lease was used since it was last renewed
	wake   chan struct{}         // the cleaner has something to do
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu struct {
		sync.Mutex
		gen     *generation
		renewal *renewal // in flight, nil for none
		past    []*Lease // of superseded versions, the latest met last
		dead    []Job    // orphans whose transaction is known to have ended
		closed  bool
	}
}

// Lease allows descriptors of one schema version to be used until End (B2).
type Lease struct {
	Version uint64
	End     truetime.Timestamp
	gen     *generation
	cache   *cache
}

// generation counts the commits in flight between two revocations.
type generation struct {
	count   int
	closed  bool
	drained chan struct{}
	// before was revoked, but is not known to be over: whoever revoked it gave up.
	before *generation
}

type renewal struct {
	done chan struct{}
	err  error
}

// NewManager returns a manager; Start starts its background work.
func NewManager(cfg Config) *Manager {
	if cfg.Peers == nil {
		cfg.Peers = NoPeers{}
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&cfg.LeaseDuration, 4*time.Second)
	def(&cfg.RenewEvery, time.Second)
	def(&cfg.GCHorizon, time.Hour)
	def(&cfg.OrphanAge, time.Hour)
	def(&cfg.CleanEvery, time.Minute)
	m := &Manager{cfg: cfg, clock: cfg.KV.Clock(), born: time.Now(), wake: make(chan struct{}, 1)}
	if cfg.Lived {
		m.former = m.clock.Now().Latest.Add(cfg.LeaseDuration)
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.mu.gen = &generation{drained: make(chan struct{})}
	return m
}

// Start begins to keep the lease fresh while it is used, and to clean up.
func (m *Manager) Start() {
	m.wg.Add(2)
	go m.renewLoop()
	go m.cleanLoop()
}

// Close ends the background work and waits for it.
func (m *Manager) Close() {
	m.mu.Lock()
	m.mu.closed = true
	m.mu.Unlock()
	m.cancel()
	m.wg.Wait()
}

// Lease returns a valid lease, waiting for a renewal when there is none.
func (m *Manager) Lease(ctx context.Context) (*Lease, error) {
	for {
		if l := m.cur.Load(); l != nil && m.clock.Now().Latest < l.End {
			if !m.inUse.Load() {
				m.inUse.Store(true)
			}
			return l, nil
		}
		m.inUse.Store(true)
		r, err := m.startRenewal()
		if err != nil {
			return nil, err
		}
		select {
		case <-r.done:
			if r.err != nil {
				return nil, r.err
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Current reports whether l has not been revoked and serves reads at t. A caller
// chooses t first and asks then: a revocation that comes later waits for t to pass.
func (m *Manager) Current(l *Lease, t truetime.Timestamp) bool {
	c := m.cur.Load()
	return c != nil && c.gen == l.gen && t <= max(l.End, c.End) && c.Version == l.Version
}

var errClosed = errors.New("catalog: closed")

func (m *Manager) startRenewal() (*renewal, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		return nil, errClosed
	}
	if m.mu.renewal == nil {
		r := &renewal{done: make(chan struct{})}
		m.mu.renewal = r
		m.wg.Add(1)
		go func() {
			defer m.wg.Done()
			err := m.renew(m.ctx)
			m.mu.Lock()
			m.mu.renewal = nil
			m.mu.Unlock()
			r.err = err
			close(r.done)
		}()
	}
	return m.mu.renewal, nil
}

// renew reads the version under a shared lock until a lease could be installed.
func (m *Manager) renew(ctx context.Context) error {
	var age truetime.Timestamp
	for {
		m.mu.Lock()
		gen := m.mu.gen
		m.mu.Unlock()
		before := m.clock.Now().Earliest
		t := m.cfg.KV.Begin(ctx, kv.TxnOptions{Age: age})
		version, err := readVersion(ctx, t, tablet.LockShared)
		if err == nil {
			// The version may be that of a commit still in its commit wait: what runs
			// under this lease must get timestamps above it.
			err = t.AwaitVisible(ctx)
		}
		age = t.ID().Age
		t.Rollback(ctx)
		var aborted *tablet.AbortedError
		if errors.As(err, &aborted) {
			if aborted.Reason == tablet.AbortHorizon {
				age = 0
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("catalog: renewing the schema lease: %w", err)
		}
		end := before.Add(m.cfg.LeaseDuration)
		if m.clock.Now().Latest >= end {
			if err := m.clock.Err(); err != nil {
				return fmt.Errorf("catalog: renewing the schema lease: %w", err)
			}
			age = 0
			continue // waited too long for the lock
		}
		if m.install(gen, version, end) {
			return nil
		}
	}
}

func (m *Manager) install(gen *generation, version uint64, end truetime.Timestamp) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.gen != gen {
		return false // revoked meanwhile: what was read may be older than the revocation
	}
	l := &Lease{Version: version, End: end, gen: gen}
	if old := m.cur.Load(); old != nil && old.Version == version {
		l.cache = old.cache
		l.End = max(end, old.End)
	} else {
		l.cache = newCache()
	}
	m.cur.Store(l)
	return true
}

func readVersion(ctx context.Context, t kv.Txn, lock tablet.LockStrength) (uint64, error) {
	vs, err := t.Get(ctx, []keys.Key{versionKey}, lock, tablet.WaitBlock)
	if err != nil {
		return 0, err
	}
	return decodeCounter(vs[0])
}

func decodeCounter(b []byte) (uint64, error) {
	if len(b) != 9 || b[0] != formatVersion {
		return 0, errors.New("catalog: the store is not initialised or its schema version is damaged")
	}
	return binary.BigEndian.Uint64(b[1:]), nil
}

func encodeCounter(v uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{formatVersion}, v)
}

func (m *Manager) renewLoop() {
	defer m.wg.Done()
	tick := time.NewTicker(m.cfg.RenewEvery)
	defer tick.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-tick.C:
		}
		// An idle node lets its lease lapse and asks again on demand.
		if !m.inUse.Swap(false) {
			continue
		}
		if r, err := m.startRenewal(); err == nil {
			select {
			case <-r.done:
				if r.err != nil && m.ctx.Err() == nil {
					m.cfg.Logger.Warn("schema lease not renewed", "error", r.err)
				}
			case <-m.ctx.Done():
				return
			}
		}
	}
}

// EnterCommit returns a lease under which the caller may commit with s <= its End,
// counted as in flight until LeaveCommit.
func (m *Manager) EnterCommit(ctx context.Context) (*Lease, error) {
	for {
		l, err := m.Lease(ctx)
		if err != nil {
			return nil, err
		}
		m.mu.Lock()
		if m.mu.gen == l.gen {
			l.gen.count++
			m.mu.Unlock()
			return l, nil
		}
		m.mu.Unlock()
	}
}

// LeaveCommit ends what EnterCommit began. A commit of unknown outcome may yet be
// given a timestamp, so it stays in flight until its lease is over.
func (m *Manager) LeaveCommit(l *Lease, unknown bool) {
	m.mu.Lock()
	if unknown && !m.mu.closed {
		m.wg.Add(1)
		m.mu.Unlock()
		go func() {
			defer m.wg.Done()
			if m.clock.AwaitAfter(m.ctx, l.End) != nil && !m.pause(m.ctx, 2*m.cfg.LeaseDuration) {
				return // closed; else the clock has failed, and the lease is over by any clock
			}
			m.LeaveCommit(l, false)
		}()
		return
	}
	l.gen.count--
	if l.gen.closed && l.gen.count == 0 {
		close(l.gen.drained)
	}
	m.mu.Unlock()
}

// HandleRevoke drops this node's lease. When it returns nil, every commit made
// under the lease, or in an earlier life, is over and every timestamp read under it
// has passed.
func (m *Manager) HandleRevoke(ctx context.Context) error {
	m.mu.Lock()
	gen := m.mu.gen
	next := &generation{drained: make(chan struct{}), before: gen}
	m.mu.gen = next
	used := m.cur.Swap(nil) != nil || gen.before != nil
	gen.closed = true
	if gen.count == 0 {
		close(gen.drained)
	}
	var open []*generation
	for g := gen; g != nil; g = g.before {
		open = append(open, g)
	}
	m.mu.Unlock()
	for _, g := range open {
		select {
		case <-g.drained:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := m.outlast(ctx, used); err != nil {
		return err
	}
	m.mu.Lock()
	next.before = nil
	m.mu.Unlock()
	return nil
}

// mostAhead is how far beyond true time a read's timestamp may lie, 2ε: no node serves
// with more (paxosgroup.MaxClockError).
const mostAhead = 500 * time.Millisecond

// outlast returns once the earlier lives' leases are over and, if this life has used one
// since it was last revoked, once the timestamps read under it have passed.
func (m *Manager) outlast(ctx context.Context, used bool) error {
	err := m.clock.Err()
	if err == nil {
		return m.clock.AwaitAfter(ctx, max(m.clock.Now().Latest, m.former))
	}
	// A clock that does not vouch cannot tell when, but no schema change need wait for
	// this node's lease: it reads and commits nothing, so that bounds will do.
	if m.cfg.Lived && time.Since(m.born) < 2*m.cfg.LeaseDuration {
		return err
	}
	if used && !m.pause(ctx, mostAhead) {
		return context.Cause(ctx)
	}
	return nil
}

// pause waits for d of the machine's time; false: ctx ended first.
func (m *Manager) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// revokeAll makes every node drop its lease, or waits until leases taken before
// lockedAt (when the version key's exclusive lock was held) are over.
func (m *Manager) revokeAll(ctx context.Context, version uint64, lockedAt truetime.Timestamp) error {
	// Half a lease is ample for the answers of nodes that live.
	ask, cancel := context.WithTimeout(ctx, m.cfg.LeaseDuration/2)
	errs := make(chan error, 1)
	go func() { errs <- errors.Join(m.cfg.Peers.RevokeSchema(ask, version)...) }()
	own := m.HandleRevoke(ctx)
	others := <-errs
	cancel()
	if own != nil {
		return own
	}
	if others == nil {
		return nil
	}
	m.cfg.Logger.Warn("nodes did not confirm a schema change; waiting for their leases to end", "error", others)
	return m.clock.AwaitAfter(ctx, lockedAt.Add(m.cfg.LeaseDuration))
}
