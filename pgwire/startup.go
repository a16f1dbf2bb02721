package pgwire

import (
	"encoding/binary"
	"errors"
	"net"
	"sort"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/sqlstate"
)

const (
	maxStartupBytes = 10000 // MAX_STARTUP_PACKET_LENGTH

	codeSSL    = 80877103
	codeGSSENC = 80877104
	codeCancel = 80877102

	protocol30 = pgproto3.ProtocolVersion30
	protocol32 = pgproto3.ProtocolVersion32

	// A secret has four bytes until protocol 3.2 made room for more.
	secretBytes30 = 4
	secretBytes32 = 32
)

func tooManyConnections() *sqlstate.Error {
	return sqlstate.Newf(sqlstate.TooManyConnections, "sorry, too many clients already")
}

// startup is a client's StartupMessage.
type startup struct {
	version uint32
	options sql.SessionOptions
	unknown []string // protocol extensions (_pq_.…) that we do not have
}

// handshake takes the connection from accept to its session. On a nil error
// ReadyForQuery is in the output buffer. A *closeError without fatal: the
// connection was for something else, like a cancel request, or ended.
func (c *conn) handshake() error {
	c.mon.handshake(c.srv.cfg.HandshakeTimeout)
	st, err := c.readStartup()
	if err != nil {
		return err
	}
	if !c.srv.cfg.TrustRemote && !isLocal(c.nc.RemoteAddr()) {
		return fatal(sqlstate.Newf(sqlstate.InvalidAuthorization,
			"connections from %s are not accepted without authentication", c.nc.RemoteAddr()).
			WithHint("Only connections from this host are trusted; start spand with --insecure to allow unauthenticated SQL from elsewhere."))
	}
	n := secretBytes30
	if st.version >= protocol32 {
		n = secretBytes32
	}
	if !c.srv.admit(c, n) {
		return fatal(tooManyConnections())
	}
	if st.version != c.asked || len(st.unknown) > 0 {
		c.out = append(c.out, 'v', 0, 0, 0, 0)
		start := len(c.out) - 4
		c.out = binary.BigEndian.AppendUint32(c.out, st.version)
		c.out = binary.BigEndian.AppendUint32(c.out, uint32(len(st.unknown)))
		for _, name := range st.unknown {
			c.out = append(append(c.out, name...), 0)
		}
		c.patch(start)
	}
	c.out = append(c.out, 'R', 0, 0, 0, 8, 0, 0, 0, 0) // AuthenticationOk

	st.options.BackendPID = c.pid
	st.options.RemoteAddr = c.nc.RemoteAddr().String()
	c.mon.begin(c.srv.cfg.HandshakeTimeout)
	sess, err := c.srv.cfg.SQL.NewSession(c.mon.context(), st.options)
	if err != nil {
		if e := c.mon.fatal(); e != nil {
			return fatal(e)
		}
		return fatal(sqlError(err))
	}
	c.sess = sess
	c.reportParameters(st.options.User)
	c.out = append(c.out, 'K', 0, 0, 0, byte(8+len(c.secret)))
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(c.pid))
	c.out = append(c.out, c.secret...)
	c.readyForQuery()
	c.mon.handshakeDone()
	return nil
}

// readStartup answers encryption and cancel requests and reads the
// StartupMessage. PostgreSQL allows either encryption request once.
func (c *conn) readStartup() (*startup, error) {
	for asked := 0; ; asked++ {
		p, err := c.startupPacket()
		if err != nil {
			return nil, err
		}
		code := binary.BigEndian.Uint32(p)
		switch {
		case code == codeSSL || code == codeGSSENC:
			if asked >= 2 || len(p) != 4 {
				return nil, fatal(protocolf("invalid startup packet: repeated or overlong encryption request"))
			}
			c.out = append(c.out, 'N')
			if err := c.flush(); err != nil {
				return nil, err
			}
		case code == codeCancel:
			if len(p) > 8 {
				c.srv.cancel(int32(binary.BigEndian.Uint32(p[4:])), p[8:])
			}
			return nil, &closeError{}
		default:
			return c.parseStartup(code, p[4:])
		}
	}
}

// startupPacket reads a packet without a type byte, at least four bytes of body.
func (c *conn) startupPacket() ([]byte, error) {
	need := 4
	for c.rd.buffered() < need {
		if err := c.rd.fill(need); err != nil {
			return nil, c.startupReadError(err)
		}
	}
	n := int(binary.BigEndian.Uint32(c.rd.buf[c.rd.r:]))
	if n < 8 || n > maxStartupBytes {
		e := protocolf("invalid length of startup packet")
		switch head := c.rd.buf[c.rd.r : c.rd.r+4]; {
		case string(head) == "GET " || string(head) == "POST" || string(head) == "HEAD":
			e = e.WithHint("This is spand's SQL port, which speaks PostgreSQL's protocol, not HTTP.")
		case head[0] == 0x16 && head[1] == 3:
			e = e.WithHint("TLS must be asked for with an SSLRequest first, and is not set up here.")
		}
		return nil, fatal(e)
	}
	for c.rd.buffered() < n {
		if err := c.rd.fill(n); err != nil {
			return nil, c.startupReadError(err)
		}
	}
	return c.rd.take(n)[4:], nil
}

