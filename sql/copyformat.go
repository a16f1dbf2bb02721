package sql

import (
	"bytes"
	"io"
	"unicode/utf8"

	"github.com/spandb/spand/sql/exec"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// line returns the next line without its end. In text format a backslash takes a
// newline's meaning away; in CSV quotes do.
func (r *copyReader) line() ([]byte, error) {
	start, scanned, quoted := r.pos, r.pos, false
	for {
		i := bytes.IndexByte(r.buf[scanned:r.end], '\n')
		if i < 0 {
			if r.o.csv {
				quoted = r.quotes(r.buf[scanned:r.end], quoted)
			}
			scanned = r.end
			old := start
			err := r.more(&start)
			scanned -= old - start
			if err == io.EOF {
				if scanned == start {
					return nil, io.EOF
				}
				r.lines++
				r.pos = r.end
				return r.finish(r.buf[start:r.end])
			}
			if err != nil {
				return nil, err
			}
			continue
		}
		at := scanned + i
		if r.o.csv {
			if quoted = r.quotes(r.buf[scanned:at], quoted); quoted {
				r.lines++
				scanned = at + 1
				continue
			}
		} else {
			n := 0
			for k := at - 1; k >= start && r.buf[k] == '\\'; k-- {
				n++
			}
			if n%2 == 1 {
				scanned = at + 1
				continue
			}
		}
		r.lines++
		r.pos = at + 1
		return r.finish(r.buf[start:at])
	}
}

// quotes tells whether a newline behind b would stand inside quotes.
func (r *copyReader) quotes(b []byte, in bool) bool {
	for i := 0; i < len(b); i++ {
		switch {
		case in && b[i] == r.o.escape && r.o.escape != r.o.quote && i+1 < len(b):
			i++
		case b[i] == r.o.quote:
			in = !in
		}
	}
	return in
}

func (r *copyReader) finish(line []byte) ([]byte, error) {
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	if !utf8.Valid(line) {
		return nil, types.CheckUTF8(string(line))
	}
	if bytes.IndexByte(line, 0) >= 0 {
		return nil, sqlstate.Newf(sqlstate.CharacterNotInRepertoire, "invalid byte sequence for encoding \"UTF8\": 0x00")
	}
	return line, nil
}

func (r *copyReader) splitText(line []byte) error {
	if bytes.IndexByte(line, '\\') < 0 {
		for {
			i := bytes.IndexByte(line, r.o.delim)
			f := line
			if i >= 0 {
				f = line[:i]
			}
			r.fields = append(r.fields, copyField{f, string(f) == r.o.null})
			if i < 0 {
				return nil
			}
			line = line[i+1:]
		}
	}
	// Room for the whole line, so that fields stay where they are.
	if cap(r.plain) < len(line) {
		r.plain = make([]byte, 0, 2*len(line))
	}
	for {
		start, i := len(r.plain), 0
		for i < len(line) && line[i] != r.o.delim {
			if line[i] == '\\' && i+1 < len(line) {
				var n int
				r.plain, n = unescape(r.plain, line[i+1:])
				i += 1 + n
				continue
			}
			r.plain = append(r.plain, line[i])
			i++
		}
		// NULL is recognised as it was written, before escapes.
		f := copyField{r.plain[start:], string(line[:i]) == r.o.null}
		if !f.null && !utf8.Valid(f.text) {
			return types.CheckUTF8(string(f.text))
		}
		if !f.null && bytes.IndexByte(f.text, 0) >= 0 {
			return sqlstate.Newf(sqlstate.CharacterNotInRepertoire, "invalid byte sequence for encoding \"UTF8\": 0x00")
		}
		r.fields = append(r.fields, f)
		if i == len(line) {
			return nil
		}
		line = line[i+1:]
	}
}

// unescape appends what a backslash before b stands for and returns how much of b it took.
func unescape(dst, b []byte) ([]byte, int) {
	switch ch := b[0]; ch {
	case 'b':
		return append(dst, '\b'), 1
	case 'f':
		return append(dst, '\f'), 1
	case 'n':
		return append(dst, '\n'), 1
	case 'r':
		return append(dst, '\r'), 1
	case 't':
		return append(dst, '\t'), 1
	case 'v':
		return append(dst, '\v'), 1
	case 'x':
		v, n := 0, 1
		for n < len(b) && n < 3 {
			d := hexDigit(b[n])
			if d < 0 {
				break
			}
			v = v<<4 | d
			n++
		}
		if n == 1 {
			return append(dst, 'x'), 1
		}
		return append(dst, byte(v)), n
	case '0', '1', '2', '3', '4', '5', '6', '7':
		v, n := 0, 0
		for n < len(b) && n < 3 && b[n] >= '0' && b[n] <= '7' {
			v = v<<3 | int(b[n]-'0')
			n++
		}
		return append(dst, byte(v)), n
	default:
		return append(dst, ch), 1
	}
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

func (r *copyReader) splitCSV(line []byte) error {
	if cap(r.plain) < len(line) {
		r.plain = make([]byte, 0, 2*len(line))
	}
	i := 0
	for {
		start, quoted, in := len(r.plain), false, false
		for i < len(line) {
			ch := line[i]
			switch {
			case in && ch == r.o.escape && i+1 < len(line) && (line[i+1] == r.o.quote || line[i+1] == r.o.escape):
				r.plain = append(r.plain, line[i+1])
				i += 2
				continue
			case in && ch == r.o.quote:
				in = false
			case in:
				r.plain = append(r.plain, ch)
			case ch == r.o.quote:
				in, quoted = true, true
			case ch == r.o.delim:
				goto done
			default:
				r.plain = append(r.plain, ch)
			}
			i++
		}
	done:
		if in {
			return copyError("unterminated CSV quoted field")
		}
		text := r.plain[start:]
		r.fields = append(r.fields, copyField{text, !quoted && string(text) == r.o.null})
		if i >= len(line) {
			return nil
		}
		i++ // the delimiter
	}
}

// copyWriter prints rows as COPY TO does.
type copyWriter struct {
	w    io.WriteCloser
	o    copyOptions
	fs   *types.FormatSettings
	cols []Column
	buf  []byte
	val  []byte
}

// headerField is not subject to FORCE_QUOTE.
func (c *copyWriter) headerField(name string) {
	force := c.o.forceQuote
	c.o.forceQuote = false
	c.field([]byte(name))
	c.o.forceQuote = force
}

func (c *copyWriter) header() {
	for i, col := range c.cols {
		if i > 0 {
			c.buf = append(c.buf, c.o.delim)
		}
		c.headerField(col.Name)
	}
	c.buf = append(c.buf, '\n')
}

func (c *copyWriter) row(row []types.Datum) error {
	if c.o.binary {
		if err := c.binaryRow(row); err != nil {
			return err
		}
	} else {
		c.textRow(row)
	}
	if len(c.buf) >= 32<<10 {
		return c.flush()
	}
	return nil
}

func (c *copyWriter) textRow(row []types.Datum) {
	for i := range row {
		if i > 0 {
			c.buf = append(c.buf, c.o.delim)
		}
		if row[i].IsNull() {
			c.buf = append(c.buf, c.o.null...)
			continue
		}
		c.val = types.AppendText(c.val[:0], row[i], c.cols[i].Type, c.fs)
		c.field(c.val)
	}
	c.buf = append(c.buf, '\n')
}

func (c *copyWriter) flush() error {
	_, err := c.w.Write(c.buf)
	c.buf = c.buf[:0]
	return err
}

func (c *copyWriter) field(v []byte) {
	if c.o.csv {
		c.csvField(v)
		return
	}
	for _, ch := range v {
		switch ch {
		case '\\':
			c.buf = append(c.buf, '\\', '\\')
		case '\n':
			c.buf = append(c.buf, '\\', 'n')
		case '\r':
			c.buf = append(c.buf, '\\', 'r')
		case '\t':
			c.buf = append(c.buf, '\\', 't')
		case '\b':
			c.buf = append(c.buf, '\\', 'b')
		case '\f':
			c.buf = append(c.buf, '\\', 'f')
		case '\v':
			c.buf = append(c.buf, '\\', 'v')
		case c.o.delim:
			c.buf = append(c.buf, '\\', ch)
		default:
			c.buf = append(c.buf, ch)
		}
	}
}

func (c *copyWriter) csvField(v []byte) {
	need := c.o.forceQuote || string(v) == c.o.null || len(c.cols) == 1 && string(v) == `\.`
	for _, ch := range v {
		if ch == c.o.delim || ch == c.o.quote || ch == '\n' || ch == '\r' {
			need = true
		}
	}
	if !need {
		c.buf = append(c.buf, v...)
		return
	}
	c.buf = append(c.buf, c.o.quote)
	for _, ch := range v {
		if ch == c.o.quote || ch == c.o.escape {
			c.buf = append(c.buf, c.o.escape)
		}
		c.buf = append(c.buf, ch)
	}
	c.buf = append(c.buf, c.o.quote)
}

// copyQuery sends a query's rows.
func (c *Conn) copyQuery(cp *compiled, open func(*plan.Plan) (*exec.Rows, error), emit func([]types.Datum) error) (int64, error) {
	rows, err := open(cp.plan)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var n int64
	for {
		row, err := rows.Next()
		if err != nil || row == nil {
			return n, err
		}
		if err := emit(row); err != nil {
			return n, err
		}
		n++
	}
}
