package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/lockservice/lockpb"
)

// Reasons of ErrorInfo that the server gives itself, or acts on.
const (
	reasonNotLeader  = "NOT_LEADER"
	reasonNoLeader   = "NO_LEADER"
	reasonNoSuchCell = "NO_SUCH_CELL"
	reasonBadPath    = "BAD_PATH"
	reasonBadRequest = "BAD_REQUEST"
	reasonOverloaded = "OVERLOADED"
	reasonDiskFull   = "DISK_FULL"
	reasonAmbiguous  = "AMBIGUOUS"
	reasonCancelled  = "CANCELLED"
)

// errShutdown is why calls that wait and streams end with the node.
var errShutdown = errors.New("this node is shutting down")

func failure(code codes.Code, reason, format string, args ...any) *lockpb.Failure {
	return &lockpb.Failure{Code: int32(code), Message: fmt.Sprintf(format, args...), Info: &lockpb.ErrorInfo{Reason: reason}}
}

// failed answers a request with a failure.
func failed(req *lockpb.DoRequest, f *lockpb.Failure) *lockpb.DoResponse {
	return &lockpb.DoResponse{Id: req.GetId(), Answer: &lockpb.DoResponse_Failure{Failure: f}}
}

// statusOf makes a gRPC status of a failure, the ErrorInfo its detail.
func statusOf(f *lockpb.Failure) error {
	st := status.New(codes.Code(f.Code), f.Message)
	if f.Info != nil {
		if with, err := st.WithDetails(f.Info); err == nil {
			st = with
		}
	}
	return st.Err()
}

// notLeading says of a cell that this node does not lead where its leader is.
func (s *Server) notLeading(name string) *lockpb.Failure {
	leader := s.cfg.Leader(name)
	if leader == 0 || leader == s.cfg.Node {
		return failure(codes.Unavailable, reasonNoLeader, "nobody leads cell %s now; try again", name)
	}
	f := failure(codes.FailedPrecondition, reasonNotLeader, "")
	f.Info.Leader = s.address(leader)
	f.Message = fmt.Sprintf("this node does not lead cell %s; %s at %s does", name, f.Info.Leader.Node, f.Info.Leader.Addr)
	return f
}

// starting is the failure of calls before the cells are open.
func starting() *lockpb.Failure {
	return failure(codes.Unavailable, reasonNoLeader, "this node is starting")
}

// successor is notLeading for who waited here when this node ceased to lead. In a
// hand-over the next leader is known a moment later, and is worth that moment: else the
// client would have to look for it.
func (s *Server) successor(name string) *lockpb.Failure {
	s.awaitLeader(context.Background(), name, s.cfg.Node, handoverPatience)
	return s.notLeading(name)
}

const handoverPatience = 300 * time.Millisecond

func (s *Server) address(n keys.NodeID) *lockpb.NotLeader {
	name, addr := s.cfg.Address(n)
	return &lockpb.NotLeader{Node: name, Addr: addr}
}

// leaves reports that a call was not carried out because this node does not lead.
func leaves(resp *lockpb.DoResponse) bool {
	switch resp.GetFailure().GetInfo().GetReason() {
	case reasonNotLeader, reasonNoLeader:
		return true
	}
	return false
}

// ended is the failure of a call whose context has ended.
func ended(ctx context.Context) *lockpb.Failure {
	code := codes.Canceled
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		code = codes.DeadlineExceeded
	}
	return failure(code, reasonCancelled, "%v", context.Cause(ctx))
}
