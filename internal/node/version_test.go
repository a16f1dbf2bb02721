package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/node/adminpb"
	"github.com/spandb/spand/internal/version"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// logBuffer is what a node has logged, as JSON lines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// find returns the first line with the message.
func (l *logBuffer) find(t *testing.T, msg string) map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range strings.Split(l.b.String(), "\n") {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) == nil && fields["msg"] == msg {
			return fields
		}
	}
	t.Fatalf("nothing logged %q:\n%s", msg, l.b.String())
	return nil
}

// testConfig is a node on free ports with its data below dir.
func testConfig(dir, name string) Config {
	c := Default()
	c.Node, c.DataDir = name, filepath.Join(dir, name)
	c.SQLAddr, c.RPCAddr, c.HTTPAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	c.MaxClockError = "0"
	return c
}

// testCluster configures nodes n1 to n; they share a clock.
func testCluster(t *testing.T, n int) []Config {
	t.Helper()
	dir := t.TempDir()
	var list []string
	configs := make([]Config, n)
	for i := 0; i < n; {
		// Below the ports that the system gives to whoever asks for any, other nodes'
		// listeners among them.
		addr := fmt.Sprint("127.0.0.1:", 20000+rand.IntN(12000))
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue // taken
		}
		defer ln.Close() // after all are chosen, so that they differ
		configs[i] = testConfig(dir, fmt.Sprint("n", i+1))
		configs[i].RPCAddr = addr
		list = append(list, configs[i].Node+"="+addr)
		i++
	}
	for i := range configs {
		configs[i].Cluster = strings.Join(list, ",")
	}
	return configs
}

// startAll starts nodes side by side, as a new cluster needs, and closes them at
// the end of the test.
func startAll(t *testing.T, configs []Config) []*Node {
	t.Helper()
	nodes := make([]*Node, len(configs))
	var wg sync.WaitGroup
	for i, c := range configs {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			n, err := Start(ctx, c, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Error(c.Node, err)
				return
			}
			nodes[i] = n
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, n := range nodes {
			if n != nil {
				n.Close()
			}
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	return nodes
}

// eventually waits for what happens in the background.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not yet: ", what)
		}
	}
}

