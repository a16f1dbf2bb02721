package integration

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spandb/spand/internal/node"
	"github.com/spandb/spand/internal/sim"
	"github.com/spandb/spand/paxosgroup"
)

// RunVirtual runs f with a cluster in virtual time: what f and the goroutines that it
// starts do with time.Now, time.Sleep, timers and contexts is on the clock of a
// testing/synctest bubble, which moves on at once when everybody waits. f must do no
// real I/O on the network.
//
// Start in a bubble of one's own, with Mode Virtual, does the same.
func RunVirtual(t *testing.T, o Options, f func(t *testing.T, c *Cluster)) {
	t.Helper()
	o.Mode = Virtual
	synctest.Test(t, func(t *testing.T) { f(t, Start(t, o)) })
}

// virtual is the backend of mode Virtual, over package sim's world.
type virtual struct {
	t   testing.TB
	w   *sim.World
	log *logTail
}

func startVirtual(t testing.TB, c *Cluster, o Options) (backend, error) {
	if o.NetworkDelay == 0 {
		o.NetworkDelay = 200 * time.Microsecond
	}
	if o.DiskLatency == 0 {
		o.DiskLatency = time.Millisecond
	}
	v := &virtual{t: t, log: new(logTail)}
	var err error
	v.w, err = sim.OpenCluster(t, sim.ClusterOptions{
		Seed: o.Seed, Nodes: o.Nodes, Epsilon: o.ClockError, DiskLatency: o.DiskLatency,
		Network: sim.Noise{Min: o.NetworkDelay, Max: o.NetworkDelay * 4 / 3},
		Log:     slog.New(slog.NewTextHandler(v.log, nil)),
		Tune: func(i int, t *node.Tuning) {
			seeded, ours := t.Groups, tuning(c.injector.at(i))
			t.SQL = ours.SQL
			t.Groups = func(g *paxosgroup.Config) { seeded(g); ours.Groups(g) }
		},
	})
	if err != nil {
		t.Logf("ends of the nodes' logs:\n%s", v.log)
		return nil, err
	}
	return v, nil
}

func (v *virtual) kill(i int) error { v.w.Crash(i, true); return nil }
func (v *virtual) boot(i int) error { v.w.Boot(i); return nil }

func (v *virtual) awaitReady(ctx context.Context, i int) error { return v.w.AwaitStarted(ctx, i) }

func (v *virtual) pause(i int, paused bool) error {
	if paused {
		v.w.Pause(i)
	} else {
		v.w.Resume(i)
	}
	return nil
}

func (v *virtual) Cut(from, to int) error  { v.w.Cut(from, to); return nil }
func (v *virtual) Heal(from, to int) error { v.w.Mend(from, to); return nil }

func (v *virtual) config(i int) (*pgx.ConnConfig, error) { return v.w.Config(i), nil }

func (v *virtual) lockAddrs() []string { return v.w.LockAddrs() }

func (v *virtual) dialLocks(ctx context.Context, i int) (net.Conn, error) {
	return v.w.DialLocks(ctx, v.w.LockAddrs()[i])
}

func (v *virtual) setClock(i int, s clockSetting) error {
	v.w.SetError(i, s.added)
	v.w.SetClock(i, s.offset(time.Now()), s.ppm)
	return nil
}

func (v *virtual) node(i int) (*node.Node, error) { return v.w.Node(i), nil }

func (v *virtual) logs() string { return v.log.String() }

func (v *virtual) close() {
	v.w.Close()
	for _, found := range v.w.Violations() {
		v.t.Errorf("integration: %v", found)
	}
}
