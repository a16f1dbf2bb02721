package node

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/spandb/spand/internal/cells"
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/node/adminpb"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/lockservice/lockpb"
)

// lockClient asks one node, whoever leads.
type lockClient struct {
	t *testing.T
	lockpb.LockServiceClient
}

func dialLocks(t *testing.T, n *Node) lockClient {
	conn, err := grpc.NewClient("passthrough:///"+n.Addrs().RPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return lockClient{t, lockpb.NewLockServiceClient(conn)}
}

// insist repeats a call that can be repeated while nobody leads.
func insist[R any](t *testing.T, call func(context.Context) (R, error)) R {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		r, err := call(ctx)
		switch status.Code(err) {
		case codes.OK:
			return r
		case codes.Unavailable, codes.FailedPrecondition, codes.Unknown:
			if ctx.Err() == nil {
				time.Sleep(20 * time.Millisecond)
				continue
			}
		}
		t.Fatal(err)
	}
}

func (c lockClient) session(cell string, id uint64) {
	c.t.Helper()
	insist(c.t, func(ctx context.Context) (*lockpb.CreateSessionResponse, error) {
		return c.CreateSession(ctx, &lockpb.CreateSessionRequest{Cell: cell, Session: id, TtlNs: int64(time.Minute)})
	})
}

func (c lockClient) set(path string, contents []byte) {
	c.t.Helper()
	insist(c.t, func(ctx context.Context) (*lockpb.SetContentsResponse, error) {
		return c.SetContents(ctx, &lockpb.SetContentsRequest{Handle: &lockpb.Handle{Path: path}, Contents: contents, Create: true})
	})
}

func (c lockClient) get(path string) []byte {
	c.t.Helper()
	return insist(c.t, func(ctx context.Context) (*lockpb.GetContentsAndStatResponse, error) {
		return c.GetContentsAndStat(ctx, &lockpb.GetRequest{Handle: &lockpb.Handle{Path: path}})
	}).Contents
}

// sameCells waits until the nodes' replicas of the cells have the same state.
func sameCells(t *testing.T, nodes []*Node, names ...string) {
	t.Helper()
	for _, name := range names {
		eventually(t, "all have the same state of "+name, func() bool {
			var sums []uint64
			for _, n := range nodes {
				r, ok := n.cells.Get(name)
				if !ok || r.Group.Status().Role == "incomplete" {
					return false
				}
				sums = append(sums, r.Cell.Checksum())
			}
			for _, s := range sums {
				if s != sums[0] {
					return false
				}
			}
			return true
		})
	}
}

// Cells are there from the start or made, on every member; they outlive restarts, and a
// node that lost its disk gets them back.
func TestCellsOnANode(t *testing.T) {
	configs := testCluster(t, 3)
	nodes := startAll(t, configs)
	at := func(i int) lockClient { return dialLocks(t, nodes[i]) }
	group := insist(t, func(ctx context.Context) (*lockpb.CreateCellResponse, error) {
		return at(2).CreateCell(ctx, &lockpb.CreateCellRequest{Cell: "second"})
	}).Cell.Group
	if !keys.GroupID(group).IsCell() || keys.GroupID(group) == keys.FirstCell {
		t.Errorf("the second cell has group %d", group)
	}
	file := func(i, of int) (path string, contents []byte) {
		return fmt.Sprintf("/ls/%s/f%d", []string{"local", "second"}[of], i), bytes.Repeat([]byte{byte('a' + i)}, 1000*(i+1))
	}
	written := 0
	write := func(over ...int) { // nodes that are up
		for _, i := range over {
			for of := range 2 {
				path, contents := file(written, of)
				at(i).set(path, contents)
			}
			written++
		}
	}
	check := func() {
		t.Helper()
		for i := range nodes {
			c := at(i)
			for f := range written {
				for of := range 2 {
					if path, want := file(f, of); !bytes.Equal(c.get(path), want) {
						t.Fatalf("n%d: %s is not what was written", i+1, path)
					}
				}
			}
		}
		sameCells(t, nodes, cells.First, "second")
	}
	at(0).session("second", 7)
	lock := insist(t, func(ctx context.Context) (*lockpb.OpenResponse, error) {
		return at(1).Open(ctx, &lockpb.OpenRequest{Handle: &lockpb.Handle{Path: "/ls/second/lock", Session: 7, Handle: 1}, Create: lockpb.Create_CREATE_IF_ABSENT})
	}).Stat
	held := insist(t, func(ctx context.Context) (*lockpb.AcquireResponse, error) {
		return at(2).TryAcquire(ctx, &lockpb.AcquireRequest{Handle: &lockpb.Handle{Path: lock.Path, Session: 7, Handle: 1}})
	}).Sequencer.Text
	write(0, 1, 2)
	check()

	restart := func(i int, wipe bool) {
		t.Helper()
		nodes[i].Close()
		if wipe {
			if err := os.RemoveAll(configs[i].DataDir); err != nil {
				t.Fatal(err)
			}
		}
		write((i+1)%3, (i+2)%3) // they have a majority
		nodes[i] = startAll(t, configs[i:i+1])[0]
	}
	restart(2, true)
	write(2)
	check()
	restart(0, false)
	check()
	for _, n := range nodes {
		n.Close()
	}
	nodes = startAll(t, configs)
	check()
	// The wiped node's copy carries the second cell.
	nodes[0].Close()
	c := dialLocks(t, nodes[2])
	valid := insist(t, func(ctx context.Context) (*lockpb.CheckSequencerResponse, error) {
		return c.CheckSequencer(ctx, &lockpb.CheckSequencerRequest{Sequencer: held})
	})
	if !valid.Valid {
		t.Errorf("%s is not valid any more: %s", held, valid.Why)
	}
}

