package pgwire

import (
	"encoding/binary"
	"math"

	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

const (
	flushSize = 64 << 10 // the output buffer is written once it holds as much
	keepSize  = 2 * flushSize
)

// Messages are encoded straight into c.out, a length prefix being patched once
// the body is there, and written at Sync, Flush, before the connection waits for
// its client, and at flushSize.

// flush writes the output buffer. Its error ends the connection and sticks.
func (c *conn) flush() error {
	if c.writeErr != nil {
		return c.writeErr
	}
	if len(c.out) == 0 {
		return nil
	}
	n, err := c.nc.Write(c.out)
	c.sentBytes += int64(n)
	if cap(c.out) > keepSize {
		c.out = nil
	} else {
		c.out = c.out[:0]
	}
	if err != nil {
		c.writeErr = &closeError{cause: err}
		if e := c.mon.fatal(); e != nil && e != errClientGone {
			c.log.Info("SQL connection cut while its client did not read", "client", c.nc.RemoteAddr().String(), "why", e.Message)
		}
	}
	return c.writeErr
}

func (c *conn) flushIfFull() error {
	if len(c.out) < flushSize {
		return nil
	}
	if c.sess == nil || c.sess.Status() == sql.TxnIdle {
		return c.flush()
	}
	// A client that stops reading in mid-result is idle in its transaction too.
	c.mon.writing(c.idleTimeout())
	defer c.mon.writing(0)
	return c.flush()
}

// message begins a message and returns where its length is to be patched in.
func (c *conn) message(typ byte) int {
	c.out = append(c.out, typ, 0, 0, 0, 0)
	return len(c.out) - 4
}

// patch ends the message whose length field is at start.
func (c *conn) patch(start int) {
	binary.BigEndian.PutUint32(c.out[start:], uint32(len(c.out)-start))
}

// bare appends a message without a body.
func (c *conn) bare(typ byte) { c.out = append(c.out, typ, 0, 0, 0, 4) }

func (c *conn) readyForQuery() {
	c.out = append(c.out, msgReadyForQuery, 0, 0, 0, 5, byte(c.sess.Status()))
}

func (c *conn) parameterStatus(name, value string) {
	at := c.message(msgParameterStatus)
	c.out = append(append(c.out, clean(name)...), 0)
	c.out = append(append(c.out, clean(value)...), 0)
	c.patch(at)
}

// rowDescription appends columns, of which column i is sent in format(i).
func (c *conn) rowDescription(cols []sql.Column, p *portal) {
	at := c.message(msgRowDescription)
	c.out = binary.BigEndian.AppendUint16(c.out, uint16(len(cols)))
	for i := range cols {
		col := &cols[i]
		c.out = append(append(c.out, clean(col.Name)...), 0)
		c.out = binary.BigEndian.AppendUint32(c.out, uint32(col.TableOID))
		c.out = binary.BigEndian.AppendUint16(c.out, uint16(col.AttNum))
		c.out = binary.BigEndian.AppendUint32(c.out, uint32(col.Type.OID))
		c.out = binary.BigEndian.AppendUint16(c.out, uint16(types.Size(col.Type.OID)))
		c.out = binary.BigEndian.AppendUint32(c.out, uint32(col.Type.Mod))
		c.out = binary.BigEndian.AppendUint16(c.out, uint16(p.format(i)))
	}
	c.patch(at)
}

func (c *conn) parameterDescription(oids []types.OID) {
	at := c.message(msgParameterDescription)
	c.out = binary.BigEndian.AppendUint16(c.out, uint16(len(oids)))
	for _, oid := range oids {
		c.out = binary.BigEndian.AppendUint32(c.out, uint32(oid))
	}
	c.patch(at)
}

// copyResponse appends CopyInResponse or CopyOutResponse.
func (c *conn) copyResponse(typ byte, binaryFormat bool, columns int) {
	f := byte(formatText)
	if binaryFormat {
		f = byte(formatBinary)
	}
	at := c.message(typ)
	c.out = append(c.out, f)
	c.out = binary.BigEndian.AppendUint16(c.out, uint16(columns))
	for range columns {
		c.out = append(c.out, 0, f)
	}
	c.patch(at)
}

// dataRow appends one row. On an error nothing has been appended.
func (c *conn) dataRow(row []types.Datum, cols []encoding, fs *types.FormatSettings) error {
	at := c.message(msgDataRow)
	out := binary.BigEndian.AppendUint16(c.out, uint16(len(row)))
	for i := range row {
		d := &row[i]
		if d.IsNull() {
			out = append(out, 0xff, 0xff, 0xff, 0xff)
			continue
		}
		out = append(out, 0, 0, 0, 0)
		start := len(out)
		if e := &cols[i]; e.format == formatText {
			out = appendText(out, *d, e.typ, fs)
		} else {
			b, err := appendBinary(out, *d, e.typ)
			if err != nil {
				c.out = c.out[:at-1]
				return err
			}
			out = b
		}
		binary.BigEndian.PutUint32(out[start-4:], uint32(len(out)-start))
	}
	c.out = out
	if len(out)-at > math.MaxInt32 {
		c.out = out[:at-1]
		return sqlstate.Newf(sqlstate.ProgramLimitExceeded, "row is too long to be sent: %d bytes", len(out)-at)
	}
	c.patch(at)
	return nil
}
