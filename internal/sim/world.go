package sim

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/integration/check"
	"github.com/spandb/spand/integration/workload"
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/node"
	"github.com/spandb/spand/truetime"
	"github.com/spandb/spand/txn"
)

// Options of a run, beside the seed.
type Options struct {
	// Duration of the faults; 0: 8 s of virtual time.
	Duration time.Duration
	// Epsilon, if positive, is the clocks' bound instead of the seed's.
	Epsilon time.Duration
	// Adjust changes the plan that the seed gave.
	Adjust func(*Plan, draw)
	// LyingClocks makes a plan with Lies, whatever the seed says.
	LyingClocks bool
	// Unforgiving has a lying clock judged like an honest one.
	Unforgiving bool
	// FixedClocks change by the plan's faults alone, not by reboots.
	FixedClocks bool
	// Log adds the rooms' log lines to the trace; LogDebug their debug lines too.
	Log, LogDebug bool
	// Logger takes the rooms' log lines instead of the trace.
	Logger *slog.Logger
	// Tune, if given, changes the tuning of a node, from 0, once the plan has.
	Tune func(i int, t *node.Tuning)
}

func (o *Options) logLevel() slog.Level {
	switch {
	case o.LogDebug:
		return slog.LevelDebug
	case o.Log:
		return slog.LevelInfo
	}
	return slog.LevelError
}

// Report of a run.
type Report struct {
	Plan       Plan
	Violations []Violation
	Trace      []string
	Ops        []*Op
	Stats      Stats
}

// Stats say what happened in a run.
type Stats struct {
	OK, Failed, Unknown int
	Crashes, Tablets    int
	Forgiven            int // violations that a lying clock explains
	// What the rooms did, over all lives.
	TwoPhase, Inquired, Staged uint64
	Snapshots, Missing, Leads  int
	SQL, Locks                 string // what those clients did
	Ambushes                   int    // crashes of a cell's leader in the middle of a call
	Virtual, Real              time.Duration
}

func (s Stats) String() string {
	return fmt.Sprintf("%d ok, %d failed, %d unknown; %d in two phases, %d inquired, %d bytes staged; %d crashes, %d tablets, %d terms of leadership, %d snapshots, %d replicas reopened; SQL %s; locks %s, %d ambushes; %v virtual in %v",
		s.OK, s.Failed, s.Unknown, s.TwoPhase, s.Inquired, s.Staged, s.Crashes, s.Tablets, s.Leads, s.Snapshots, s.Missing, s.SQL, s.Locks, s.Ambushes, s.Virtual.Round(time.Millisecond), s.Real.Round(time.Millisecond))
}

// World is a cluster in a bubble.
type World struct {
	opts    Options
	plan    Plan
	trace   *Trace
	net     *Network
	ids     []keys.NodeID
	nodes   []*Node
	history *History
	settled truetime.Timestamp // of the initial rows
	stats   Stats
	truth   Versions
	sql     *check.History
	locks   *workload.Locks
	// what the lock clients saw
	lockHistory *check.LockHistory
	exits       sync.WaitGroup // nodes that end their lives themselves

	mu         sync.Mutex // a leaf
	violations []Violation
	ambush     *Fault   // laid, and not run into yet
	collected  Versions // what was there before a collection
}

func (w *World) violate(inv, format string, args ...any) {
	v := Violation{inv, fmt.Sprintf(format, args...)}
	w.trace.Addf("VIOLATION %v", v)
	w.mu.Lock()
	w.violations = append(w.violations, v)
	w.mu.Unlock()
}

// Run runs one seed in a bubble of t and judges it. It fails t only when the
// simulation itself cannot go on.
func Run(t *testing.T, seed uint64, o Options) *Report {
	if o.Duration == 0 {
		o.Duration = 8 * time.Second
	}
	began := time.Now()
	w := &World{opts: o, plan: NewPlan(seed, o), collected: Versions{}}
	temp := make([]string, w.plan.Nodes)
	for i := range temp {
		temp[i] = tempDir(t)
	}
	synctest.Test(t, func(t *testing.T) {
		defer func() {
			if r := recover(); r != nil {
				w.violate("F1", "panic: %v\n%s", r, debug.Stack())
			}
		}()
		w.run(temp)
	})
	if w.truth != nil {
		w.violations = append(w.violations, Check(w.history.ops, w.truth)...)
	}
	w.judgeSQL()
	w.judgeLocks()
	if w.plan.Lies && !w.opts.Unforgiving {
		w.forgive()
	}
	w.count()
	w.stats.Real = time.Since(began)
	return &Report{Plan: w.plan, Violations: w.violations, Trace: w.trace.Lines(), Ops: w.history.ops, Stats: w.stats}
}

