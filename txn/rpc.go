package txn

import (
	"context"
	"errors"
	"fmt"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
)

// Caller carries a request to another node and its answer back. The answer is
// the caller's to keep. An error means that there was no answer; one that wraps
// ErrNotSent, or has a method NotSent() bool that returns true, that the request
// was certainly not executed. Deadlines travel with ctx. A request is executed once at
// most: what its answer says did not happen must not happen later (X5).
type Caller interface {
	Call(ctx context.Context, node keys.NodeID, method byte, payload []byte) ([]byte, error)
}

// NewRemote returns the replica of group on another node as a Participant.
func NewRemote(c Caller, node keys.NodeID, group keys.GroupID) Participant {
	return &remote{c: c, node: node, group: group}
}

// Replicas finds the replicas on this node for Serve. The error for one that is not
// here is the caller's answer, a *paxosgroup.NotLeaderError.
type Replicas interface {
	Local(group keys.GroupID) (Participant, error)
}

// Serve carries out a request that another node's NewRemote sent, and returns the
// answer to send back.
func Serve(ctx context.Context, here Replicas, method byte, payload []byte) []byte {
	return tablet.Dispatch(ctx, func(g keys.GroupID) (tablet.Participant, error) { return here.Local(g) }, method, payload)
}

// remote is the remote twin of a tablet's replica.
type remote struct {
	c     Caller
	node  keys.NodeID
	group keys.GroupID
}

// ask sends req and decodes the answer, nil where the method has none.
func ask[R any](ctx context.Context, r *remote, req any) (R, error) {
	var none R
	method, payload := tablet.EncodeRequest(req)
	answer, err := r.c.Call(ctx, r.node, method, payload)
	if err != nil {
		var sent interface{ NotSent() bool }
		if errors.As(err, &sent) && sent.NotSent() {
			err = errors.Join(ErrNotSent, err)
		}
		return none, &UnreachableError{Node: r.node, Cause: err}
	}
	resp, err := tablet.DecodeResponse(method, answer)
	if err != nil {
		return none, err
	}
	if resp == nil {
		return none, nil
	}
	typed, ok := resp.(R)
	if !ok {
		return none, fmt.Errorf("txn: node %d answers %T with %T", r.node, req, resp)
	}
	return typed, nil
}

func (r *remote) Read(ctx context.Context, req *tablet.ReadRequest) (*tablet.ReadResponse, error) {
	return ask[*tablet.ReadResponse](ctx, r, req)
}

func (r *remote) Commit(ctx context.Context, req *tablet.CommitRequest) (*tablet.CommitResponse, error) {
	return ask[*tablet.CommitResponse](ctx, r, req)
}

func (r *remote) Prepare(ctx context.Context, req *tablet.PrepareRequest) (*tablet.PrepareResponse, error) {
	return ask[*tablet.PrepareResponse](ctx, r, req)
}

func (r *remote) Decide(ctx context.Context, req *tablet.DecideRequest) (*tablet.CommitResponse, error) {
	return ask[*tablet.CommitResponse](ctx, r, req)
}

func (r *remote) Inquire(ctx context.Context, req *tablet.InquireRequest) (tablet.Outcome, error) {
	out, err := ask[*tablet.Outcome](ctx, r, req)
	if err != nil {
		return tablet.Outcome{}, err
	}
	return *out, nil
}

func (r *remote) Resolve(ctx context.Context, req *tablet.ResolveRequest) error {
	_, err := ask[any](ctx, r, req)
	return err
}

func (r *remote) Abort(ctx context.Context, req *tablet.AbortRequest) error {
	_, err := ask[any](ctx, r, req)
	return err
}

func (r *remote) Stage(ctx context.Context, req *tablet.StageRequest) (*tablet.StageResponse, error) {
	return ask[*tablet.StageResponse](ctx, r, req)
}

func (r *remote) Heartbeat(ctx context.Context, req *tablet.HeartbeatRequest) (*tablet.HeartbeatResponse, error) {
	return ask[*tablet.HeartbeatResponse](ctx, r, req)
}

func (r *remote) Split(ctx context.Context, req *tablet.SplitRequest) (*tablet.SplitResponse, error) {
	return ask[*tablet.SplitResponse](ctx, r, req)
}
