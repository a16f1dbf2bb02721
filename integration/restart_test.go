package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestRestartWithManySplits (R1): nodes that die with all of their splits in the log
// open every replica from there, though its peers, which are ahead, send it messages while
// the splits before it are still being replayed. A replica taken for missing would
// forget what it has voted and acknowledged.
func TestRestartWithManySplits(t *testing.T) {
	c := startProcesses(t, Options{Nodes: 3})
	n := c.Nodes[0]
	const tablets = 30
	psql(t, n, "create table parted (k int primary key, v int not null)")
	psql(t, n, fmt.Sprintf("insert into parted select i, 0 from generate_series(1, %d) as i", tablets))
	for k := 2; k <= tablets; k++ { // each from the right part of the one before
		psql(t, n, fmt.Sprintf("split table parted by (%d)", k))
	}
	// All groups are awake, so that their leaders have something to say.
	ctx, cancel := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	defer func() { cancel(); busy.Wait() }()
	for i, n := range c.Nodes {
		for j := range 2 {
			busy.Go(func() { updateForEver(ctx, n, tablets, uint64(2*i+j)) })
		}
	}
	rounds := 3
	if *long {
		rounds = 20
	}
	for range rounds {
		for _, n := range c.Nodes {
			n.Kill(t)
			n.Launch(t)
			n.AwaitReady(t)
		}
		for _, n := range c.Nodes {
			n.Kill(t)
		}
		for _, n := range c.Nodes {
			n.Launch(t)
		}
		for _, n := range c.Nodes {
			n.AwaitReady(t)
		}
	}
	cancel()
	busy.Wait()
	if got := psql(t, n, "select count(*) from parted"); got != fmt.Sprint(tablets) {
		t.Errorf("%s rows are left", got)
	}
	for _, n := range c.Nodes {
		for line := range strings.Lines(n.Log(t)) {
			if strings.Contains(line, "missing replica") {
				t.Errorf("%s: %s", n.Name, line)
			}
		}
	}
}

// updateForEver writes rows at random through a node, which may die.
func updateForEver(ctx context.Context, n *Node, rows int, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	for ctx.Err() == nil {
		conn, err := tryConnect(ctx, n)
		if err != nil {
			pause(10*time.Millisecond, ctx.Done())
			continue
		}
		for ctx.Err() == nil && !conn.IsClosed() {
			conn.Exec(ctx, "update parted set v = v + 1 where k = $1", 1+rng.IntN(rows))
		}
		closeConn(conn)
	}
}
