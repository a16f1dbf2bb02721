package node

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spandb/spand/lockservice/lockpb"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
)

// registerMetrics exposes what the rooms count. They keep plain counters; this
// is the one place that knows of Prometheus for all of them but pgwire, which
// measures per message.
func (n *Node) registerMetrics(reg *prometheus.Registry) {
	gauge := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "spand", Name: name, Help: help}, f))
	}
	counter := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "spand", Name: name, Help: help}, f))
	}
	gauge("clock_epsilon_seconds", "Half the width of the clock's interval.", func() float64 { return n.clock.Now().Epsilon().Seconds() })
	gauge("clock_trusted", "1 while the clock vouches for true time.", func() float64 {
		if n.clock.Err() != nil {
			return 0
		}
		return 1
	})

	gauge("clock_error_added_seconds", "Uncertainty added by spand.clock_error_add.", func() float64 { return n.clock.Added().Seconds() })
	for _, m := range n.members {
		if m.ID == n.self {
			continue
		}
		peer := func(name, help string, f func(paxosgroup.PeerClock) time.Duration) {
			o := prometheus.GaugeOpts{Namespace: "spand", Name: name, Help: help, ConstLabels: prometheus.Labels{"peer": m.Name}}
			reg.MustRegister(prometheus.NewGaugeFunc(o, func() float64 { return f(n.peerClocks()[m.ID]).Seconds() }))
		}
		peer("clock_peer_offset_seconds", "The peer's clock against this node's, as measured last.", func(c paxosgroup.PeerClock) time.Duration { return c.Offset })
		peer("clock_peer_offset_bound_seconds", "How far off that measurement can be.", func(c paxosgroup.PeerClock) time.Duration { return c.Bound })
		peer("clock_peer_gap_seconds", "By how much the two clocks' intervals miss each other; not 0: one of them is wrong.", func(c paxosgroup.PeerClock) time.Duration { return c.Gap })
	}

	gauge("cluster_version", "The cluster's version, as this node knows it.", func() float64 { return float64(n.version.Active()) })
	counter("rpc_calls_refused_total", "Calls of peers that were refused because too many were under way.", func() float64 { return float64(n.net.CallsRefused()) })

	gauge("tablets", "Replicas of tablets on this node.", func() float64 { return float64(len(n.replicas.All())) })
	gauge("tablets_leading", "Tablets that this node leads with a valid lease.", func() float64 {
		led := 0
		for _, r := range n.replicas.All() {
			if r.Group.Status().Serving {
				led++
			}
		}
		return float64(led)
	})

	gauge("lock_cells", "Replicas of the lock service's cells on this node.", func() float64 { return float64(len(n.cells.All())) })
	gauge("lock_cells_leading", "Cells that this node leads with a valid lease.", func() float64 {
		led := 0
		for _, r := range n.cells.All() {
			if r.Cell.Leading() == nil {
				led++
			}
		}
		return float64(led)
	})

	leading := func(f func(*lockpb.Cell) uint64) func() float64 {
		return func() float64 {
			var sum uint64
			for _, r := range n.cells.All() {
				if r.Cell.Leading() == nil {
					sum += f(r.Cell.Status())
				}
			}
			return float64(sum)
		}
	}
	gauge("lock_sessions", "Sessions of the cells that this node leads.", leading((*lockpb.Cell).GetSessions))
	gauge("lock_holds", "Holds of locks in the cells that this node leads.", leading((*lockpb.Cell).GetLocks))

	gauge("storage_table_keys", "Keys applied and not yet checkpointed.", func() float64 { return float64(n.store.Stats().TableKeys) })
	counter("storage_checkpoints_total", "Checkpoints completed.", func() float64 { return float64(n.store.Stats().Checkpoints) })
	counter("log_syncs_total", "fdatasync calls of the log.", func() float64 { return float64(n.store.Stats().LogBatches) })
	counter("log_appends_total", "Records appended to the log.", func() float64 { return float64(n.store.Stats().LogAppends) })
	counter("log_bytes_total", "Bytes appended to the log.", func() float64 { return float64(n.store.Stats().LogBytes) })
	counter("log_sync_seconds_total", "Time spent in fdatasync.", func() float64 { return n.store.Stats().LogSyncTime.Seconds() })
	gauge("storage_full", "1 while the disk is below its reserve and writes are refused.", func() float64 {
		if n.store.Full() {
			return 1
		}
		return 0
	})

	tablets := func(f func(*tablet.Stats) int64) func() float64 {
		return func() float64 {
			var sum int64
			for _, r := range n.replicas.All() {
				sum += f(r.Tablet.Stats())
			}
			return float64(sum)
		}
	}
	gauge("locks_held", "Locks held now.", tablets(func(s *tablet.Stats) int64 { return s.LocksHeld.Load() }))
	counter("lock_waits_total", "Requests that queued for a lock.", tablets(func(s *tablet.Stats) int64 { return s.LockWaits.Load() }))
	counter("wounds_total", "Transactions wounded by older ones.", tablets(func(s *tablet.Stats) int64 { return s.Wounds.Load() }))
	counter("tablet_reads_total", "Reads answered by tablets.", tablets(func(s *tablet.Stats) int64 { return s.Reads.Load() }))
	counter("tablet_commits_total", "One-phase commits.", tablets(func(s *tablet.Stats) int64 { return s.Commits.Load() }))
	counter("tablet_prepares_total", "Prepares.", tablets(func(s *tablet.Stats) int64 { return s.Prepares.Load() }))
	counter("tablet_decides_total", "Two-phase decisions.", tablets(func(s *tablet.Stats) int64 { return s.Decides.Load() }))

	tx := n.client.Stats()
	counter("transactions_begun_total", "Read-write transactions begun at this gateway.", func() float64 { return float64(tx.Begun.Load()) })
	counter("transactions_read_only_total", "Read-only transactions at this gateway.", func() float64 { return float64(tx.ReadOnly.Load()) })
	for by, n := range map[string]*atomic.Uint64{"here": &tx.PastHere, "replica": &tx.PastOther, "leader": &tx.PastLeader} {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "spand", Name: "past_reads_total", ConstLabels: prometheus.Labels{"by": by},
			Help: "Reads of this gateway at a timestamp in the past, by who answered: a replica here, one elsewhere, a leader elsewhere."},
			func() float64 { return float64(n.Load()) }))
	}
	counter("transactions_one_phase_total", "Commits in one phase.", func() float64 { return float64(tx.OnePhase.Load()) })
	counter("transactions_two_phase_total", "Commits in two phases.", func() float64 { return float64(tx.TwoPhase.Load()) })
	counter("commit_waits_total", "Commits that wrote, each of which waited until its timestamp had passed.", func() float64 { return float64(tx.CommitWaits.Load()) })
	for part, sum := range map[string]*atomic.Uint64{"gross": &tx.WaitGross, "net": &tx.WaitNet} {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "spand", Name: "commit_wait_seconds_total",
			Help: "Commit wait: gross from the choice of the timestamp until it had passed, net what replication left of that.", ConstLabels: prometheus.Labels{"part": part},
		}, func() float64 { return time.Duration(sum.Load()).Seconds() }))
	}
	counter("transactions_aborted_total", "Transactions ended by a retryable conflict.", func() float64 { return float64(tx.Aborted.Load()) })
}
