package pgwire

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/spandb/spand/pgwire/wiretest"
	"github.com/spandb/spand/sql/sqlstate"
)

// pipeListener hands out the server's ends of net.Pipes.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial() net.Conn {
	a, b := net.Pipe()
	l.conns <- b
	return a
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// testServer serves a wiretest.Server on loopback for the test's duration, and
// checks at its end that nothing was left behind (F1).
type testServer struct {
	*Server
	fake *wiretest.Server
	addr string
}

func startServer(t testing.TB, cfg Config) *testServer {
	t.Helper()
	fake, ok := cfg.SQL.(*wiretest.Server)
	if !ok {
		fake = &wiretest.Server{Databases: []string{"spand"}}
		cfg.SQL = fake
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if n, txns := fake.Open(); n != 0 || txns != 0 {
			t.Errorf("%d sessions and %d transactions left open", n, txns)
		}
	})
	return &testServer{Server: s, fake: fake, addr: ln.Addr().String()}
}

// wireClient speaks raw messages.
type wireClient struct {
	t    testing.TB
	conn net.Conn
	fe   *pgproto3.Frontend
	key  pgproto3.BackendKeyData
}

func (s *testServer) dial(t testing.TB) *wireClient {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return newWireClient(t, conn)
}

func newWireClient(t testing.TB, conn net.Conn) *wireClient {
	return &wireClient{t: t, conn: conn, fe: pgproto3.NewFrontend(conn, conn)}
}

func (c *wireClient) startup(params map[string]string) {
	c.t.Helper()
	if params == nil {
		params = map[string]string{"user": "root", "database": "spand"}
	}
	c.send(&pgproto3.StartupMessage{ProtocolVersion: protocol30, Parameters: params})
	for {
		m := c.receive()
		if k, ok := m.(*pgproto3.BackendKeyData); ok {
			c.key = pgproto3.BackendKeyData{ProcessID: k.ProcessID, SecretKey: bytes.Clone(k.SecretKey)}
		}
		if _, ok := m.(*pgproto3.ReadyForQuery); ok {
			return
		}
	}
}

