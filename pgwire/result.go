package pgwire

import (
	"io"
	"strings"

	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// result is the sql.ResultWriter of a connection, used for one statement (or
// one simple query string) after another.
type result struct {
	c     *conn
	ext   bool // extended protocol: the client has the RowDescription, if it wants it
	p     *portal
	fs    *types.FormatSettings
	plain portal // for the simple protocol: everything is text
	in    *copyReader
}

var _ sql.ResultWriter = (*result)(nil)

func (r *result) simple() {
	r.ext, r.p, r.fs = false, &r.plain, nil
	r.plain.reset()
}

func (r *result) extended(p *portal, fs *types.FormatSettings) { r.ext, r.p, r.fs = true, p, fs }

// Columns learns how rows are to be encoded; the simple protocol describes them
// to the client. A portal that goes on after a suspension need not repeat them.
func (r *result) Columns(cols []sql.Column) error {
	if err := r.p.check(len(cols)); err != nil {
		return err
	}
	r.fs = r.c.sess.FormatSettings()
	enc := r.p.cols[:0]
	for i := range cols {
		enc = append(enc, encoding{typ: cols[i].Type, format: r.p.format(i)})
	}
	r.p.cols = enc
	if !r.ext {
		r.c.rowDescription(cols, r.p)
	}
	return r.c.flushIfFull()
}

func (r *result) Row(row []types.Datum) error {
	if len(row) != len(r.p.cols) {
		return sqlstate.Newf(sqlstate.InternalError, "row has %d values for %d columns", len(row), len(r.p.cols))
	}
	if err := r.c.dataRow(row, r.p.cols, r.fs); err != nil {
		return err
	}
	return r.c.flushIfFull()
}

func (r *result) Complete(tag string) error {
	c := r.c
	if r.in != nil {
		// The statement has seen the end of its data before the client sent it.
		if _, err := io.Copy(io.Discard, r.in); err != nil {
			return err
		}
		r.endCopy()
	}
	// SQL that removes or redefines prepared statements.
	if strings.HasPrefix(tag, "DEALLOCATE") || strings.HasPrefix(tag, "DISCARD") || strings.HasPrefix(tag, "PREPARE") {
		clear(c.statements)
	}
	at := c.message(msgCommandComplete)
	c.out = append(append(c.out, tag...), 0)
	c.patch(at)
	if !r.ext {
		c.mon.restart(c.statementTimeout())
	}
	return c.flushIfFull()
}

func (r *result) Empty() error {
	r.c.bare(msgEmptyQuery)
	return nil
}

func (r *result) Notice(severity string, e *sqlstate.Error) error {
	r.c.out = appendError(r.c.out, 'N', severity, e)
	return r.c.flushIfFull()
}

func (r *result) ParameterStatus(name, value string) error {
	r.c.parameterStatus(name, value)
	return nil
}

func (r *result) CopyIn(binary bool, columns int) (io.Reader, error) {
	r.endCopy()
	r.c.mon.setCopying(true, r.c.rd)
	r.c.copyResponse(msgCopyInResponse, binary, columns)
	r.in = &copyReader{c: r.c}
	return r.in, r.c.flush()
}

func (r *result) CopyOut(binary bool, columns int) (io.WriteCloser, error) {
	r.c.copyResponse(msgCopyOutResponse, binary, columns)
	return &copyWriter{c: r.c}, nil
}

// endCopy leaves COPY FROM STDIN. What the client still sends of it is skipped:
// the rest of a message here, whole messages by dispatch.
func (r *result) endCopy() {
	if r.in == nil {
		return
	}
	r.c.discard += r.in.left
	r.in.left = 0
	if r.in.end == nil {
		r.in.end = io.ErrClosedPipe
	}
	r.in = nil
	r.c.mon.setCopying(false, r.c.rd)
}
