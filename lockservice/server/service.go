package server

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spandb/spand/lockservice/lockpb"
)

// service implements spand.lock.v1.LockService; its streams are in dostream.go and
// keepalive.go.
type service struct {
	lockpb.UnimplementedLockServiceServer
	s *Server
}

// unary makes one call; get takes its answer out of the response.
func unary[R any](ctx context.Context, v *service, req *lockpb.DoRequest, get func(*lockpb.DoResponse) *R) (*R, error) {
	resp := v.s.Do(ctx, v.s.cfg.Principal(ctx), req)
	if f := resp.GetFailure(); f != nil {
		return nil, statusOf(f)
	}
	answer := get(resp)
	if answer == nil {
		return nil, status.Error(codes.Internal, "an answer of another kind than was asked for")
	}
	return answer, nil
}

func (v *service) CreateSession(ctx context.Context, in *lockpb.CreateSessionRequest) (*lockpb.CreateSessionResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_CreateSession{CreateSession: in}}, (*lockpb.DoResponse).GetCreateSession)
}

func (v *service) CloseSession(ctx context.Context, in *lockpb.CloseSessionRequest) (*lockpb.CloseSessionResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_CloseSession{CloseSession: in}}, (*lockpb.DoResponse).GetCloseSession)
}

func (v *service) Open(ctx context.Context, in *lockpb.OpenRequest) (*lockpb.OpenResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_Open{Open: in}}, (*lockpb.DoResponse).GetOpen)
}

func (v *service) Close(ctx context.Context, in *lockpb.CloseRequest) (*lockpb.CloseResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_Close{Close: in}}, (*lockpb.DoResponse).GetClose)
}

func (v *service) GetContentsAndStat(ctx context.Context, in *lockpb.GetRequest) (*lockpb.GetContentsAndStatResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_GetContentsAndStat{GetContentsAndStat: in}}, (*lockpb.DoResponse).GetGetContentsAndStat)
}

func (v *service) GetStat(ctx context.Context, in *lockpb.GetRequest) (*lockpb.GetStatResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_GetStat{GetStat: in}}, (*lockpb.DoResponse).GetGetStat)
}

func (v *service) ReadDir(ctx context.Context, in *lockpb.ReadDirRequest) (*lockpb.ReadDirResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_ReadDir{ReadDir: in}}, (*lockpb.DoResponse).GetReadDir)
}

func (v *service) SetContents(ctx context.Context, in *lockpb.SetContentsRequest) (*lockpb.SetContentsResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_SetContents{SetContents: in}}, (*lockpb.DoResponse).GetSetContents)
}

func (v *service) Delete(ctx context.Context, in *lockpb.DeleteRequest) (*lockpb.DeleteResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_Delete{Delete: in}}, (*lockpb.DoResponse).GetDelete)
}

func (v *service) SetACL(ctx context.Context, in *lockpb.SetACLRequest) (*lockpb.SetACLResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_SetAcl{SetAcl: in}}, (*lockpb.DoResponse).GetSetAcl)
}

func (v *service) SetQuota(ctx context.Context, in *lockpb.SetQuotaRequest) (*lockpb.SetQuotaResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_SetQuota{SetQuota: in}}, (*lockpb.DoResponse).GetSetQuota)
}

func (v *service) Acquire(ctx context.Context, in *lockpb.AcquireRequest) (*lockpb.AcquireResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_Acquire{Acquire: in}}, (*lockpb.DoResponse).GetAcquire)
}

func (v *service) TryAcquire(ctx context.Context, in *lockpb.AcquireRequest) (*lockpb.AcquireResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_TryAcquire{TryAcquire: in}}, (*lockpb.DoResponse).GetAcquire)
}

func (v *service) Release(ctx context.Context, in *lockpb.ReleaseRequest) (*lockpb.ReleaseResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_Release{Release: in}}, (*lockpb.DoResponse).GetRelease)
}

func (v *service) GetSequencer(ctx context.Context, in *lockpb.GetSequencerRequest) (*lockpb.GetSequencerResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_GetSequencer{GetSequencer: in}}, (*lockpb.DoResponse).GetGetSequencer)
}

func (v *service) SetSequencer(ctx context.Context, in *lockpb.SetSequencerRequest) (*lockpb.SetSequencerResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_SetSequencer{SetSequencer: in}}, (*lockpb.DoResponse).GetSetSequencer)
}

func (v *service) CheckSequencer(ctx context.Context, in *lockpb.CheckSequencerRequest) (*lockpb.CheckSequencerResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_CheckSequencer{CheckSequencer: in}}, (*lockpb.DoResponse).GetCheckSequencer)
}

func (v *service) GetCell(ctx context.Context, in *lockpb.GetCellRequest) (*lockpb.GetCellResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_GetCell{GetCell: in}}, (*lockpb.DoResponse).GetGetCell)
}

func (v *service) ListCells(ctx context.Context, in *lockpb.ListCellsRequest) (*lockpb.ListCellsResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_ListCells{ListCells: in}}, (*lockpb.DoResponse).GetListCells)
}

func (v *service) CreateCell(ctx context.Context, in *lockpb.CreateCellRequest) (*lockpb.CreateCellResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_CreateCell{CreateCell: in}}, (*lockpb.DoResponse).GetCreateCell)
}

func (v *service) ListSessions(ctx context.Context, in *lockpb.ListSessionsRequest) (*lockpb.ListSessionsResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_ListSessions{ListSessions: in}}, (*lockpb.DoResponse).GetListSessions)
}

func (v *service) ListLocks(ctx context.Context, in *lockpb.ListLocksRequest) (*lockpb.ListLocksResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_ListLocks{ListLocks: in}}, (*lockpb.DoResponse).GetListLocks)
}

func (v *service) LockHistory(ctx context.Context, in *lockpb.LockHistoryRequest) (*lockpb.LockHistoryResponse, error) {
	return unary(ctx, v, &lockpb.DoRequest{Call: &lockpb.DoRequest_LockHistory{LockHistory: in}}, (*lockpb.DoResponse).GetLockHistory)
}