// forgiven is what a clock beyond ε may cost: recency, reads at leaseholders, and what rests
// on the leases of sessions.
var forgiven = map[string]bool{"X1": true, "X4": true, "L1": true, "L2": true, "C2.4": true, "C2.7": true, "C2.8": true}

// forgive drops it. Committed data and the agreement of replicas must stand.
func (w *World) forgive() {
	w.violations = slices.DeleteFunc(w.violations, func(v Violation) bool {
		lost := forgiven[v.Invariant]
		if lost {
			w.trace.Addf("recency lost, as it may be: %v", v)
			w.stats.Forgiven++
		}
		return lost
	})
}

func (w *World) count() {
	for _, op := range w.history.ops {
		switch op.Status {
		case OK:
			w.stats.OK++
		case Failed:
			w.stats.Failed++
		default:
			w.stats.Unknown++
		}
	}
}

func (w *World) run(temp []string) {
	w.trace = newTrace()
	w.history = &History{trace: w.trace}
	p := &w.plan
	w.trace.Addf("seed %d: ε=%v %v disk=%v checkpoints at %d keys or %v, segments %d, tails %d, staging from %d bytes", p.Seed, p.Epsilon, p.Noise, p.DiskLatency, p.CheckpointKeys, p.CheckpointInterval, p.SegmentBytes, p.TailBudget, p.StageAfter)
	w.build(temp)
	defer w.close()
	if !w.bootAll() || !w.setup() || !w.setupSQL() || !w.setupLocks() {
		return
	}
	until := time.Now().Add(p.Duration)
	watching, stop := context.WithCancel(context.Background())
	var watch sync.WaitGroup
	watch.Go(func() { w.watchLeases(watching) })
	defer watch.Wait()
	defer stop()
	var clients sync.WaitGroup
	for i, kind := range p.Clients {
		c := &client{w: w, id: i, kind: kind, d: newDraw(p.Seed, streamClients+uint64(i))}
		clients.Go(func() { c.run(until) })
	}
	clients.Go(func() { w.runSQL(until) })
	clients.Go(func() { w.runLocks(until) })
	w.nemesis()
	w.heal()
	clients.Wait()
	if w.converge() {
		w.finishSQL()
		w.finishLocks()
		w.finale()
		w.compare()
	}
	w.stats.Virtual = time.Since(w.trace.start)
	w.stats.Snapshots, w.stats.Missing = w.trace.count("installed a snapshot"), w.trace.count("opened a missing replica")
	w.stats.Leads = w.trace.count("leading")
}

// build makes the network and the machines, whose bbolt files lie in temp.
func (w *World) build(temp []string) {
	p := &w.plan
	w.net = NewNetwork(p.Seed, p.Noise)
	w.net.helps = p.Helps
	d := newDraw(p.Seed, streamPlan+200)
	for i := range p.Nodes {
		id := keys.NodeID(i + 1)
		n := &Node{w: w, id: id, name: fmt.Sprint("n", id), turn: make(chan struct{}, 1), torn: newDraw(p.Seed, streamTorn+1000*uint64(id)).Rand}
		n.wipe(temp[i])
		n.temp = temp[i]
		e, ppm := p.honestClock(d)
		n.clock = clockError{time.Now(), e, ppm}
		w.ids, w.nodes = append(w.ids, id), append(w.nodes, n)
	}
}

// bootAll boots all nodes and waits until they serve.
func (w *World) bootAll() bool {
	for _, n := range w.nodes {
		n.boot()
		time.Sleep(1_000_037 * time.Nanosecond) // so that the nodes' timers never coincide
	}
	for _, n := range w.nodes {
		l := n.process()
		if l == nil {
			return false // and a violation says why
		}
		<-l.started
	}
	return true
}

// close ends everything in the bubble.
func (w *World) close() {
	for _, n := range w.nodes {
		n.crash(false)
	}
	w.net.Close()
	// Look-ups that outlive their callers end by their own timeouts.
	time.Sleep(time.Minute)
	synctest.Wait()
}

