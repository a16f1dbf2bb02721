package node

import (
	"context"
	"encoding/hex"
	"strings"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// maxLocksShown bounds spand.transaction_locks per tablet: the view is for people.
const maxLocksShown = 1000

func columns(spec string) []sql.ViewColumn {
	oids := map[string]types.OID{"bigint": types.OIDInt8, "text": types.OIDText, "boolean": types.OIDBool, "timestamptz": types.OIDTimestampTZ, "float": types.OIDFloat8}
	var cols []sql.ViewColumn
	for _, c := range strings.Split(spec, ", ") {
		name, typ, _ := strings.Cut(c, " ")
		cols = append(cols, sql.ViewColumn{Name: name, Type: types.T(oids[typ])})
	}
	return cols
}

// views are the tables of schema spand that show this node's inside. What other
// nodes know better, such as who leads, is shown as this one believes it.
func (n *Node) views() []sql.View {
	return []sql.View{
		{Schema: "spand", Name: "nodes", Columns: columns("node_id bigint, name text, rpc_addr text, is_self boolean, connected boolean, versions text, cluster_version bigint"), Rows: n.nodeRows},
		{Schema: "spand", Name: "tablets", Columns: columns("tablet bigint, start_key text, end_key text, generation bigint, leader text, replicas text"), Rows: n.tabletRows},
		{Schema: "spand", Name: "replicas", Columns: columns("tablet bigint, role text, term bigint, leader text, serving boolean, lease_end timestamptz, safe_time timestamptz, applied bigint, committed bigint, last bigint, quiesced boolean"), Rows: n.replicaRows},
		{Schema: "spand", Name: "transaction_locks", Columns: columns("tablet bigint, key text, mode text, txn text, gateway text, phase text, granted boolean"), Rows: n.lockRows},
		{Schema: "spand", Name: "clock", Columns: columns("node text, is_self boolean, state text, source text, epsilon_seconds float, max_epsilon_seconds float, error_added_seconds float, earliest timestamptz, latest timestamptz, " +
			"offset_seconds float, offset_bound_seconds float, gap_seconds float, measured_at timestamptz, commits bigint, commit_wait_gross_seconds float, commit_wait_net_seconds float, error text"), Rows: n.clockRows},
	}
}

func (n *Node) name(id keys.NodeID) types.Datum {
	if s := n.nameOf(id); s != "" {
		return types.Text(s)
	}
	return types.Null
}

// postgresEpoch is 2000-01-01 UTC, from which timestamps in datums count.
const postgresEpoch = 946684800_000_000_000

func timestamp(t truetime.Timestamp) types.Datum {
	if t <= 0 || t == truetime.Max {
		return types.Null
	}
	return types.Timestamp((int64(t) - postgresEpoch) / 1000)
}

func count[T ~uint64 | ~uint32](v T) types.Datum { return types.Int(int64(v)) }

func (n *Node) nodeRows(_ context.Context, emit func([]types.Datum) error) error {
	for _, m := range n.members {
		self := m.ID == n.self
		versions := types.Null
		if can, ok := n.net.Versions(m.ID); ok {
			versions = types.Text(can.String())
		}
		if err := emit([]types.Datum{count(m.ID), types.Text(m.Name), types.Text(m.Addr), types.Bool(self), types.Bool(self || n.net.Connected(m.ID)),
			versions, count(uint32(n.version.Active()))}); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) tabletRows(ctx context.Context, emit func([]types.Datum) error) error {
	list, err := n.dir.List(ctx)
	if err != nil {
		return err
	}
	for _, d := range list {
		var on []string
		for _, r := range d.Replicas {
			on = append(on, n.name(r.Node).Str())
		}
		if err := emit([]types.Datum{count(d.Group), types.Text(hex.EncodeToString(d.Span.Start)), types.Text(hex.EncodeToString(d.Span.End)),
			count(d.Generation), n.name(n.replicas.Leader(d.Group)), types.Text(strings.Join(on, ","))}); err != nil {
			return err
		}
	}
	return nil
}

// replicaRows are the replicas of tablets on this node, then those of cells.
func (n *Node) replicaRows(_ context.Context, emit func([]types.Datum) error) error {
	var groups []*paxosgroup.Group
	for _, r := range n.replicas.All() {
		groups = append(groups, r.Group)
	}
	for _, r := range n.cells.All() {
		groups = append(groups, r.Group)
	}
	for _, g := range groups {
		s := g.Status()
		if err := emit([]types.Datum{count(s.Group), types.Text(s.Role), count(s.Term), n.name(s.Leader), types.Bool(s.Serving), timestamp(s.LeaseEnd),
			timestamp(s.SafeTime), count(s.Applied), count(s.Commit), count(s.Last), types.Bool(s.Quiesced)}); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) lockRows(_ context.Context, emit func([]types.Datum) error) error {
	for _, r := range n.replicas.All() {
		for _, l := range r.Tablet.Locks(maxLocksShown) {
			mode := "shared"
			if l.Strength == tablet.LockExclusive {
				mode = "exclusive"
			}
			if err := emit([]types.Datum{count(r.Tablet.Group()), types.Text(l.Span.String()), types.Text(mode), types.Text(l.Txn.String()),
				n.name(l.Client), types.Text(l.Phase), types.Bool(!l.Waiting)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// clockRows are one row per node: this one's clock, and what this node has measured of
// the others'.
func (n *Node) clockRows(_ context.Context, emit func([]types.Datum) error) error {
	seconds := func(d time.Duration) types.Datum { return types.Float(d.Seconds()) }
	known := n.peerClocks()
	for _, m := range n.members {
		row := make([]types.Datum, 17)
		for i := range row {
			row[i] = types.Null
		}
		row[0], row[1] = types.Text(m.Name), types.Bool(m.ID == n.self)
		if m.ID == n.self {
			now, waits := n.clock.Now(), n.client.Stats()
			row[2], row[3], row[4] = types.Text("trusted"), types.Text(n.source), seconds(n.epsilon())
			if err := n.clock.Err(); err != nil {
				row[2], row[4], row[16] = types.Text("not trusted"), types.Null, types.Text(err.Error())
			}
			row[5], row[6] = seconds(n.maxEpsilon()), seconds(n.clock.Added())
			row[7], row[8] = timestamp(now.Earliest), timestamp(now.Latest)
			row[13] = types.Int(int64(waits.CommitWaits.Load()))
			row[14], row[15] = seconds(time.Duration(waits.WaitGross.Load())), seconds(time.Duration(waits.WaitNet.Load()))
		} else {
			c := known[m.ID]
			row[2] = types.Text(clockState(c))
			if measured(c) {
				row[4], row[9], row[10], row[11] = seconds(c.Epsilon), seconds(c.Offset), seconds(c.Bound), seconds(c.Gap)
				row[12] = timestamp(truetime.FromTime(c.At))
			}
		}
		if err := emit(row); err != nil {
			return err
		}
	}
	return nil
}
