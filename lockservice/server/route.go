package server

import (
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
)

// First is the cell that exists from the start and knows all others.
const First = state.FirstCell

const pathPrefix = "/ls/"

// cellOf returns the name of the cell that a request is for.
func cellOf(req *lockpb.DoRequest) (string, *lockpb.Failure) {
	switch c := req.GetCall().(type) {
	case *lockpb.DoRequest_CreateSession:
		return named(c.CreateSession.GetCell())
	case *lockpb.DoRequest_CloseSession:
		return named(c.CloseSession.GetCell())
	case *lockpb.DoRequest_Open:
		return ofHandle(c.Open)
	case *lockpb.DoRequest_Close:
		return ofHandle(c.Close)
	case *lockpb.DoRequest_GetContentsAndStat:
		return ofHandle(c.GetContentsAndStat)
	case *lockpb.DoRequest_GetStat:
		return ofHandle(c.GetStat)
	case *lockpb.DoRequest_ReadDir:
		return ofHandle(c.ReadDir)
	case *lockpb.DoRequest_SetContents:
		return ofHandle(c.SetContents)
	case *lockpb.DoRequest_Delete:
		return ofHandle(c.Delete)
	case *lockpb.DoRequest_SetAcl:
		return ofHandle(c.SetAcl)
	case *lockpb.DoRequest_SetQuota:
		return ofHandle(c.SetQuota)
	case *lockpb.DoRequest_Acquire:
		return ofHandle(c.Acquire)
	case *lockpb.DoRequest_TryAcquire:
		return ofHandle(c.TryAcquire)
	case *lockpb.DoRequest_Release:
		return ofHandle(c.Release)
	case *lockpb.DoRequest_GetSequencer:
		return ofHandle(c.GetSequencer)
	case *lockpb.DoRequest_SetSequencer:
		return ofHandle(c.SetSequencer)
	case *lockpb.DoRequest_CheckSequencer:
		return ofSequencer(c.CheckSequencer.GetSequencer())
	case *lockpb.DoRequest_EndCheck:
		return ofPath(c.EndCheck.GetPath())
	case *lockpb.DoRequest_GetCell:
		return named(c.GetCell.GetCell())
	case *lockpb.DoRequest_ListCells, *lockpb.DoRequest_CreateCell:
		return First, nil
	case *lockpb.DoRequest_ListSessions:
		return named(c.ListSessions.GetCell())
	case *lockpb.DoRequest_ListLocks:
		return named(c.ListLocks.GetCell())
	case *lockpb.DoRequest_LockHistory:
		return named(c.LockHistory.GetCell())
	}
	return "", failure(codes.InvalidArgument, reasonBadRequest, "a request without a call that this version knows")
}

func named(cell string) (string, *lockpb.Failure) {
	if cell == "" {
		return "", failure(codes.InvalidArgument, reasonBadRequest, "the request names no cell")
	}
	return cell, nil
}

func ofHandle(req interface{ GetHandle() *lockpb.Handle }) (string, *lockpb.Failure) {
	return ofPath(req.GetHandle().GetPath())
}

// ofSequencer returns the cell of a sequencer, whose text begins with a path.
func ofSequencer(text string) (string, *lockpb.Failure) {
	if _, err := state.ParseSequencer(text); err != nil {
		return "", failure(codes.InvalidArgument, err.Reason, "%s", err.Message)
	}
	return ofPath(text)
}

// ofPath returns the cell of a path, or of a text that goes on with a colon.
func ofPath(path string) (string, *lockpb.Failure) {
	if rest, ok := strings.CutPrefix(path, pathPrefix); ok {
		if end := strings.IndexAny(rest, "/:"); end >= 0 {
			rest = rest[:end]
		}
		if rest != "" {
			return rest, nil
		}
	}
	f := failure(codes.InvalidArgument, reasonBadPath, "%.100q is not a path /ls/<cell>/...", path)
	f.Info.Path = path
	return "", f
}

// waits reports that a call waits for something that others do.
func waits(req *lockpb.DoRequest) bool { return req.GetAcquire() != nil }