// setup divides the keyspace as planned and writes the initial rows.
func (w *World) setup() bool {
	l := w.nodes[0].current()
	ctx, cancel := context.WithTimeout(l.ctx, 30*time.Second)
	defer cancel()
	for _, k := range w.plan.Splits {
		if err := l.txns.Split(ctx, keys.Key(k)); err != nil {
			w.violate("B1", "first split at %s: %v", show(k), err)
			return false
		}
	}
	c := &client{w: w, id: -1, d: newDraw(w.plan.Seed, streamPlan+300)}
	op, err := c.rw(ctx, l, "init", func(ctx context.Context, t *txn.Txn, op *Op) error {
		for i := range accounts {
			if err := op.put(ctx, t, acct(i), fmt.Sprint(opening)); err != nil {
				return err
			}
		}
		for i := range registers {
			if err := op.put(ctx, t, reg(i), "first"); err != nil {
				return err
			}
		}
		for i := 0; i < mixed; i += 2 {
			if err := op.put(ctx, t, mix(i), "first"); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.violate("F1", "no first rows in a healthy cluster: %v", err)
		return false
	}
	w.settled = op.TS
	return true
}

// event is a fault's beginning or end.
type event struct {
	at    time.Duration
	fault *Fault
	end   bool
}

// nemesis carries out the plan's faults.
func (w *World) nemesis() {
	start := time.Now()
	var events []event
	for i := range w.plan.Faults {
		f := &w.plan.Faults[i]
		events = append(events, event{f.At, f, false})
		if f.For > 0 && f.At+f.For < w.plan.Duration {
			events = append(events, event{f.At + f.For, f, true})
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return int(a.at - b.at) })
	active := map[*Fault]bool{}
	for _, e := range events {
		time.Sleep(time.Until(start.Add(e.at)))
		if e.end {
			w.trace.Addf("FAULT ends: %v", e.fault)
			delete(active, e.fault)
			w.surroundings(active)
			switch e.fault.Kind {
			case Crash, CrashAll, Drain, FailSync, Wipe:
				w.restart(active)
			case ClockLie:
				w.nodes[e.fault.Node-1].setClock(0, 0)
				w.readmit()
				w.restart(active)
			}
			continue
		}
		w.strike(e.fault, active)
	}
	time.Sleep(time.Until(start.Add(w.plan.Duration)))
}

// strike begins a fault.
func (w *World) strike(f *Fault, active map[*Fault]bool) {
	if f.Node == 0 && f.Key != "" {
		if f.Node = w.leaderOf(f.Key); f.Node == 0 {
			f.Node = 1
		}
	}
	w.trace.Addf("FAULT %v", f)
	if f.For > 0 {
		active[f] = true
	}
	switch f.Kind {
	case Crash:
		w.stats.Crashes++
		w.nodes[f.Node-1].crash(f.Torn)
	case CrashAll:
		for _, n := range w.nodes {
			w.stats.Crashes++
			n.crash(f.Torn)
		}
	case Wipe:
		w.stats.Crashes++
		n := w.nodes[f.Node-1]
		n.crash(false)
		n.wipe(n.temp)
	case FailSync:
		w.nodes[f.Node-1].failSync()
	case Drain:
		if err := w.nodes[f.Node-1].drain(); err != nil {
			w.trace.Addf("drain of node %d: %v", f.Node, err)
		}
	case ClockMove, ClockLie:
		w.nodes[f.Node-1].setClock(f.Amount, f.PPM)
	case Transfer:
		w.background(f.Node, func(ctx context.Context, _ *Life) {
			for _, n := range w.nodes {
				l := n.current()
				if l == nil {
					continue
				}
				for _, m := range l.members() {
					if m.holds(f.Key) && m.group.Leader() == n.id {
						err := m.group.Transfer(ctx, f.Node)
						w.trace.Addf("transfer of group %d from %d to %d: %v", m.id, n.id, f.Node, err)
						return
					}
				}
			}
		})
	case Split:
		at := keys.NodeID(1 + int(f.At)%len(w.nodes))
		w.background(at, func(ctx context.Context, l *Life) {
			err := l.txns.Split(ctx, keys.Key(f.Key))
			w.trace.Addf("split at %s from node %d: %v", show(f.Key), at, err)
		})
	case Ambush:
		w.lay(f)
	case Checkpoint:
		w.background(f.Node, func(ctx context.Context, l *Life) {
			if err := l.store.Checkpoint(ctx); err != nil {
				w.trace.Addf("checkpoint at node %d: %v", f.Node, err)
			}
		})
	}
	w.surroundings(active)
}

// background runs f in the present life of a node, if it has one.
func (w *World) background(id keys.NodeID, f func(context.Context, *Life)) {
	l := w.nodes[id-1].current()
	if l == nil {
		return
	}
	w.spawn(l, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		f(ctx, l)
	})
}

// spawn runs f in a goroutine that l's end waits for, unless l has ended.
func (w *World) spawn(l *Life, f func(context.Context)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.wg.Go(func() { f(l.ctx) })
}

// surroundings sets network and disks as the active faults demand.
func (w *World) surroundings(active map[*Fault]bool) {
	cut, stalled, slow := map[pair]bool{}, map[keys.NodeID]bool{}, map[keys.NodeID]time.Duration{}
	paused, full := map[keys.NodeID]bool{}, map[keys.NodeID]bool{}
	var noise *Noise
	for i := range w.plan.Faults { // in order, so that the last one wins
		f := &w.plan.Faults[i]
		if !active[f] {
			continue
		}
		switch f.Kind {
		case Isolate:
			for _, id := range w.ids {
				cut[pair{f.Node, id}], cut[pair{id, f.Node}] = true, true
			}
		case OneWay:
			cut[pair{f.Node, f.To}] = true
		case Stall:
			stalled[f.Node] = true
		case Pause:
			stalled[f.Node], paused[f.Node] = true, true
		case FullDisk:
			full[f.Node] = true
		case NoisyNet:
			noise = &f.Noise
		case SlowDisk:
			slow[f.Node] = max(slow[f.Node], f.Amount)
		}
	}
	w.net.SetCuts(cut)
	w.net.SetStalled(stalled)
	w.net.SetNoise(noise)
	for _, n := range w.nodes {
		n.setSlow(slow[n.id])
		n.setPaused(paused[n.id])
		n.setFull(full[n.id])
	}
}

// restart boots every node that no active fault keeps down.
func (w *World) restart(active map[*Fault]bool) {
	down := map[keys.NodeID]bool{}
	for f := range active {
		switch f.Kind {
		case Crash, Drain, FailSync, Wipe:
			down[f.Node] = true
		case CrashAll:
			return
		}
	}
	for _, n := range w.nodes {
		if down[n.id] || n.process() != nil {
			continue
		}
		if d := (draw{n.torn}); !w.plan.Lies && !w.opts.FixedClocks && d.IntN(2) == 0 {
			n.setClock(w.plan.honestClock(d)) // booting has set it anew
		}
		w.trace.Addf("node %d starts", n.id)
		n.boot()
	}
}

// readmit ends the lives of nodes whose clocks were found to lie (T2): they vouch from
// their next ones on, as their operator would have it.
func (w *World) readmit() {
	for _, n := range w.nodes {
		if l := n.current(); l != nil && l.trust.Err() != nil {
			w.trace.Addf("node %d ends: %v", n.id, l.trust.Err())
			n.crash(false)
		}
	}
}

// watchLeases looks, again and again, at who serves each group: nobody, or one (R2).
func (w *World) watchLeases(ctx context.Context) {
	tick := time.NewTicker(23*time.Millisecond + 7)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		serving := map[keys.GroupID]keys.NodeID{}
		for _, n := range w.nodes {
			l := n.current()
			if l == nil || n.stopped() { // who is stopped serves nobody
				continue
			}
			for _, m := range l.members() {
				g := m.id
				if m.group.Leader() != n.id || !m.group.Status().Serving {
					continue
				}
				if time.Now() != now {
					break // a worker was busy: this is no picture of one instant
				}
				if other, ok := serving[g]; ok && !w.plan.Lies {
					w.violate("R2", "nodes %d and %d both hold the lease of group %d", other, n.id, g)
				}
				serving[g] = n.id
			}
		}
	}
}

// heal ends all faults.
func (w *World) heal() {
	w.trace.Addf("HEAL")
	w.lay(nil)
	for _, n := range w.nodes {
		n.mu.Lock()
		n.fails = false
		n.mu.Unlock()
	}
	synctest.Wait() // who has heard of a failed sync is on the way out by then
	w.exits.Wait()
	w.surroundings(nil)
	if w.plan.Lies {
		for _, n := range w.nodes {
			n.setClock(0, 0)
		}
		w.readmit()
	}
	w.restart(nil)
}

// leaderOf returns who leads the tablet that holds k, or the first cell, by whatever replica claims it.
func (w *World) leaderOf(k string) keys.NodeID {
	for _, n := range w.nodes {
		l := n.current()
		if l == nil {
			continue
		}
		for _, m := range l.members() {
			if m.holds(k) && m.group.Leader() == n.id {
				return n.id
			}
		}
	}
	return 0
}

// tempDir is where bbolt's files lie: in memory where the system has such a
// place, because their syncs cost real time and prove nothing here.
func tempDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "spand-sim-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
