package pgwire

import (
	"errors"

	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// statement is what Bind needs to know of a prepared statement: its name as a
// string, so that a Bind makes none, and its parameters' types, which are fixed
// once it is prepared. Which statements exist is the session's business; an
// entry here goes away whenever its name may come to mean something else.
type statement struct {
	name   string
	params []types.OID
}

// portal keeps the result formats that Bind asked for and the encodings they
// mean once the columns are known.
type portal struct {
	name    string
	formats []int16 // empty: all text; one: for all; else by column
	cols    []encoding
}

func (p *portal) reset() {
	p.formats = p.formats[:0]
	p.cols = p.cols[:0]
}

func (p *portal) format(column int) int16 {
	switch len(p.formats) {
	case 0:
		return formatText
	case 1:
		return p.formats[0]
	}
	return p.formats[column]
}

// check refuses formats that do not fit the number of columns.
func (p *portal) check(columns int) error {
	if len(p.formats) > 1 && len(p.formats) != columns {
		return protocolf("bind message has %d result formats but query has %d columns", len(p.formats), columns)
	}
	return nil
}

// portal returns what is known of a portal; one that Bind did not make (a
// cursor) sends text.
func (c *conn) portal(name []byte) *portal {
	if len(name) == 0 {
		return &c.unnamed
	}
	if p := c.portals[string(name)]; p != nil {
		return p
	}
	return &portal{name: string(name)}
}

// maxKnownStatements bounds the cache of statements, not the statements.
const maxKnownStatements = 4096

// statement returns a prepared statement, asking the session for it once.
func (c *conn) statement(name []byte) (*statement, error) {
	if st := c.statements[string(name)]; st != nil {
		return st, nil
	}
	st := &statement{name: string(name)}
	params, _, err := c.sess.DescribeStatement(c.mon.context(), st.name)
	if err != nil {
		return nil, c.after(err)
	}
	st.params = params
	if len(c.statements) >= maxKnownStatements {
		clear(c.statements)
	}
	c.statements[st.name] = st
	return st, nil
}

func malformed() error { return protocolf("invalid message format") }

func (c *conn) handleParse(b []byte) error {
	d := body{b: b}
	name, query := d.bytesZ(), d.bytesZ()
	n := d.int16()
	raw := d.next(4 * n)
	if !d.done() {
		return c.reject(malformed())
	}
	if err := checkText(name); err != nil {
		return c.reject(err)
	}
	if err := checkText(query); err != nil {
		return c.reject(err)
	}
	var oids []types.OID
	if n > 0 {
		oids = make([]types.OID, n)
		d := body{b: raw}
		for i := range oids {
			oids[i] = types.OID(uint32(d.int32()))
		}
	}
	delete(c.statements, string(name))
	if err := c.after(c.sess.Prepare(c.mon.context(), string(name), string(query), oids)); err != nil {
		return err
	}
	c.bare(msgParseComplete)
	return nil
}

func (c *conn) handleBind(b []byte) error {
	d := body{b: b}
	portalName, statementName := d.bytesZ(), d.bytesZ()
	nformats := d.int16()
	formats := body{b: d.next(2 * nformats)}
	nparams := d.int16()
	if d.bad {
		return c.reject(malformed())
	}
	st, err := c.statement(statementName)
	if err != nil {
		return err
	}
	if nformats > 1 && nformats != nparams {
		return c.reject(protocolf("bind message has %d parameter formats but %d parameters", nformats, nparams))
	}
	if nparams != len(st.params) {
		return c.reject(protocolf(`bind message supplies %d parameters, but prepared statement "%s" requires %d`,
			nparams, st.name, len(st.params)))
	}
	format := formatText
	if nformats == 1 {
		format = int16(formats.int16())
	}
	fs := c.sess.FormatSettings()
	params := c.datums(nparams)
	for i := range params {
		if nformats > 1 {
			format = int16(formats.int16())
		}
		if format != formatText && format != formatBinary {
			return c.reject(unsupportedFormat(format))
		}
		n := d.int32()
		if n == -1 {
			params[i] = types.Null
			continue
		}
		v := d.next(int(n))
		if d.bad {
			return c.reject(malformed())
		}
		if params[i], err = parseParameter(v, st.params[i], format, fs); err != nil {
			return c.reject(parameterError(err, i))
		}
	}
	nresults := d.int16()
	results := body{b: d.next(2 * nresults)}
	if !d.done() {
		return c.reject(malformed())
	}

	p := &c.unnamed
	if len(portalName) > 0 {
		if err := checkText(portalName); err != nil {
			return c.reject(err)
		}
		p = &portal{name: string(portalName)}
	}
	p.reset()
	for range nresults {
		f := int16(results.int16())
		if f != formatText && f != formatBinary {
			p.reset()
			return c.reject(unsupportedFormat(f))
		}
		p.formats = append(p.formats, f)
	}
	if err := c.after(c.sess.Bind(c.mon.context(), p.name, st.name, params)); err != nil {
		return err
	}
	if p != &c.unnamed {
		c.portals[p.name] = p
	}
	c.bare(msgBindComplete)
	return nil
}

func unsupportedFormat(f int16) error {
	return sqlstate.Newf(sqlstate.InvalidParameterValue, "unsupported format code: %d", f)
}

// parameterError says which parameter an error is about, where PostgreSQL has a
// context line.
func parameterError(err error, i int) error {
	var e *sqlstate.Error
	if errors.As(err, &e) && e.Detail == "" {
		return e.WithDetail("Parameter $%d of the bind message.", i+1)
	}
	return err
}

// datums returns a fresh slice of n datums, cut from a chunk. It is not reused:
// a statement may be run again after a conflict, long after its Bind.
func (c *conn) datums(n int) []types.Datum {
	const chunk = 64
	if n == 0 {
		return nil
	}
	if n > chunk/4 {
		return make([]types.Datum, n)
	}
	if len(c.arena) < n {
		c.arena = make([]types.Datum, chunk)
	}
	s := c.arena[:n:n]
	c.arena = c.arena[n:]
	return s
}

func (c *conn) handleDescribe(b []byte) error {
	d := body{b: b}
	kind, name := d.byte(), d.bytesZ()
	if !d.done() {
		return c.reject(malformed())
	}
	var cols []sql.Column
	var err error
	p := &c.res.plain
	switch kind {
	case 'S':
		var params []types.OID
		if params, cols, err = c.sess.DescribeStatement(c.mon.context(), string(name)); err != nil {
			return c.after(err)
		}
		c.parameterDescription(params)
	case 'P':
		p = c.portal(name)
		if cols, err = c.sess.DescribePortal(c.mon.context(), p.name); err != nil {
			return c.after(err)
		}
		if err := p.check(len(cols)); err != nil && cols != nil {
			return c.reject(err)
		}
	default:
		return c.reject(protocolf("invalid DESCRIBE message subtype %d", kind))
	}
	if cols == nil {
		c.bare(msgNoData)
	} else {
		c.rowDescription(cols, p)
	}
	return c.flushIfFull()
}

func (c *conn) handleExecute(b []byte) error {
	c.execs++
	c.batch = true
	d := body{b: b}
	name := d.bytesZ()
	limit := d.int32()
	if !d.done() {
		return c.reject(malformed())
	}
	p := c.portal(name)
	c.res.extended(p, c.sess.FormatSettings())
	o := sql.ExecuteOptions{MaxRows: int(max(limit, 0)), SyncFollows: c.rd.syncNext()}
	suspended, err := c.sess.Execute(c.mon.context(), p.name, o, &c.res)
	if err = c.after(err); err != nil {
		return err
	}
	if suspended {
		c.bare(msgPortalSuspended)
	}
	c.mon.restart(c.statementTimeout())
	return c.writeErr
}

func (c *conn) handleClose(b []byte) error {
	d := body{b: b}
	kind, name := d.byte(), d.bytesZ()
	if !d.done() {
		return c.reject(malformed())
	}
	switch kind {
	case 'S':
		delete(c.statements, string(name))
		c.sess.CloseStatement(string(name))
	case 'P':
		if len(name) == 0 {
			c.unnamed.reset()
		} else {
			delete(c.portals, string(name))
		}
		c.sess.ClosePortal(string(name))
	default:
		return c.reject(protocolf("invalid CLOSE message subtype %d", kind))
	}
	c.bare(msgCloseComplete)
	return nil
}

func (c *conn) handleSync(b []byte) error {
	var err error
	if len(b) != 0 {
		err = c.sendError(c.reject(malformed()))
	}
	if err == nil {
		err = c.sendError(c.after(c.sess.Sync(c.mon.context())))
	}
	if err != nil {
		return err
	}
	return c.finish()
}
