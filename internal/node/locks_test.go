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
