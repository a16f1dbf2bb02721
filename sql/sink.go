package sql

import (
	"context"

	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// heldRows is how many rows of a statement that may be tried again are held back.
const heldRows = 64

// sink stands between a statement and its ResultWriter. It keeps the order columns,
// rows, completion; lets nothing out before it may be seen (X1); and while a statement
// could still be tried again unseen, holds back a bounded number of rows and notices.
type sink struct {
	c       *Conn
	w       ResultWriter
	cols    []Column
	hasCols bool // this statement returns rows
	opened  bool // w.Columns was called
	hold    bool
	sent    bool // the client may have seen something
	rows    [][]types.Datum
	notices []notice
}

type notice struct {
	severity string
	e        *sqlstate.Error
}

// start begins an attempt.
func (s *sink) start(hold bool) {
	s.hold, s.rows, s.notices, s.hasCols = hold, s.rows[:0], s.notices[:0], false
}

// columns announces a result with these columns.
func (s *sink) columns(cols []Column) { s.cols, s.hasCols = cols, true }

func (s *sink) open() error {
	if s.opened || !s.hasCols {
		return nil
	}
	s.opened = true
	return s.w.Columns(s.cols)
}

// row passes one row on.
func (s *sink) row(ctx context.Context, row []types.Datum) error {
	if s.hold {
		if len(s.rows) < heldRows {
			kept := make([]types.Datum, len(row))
			for i := range row {
				kept[i] = expr.Detach(row[i])
			}
			s.rows = append(s.rows, kept)
			return nil
		}
		s.hold = false
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	if kv := s.c.txn.kv; kv != nil {
		if err := kv.AwaitVisible(ctx); err != nil {
			return err
		}
	}
	s.sent = true
	if err := s.open(); err != nil {
		return err
	}
	return s.w.Row(row)
}

// flush lets out what was held back.
func (s *sink) flush(ctx context.Context) error {
	if kv := s.c.txn.kv; kv != nil {
		if err := kv.AwaitVisible(ctx); err != nil {
			return err
		}
	}
	for _, n := range s.notices {
		s.sent = true
		if err := s.w.Notice(n.severity, n.e); err != nil {
			return err
		}
	}
	s.notices = s.notices[:0]
	if err := s.open(); err != nil {
		return err
	}
	for _, r := range s.rows {
		s.sent = true
		if err := s.w.Row(r); err != nil {
			return err
		}
	}
	s.rows = s.rows[:0]
	return nil
}

// finish ends the statement's results.
func (s *sink) finish(ctx context.Context, tag string) error {
	if err := s.flush(ctx); err != nil {
		return err
	}
	return s.w.Complete(tag)
}

// notice passes a notice on, at once unless the statement may be tried again.
func (s *sink) notice(severity string, e *sqlstate.Error) error {
	if severity == "NOTICE" {
		if v, _ := s.c.Setting("client_min_messages"); v == "warning" || v == "error" {
			return nil
		}
	}
	if s.hold {
		s.notices = append(s.notices, notice{severity, e})
		return nil
	}
	s.sent = true
	return s.w.Notice(severity, e)
}
