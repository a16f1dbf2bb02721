package sql

import (
	"context"
	"errors"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/truetime"
	"github.com/spandb/spand/txn"
)

// NewStore makes SQL's store of a node's transaction client.
func NewStore(c *txn.Client) KV { return store{c} }

// store adapts txn.Client, whose own types mirror kv's.
type store struct{ c *txn.Client }

func (s store) Begin(ctx context.Context, o TxnOptions) Txn {
	return storeTxn{s.c.Begin(ctx, txn.TxnOptions(o))}
}
func (s store) ReadOnly(ctx context.Context, at truetime.Timestamp) Txn {
	return storeTxn{s.c.ReadOnly(ctx, at)}
}
func (s store) Freshest(spans []keys.Span) truetime.Timestamp {
	return s.c.Freshest(spans)
}
func (s store) Split(ctx context.Context, key keys.Key) error { return s.c.Split(ctx, key) }
func (s store) Clock() truetime.Clock                         { return s.c.Clock() }

// storeTxn is one pointer wide, so that making it an interface costs nothing.
type storeTxn struct{ *txn.Txn }

func (t storeTxn) Scan(ctx context.Context, req ScanRequest) RowIter {
	return t.Txn.Scan(ctx, txn.ScanRequest(req))
}

func (t storeTxn) Result() kv.CommitResult { return kv.CommitResult(t.Txn.Result()) }

func (t storeTxn) Commit(ctx context.Context) (truetime.Timestamp, error) {
	ts, err := t.Txn.Commit(ctx)
	if err == txn.ErrUnconfirmed {
		err = kv.ErrUnconfirmed
	}
	var unknown *txn.UnknownOutcomeError
	if errors.As(err, &unknown) {
		err = &kv.UnknownOutcomeError{Txn: t.ID(), Cause: err}
	}
	return ts, err
}
