package lockservice

import (
	"context"

	"github.com/spandb/spand/lockservice/lockpb"
)

// CellInfo describes a cell. Of a cell that another node leads than the one that was asked,
// the figures are zero.
type CellInfo struct {
	Name       string `json:"name"`
	LeaderNode string `json:"leaderNode"` // name; empty if nobody leads
	LeaderAddr string `json:"leaderAddr"`
	Epoch      uint64 `json:"epoch"` // grows with every change of leader
	Revision   uint64 `json:"revision"`
	Sessions   uint64 `json:"sessions"`
	Locks      uint64 `json:"locks"` // held
	Used       Quota  `json:"used"`
	Quota      Quota  `json:"quota"`
}

func cellInfoOf(w *lockpb.Cell) CellInfo {
	info := CellInfo{
		Name: w.GetName(), LeaderNode: w.GetLeader().GetNode(), LeaderAddr: w.GetLeader().GetAddr(),
		Epoch: w.GetEpoch(), Revision: w.GetRevision(), Sessions: w.GetSessions(), Locks: w.GetLocks(),
	}
	if q := quotaOf(w.GetUsed()); q != nil {
		info.Used = *q
	}
	if q := quotaOf(w.GetQuota()); q != nil {
		info.Quota = *q
	}
	return info
}

// Cell describes one cell, asking its leader. ErrNoSuchCell.
func (c *Client) Cell(ctx context.Context, name string) (CellInfo, error) {
	l, err := c.cell(name)
	if err != nil {
		return CellInfo{}, err
	}
	resp, err := l.call(ctx, nil, often, func() *lockpb.DoRequest {
		return &lockpb.DoRequest{Call: &lockpb.DoRequest_GetCell{GetCell: &lockpb.GetCellRequest{Cell: name}}}
	}, notices{})
	if err != nil {
		return CellInfo{}, err
	}
	return cellInfoOf(resp.GetGetCell().GetCell()), nil
}

// Cells lists the cells.
func (c *Client) Cells(ctx context.Context) ([]CellInfo, error) {
	l, err := c.cell("local")
	if err != nil {
		return nil, err
	}
	resp, err := l.call(ctx, nil, often, func() *lockpb.DoRequest {
		return &lockpb.DoRequest{Call: &lockpb.DoRequest_ListCells{ListCells: &lockpb.ListCellsRequest{}}}
	}, notices{})
	if err != nil {
		return nil, err
	}
	var all []CellInfo
	for _, w := range resp.GetListCells().GetCells() {
		all = append(all, cellInfoOf(w))
	}
	return all, nil
}

// CreateCell makes a cell, on the nodes that "local" is on. A name is 1 to 63 of a-z, 0-9 and "-".
// Making one that is there is not an error. ErrBadRequest.
func (c *Client) CreateCell(ctx context.Context, name string) error {
	l, err := c.cell("local")
	if err == nil {
		err = checkText("cell", name)
	}
	if err != nil {
		return err
	}
	_, err = l.call(ctx, nil, often, func() *lockpb.DoRequest {
		return &lockpb.DoRequest{Call: &lockpb.DoRequest_CreateCell{CreateCell: &lockpb.CreateCellRequest{Cell: name}}}
	}, notices{})
	return err
}
