package sql

import (
	"bytes"
	"encoding/binary"
	"io"

	"github.com/spandb/spand/sql/types"
)

// COPY's binary format: a signature, flags, a header extension; rows as a count of
// fields and each field behind its length, -1 for NULL; -1 for a count at the end.

const copySignature = "PGCOPY\n\xff\r\n\x00"

// Lengths in the header: the signature, the flags and the extension's length.
const copyHeaderBytes = len(copySignature) + 4 + 4

// copyFields yields the fields of one row after another, io.EOF at the end.
type copyFields interface {
	next() ([]copyField, error)
	at() int // the line, or binary row, that next has come to
}

// binaryCopyReader splits binary COPY data into fields.
type binaryCopyReader struct {
	copyReader
	started bool
	lens    []int // of the row's fields, -1: NULL
}

func newBinaryCopyReader(r io.Reader, n int) *binaryCopyReader {
	return &binaryCopyReader{copyReader: *newCopyReader(r, copyOptions{}, n), lens: make([]int, n)}
}

// fill makes n bytes behind pos available.
func (r *binaryCopyReader) fill(n int) error {
	for r.end-r.pos < n {
		keep := r.pos
		if err := r.more(&keep); err != nil {
			if err == io.EOF {
				return copyError("unexpected EOF in COPY data")
			}
			return err
		}
	}
	return nil
}

func (r *binaryCopyReader) header() error {
	if err := r.fill(copyHeaderBytes); err != nil || !bytes.HasPrefix(r.buf[r.pos:r.end], []byte(copySignature)) {
		if r.eof || err == nil {
			return copyError("COPY file signature not recognized")
		}
		return err
	}
	b := r.buf[r.pos+len(copySignature):]
	flags, extension := binary.BigEndian.Uint32(b), int32(binary.BigEndian.Uint32(b[4:]))
	switch {
	case flags&(1<<16) != 0:
		return copyError("invalid COPY file header (WITH OIDS)")
	case flags>>16 != 0:
		return copyError("unrecognized critical flags in COPY file header")
	case extension < 0:
		return copyError("invalid COPY file header (missing length)")
	}
	r.pos += copyHeaderBytes
	for left := int(extension); left > 0; {
		n := min(left, 32<<10)
		if err := r.fill(n); err != nil {
			return err
		}
		r.pos += n
		left -= n
	}
	return nil
}

// next returns the fields of the next row.
func (r *binaryCopyReader) next() ([]copyField, error) {
	if !r.started {
		if err := r.header(); err != nil {
			return nil, err
		}
		r.started = true
	}
	if r.end == r.pos { // an end without the trailer is one too
		keep := r.pos
		if err := r.more(&keep); err != nil {
			return nil, err
		}
	}
	if err := r.fill(2); err != nil {
		return nil, err
	}
	r.lines++
	count := int(int16(binary.BigEndian.Uint16(r.buf[r.pos:])))
	if count == -1 {
		r.pos += 2
		keep := r.pos
		if r.pos < r.end || r.more(&keep) != io.EOF {
			return nil, copyError("received copy data after EOF marker")
		}
		return nil, io.EOF
	}
	if count != len(r.lens) {
		return nil, copyError("row field count is %d, expected %d", count, len(r.lens))
	}
	// Only lengths until the whole row is here: reading on moves the buffer.
	size := 2
	for i := range r.lens {
		if err := r.fill(size + 4); err != nil {
			return nil, err
		}
		n := int(int32(binary.BigEndian.Uint32(r.buf[r.pos+size:])))
		if n < -1 || n > maxCopyLine {
			return nil, copyError("invalid field size")
		}
		r.lens[i] = n
		size += 4 + max(n, 0)
		if err := r.fill(size); err != nil {
			return nil, err
		}
	}
	r.fields = r.fields[:0]
	at := r.pos + 2
	for _, n := range r.lens {
		at += 4
		if n < 0 {
			r.fields = append(r.fields, copyField{null: true})
			continue
		}
		r.fields = append(r.fields, copyField{text: r.buf[at : at+n]})
		at += n
	}
	r.pos = at
	return r.fields, nil
}

func (c *copyWriter) binaryHeader() {
	c.buf = append(c.buf, copySignature...)
	c.buf = append(c.buf, make([]byte, copyHeaderBytes-len(copySignature))...)
}

func (c *copyWriter) binaryTrailer() { c.buf = append(c.buf, 0xff, 0xff) }

func (c *copyWriter) binaryRow(row []types.Datum) (err error) {
	c.buf = binary.BigEndian.AppendUint16(c.buf, uint16(len(row)))
	for i := range row {
		at := len(c.buf)
		c.buf = append(c.buf, 0xff, 0xff, 0xff, 0xff)
		if row[i].IsNull() {
			continue
		}
		if c.buf, err = types.AppendBinary(c.buf, row[i], c.cols[i].Type); err != nil {
			return err
		}
		binary.BigEndian.PutUint32(c.buf[at:], uint32(len(c.buf)-at-4))
	}
	return nil
}
