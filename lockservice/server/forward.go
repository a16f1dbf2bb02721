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
	// leaderWatch separates looks at who leads while a forwarded call is under way.
	leaderWatch = 100 * time.Millisecond
	// deposedPatience is for how long another node must be seen to lead before a call that must not be
	// repeated is given up.
	deposedPatience = time.Second
	// maxSuccessors bounds how often a call is sent on to who leads by now.
	maxSuccessors = 4
)

var (
	errForwarded = errors.New("lock service: malformed forwarded call")
	errDeposed   = errors.New("lock service: no answer, and another node leads the cell by now")
)

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

// forward has the node that is believed to lead the cell carry a call out; if there is none but this
// one, the failure is the answer. What a partition swallows, or a stopped process has, is not waited for
// any longer than until another node leads.
func (s *Server) forward(ctx context.Context, name, principal string, req *lockpb.DoRequest, hops int, none *lockpb.Failure) (resp *lockpb.DoResponse, swallowed bool) {
	to := s.cfg.Leader(name)
	if to == 0 || to == s.cfg.Node {
		return failed(req, none), false
	}
	payload, err := encodeForward(principal, req, hops-1)
	if err != nil {
		return failed(req, failure(codes.InvalidArgument, reasonBadRequest, "%v", err)), false
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	ctx, depose := context.WithCancelCause(ctx)
	defer depose(nil)
	s.watchLeader(ctx, name, to, repeatable(req), depose)
	answer, err := s.cfg.Call(ctx, to, payload)
	if err != nil {
		return failed(req, s.unanswered(ctx, to, req, err)), context.Cause(ctx) == errDeposed
	}
	resp = new(lockpb.DoResponse)
	if err := proto.Unmarshal(answer, resp); err != nil || resp.Answer == nil {
		resp = failed(req, failure(codes.Internal, reasonAmbiguous, "%s gave an answer that this node does not understand", s.address(to).Node))
	}
	return resp, false
}

// watchLeader ends a call to a node, with errDeposed, once another one is known to lead the cell. The call may
// have got to that one by way of the node that was called: one that cannot be sent again is left time.
func (s *Server) watchLeader(ctx context.Context, name string, called keys.NodeID, repeatable bool, depose context.CancelCauseFunc) {
	left := 1
	if !repeatable {
		left = int(deposedPatience / leaderWatch)
	}
	var look func()
	look = func() {
		if ctx.Err() != nil {
			return
		}
		if n := s.cfg.Leader(name); n != 0 && n != called {
			if left--; left == 0 {
				depose(errDeposed)
				return
			}
		}
		time.AfterFunc(leaderWatch, look)
	}
	time.AfterFunc(leaderWatch, look)
}

// unanswered is the failure of a forwarded call that got no answer.
func (s *Server) unanswered(ctx context.Context, to keys.NodeID, req *lockpb.DoRequest, err error) *lockpb.Failure {
	name := s.address(to).Node
	var not interface{ NotSent() bool }
	switch {
	case errors.As(err, &not) && not.NotSent(), reads(req):
		return failure(codes.Unavailable, reasonNoLeader, "%s, which leads the cell as far as is known here, does not answer; try again", name)
	case context.Cause(ctx) == errDeposed:
		return failure(codes.Unknown, reasonAmbiguous, "%s did not answer, and does not lead the cell any more: it is not known whether the call took effect", name)
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		f := ended(ctx)
		f.Info.Reason, f.Message = reasonAmbiguous, "no answer from "+name+": "+f.Message
		return f // with the code of the context's end
	}
	return failure(codes.Unknown, reasonAmbiguous, "the connection to %s broke: it is not known whether the call took effect", name)
}

// repeatable reports that a call may be carried out twice, for one that it was carried out once: it reads,
// sets something to what nobody else does, or has a number by which the cell knows it again.
func repeatable(req *lockpb.DoRequest) bool {
	switch c := req.GetCall().(type) {
	case *lockpb.DoRequest_CloseSession, *lockpb.DoRequest_Close, *lockpb.DoRequest_SetSequencer, *lockpb.DoRequest_EndCheck, *lockpb.DoRequest_CreateCell:
		return true
	case *lockpb.DoRequest_CreateSession:
		return c.CreateSession.GetSession() != 0
	case *lockpb.DoRequest_TryAcquire:
		return c.TryAcquire.GetAttempt() != 0
	case *lockpb.DoRequest_Release:
		return c.Release.GetAttempt() != 0 // else it might end a later hold
	case *lockpb.DoRequest_Open:
		return numbered(c.Open)
	case *lockpb.DoRequest_SetContents:
		return numbered(c.SetContents)
	case *lockpb.DoRequest_Delete:
		return numbered(c.Delete)
	case *lockpb.DoRequest_SetAcl:
		return numbered(c.SetAcl)
	}
	return reads(req)
}

// numbered reports that a session knows the request by its number.
func numbered(req interface {
	GetHandle() *lockpb.Handle
	GetRequest() uint64
}) bool {
	return req.GetHandle().GetSession() != 0 && req.GetRequest() != 0
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