// raise asks a node as an operator does.
func raise(n *Node, v uint32) (uint32, error) {
	conn, err := grpc.NewClient("passthrough:///"+n.Addrs().RPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	resp, err := adminpb.NewAdminClient(conn).RaiseVersion(ctx, &adminpb.RaiseVersionRequest{Version: v})
	return resp.GetVersion(), err
}

// The cluster's version begins with what all members can run, is raised by an act
// once all of them can run more, and from then on no member can go back.
func TestClusterVersionIsRaisedOnceAllCanRunIt(t *testing.T) {
	configs := testCluster(t, 3)
	one, two := version.Range{Min: 1, Max: 1}, version.Range{Min: 1, Max: 2}
	configs[0].versions, configs[1].versions, configs[2].versions = two, two, one
	nodes := startAll(t, configs)
	recorded := func() version.Version {
		v, err := nodes[0].dir.Version(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	eventually(t, "the new cluster has a version", func() bool { return recorded() != 0 })
	if v := recorded(); v != 1 {
		t.Fatalf("the cluster began with version %d, which n3 cannot run", v)
	}

	_, err := raise(nodes[0], 2)
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "n3 runs 1-1") {
		t.Errorf("raised to 2 in spite of n3: %v", err)
	}
	if v := nodes[1].store.Identity().Version; v != 1 {
		t.Errorf("the refusal bound n2 to version %d", v)
	}
	if v, err := raise(nodes[1], 0); v != 1 || err != nil {
		t.Errorf("the highest that all can run: %d, %v", v, err)
	}

	nodes[2].Close()
	if _, err := raise(nodes[0], 1); err == nil {
		t.Error("raised with a member down")
	}
	configs[2].versions = two
	nodes[2] = startAll(t, configs[2:])[0]
	eventually(t, "n3 has connected again", func() bool { can, _ := nodes[0].net.Versions(3); return can == two })
	if active := nodes[0].version.Active(); active != 1 {
		t.Errorf("version %d without anybody's act", active)
	}
	eventually(t, "n1's streams to all stand", func() bool { return nodes[0].net.Connected(2) && nodes[0].net.Connected(3) })
	if v, err := raise(nodes[0], 0); v != 2 || err != nil {
		t.Fatalf("raised to %d, %v", v, err)
	}
	for _, n := range nodes {
		eventually(t, n.cfg.Node+" has heard of version 2", func() bool { return n.version.Active() == 2 })
		if v := n.store.Identity().Version; v != 2 {
			t.Errorf("%s uses version 2 and has noted %d", n.cfg.Node, v)
		}
	}
	if v, err := raise(nodes[2], 1); v != 2 || err != nil {
		t.Errorf("raised to less: %d, %v", v, err)
	}

	// Back to the old program: refused, with its data and without.
	nodes[2].Close()
	configs[2].versions = one
	for _, what := range []string{"with its data", "without its data"} {
		n, err := Start(context.Background(), configs[2], slog.New(slog.DiscardHandler))
		var ve *version.Error
		if !errors.As(err, &ve) || !strings.Contains(err.Error(), "use a newer spand") {
			t.Errorf("n3 started %s on the old program: %v", what, err)
		}
		if n != nil {
			n.Close()
		}
		if err := os.RemoveAll(configs[2].DataDir); err != nil {
			t.Fatal(err)
		}
	}
}

// Programs that do not run version 1 any more begin a cluster, and come back to it.
func TestClusterOfProgramsWithoutVersion1(t *testing.T) {
	configs := testCluster(t, 3)
	for i := range configs {
		configs[i].versions = version.Range{Min: 2, Max: 3}
	}
	nodes := startAll(t, configs)
	has := func(n *Node) {
		t.Helper()
		eventually(t, n.cfg.Node+" has version 3", func() bool { return n.version.Active() == 3 })
	}
	for _, n := range nodes {
		has(n)
	}
	nodes[2].Close()
	nodes[2] = startAll(t, configs[2:])[0]
	has(nodes[2])
}

// A store of one node has its program's version at once.
func TestClusterVersionOfOneNode(t *testing.T) {
	c := testConfig(t.TempDir(), "n1")
	c.versions = version.Range{Min: 1, Max: 3}
	n := startAll(t, []Config{c})[0]
	eventually(t, "version 3", func() bool { return n.version.Active() == 3 })
	st, err := (&admin{n: n}).Status(context.Background(), &adminpb.StatusRequest{})
	if err != nil || st.ClusterVersion != 3 || len(st.Nodes) != 1 || st.Nodes[0].Versions != "1-3" {
		t.Errorf("status %v, %v", st, err)
	}
}

// A command that this program does not know is never skipped: it stops the replica,
// and the log says where and why.
func TestUnknownCommandStopsTheReplica(t *testing.T) {
	var out logBuffer
	c := testConfig(t.TempDir(), "n1")
	n, err := Start(context.Background(), c, NewLogger(c, &out))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	r, _ := n.replicas.Get(keys.FirstGroup)
	r.Group.Propose(&paxosgroup.Proposal{
		Term: r.Group.Status().Term, Data: []byte{1, 200, 1}, Done: func(any, truetime.Timestamp, error) {},
	})
	if err := <-n.Failed(); !strings.Contains(err.Error(), "unknown command kind 200") {
		t.Errorf("the node failed with %v", err)
	}
	line := out.find(t, "node failed")
	if line["node"] != "n1" || line["tablet"] != float64(keys.FirstGroup) || line["level"] != "ERROR" ||
		!strings.Contains(fmt.Sprint(line["err"]), "unknown command kind 200") {
		t.Errorf("the log says %v", line)
	}
	if role := r.Group.Status().Role; role != "stopped" {
		t.Errorf("the replica is a %s", role)
	}
}
