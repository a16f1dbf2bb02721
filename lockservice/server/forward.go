package server

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/lockservice/lockpb"
)

// A forwarded call: format, hops left (one byte each), the principal (its length as a
// uvarint, then its bytes), a DoRequest. The answer is a DoResponse.
const forwardFormat = 1

const (
	// maxHops bounds how often a call is forwarded: to where this node believes the leader
	// to be, and once more by a node that knows better.
	maxHops = 2
	// forwardTimeout bounds a forwarded call whose caller would wait longer. It is above the
	// longest lease, which a change may have to wait for.
	forwardTimeout = 90 * time.Second
)

var errForwarded = errors.New("lock service: malformed forwarded call")

func encodeForward(principal string, req *lockpb.DoRequest, hops int) ([]byte, error) {
	b := binary.AppendUvarint([]byte{forwardFormat, byte(hops)}, uint64(len(principal)))
	return proto.MarshalOptions{}.MarshalAppend(append(b, principal...), req)
}

func decodeForward(b []byte) (principal string, req *lockpb.DoRequest, hops int, err error) {
	if len(b) < 2 || b[0] != forwardFormat {
		return "", nil, 0, errForwarded
	}
	hops, b = min(int(b[1]), maxHops), b[2:]
	n, w := binary.Uvarint(b)
	if w <= 0 || n > uint64(len(b)-w) {
		return "", nil, 0, errForwarded
	}
	principal, b = string(b[w:w+int(n)]), b[w+int(n):]
	req = new(lockpb.DoRequest)
	if err := proto.Unmarshal(b, req); err != nil {
		return "", nil, 0, errForwarded
	}
	return principal, req, hops, nil
}

// forward has another node carry a call out.
func (s *Server) forward(ctx context.Context, to keys.NodeID, principal string, req *lockpb.DoRequest, hops int) *lockpb.DoResponse {
	payload, err := encodeForward(principal, req, hops-1)
	if err != nil {
		return failed(req, failure(codes.InvalidArgument, reasonBadRequest, "%v", err))
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	answer, err := s.cfg.Call(ctx, to, payload)
	if err != nil {
		return failed(req, s.unanswered(ctx, to, req, err))
	}
	resp := new(lockpb.DoResponse)
	if err := proto.Unmarshal(answer, resp); err != nil || resp.Answer == nil {
		return failed(req, failure(codes.Internal, reasonAmbiguous, "%s gave an answer that this node does not understand", s.address(to).Node))
	}
	return resp
}

// unanswered is the failure of a forwarded call that got no answer.
func (s *Server) unanswered(ctx context.Context, to keys.NodeID, req *lockpb.DoRequest, err error) *lockpb.Failure {
	name := s.address(to).Node
	var not interface{ NotSent() bool }
	switch {
	case errors.As(err, &not) && not.NotSent(), reads(req):
		return failure(codes.Unavailable, reasonNoLeader, "%s, which leads the cell as far as is known here, does not answer; try again", name)
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		f := ended(ctx)
		f.Info.Reason, f.Message = reasonAmbiguous, "no answer from "+name+": "+f.Message
		return f // with the code of the context's end
	}
	return failure(codes.Unknown, reasonAmbiguous, "the connection to %s broke: it is not known whether the call took effect", name)
}

// reads reports that a call changes nothing.
func reads(req *lockpb.DoRequest) bool {
	switch req.GetCall().(type) {
	case *lockpb.DoRequest_GetContentsAndStat, *lockpb.DoRequest_GetStat, *lockpb.DoRequest_ReadDir, *lockpb.DoRequest_GetSequencer,
		*lockpb.DoRequest_CheckSequencer, *lockpb.DoRequest_GetCell, *lockpb.DoRequest_ListCells, *lockpb.DoRequest_ListSessions,
		*lockpb.DoRequest_ListLocks, *lockpb.DoRequest_LockHistory:
		return true
	}
	return false
}

// HandleCall answers a call that another node forwarded.
func (s *Server) HandleCall(ctx context.Context, payload []byte) []byte {
	var resp *lockpb.DoResponse
	principal, req, hops, err := decodeForward(payload)
	if err != nil {
		resp = failed(nil, failure(codes.InvalidArgument, reasonBadRequest, "%v", err))
	} else {
		ctx, done := s.until(ctx)
		resp = s.do(ctx, principal, req, hops, nil)
		done()
	}
	out, err := proto.Marshal(resp)
	if err != nil { // a string that is not UTF-8
		out, _ = proto.Marshal(failed(req, failure(codes.Internal, "", "encoding the answer: %v", err)))
	}
	return out
}

// failureOf makes an answer of an error in making a cell.
func (s *Server) failureOf(ctx context.Context, name string, err error) *lockpb.Failure {
	switch {
	case errors.Is(err, ErrNotLeader):
		return s.notLeading(name)
	case ctx.Err() != nil:
		f := ended(ctx)
		f.Info.Reason = reasonAmbiguous
		return f
	}
	return failure(codes.Unknown, reasonAmbiguous, "%v", err)
}