func (c *wireClient) send(ms ...pgproto3.FrontendMessage) {
	c.t.Helper()
	for _, m := range ms {
		c.fe.Send(m)
	}
	if err := c.fe.Flush(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *wireClient) query(q string) { c.t.Helper(); c.send(&pgproto3.Query{String: q}) }

func (c *wireClient) receive() pgproto3.BackendMessage {
	c.t.Helper()
	m, err := c.fe.Receive()
	if err != nil {
		c.t.Fatalf("receive: %v", err)
	}
	return m
}

// until receives up to ReadyForQuery and returns the first error's code.
func (c *wireClient) until() (code string, status byte) {
	c.t.Helper()
	for {
		switch m := c.receive().(type) {
		case *pgproto3.ErrorResponse:
			if code == "" {
				code = m.Code
			}
			if m.Severity == sevFatal {
				return code, 0
			}
		case *pgproto3.ReadyForQuery:
			return code, m.TxStatus
		}
	}
}

func (c *wireClient) expectClosed() {
	c.t.Helper()
	if m, err := c.fe.Receive(); err == nil {
		c.t.Fatalf("got %s, want the connection closed", render(m))
	}
}

// render prints a message on one line, without fields that are empty.
func render(m any) string {
	name := strings.TrimPrefix(fmt.Sprintf("%T", m), "*pgproto3.")
	switch m := m.(type) {
	case *pgproto3.BackendKeyData:
		return fmt.Sprintf("%s secret=%d bytes", name, len(m.SecretKey))
	case *pgproto3.ErrorResponse:
		return name + fields(m)
	case *pgproto3.NoticeResponse:
		return name + fields((*pgproto3.ErrorResponse)(m))
	case *pgproto3.DataRow:
		var b strings.Builder
		b.WriteString(name)
		for _, v := range m.Values {
			switch {
			case v == nil:
				b.WriteString(" NULL")
			case bytes.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' }):
				fmt.Fprintf(&b, " \\x%x", v)
			default:
				fmt.Fprintf(&b, " %q", v)
			}
		}
		return b.String()
	case *pgproto3.RowDescription:
		var b strings.Builder
		b.WriteString(name)
		for _, f := range m.Fields {
			fmt.Fprintf(&b, " %s(oid=%d len=%d mod=%d fmt=%d)", f.Name, f.DataTypeOID, f.DataTypeSize, f.TypeModifier, f.Format)
		}
		return b.String()
	case *pgproto3.CommandComplete:
		return fmt.Sprintf("%s %q", name, m.CommandTag)
	case *pgproto3.ReadyForQuery:
		return fmt.Sprintf("%s %c", name, m.TxStatus)
	case *pgproto3.ParameterStatus:
		return fmt.Sprintf("%s %s=%s", name, m.Name, m.Value)
	case *pgproto3.ParameterDescription:
		return fmt.Sprintf("%s %v", name, m.ParameterOIDs)
	case *pgproto3.CopyData:
		return fmt.Sprintf("%s %q", name, m.Data)
	case *pgproto3.CopyInResponse:
		return fmt.Sprintf("%s format=%d columns=%d", name, m.OverallFormat, len(m.ColumnFormatCodes))
	case *pgproto3.CopyOutResponse:
		return fmt.Sprintf("%s format=%d columns=%d", name, m.OverallFormat, len(m.ColumnFormatCodes))
	case *pgproto3.NegotiateProtocolVersion:
		return fmt.Sprintf("%s %d %v", name, m.NewestMinorProtocol, m.UnrecognizedOptions)
	}
	return name
}

func fields(e *pgproto3.ErrorResponse) string {
	var b strings.Builder
	for _, f := range []struct{ k, v string }{
		{"S", e.Severity}, {"V", e.SeverityUnlocalized}, {"C", e.Code}, {"M", e.Message}, {"D", e.Detail}, {"H", e.Hint},
		{"s", e.SchemaName}, {"t", e.TableName}, {"c", e.ColumnName}, {"d", e.DataTypeName}, {"n", e.ConstraintName},
	} {
		if f.v != "" {
			fmt.Fprintf(&b, " %s=%q", f.k, f.v)
		}
	}
	if e.Position != 0 {
		fmt.Fprintf(&b, " P=%d", e.Position)
	}
	return b.String()
}

// parseMessage reads "Type {json}".
func parseMessage(line string) (pgproto3.FrontendMessage, error) {
	name, js, _ := strings.Cut(line, " ")
	m, ok := map[string]pgproto3.FrontendMessage{
		"Bind": &pgproto3.Bind{}, "Close": &pgproto3.Close{}, "CopyData": &pgproto3.CopyData{}, "CopyDone": &pgproto3.CopyDone{},
		"CopyFail": &pgproto3.CopyFail{}, "Describe": &pgproto3.Describe{}, "Execute": &pgproto3.Execute{}, "Flush": &pgproto3.Flush{},
		"FunctionCall": &pgproto3.FunctionCall{}, "Parse": &pgproto3.Parse{}, "PasswordMessage": &pgproto3.PasswordMessage{},
		"Query": &pgproto3.Query{}, "StartupMessage": &pgproto3.StartupMessage{}, "Sync": &pgproto3.Sync{}, "Terminate": &pgproto3.Terminate{},
		"SSLRequest": &pgproto3.SSLRequest{}, "GSSEncRequest": &pgproto3.GSSEncRequest{}, "CancelRequest": &pgproto3.CancelRequest{},
	}[name]
	if !ok {
		return nil, fmt.Errorf("unknown message %q", name)
	}
	switch m := m.(type) {
	case *pgproto3.CopyData: // its JSON is hex
		m.Data = []byte(strings.NewReplacer(`\n`, "\n", `\t`, "\t").Replace(js))
		return m, nil
	}
	if js != "" {
		if err := json.Unmarshal([]byte(js), m); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// TestWire runs the scripts in testdata/wire: client messages, and what the
// server answers. Commands:
//
//	connect            opens a connection; with "start", shakes hands too
//	send               messages, one a line, written in one piece
//	raw                bytes in hex and "quoted strings"
//	until TYPE …       prints what comes, up to a message of each type in turn
//	closed             expects the end of the connection
//	byte               prints one byte: the answer to an encryption request
func TestWire(t *testing.T) {
	datadriven.Walk(t, "testdata/wire", func(t *testing.T, path string) {
		srv := startServer(t, Config{MaxMessageBytes: 1 << 20})
		var c *wireClient
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if c != nil {
				c.t = t
				c.conn.SetDeadline(time.Now().Add(20 * time.Second)) // a missing answer fails the test
			}
			switch d.Cmd {
			case "connect":
				if c != nil {
					c.conn.Close()
				}
				c = srv.dial(t)
				c.conn.SetDeadline(time.Now().Add(20 * time.Second))
				if d.HasArg("start") {
					c.startup(nil)
				}
				return ""
			case "send":
				var b []byte
				for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
					m, err := parseMessage(line)
					if err != nil {
						t.Fatalf("%s: %v", d.Pos, err)
					}
					if b, err = m.Encode(b); err != nil {
						t.Fatalf("%s: %v", d.Pos, err)
					}
				}
				if _, err := c.conn.Write(b); err != nil {
					t.Fatalf("%s: %v", d.Pos, err)
				}
				return ""
			case "raw":
				b, err := rawBytes(d.Input)
				if err != nil {
					t.Fatalf("%s: %v", d.Pos, err)
				}
				if _, err := c.conn.Write(b); err != nil {
					t.Fatalf("%s: %v", d.Pos, err)
				}
				if d.HasArg("eof") {
					c.conn.(*net.TCPConn).CloseWrite()
				}
				return ""
			case "until":
				var out strings.Builder
				for _, want := range d.CmdArgs {
					for {
						m, err := c.fe.Receive()
						if err != nil {
							t.Fatalf("%s: waiting for %s: %v\nso far:\n%s", d.Pos, want.Key, err, out.String())
						}
						s := render(m)
						out.WriteString(s + "\n")
						if name, _, _ := strings.Cut(s, " "); name == want.Key {
							break
						}
					}
				}
				return out.String()
			case "byte":
				var b [1]byte
				if _, err := io.ReadFull(c.conn, b[:]); err != nil {
					t.Fatalf("%s: %v", d.Pos, err)
				}
				return string(b[:]) + "\n"
			case "closed":
				m, err := c.fe.Receive()
				if err == nil {
					return render(m) + "\n"
				}
				var ne net.Error
				if errors.As(err, &ne) && ne.Timeout() {
					return "still open\n"
				}
				return "closed\n"
			}
			t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
			return ""
		})
	})
}

