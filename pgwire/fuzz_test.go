package pgwire

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/spandb/spand/pgwire/wiretest"
)

// serveBytes runs one connection over input and returns what the server wrote.
// Whatever the input: the connection ends, its session is closed, nothing panics (F1).
func serveBytes(t *testing.T, input []byte) []byte {
	fake := &wiretest.Server{NoPanic: true}
	s, err := New(Config{SQL: fake, MaxMessageBytes: 1 << 16, HandshakeTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	conn := &bytesConn{in: bytes.NewReader(input)}
	c := newConn(s, conn)
	if e := s.add(c); e != nil {
		t.Fatal(e)
	}
	c.serve()
	s.remove(c)
	if n, txns := fake.Open(); n != 0 || txns != 0 {
		t.Fatalf("%d sessions and %d transactions left open", n, txns)
	}
	if len(s.byPID) != 0 || len(s.conns) != 0 {
		t.Fatal("connection left in the tables")
	}
	if counted(t, s.metrics.panics) != 0 {
		t.Fatal("panic")
	}
	return conn.out.Bytes()
}

// bytesConn is a client that sends its bytes, half-closes, and reads all.
type bytesConn struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func (c *bytesConn) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *bytesConn) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *bytesConn) Close() error                     { return nil }
func (c *bytesConn) LocalAddr() net.Addr              { return pipeAddr{} }
func (c *bytesConn) RemoteAddr() net.Addr             { return pipeAddr{} }
func (c *bytesConn) SetDeadline(time.Time) error      { return nil }
func (c *bytesConn) SetReadDeadline(time.Time) error  { return nil }
func (c *bytesConn) SetWriteDeadline(time.Time) error { return nil }

func encode(t testing.TB, ms ...pgproto3.FrontendMessage) []byte {
	var b []byte
	for _, m := range ms {
		var err error
		if b, err = m.Encode(b); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

var startupBytes = []byte("\x00\x00\x00\x13\x00\x03\x00\x00user\x00root\x00\x00")

func FuzzStartup(f *testing.F) {
	f.Add(startupBytes)
	f.Add(encode(f, &pgproto3.SSLRequest{}, &pgproto3.GSSEncRequest{}))
	f.Add(encode(f, &pgproto3.CancelRequest{ProcessID: 1, SecretKey: []byte{1, 2, 3, 4}}))
	f.Add([]byte("\x00\x00\x00\x26\x00\x03\x00\x00user\x00root\x00options\x00-c a=b\\ c\x00\x00"))
	f.Add([]byte("GET / HTTP/1.0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, input []byte) {
		out := serveBytes(t, input)
		// Every byte that went out is part of a message, after N for each refusal.
		checkMessages(t, bytes.TrimLeft(out, "N"))
	})
}

func FuzzMessages(f *testing.F) {
	f.Add(encode(f, &pgproto3.Query{String: "begin; row int4=1; rows 3"}, &pgproto3.Terminate{}))
	f.Add(encode(f, &pgproto3.Parse{Name: "s", Query: "echo int4 text bytea float8 numeric bool timestamptz"}, &pgproto3.Describe{ObjectType: 'S', Name: "s"},
		&pgproto3.Bind{DestinationPortal: "p", PreparedStatement: "s", Parameters: [][]byte{[]byte("1"), nil, []byte("\\x00"), []byte("1.5"), []byte("1e5"), []byte("t"), []byte("2020-01-01")},
			ResultFormatCodes: []int16{1}},
		&pgproto3.Describe{ObjectType: 'P', Name: "p"}, &pgproto3.Execute{Portal: "p", MaxRows: 1}, &pgproto3.Close{ObjectType: 'P', Name: "p"},
		&pgproto3.Flush{}, &pgproto3.Sync{}))
	f.Add(encode(f, &pgproto3.Query{String: "copyin"}, &pgproto3.CopyData{Data: []byte("1\n")}, &pgproto3.CopyDone{}, &pgproto3.Query{String: "copyout 3"}))
	f.Add(encode(f, &pgproto3.Query{String: "copyin fail 2"}, &pgproto3.CopyData{Data: []byte("12345\n")}, &pgproto3.CopyFail{Message: "x"}, &pgproto3.Query{String: "error 23505 x"}))
	f.Add(encode(f, &pgproto3.FunctionCall{Function: 1}, &pgproto3.Query{String: "notice x;set a=b;ins 3;deallocate s"}))
	f.Fuzz(func(t *testing.T, input []byte) {
		if bytes.Contains(input, []byte("wait")) || bytes.Contains(input, []byte("rows")) && len(input) > 1<<10 {
			return // would take long by design
		}
		out := serveBytes(t, append(bytes.Clone(startupBytes), input...))
		checkMessages(t, out)
	})
}

// checkMessages demands that out consists of whole messages that a client can
// decode.
func checkMessages(t *testing.T, out []byte) {
	fe := pgproto3.NewFrontend(bytes.NewReader(out), io.Discard)
	for {
		if _, err := fe.Receive(); err != nil {
			if err == io.ErrUnexpectedEOF || err == io.EOF {
				if n := trailing(out); n != 0 {
					t.Fatalf("%d bytes of a broken message at the end", n)
				}
				return
			}
			t.Fatalf("client cannot read the answer: %v", err)
		}
	}
}

func trailing(out []byte) int {
	for len(out) >= 5 {
		n := int(out[1])<<24 | int(out[2])<<16 | int(out[3])<<8 | int(out[4])
		if n+1 > len(out) {
			break
		}
		out = out[n+1:]
	}
	return len(out)
}

func FuzzOptions(f *testing.F) {
	f.Add(`-c a=b --c-d=e\ f -cg=h`)
	f.Fuzz(func(t *testing.T, s string) {
		m := map[string]string{}
		if err := parseOptions(s, m); err == nil {
			for k := range m {
				if k == "" {
					t.Fatal("a setting without a name")
				}
			}
		}
	})
}