func (c *conn) startupReadError(err error) error {
	if e := c.mon.fatal(); e != nil {
		return fatal(e)
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return fatal(protocolf("canceling authentication due to timeout"))
	}
	return &closeError{cause: err}
}

func (c *conn) parseStartup(version uint32, p []byte) (*startup, error) {
	if version>>16 != 3 {
		return nil, fatal(sqlstate.Newf(sqlstate.FeatureNotSupported,
			"unsupported frontend protocol %d.%d: server supports 3.0 to 3.2", version>>16, version&0xffff))
	}
	c.asked = version
	st := &startup{version: protocol30}
	if version >= protocol32 {
		st.version = protocol32
	}
	d := body{b: p}
	o := &st.options
	o.Settings = map[string]string{}
	for {
		name := string(d.bytesZ())
		if name == "" {
			break
		}
		value := d.bytesZ()
		if d.bad {
			break
		}
		if err := errors.Join(checkText([]byte(name)), checkText(value)); err != nil {
			return nil, fatal(sqlError(err))
		}
		switch v := string(value); {
		case name == "user":
			o.User = v
		case name == "database":
			o.Database = v
		case name == "application_name":
			o.ApplicationName = v
		case name == "options":
			if err := parseOptions(v, o.Settings); err != nil {
				return nil, fatal(sqlError(err))
			}
		case name == "replication":
			switch strings.ToLower(v) {
			case "false", "off", "no", "0":
			default:
				return nil, fatal(sqlstate.Newf(sqlstate.FeatureNotSupported, "replication connections are not supported"))
			}
		case strings.HasPrefix(name, "_pq_."):
			st.unknown = append(st.unknown, name)
		default:
			o.Settings[name] = v
		}
	}
	if !d.done() {
		return nil, fatal(protocolf("invalid startup packet layout: expected terminator as last byte"))
	}
	sort.Strings(st.unknown)
	if o.User == "" {
		return nil, fatal(sqlstate.Newf(sqlstate.InvalidAuthorization, "no PostgreSQL user name specified in startup packet"))
	}
	if o.Database == "" {
		o.Database = o.User
	}
	return st, nil
}

// parseOptions reads the options parameter, PostgreSQL's command line for a
// backend: "-c name=value", "-cname=value" and "--name=value", blanks escaped
// with a backslash.
func parseOptions(s string, settings map[string]string) error {
	var words []string
	var w strings.Builder
	in := false
	for i := 0; i < len(s); i++ {
		switch ch := s[i]; {
		case ch == '\\' && i+1 < len(s):
			i++
			w.WriteByte(s[i])
			in = true
		case ch == ' ' || ch == '\t' || ch == '\n' || ch == '\r' || ch == '\v' || ch == '\f':
			if in {
				words = append(words, w.String())
				w.Reset()
				in = false
			}
		default:
			w.WriteByte(ch)
			in = true
		}
	}
	if in {
		words = append(words, w.String())
	}
	for i := 0; i < len(words); i++ {
		arg := words[i]
		switch {
		case arg == "-c" && i+1 < len(words):
			i++
			arg = words[i]
		case strings.HasPrefix(arg, "-c"):
			arg = arg[2:]
		case strings.HasPrefix(arg, "--"):
			arg = arg[2:]
		default:
			return sqlstate.Newf(sqlstate.SyntaxError, "invalid command-line argument for server process: %s", arg)
		}
		name, value, ok := strings.Cut(arg, "=")
		if !ok || name == "" {
			return sqlstate.Newf(sqlstate.SyntaxError, "-c %s requires a value", arg)
		}
		settings[strings.ReplaceAll(name, "-", "_")] = value
	}
	return nil
}

// reported are the settings that PostgreSQL 15 reports at start, in its order,
// each with the value to report if the session has no such setting.
var reported = []struct{ name, fallback string }{
	{"application_name", ""},
	{"client_encoding", "UTF8"},
	{"DateStyle", "ISO, MDY"},
	{"default_transaction_read_only", "off"},
	{"in_hot_standby", "off"},
	{"integer_datetimes", "on"},
	{"IntervalStyle", "postgres"},
	{"is_superuser", "on"},
	{"server_encoding", "UTF8"},
	{"server_version", "15.0"},
	{"session_authorization", ""}, // the user
	{"standard_conforming_strings", "on"},
	{"TimeZone", "UTC"},
}

func (c *conn) reportParameters(user string) {
	for _, p := range reported {
		v, ok := c.sess.Setting(p.name)
		if !ok {
			v = p.fallback
			if p.name == "session_authorization" {
				v = user
			}
		}
		c.parameterStatus(p.name, v)
	}
}

// isLocal reports whether a client is on this host: only such are trusted
// without authentication.
func isLocal(a net.Addr) bool {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	}
	return a != nil && a.Network() == "pipe" // net.Pipe, within the process
}

// lingerTime is how long a connection that was ended for a reason is still read
// from, so that the reason is not lost in a TCP reset.
const lingerTime = time.Second
