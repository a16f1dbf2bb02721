package sql

import (
	"context"
	"io"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// copyOptions are COPY's options.
type copyOptions struct {
	binary        bool
	csv           bool
	delim         byte
	null          string
	header, match bool
	quote, escape byte
	forceQuote    bool
}

func parseCopyOptions(opts []pgast.Option, from bool) (copyOptions, error) {
	o := copyOptions{delim: 0, quote: '"'}
	var delim, null, quote, escape *string
	for _, p := range opts {
		v := p.Value
		on := func() (bool, error) {
			if v == "" {
				return true, nil
			}
			s, err := boolean(p.Name)(v)
			return s == "on", err
		}
		var err error
		switch strings.ToLower(p.Name) {
		case "format":
			switch strings.ToLower(v) {
			case "text":
			case "csv":
				o.csv = true
			case "binary":
				o.binary = true
			default:
				return o, sqlstate.Newf(sqlstate.InvalidParameterValue, "COPY format %q not recognized", v)
			}
		case "csv":
			o.csv = true
		case "binary":
			o.binary = true
		case "freeze":
			_, err = on()
		case "header":
			if o.match = strings.EqualFold(v, "match"); o.match {
				o.header = true
				if !from {
					return o, sqlstate.Newf(sqlstate.FeatureNotSupported, "cannot use \"match\" with HEADER in COPY TO")
				}
			} else {
				o.header, err = on()
			}
		case "delimiter", "delimiters":
			delim = &v
		case "null":
			null = &v
		case "quote":
			quote = &v
		case "escape":
			escape = &v
		case "encoding":
			_, err = settingDefs["client_encoding"].check(v)
		case "force_quote":
			if v != "*" {
				return o, unsupported("FORCE_QUOTE with a column list is not supported")
			}
			o.forceQuote = true
		default:
			return o, sqlstate.Newf(sqlstate.SyntaxError, "option %q not recognized", p.Name)
		}
		if err != nil {
			return o, err
		}
	}
	if o.binary {
		switch {
		case delim != nil:
			return o, sqlstate.Newf(sqlstate.SyntaxError, "cannot specify DELIMITER in BINARY mode")
		case null != nil:
			return o, sqlstate.Newf(sqlstate.SyntaxError, "cannot specify NULL in BINARY mode")
		case o.csv || o.header || quote != nil || escape != nil || o.forceQuote:
			return o, sqlstate.Newf(sqlstate.FeatureNotSupported, "COPY HEADER, QUOTE and ESCAPE are not available in BINARY mode")
		}
	}
	o.delim, o.null = '\t', `\N`
	if o.csv {
		o.delim, o.null = ',', ""
	}
	one := func(name string, v *string, into *byte) error {
		if v == nil {
			return nil
		}
		if len(*v) != 1 {
			return sqlstate.Newf(sqlstate.FeatureNotSupported, "COPY %s must be a single one-byte character", name)
		}
		*into = (*v)[0]
		return nil
	}
	if !o.csv && (quote != nil || escape != nil || o.forceQuote) {
		return o, sqlstate.Newf(sqlstate.FeatureNotSupported, "COPY quote and escape are available only in CSV mode")
	}
	if err := one("delimiter", delim, &o.delim); err != nil {
		return o, err
	}
	if err := one("quote", quote, &o.quote); err != nil {
		return o, err
	}
	o.escape = o.quote
	if err := one("escape", escape, &o.escape); err != nil {
		return o, err
	}
	if null != nil {
		o.null = *null
	}
	if strings.ContainsAny(o.null, "\r\n") || o.delim == '\r' || o.delim == '\n' {
		return o, sqlstate.Newf(sqlstate.InvalidParameterValue, "COPY delimiter and null cannot use newline or carriage return")
	}
	if !o.csv && strings.IndexByte(`\.abcdefghijklmnopqrstuvwxyz0123456789`, o.delim) >= 0 {
		return o, sqlstate.Newf(sqlstate.InvalidParameterValue, "COPY delimiter cannot be \"%c\"", o.delim)
	}
	if strings.IndexByte(o.null, o.delim) >= 0 || o.csv && (o.delim == o.quote || strings.IndexByte(o.null, o.quote) >= 0) {
		return o, sqlstate.Newf(sqlstate.InvalidParameterValue, "COPY delimiter, quote and null must differ")
	}
	return o, nil
}

func (c *Conn) copyStmt(ctx context.Context, r *request, x *pgast.Copy) (string, error) {
	if x.File != "" || x.Program {
		return "", sqlstate.Newf(sqlstate.InsufficientPrivilege, "COPY to or from a file or program on the server is not supported").
			WithHint("Anyone can COPY to stdout or from stdin. psql's \\copy command also works for anyone.")
	}
	o, err := parseCopyOptions(x.Options, x.From)
	if err != nil {
		return "", err
	}
	var n int64
	if x.From {
		n, err = c.copyFrom(ctx, r, x, o)
	} else {
		n, err = c.copyTo(ctx, r, x, o)
	}
	return "COPY " + itoa(int(n)), err
}

// copyFrom loads a table from the client's data.
func (c *Conn) copyFrom(ctx context.Context, r *request, x *pgast.Copy, o copyOptions) (int64, error) {
	t := &c.txn
	if x.Where != nil {
		return 0, unsupported("COPY FROM ... WHERE is not supported")
	}
	if t.readOnly {
		return 0, sqlstate.Newf(sqlstate.ReadOnlyTransaction, "cannot execute COPY FROM in a read-only transaction")
	}
	if err := t.view.Begin(ctx); err != nil {
		return 0, err
	}
	var p *plan.Plan
	var ords []int
	err := c.stable(func() (err error) {
		p, ords, err = plan.BuildCopy(ctx, c.planCatalog(), r.st, x.Table, x.Columns)
		return err
	})
	if err != nil {
		return 0, err
	}
	if _, err := c.needKV(ctx, withLocks); err != nil {
		return 0, err
	}
	if err := c.writes(p); err != nil {
		return 0, err
	}
	t.view.Used(p.Uses)
	ec := c.execContext(ctx)
	defer c.release(ec)
	ec.Eval.Reset(nil, nil)
	ec.Eval.Format = c.format()
	in, err := r.sink.w.CopyIn(o.binary, len(ords))
	if err != nil {
		return 0, err
	}
	ti := p.Insert.Table
	ins := ec.NewInserter(ti)
	row := make([]types.Datum, len(ti.Types))
	// Columns that the data does not give: constants once, the rest for each row.
	var perRow []int
	for i, e := range p.Insert.Cols {
		if e == nil {
			continue
		}
		if d, ok := expr.AsLiteral(e); ok {
			row[i] = d
		} else {
			perRow = append(perRow, i)
		}
	}
	var rd copyFields
	if o.binary {
		rd = newBinaryCopyReader(in, len(ords))
	} else {
		rd = newCopyReader(in, o, len(ords))
	}
	fs := c.format()
	for line := 0; ; line++ {
		if line&255 == 0 && ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		fields, err := rd.next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = checkFields(fields, ti, ords, o, line == 0 && o.header)
		}
		if err != nil {
			return 0, inCopy(err, ti, rd, -1, "")
		}
		if line == 0 && o.header {
			continue
		}
		for i, ord := range ords {
			f := &fields[i]
			if f.null {
				row[ord] = types.Null
				continue
			}
			if o.binary {
				if row[ord], err = types.ParseBinary(f.text, ti.Types[ord]); err != nil {
					return 0, inCopy(err, ti, rd, ord, "")
				}
				continue
			}
			s := unsafe.String(unsafe.SliceData(f.text), len(f.text))
			if row[ord], err = types.ParseText(s, ti.Types[ord], fs); err != nil {
				return 0, inCopy(err, ti, rd, ord, s)
			}
		}
		for _, i := range perRow {
			if row[i], err = p.Insert.Cols[i].Eval(&ec.Eval, nil); err != nil {
				return 0, inCopy(err, ti, rd, -1, "")
			}
		}
		if err := ins.Add(row); err != nil {
			return 0, err
		}
	}
	err = ins.Flush()
	return ins.Count, err
}

