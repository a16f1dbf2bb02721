package node

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spandb/spand/pgwire"
	"github.com/spandb/spand/sql"
)

// openSQL makes the SQL engine over the transactions of this node, and the
// server that clients reach it by. Neither serves yet.
func (n *Node) openSQL(reg *prometheus.Registry) error {
	cfg := sql.Config{
		KV: sql.NewStore(n.client), Clock: n.clock, Node: n.self, Logger: n.log.With("room", "sql"),
		Views: append(n.views(), n.lockViews()...), Version: Version, NodeClock: nodeClock{n}, Fencer: newFences(n),
	}
	if len(n.members) > 1 {
		cfg.Peers, cfg.Lived = schemaPeers{n}, n.lived
	}
	tune(n.cfg.Around.Tune.SQL, &cfg)
	engine, err := sql.NewEngine(cfg)
	if err != nil {
		return fmt.Errorf("opening SQL: %w", err)
	}
	n.engine = engine
	n.closers = append(n.closers, engine.Close)
	n.wire, err = pgwire.New(pgwire.Config{SQL: engine, Logger: n.log.With("room", "pgwire"), TrustRemote: n.cfg.Insecure, Registry: reg})
	return err
}