// A node that a snapshot of the first cell brings past the command that made another cell
// opens that one all the same, as the new replica that it is (R1).
func TestCellMadeWhileANodeWasDown(t *testing.T) {
	configs := testCluster(t, 3)
	nodes := startAll(t, configs)
	dialLocks(t, nodes[0]).set("/ls/local/f", []byte("one"))
	nodes[2].Close()
	c := dialLocks(t, nodes[1])
	insist(t, func(ctx context.Context) (*lockpb.CreateCellResponse, error) {
		return c.CreateCell(ctx, &lockpb.CreateCellRequest{Cell: "late"})
	})
	c.set("/ls/late/f", []byte("two"))
	sameCells(t, nodes[:2], cells.First, "late")
	// After a restart nothing is left of the log before a checkpoint, which n3 lacks.
	for _, n := range nodes[:2] {
		if err := n.store.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.Close()
	}
	nodes = startAll(t, configs)
	sameCells(t, nodes, cells.First, "late")
	if r, _ := nodes[2].cells.Get(cells.First); r.Group.Installs() == 0 {
		t.Error("n3 got the first cell without a snapshot, which proves nothing")
	}
	nodes[0].Close() // the majority needs n3 now
	last := dialLocks(t, nodes[2])
	last.set("/ls/late/f", []byte("three"))
	if got := last.get("/ls/late/f"); string(got) != "three" {
		t.Errorf("%q", got)
	}
}

// What a node has records of is counted from the first record on: while the command that
// made the cell is yet to be replayed, too. A member that lost its data would else
// open its replica as a new one, and forget what it voted and acknowledged (R1).
func TestR1_UnopenedCellIsKnown(t *testing.T) {
	made := keys.CellGroup(7)
	set := cells.New(cells.Config{Node: 1, Nodes: []keys.NodeID{1, 2, 3}, Recovered: map[keys.GroupID]storage.Recovered{
		made: {State: storage.GroupState{Replica: 1, HardState: storage.HardState{Term: 5}}, Entries: []storage.Entry{{Index: 11, Term: 6}}},
	}})
	known := set.Unopened()
	if len(known) != 1 || known[0].Group != made || known[0].Term != 6 || len(known[0].Replicas) != 3 {
		t.Fatalf("%+v", known)
	}
	answers := map[keys.NodeID]*adminpb.WelcomeResponse{
		1: {Cells: []*adminpb.Cell{{Group: uint64(made), Term: 6, Replicas: adminReplicas(known[0].Replicas)}}},
		2: {Cells: []*adminpb.Cell{{Group: uint64(made), Term: 4, Replicas: adminReplicas(known[0].Replicas)}}},
	}
	n := &Node{self: 3}
	lost, err := n.lostReplicas(answers)
	if err != nil || len(lost) != 1 || lost[0].group != made || lost[0].replica != 3 || lost[0].term != 6 || len(lost[0].spans) == 0 {
		t.Errorf("%+v, %v", lost, err)
	}
}
