package sql

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"

	"github.com/spandb/spand/sql/types"
)

type closeBuffer struct{ bytes.Buffer }

func (*closeBuffer) Close() error { return nil }

// What COPY TO writes in binary, COPY FROM reads, however the data is cut; whatever
// is missing at the end or damaged is an error or an early end, never a panic.
func TestBinaryCopyRoundTrip(t *testing.T) {
	cols := []Column{{Name: "a", Type: types.Type{OID: types.OIDInt8, Mod: -1}}, {Name: "b", Type: types.Type{OID: types.OIDText, Mod: -1}}}
	rows := [][]types.Datum{
		{types.Int(1), types.Text("one")},
		{types.Int(-1), types.Null},
		{types.Null, types.Text("")},
		{types.Int(4), types.Text(string(bytes.Repeat([]byte("long "), 40_000)))},
	}
	var out closeBuffer
	w := &copyWriter{w: &out, o: copyOptions{binary: true}, cols: cols}
	w.binaryHeader()
	for _, r := range rows {
		if err := w.row(r); err != nil {
			t.Fatal(err)
		}
	}
	w.binaryTrailer()
	if err := w.flush(); err != nil {
		t.Fatal(err)
	}
	data := out.Bytes()
	read := func(in io.Reader) (n int, err error) {
		r := newBinaryCopyReader(in, len(cols))
		for {
			fields, err := r.next()
			if err != nil {
				if err == io.EOF {
					err = nil
				}
				return n, err
			}
			for i, f := range fields {
				if n >= len(rows) || f.null != rows[n][i].IsNull() {
					t.Fatalf("row %d: %v", n, f)
				}
				if f.null {
					continue
				}
				d, err := types.ParseBinary(f.text, cols[i].Type)
				if err != nil || types.String(d, cols[i].Type, nil) != types.String(rows[n][i], cols[i].Type, nil) {
					t.Fatalf("row %d column %d: %v, %v", n, i, d, err)
				}
			}
			n++
		}
	}
	for name, in := range map[string]io.Reader{"whole": bytes.NewReader(data), "by bytes": iotest.OneByteReader(bytes.NewReader(data)), "by halves": iotest.HalfReader(bytes.NewReader(data))} {
		if n, err := read(in); n != len(rows) || err != nil {
			t.Errorf("%s: %d rows, %v", name, n, err)
		}
	}
	for cut := range 80 {
		n, err := read(bytes.NewReader(data[:cut]))
		if err == nil && cut < copyHeaderBytes {
			t.Errorf("a header of %d bytes was accepted", cut)
		}
		if n > 3 {
			t.Errorf("cut at %d: %d rows", cut, n)
		}
	}
	if _, err := read(bytes.NewReader(append(bytes.Clone(data), 0))); err == nil {
		t.Error("data behind the end was accepted")
	}
	one := newBinaryCopyReader(bytes.NewReader(data), 1)
	if _, err := one.next(); err == nil {
		t.Error("a row with too many fields was accepted")
	}
	bad := bytes.Clone(data)
	bad[copyHeaderBytes+2] = 0x7f // a field of 2 GiB
	if _, err := newBinaryCopyReader(bytes.NewReader(bad), 2).next(); err == nil {
		t.Error("an absurd field size was accepted")
	}
}