// inCopy says where in the data an error is: in which line and, with ord >= 0, in
// which column's text. It copies texts, which may alias the read buffer.
func inCopy(err error, ti *plan.TableInfo, rd copyFields, ord int, text string) error {
	e, ok := err.(*sqlstate.Error)
	if !ok {
		return err
	}
	out := *e
	out.Message, out.Detail = strings.Clone(e.Message), strings.Clone(e.Detail)
	out.Where = "COPY " + ti.Desc.Name + ", line " + strconv.Itoa(rd.at())
	if ord >= 0 {
		out.Where += ", column " + ti.Desc.Columns[ord].Name
		if len(text) > maxCopyContext {
			text = strings.ToValidUTF8(text[:maxCopyContext], "") + "..."
		}
		if text != "" {
			out.Where += ": \"" + text + "\""
		}
	}
	return &out
}

// maxCopyContext bounds how much of a bad value an error quotes.
const maxCopyContext = 100

// checkFields refuses a row of too few or too many fields, and a header that does not fit.
func checkFields(fields []copyField, ti *plan.TableInfo, ords []int, o copyOptions, header bool) error {
	switch {
	case header:
		return checkHeader(fields, ti, ords, o)
	case len(fields) < len(ords):
		return copyError("missing data for column %q", ti.Desc.Columns[ords[len(fields)]].Name)
	case len(fields) > len(ords):
		return copyError("extra data after last expected column")
	}
	return nil
}

func checkHeader(fields []copyField, ti *plan.TableInfo, ords []int, o copyOptions) error {
	if !o.match {
		return nil
	}
	if len(fields) != len(ords) {
		return copyError("wrong number of fields in header line: got %d, expected %d", len(fields), len(ords))
	}
	for i, ord := range ords {
		if name := ti.Desc.Columns[ord].Name; string(fields[i].text) != name {
			return copyError("column name mismatch in header line field %d: got %q, expected %q", i+1, fields[i].text, name)
		}
	}
	return nil
}

