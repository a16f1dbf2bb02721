package wiretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// run executes a portal up to limit rows (0: all).
func (s *session) run(ctx context.Context, p *portal, limit int, w sql.ResultWriter) (suspended bool, err error) {
	f := strings.Fields(p.st.query)
	if len(f) == 0 {
		return false, w.Empty()
	}
	if s.status == sql.TxnFailed && f[0] != "rollback" && f[0] != "commit" {
		return false, sqlstate.Newf(sqlstate.InFailedTransaction,
			"current transaction is aborted, commands ignored until end of transaction block")
	}
	if sc, ok := s.srv.Scripts[p.st.query]; ok {
		return false, sc.run(p, w)
	}
	rest := strings.TrimSpace(strings.TrimPrefix(p.st.query, f[0]))
	switch f[0] {
	case "row", "rows", "echo":
		if !p.begun {
			if p.rows, err = s.rows(f, p.params); err != nil {
				return false, err
			}
			p.begun = true
			if err := w.Columns(p.st.columns); err != nil {
				return false, err
			}
		}
		n := 0
		for ; len(p.rows) > 0; p.rows = p.rows[1:] {
			if limit > 0 && n == limit {
				return true, nil
			}
			if err := ctx.Err(); err != nil {
				return false, err
			}
			if err := w.Row(p.rows[0]); err != nil {
				return false, err
			}
			n++
		}
		return false, w.Complete("SELECT " + strconv.Itoa(n))
	case "ins":
		return false, w.Complete("INSERT 0 " + f[1])
	case "begin":
		s.setStatus(sql.TxnOpen)
		return false, w.Complete("BEGIN")
	case "commit", "rollback":
		tag := strings.ToUpper(f[0])
		if s.status == sql.TxnFailed {
			tag = "ROLLBACK"
		}
		s.setStatus(sql.TxnIdle)
		return false, w.Complete(tag)
	case "set":
		name, value, _ := strings.Cut(rest, "=")
		s.settings[name] = value
		if err := w.ParameterStatus(name, value); err != nil {
			return false, err
		}
		return false, w.Complete("SET")
	case "deallocate":
		delete(s.stmts, rest)
		return false, w.Complete("DEALLOCATE")
	case "notice":
		if err := w.Notice("NOTICE", sqlstate.Newf(sqlstate.SuccessfulCompletion, "%s", rest)); err != nil {
			return false, err
		}
		return false, w.Complete("NOTICE")
	case "error":
		if len(f) < 2 {
			return false, errors.New("an error without a code")
		}
		return false, &sqlstate.Error{Code: sqlstate.Code(f[1]), Message: strings.TrimSpace(strings.TrimPrefix(rest, f[1])),
			Detail: "a detail", Hint: "a hint", Schema: "public", Table: "t", Column: "c", DataType: "d", Constraint: "t_pkey"}
	case "wait":
		s.srv.announceWait()
		<-ctx.Done()
		return false, fmt.Errorf("waiting: %w", ctx.Err())
	case "panic":
		if s.srv.NoPanic {
			return false, errors.New("no panic")
		}
		panic("as asked for")
	case "copyin":
		return false, s.copyIn(f, w)
	case "copyout":
		out, err := w.CopyOut(false, 2)
		if err != nil {
			return false, err
		}
		n, _ := strconv.Atoi(f[1])
		for i := range n {
			if _, err := fmt.Fprintf(out, "%d\trow %d\n", i+1, i+1); err != nil {
				return false, err
			}
		}
		if err := out.Close(); err != nil {
			return false, err
		}
		return false, w.Complete("COPY " + f[1])
	}
	return false, fmt.Errorf("unknown command %q", f[0])
}

func (s *session) copyIn(f []string, w sql.ResultWriter) error {
	in, err := w.CopyIn(false, 2)
	if err != nil {
		return err
	}
	lines, total, limit := 0, 0, -1
	if len(f) > 1 && f[1] == "ignore" {
		return w.Complete("COPY 0")
	}
	if len(f) > 2 && f[1] == "fail" {
		limit, _ = strconv.Atoi(f[2])
	}
	buf := make([]byte, 1024)
	for {
		n, err := in.Read(buf)
		lines += bytes.Count(buf[:n], []byte("\n"))
		total += n
		if limit >= 0 && total >= limit {
			return sqlstate.Newf(sqlstate.BadCopyFileFormat, "bad data after %d bytes", limit)
		}
		if err == io.EOF {
			return w.Complete("COPY " + strconv.Itoa(lines))
		}
		if err != nil {
			return err
		}
	}
}

func (s *session) rows(f []string, params []types.Datum) ([][]types.Datum, error) {
	switch f[0] {
	case "echo":
		return [][]types.Datum{params}, nil
	case "rows":
		n, _ := strconv.Atoi(f[1])
		rows := make([][]types.Datum, n)
		for i := range rows {
			rows[i] = []types.Datum{types.Int(int64(i + 1)), types.Text("row " + strconv.Itoa(i+1))}
		}
		return rows, nil
	}
	var row []types.Datum
	for _, a := range f[1:] {
		name, value, _ := strings.Cut(a, "=")
		oid, err := typeOf(name)
		if err != nil {
			return nil, err
		}
		d := types.Null
		if value != "NULL" {
			if d, err = types.ParseText(value, types.T(oid), &s.fs); err != nil {
				return nil, err
			}
		}
		row = append(row, d)
	}
	return [][]types.Datum{row}, nil
}

func (sc *Script) run(p *portal, w sql.ResultWriter) error {
	if sc.Err != nil {
		return sc.Err
	}
	if sc.Columns != nil {
		if err := w.Columns(p.st.columns); err != nil {
			return err
		}
	}
	for _, r := range sc.Rows {
		var row []types.Datum
		for _, v := range r {
			d := types.Text(v)
			if v == "NULL" {
				d = types.Null
			}
			row = append(row, d)
		}
		if err := w.Row(row); err != nil {
			return err
		}
	}
	return w.Complete(sc.Tag)
}
