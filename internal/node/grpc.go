package node

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/node/adminpb"
	"github.com/spandb/spand/internal/rpc"
	"github.com/spandb/spand/lockservice/lockpb"
)

// grpcNetwork is the way to the peers over gRPC, and the server on --rpc-addr: streams
// between nodes, admin, the lock service, health, reflection.
type grpcNetwork struct {
	*rpc.Network
	n      *Node
	addrs  map[keys.NodeID]string // of members
	server *grpc.Server
	health *health.Server
}

func (n *Node) newGRPC() *grpcNetwork {
	addrs := map[keys.NodeID]string{}
	for _, m := range n.members {
		addrs[m.ID] = m.Dial
	}
	g := &grpcNetwork{
		Network: rpc.New(rpc.Config{
			Self: n.self, Cluster: n.cluster, Addrs: addrs, Logger: n.log.With("room", "rpc"),
			Incarnation: n.life, Versions: n.versions, Version: &n.version, Dial: n.cfg.Around.Dial,
		}),
		n:      n,
		addrs:  addrs,
		health: health.NewServer(),
	}
	g.server = grpc.NewServer(g.ServerOptions(n.cfg.Insecure)...)
	g.Register(g.server)
	adminpb.RegisterAdminServer(g.server, &admin{n: n})
	n.locks.Register(g.server)
	g.HandleClients(n.locks.ServeLane)
	healthpb.RegisterHealthServer(g.server, g.health)
	g.serving(false)
	reflection.Register(g.server)
	return g
}

// Listen implements Network.
func (g *grpcNetwork) Listen() { g.n.wg.Go(func() { g.server.Serve(g.n.ports.rpc) }) }

// serving is what the health service tells.
func (g *grpcNetwork) serving(yes bool) {
	st := healthpb.HealthCheckResponse_NOT_SERVING
	if yes {
		st = healthpb.HealthCheckResponse_SERVING
	}
	for _, service := range []string{"", adminpb.Admin_ServiceDesc.ServiceName, lockpb.LockService_ServiceDesc.ServiceName} {
		g.health.SetServingStatus(service, st)
	}
}

// partingPatience bounds how long clients' connections are waited for: those of peers carry streams
// that do not end by themselves.
const partingPatience = 200 * time.Millisecond

// part lets what calls were answered with reach their clients before Close cuts the connections.
func (g *grpcNetwork) part() {
	gone := make(chan struct{})
	go func() {
		g.server.GracefulStop()
		close(gone)
	}()
	patience := time.NewTimer(partingPatience)
	defer patience.Stop()
	select {
	case <-gone:
	case <-patience.C:
	}
}

// Close implements Network.
func (g *grpcNetwork) Close() {
	g.Network.Close() // with whoever has connected and said nothing, whom Stop would wait for
	g.server.Stop()
}

// Welcome implements Network. It makes a connection for the question: streams do not
// stand before there is an answer.
func (g *grpcNetwork) Welcome(ctx context.Context, to keys.NodeID, req *adminpb.WelcomeRequest) (*adminpb.WelcomeResponse, error) {
	opts := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy()}
	if dial := g.n.cfg.Around.Dial; dial != nil {
		opts = append(opts, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return dial(ctx, addr) }))
	}
	conn, err := grpc.NewClient("passthrough:///"+g.addrs[to], opts...)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return adminpb.NewAdminClient(conn).Welcome(ctx, req)
}