func rawBytes(s string) ([]byte, error) {
	var b []byte
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		if s[0] == '"' {
			i := strings.IndexByte(s[1:], '"')
			if i < 0 {
				return nil, errors.New("unclosed string")
			}
			b = append(b, s[1:1+i]...)
			s = s[i+2:]
			continue
		}
		i := strings.IndexAny(s, " \n\"")
		if i < 0 {
			i = len(s)
		}
		p, err := hex.DecodeString(s[:i])
		if err != nil {
			return nil, err
		}
		b = append(b, p...)
		s = s[i:]
	}
	return b, nil
}

// An oversized message is refused by its length, before its body is there.
func TestMessageTooLong(t *testing.T) {
	srv := startServer(t, Config{MaxMessageBytes: 1000})
	c := srv.dial(t)
	c.startup(nil)
	c.query("begin")
	c.until()
	if _, err := c.conn.Write([]byte{'Q', 0x40, 0, 0, 0, 's', 'e'}); err != nil {
		t.Fatal(err)
	}
	if code, _ := c.until(); code != string(sqlstate.ProgramLimitExceeded) {
		t.Errorf("code %s", code)
	}
	c.expectClosed()
}

// A message much larger than the buffers arrives whole, and the next one too.
func TestLargeMessages(t *testing.T) {
	srv := startServer(t, Config{})
	c := srv.dial(t)
	c.startup(nil)
	big := strings.Repeat("x", 5<<20)
	for range 2 {
		c.send(&pgproto3.Parse{Query: "echo text"}, &pgproto3.Bind{Parameters: [][]byte{[]byte(big)}},
			&pgproto3.Execute{}, &pgproto3.Sync{})
		got := 0
		for done := false; !done; {
			switch m := c.receive().(type) {
			case *pgproto3.DataRow:
				got = len(m.Values[0])
			case *pgproto3.ErrorResponse:
				t.Fatal(m.Message)
			case *pgproto3.ReadyForQuery:
				done = true
			}
		}
		if got != len(big) {
			t.Fatalf("got %d of %d bytes", got, len(big))
		}
		c.query("row int4=1")
		if code, _ := c.until(); code != "" {
			t.Fatal(code)
		}
	}
}