// copyTo sends a table or a query's rows to the client.
func (c *Conn) copyTo(ctx context.Context, r *request, x *pgast.Copy, o copyOptions) (int64, error) {
	q := x.Query
	if q == nil {
		sel := &pgast.Select{From: []pgast.TableExpr{&pgast.Table{Name: x.Table, Pos: -1}}}
		for _, n := range x.Columns {
			sel.Targets = append(sel.Targets, pgast.Target{Expr: &pgast.ColumnRef{Name: pgast.Name{n}, Pos: -1}})
		}
		if x.Columns == nil {
			sel.Targets = []pgast.Target{{Expr: &pgast.ColumnRef{Star: true, Pos: -1}}}
		}
		q = sel
	}
	t := &c.txn
	if r.st.AsOf != nil {
		leave, err := c.enterAsOf(ctx, r)
		if err != nil {
			return 0, err
		}
		defer leave()
	}
	cp, err := c.plan(ctx, r, q, nil)
	if err != nil {
		return 0, err
	}
	if cp.cols == nil {
		return 0, sqlstate.Newf(sqlstate.FeatureNotSupported, "COPY query must have a RETURNING clause")
	}
	if t.kv == nil { // no table is read
		if _, err := c.needKV(ctx, c.accessOf(r, cp.plan)); err != nil {
			return 0, err
		}
	}
	if err := c.writes(cp.plan); err != nil {
		return 0, err
	}
	t.view.Used(cp.plan.Uses)
	ec := c.execContext(ctx)
	defer c.release(ec)
	ec.Eval.Reset(r.st.Consts, r.params)
	ec.Eval.Format = c.format()
	r.sink.hold, r.sink.sent = false, true
	out, err := r.sink.w.CopyOut(o.binary, len(cp.cols))
	if err != nil {
		return 0, err
	}
	cw := &copyWriter{w: out, o: o, fs: c.format(), cols: cp.cols}
	switch {
	case o.binary:
		cw.binaryHeader()
	case o.header:
		cw.header()
	}
	emit := func(row []types.Datum) error {
		if err := t.kv.AwaitVisible(ctx); err != nil {
			return err
		}
		return cw.row(row)
	}
	var n int64
	if cp.plan.Query == nil {
		n, err = ec.Run(cp.plan, emit)
	} else {
		n, err = c.copyQuery(cp, ec.Open, emit)
	}
	if err == nil {
		err = t.kv.AwaitVisible(ctx) // that there are no more rows is news too (X1)
	}
	if err != nil {
		return 0, err
	}
	if o.binary {
		cw.binaryTrailer()
	}
	if err := cw.flush(); err != nil {
		return 0, err
	}
	return n, out.Close()
}

// copyField is one field of a line; text is valid until the next line is read.
type copyField struct {
	text []byte
	null bool
}

func copyError(format string, args ...any) error {
	return sqlstate.Newf(sqlstate.BadCopyFileFormat, format, args...)
}

// maxCopyLine bounds one line of COPY data.
const maxCopyLine = 64 << 20

// copyReader splits COPY data into lines and fields.
type copyReader struct {
	r      io.Reader
	o      copyOptions
	buf    []byte
	pos    int // of the next unread byte
	end    int
	eof    bool
	fields []copyField
	plain  []byte // unescaped text of the line
	lines  int    // read so far, as PostgreSQL counts them
}

func (r *copyReader) at() int { return r.lines }

func newCopyReader(r io.Reader, o copyOptions, n int) *copyReader {
	return &copyReader{r: r, o: o, buf: make([]byte, 64<<10), fields: make([]copyField, 0, n)}
}

// more reads further data behind what is there; keep is where the current line starts.
func (r *copyReader) more(keep *int) error {
	if r.eof {
		return io.EOF
	}
	if *keep > 0 {
		copy(r.buf, r.buf[*keep:r.end])
		r.pos, r.end, *keep = r.pos-*keep, r.end-*keep, 0
	}
	if r.end == len(r.buf) {
		if len(r.buf) >= maxCopyLine {
			return sqlstate.Newf(sqlstate.ProgramLimitExceeded, "a line of COPY data is longer than %d bytes", maxCopyLine)
		}
		r.buf = slices.Grow(r.buf, len(r.buf))[:2*len(r.buf)]
	}
	for {
		n, err := r.r.Read(r.buf[r.end:])
		r.end += n
		if n > 0 {
			r.eof = err == io.EOF
			if err == io.EOF {
				err = nil
			}
			return err
		}
		if err == io.EOF {
			r.eof = true
		}
		if err != nil {
			return err
		}
	}
}

// next returns the fields of the next line, io.EOF at the end.
func (r *copyReader) next() ([]copyField, error) {
	line, err := r.line()
	if err != nil {
		return nil, err
	}
	if len(line) == 2 && line[0] == '\\' && line[1] == '.' {
		// The end marker of old clients; what follows is not data.
		for {
			r.pos = r.end
			keep := r.end
			if err := r.more(&keep); err != nil {
				return nil, err
			}
		}
	}
	r.fields, r.plain = r.fields[:0], r.plain[:0]
	if r.o.csv {
		return r.fields, r.splitCSV(line)
	}
	return r.fields, r.splitText(line)
}
