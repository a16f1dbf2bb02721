package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// printer prints the results of one query string as they come.
type printer struct {
	app    *app
	where  string
	copyIn copySource
	table  *table
	copied bool // COPY TO STDOUT has written to where the tag would go
}

var _ handler = (*printer)(nil)

func (p *printer) Columns(fields []pgproto3.FieldDescription) error {
	t := &table{}
	for _, f := range fields {
		t.header = append(t.header, string(f.Name))
		t.right = append(t.right, numericOID(f.DataTypeOID))
	}
	p.table = t
	return nil
}

// numericOID says which types are aligned to the right: int2, int4, int8, oid,
// xid, cid, float4, float8, money, numeric.
func numericOID(oid uint32) bool {
	switch oid {
	case 20, 21, 23, 26, 28, 29, 700, 701, 790, 1700:
		return true
	}
	return false
}

func (p *printer) Row(values [][]byte) error {
	if p.table == nil {
		return fmt.Errorf("a row without a description")
	}
	row := make([]string, len(values))
	for i, v := range values {
		row[i] = string(v) // NULL prints as nothing
	}
	p.table.rows = append(p.table.rows, row)
	return nil
}

func (p *printer) Complete(tag string) error {
	w := p.app.out
	if p.copied {
		p.copied = false
		return nil
	}
	if t := p.table; t != nil {
		p.table = nil
		if p.app.expanded {
			t.printExpanded(w)
		} else {
			t.print(w)
		}
		if strings.HasPrefix(tag, "SELECT") || strings.HasPrefix(tag, "FETCH") || strings.HasPrefix(tag, "SHOW") || strings.HasPrefix(tag, "EXPLAIN") {
			return nil
		}
	}
	_, err := fmt.Fprintln(w, tag)
	return err
}

func (p *printer) Notice(n *pgconn.PgError) {
	p.app.out.Flush()
	fmt.Fprint(p.app.stderr, formatError(p.where, n, ""))
}

func (p *printer) CopyOut(b []byte) error {
	p.copied = true
	_, err := p.app.out.Write(b)
	return err
}

func (p *printer) CopyIn(w io.Writer) error {
	p.app.out.Flush()
	return p.copyIn.copyTo(w)
}

// copySource supplies the data of a COPY FROM STDIN.
type copySource interface{ copyTo(w io.Writer) error }

// streamSource is data that ends with its stream.
type streamSource struct{ r io.Reader }

func (s *streamSource) copyTo(w io.Writer) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{s.r}, make([]byte, 32<<10))
	return err
}

// lineSource is data in the lines of a script, up to a line "\.".
type lineSource struct {
	lines  *lineReader
	prompt func() // before each line, on a terminal
}

func (s *lineSource) copyTo(w io.Writer) error {
	for {
		if s.prompt != nil {
			s.prompt()
		}
		line, err := s.lines.next()
		if len(line) > 0 {
			if bytes.Equal(bytes.TrimRight([]byte(line), "\r\n"), []byte(`\.`)) {
				return nil
			}
			if _, werr := io.WriteString(w, line); werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