// A panic in a session ends that connection with XX000, rolls back, and leaves
// the others alone (F1).
func TestPanicIsContained(t *testing.T) {
	srv := startServer(t, Config{})
	other := srv.dial(t)
	other.startup(nil)
	c := srv.dial(t)
	c.startup(nil)
	c.query("begin")
	c.until()
	c.query("panic")
	if code, status := c.until(); code != string(sqlstate.InternalError) || status != 0 {
		t.Errorf("code %s, status %c", code, status)
	}
	c.expectClosed()
	other.query("row int4=1")
	if code, _ := other.until(); code != "" {
		t.Error(code)
	}
	if n := counted(t, srv.metrics.panics); n != 1 {
		t.Errorf("%v panics counted", n)
	}
}

func TestTooManyConnections(t *testing.T) {
	srv := startServer(t, Config{MaxConnections: 1})
	c := srv.dial(t)
	c.startup(nil)
	d := srv.dial(t)
	d.send(&pgproto3.StartupMessage{ProtocolVersion: protocol30, Parameters: map[string]string{"user": "root", "database": "spand"}})
	if code, _ := d.until(); code != string(sqlstate.TooManyConnections) {
		t.Errorf("code %s", code)
	}
	d.expectClosed()
	c.query("row int4=1")
	if code, _ := c.until(); code != "" {
		t.Error(code)
	}
}

func TestRemoteNeedsTrust(t *testing.T) {
	for _, a := range []struct {
		addr  net.Addr
		local bool
	}{
		{&net.TCPAddr{IP: net.IPv4(127, 3, 2, 1)}, true},
		{&net.TCPAddr{IP: net.IPv6loopback}, true},
		{&net.UnixAddr{Net: "unix", Name: "/s"}, true},
		{pipeAddr{}, true},
		{&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}, false},
		{&net.TCPAddr{IP: net.ParseIP("fe80::1")}, false},
		{&net.TCPAddr{}, false},
		{nil, false},
	} {
		if got := isLocal(a.addr); got != a.local {
			t.Errorf("isLocal(%v) = %v", a.addr, got)
		}
	}
	for _, trust := range []bool{false, true} {
		s, err := New(Config{SQL: &wiretest.Server{}, TrustRemote: trust})
		if err != nil {
			t.Fatal(err)
		}
		a, b := net.Pipe()
		c := newConn(s, remoteConn{b})
		done := make(chan struct{})
		go func() { c.serve(); close(done) }()
		cl := newWireClient(t, a)
		cl.send(&pgproto3.StartupMessage{ProtocolVersion: protocol30, Parameters: map[string]string{"user": "root"}})
		var code, hint string
		for done := false; !done; {
			switch m := cl.receive().(type) {
			case *pgproto3.ErrorResponse:
				code, hint, done = m.Code, m.Hint, true
			case *pgproto3.ReadyForQuery:
				done = true
			}
		}
		a.Close()
		<-done
		if trust && code != "" {
			t.Errorf("trusted remote client got %s", code)
		}
		if !trust && (code != string(sqlstate.InvalidAuthorization) || !strings.Contains(hint, "--insecure")) {
			t.Errorf("remote client got %q, hint %q", code, hint)
		}
	}
}

type remoteConn struct{ net.Conn }

func (remoteConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 5} }

func TestMetrics(t *testing.T) {
	srv := startServer(t, Config{})
	c := srv.dial(t)
	c.startup(nil)
	c.query("row int4=1")
	c.until()
	c.query("error 23505 duplicate")
	c.until()
	c.send(&pgproto3.Parse{Query: "row int4=1"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
	c.until()
	c.send(&pgproto3.Terminate{})
	c.expectClosed()
	m := srv.metrics
	for name, got := range map[string]float64{
		"simple statements":   counted(t, m.simple) - 2,
		"extended statements": counted(t, m.extended) - 1,
		"messages":            counted(t, m.messages) - 7,
		"class 23 errors":     counted(t, m.errors.WithLabelValues("23")) - 1,
		"accepted":            counted(t, m.accepted) - 1,
	} {
		if got != 0 {
			t.Errorf("%s: off by %v", name, got)
		}
	}
	if counted(t, m.sent) == 0 || counted(t, m.received) == 0 {
		t.Error("no bytes counted")
	}
}

// counted reads a counter.
func counted(t *testing.T, c prometheus.Metric) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}
