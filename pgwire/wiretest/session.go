package wiretest

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

type prepared struct {
	query   string
	params  []types.OID
	columns []sql.Column
}

type portal struct {
	st     *prepared
	params []types.Datum
	rows   [][]types.Datum // when begun
	begun  bool
}

type session struct {
	srv      *Server
	settings map[string]string
	status   sql.TxnStatus
	implicit bool // something ran since the last Sync, outside a block
	failed   bool // and failed
	stmts    map[string]*prepared
	portals  map[string]*portal
	closed   bool
	fs       types.FormatSettings
	alone    bool // the last Execute was told that Sync follows
}

var _ sql.Session = (*session)(nil)

func newSession(srv *Server, o sql.SessionOptions) *session {
	s := &session{
		srv: srv, status: sql.TxnIdle,
		settings: map[string]string{
			"server_version":                      "15.0 (wiretest)",
			"application_name":                    o.ApplicationName,
			"statement_timeout":                   "0",
			"idle_in_transaction_session_timeout": "60000",
		},
		stmts: map[string]*prepared{}, portals: map[string]*portal{},
		fs: types.FormatSettings{Location: time.UTC, DateStyle: "ISO, MDY", IntervalStyle: "postgres", ExtraFloatDigits: 1, ByteaHex: true},
	}
	for k, v := range o.Settings {
		s.settings[k] = v
	}
	return s
}

func (s *session) setStatus(st sql.TxnStatus) {
	if (s.status == sql.TxnIdle) != (st == sql.TxnIdle) {
		if st == sql.TxnIdle {
			s.srv.countTxn(-1)
		} else {
			s.srv.countTxn(1)
		}
	}
	s.status = st
	if st == sql.TxnIdle {
		clear(s.portals)
	}
}

func (s *session) fail(err error) error {
	if err != nil {
		s.Fail()
	}
	return err
}

func (s *session) Fail() {
	s.failed = true
	if s.status == sql.TxnOpen {
		s.setStatus(sql.TxnFailed)
	}
}

func (s *session) Simple(ctx context.Context, query string, w sql.ResultWriter) error {
	defer func() { s.implicit, s.failed = false, false }()
	if strings.TrimSpace(query) == "" {
		return w.Empty()
	}
	parts := []string{query}
	if _, ok := s.srv.Scripts[strings.TrimSpace(query)]; !ok {
		parts = strings.Split(query, ";")
	}
	for _, q := range parts {
		if strings.TrimSpace(q) == "" {
			continue
		}
		st, err := s.parse(q, nil)
		if err == nil {
			_, err = s.run(ctx, &portal{st: st}, 0, w)
		}
		if err != nil {
			return s.fail(err)
		}
	}
	return nil
}

// parse checks a command and finds out its parameters and columns.
func (s *session) parse(query string, oids []types.OID) (*prepared, error) {
	query = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(query), ";"))
	f := strings.Fields(query)
	st := &prepared{query: query}
	if len(f) == 0 {
		return st, nil
	}
	if sc, ok := s.srv.Scripts[st.query]; ok {
		for _, name := range sc.Columns {
			st.columns = append(st.columns, column(name, types.OIDText))
		}
		return st, nil
	}
	switch f[0] {
	case "row":
		st.columns = []sql.Column{}
		for i, a := range f[1:] {
			name, _, _ := strings.Cut(a, "=")
			oid, err := typeOf(name)
			if err != nil {
				return nil, err
			}
			st.columns = append(st.columns, column("c"+strconv.Itoa(i+1), oid))
		}
	case "rows":
		if _, err := number(f); err != nil {
			return nil, err
		}
		st.columns = []sql.Column{column("n", types.OIDInt4), column("t", types.OIDText)}
	case "echo":
		for i, a := range f[1:] {
			oid, err := typeOf(a)
			if err != nil {
				return nil, err
			}
			if i < len(oids) && oids[i] != 0 {
				oid = oids[i]
			}
			st.params = append(st.params, oid)
			st.columns = append(st.columns, column("p"+strconv.Itoa(i+1), oid))
		}
	case "begin", "commit", "rollback", "wait", "panic", "copyin", "notice", "error", "set", "deallocate":
	case "ins", "copyout":
		if _, err := number(f); err != nil {
			return nil, err
		}
	default:
		e := sqlstate.Newf(sqlstate.SyntaxError, `syntax error at or near "%s"`, f[0])
		return nil, e.At(query, strings.Index(query, f[0]))
	}
	return st, nil
}

func column(name string, oid types.OID) sql.Column {
	return sql.Column{Name: name, Type: types.T(oid)}
}

func number(f []string) (int, error) {
	if len(f) != 2 {
		return 0, sqlstate.Newf(sqlstate.SyntaxError, "%s takes one number", f[0])
	}
	n, err := strconv.Atoi(f[1])
	if err != nil || n < 0 || n > 1_000_000 {
		return 0, sqlstate.Newf(sqlstate.InvalidTextRepresentation, `invalid number "%s"`, f[1])
	}
	return n, nil
}

func typeOf(name string) (types.OID, error) {
	switch name {
	case "bool":
		return types.OIDBool, nil
	case "int2":
		return types.OIDInt2, nil
	case "int4":
		return types.OIDInt4, nil
	case "int8":
		return types.OIDInt8, nil
	case "float8":
		return types.OIDFloat8, nil
	case "numeric":
		return types.OIDNumeric, nil
	case "text":
		return types.OIDText, nil
	case "bytea":
		return types.OIDBytea, nil
	case "timestamptz":
		return types.OIDTimestampTZ, nil
	}
	return 0, sqlstate.Newf(sqlstate.UndefinedObject, `type "%s" does not exist`, name)
}

func (s *session) Prepare(_ context.Context, name, query string, oids []types.OID) error {
	if name == "" {
		delete(s.stmts, "")
	} else if s.stmts[name] != nil {
		return s.fail(sqlstate.Newf(sqlstate.DuplicatePreparedStatement, `prepared statement "%s" already exists`, name))
	}
	st, err := s.parse(query, oids)
	if err != nil {
		return s.fail(err)
	}
	s.stmts[name] = st
	return nil
}

func (s *session) statement(name string) (*prepared, error) {
	if st := s.stmts[name]; st != nil {
		return st, nil
	}
	return nil, s.fail(sqlstate.Newf(sqlstate.InvalidStatementName, `prepared statement "%s" does not exist`, name))
}

func (s *session) DescribeStatement(_ context.Context, name string) ([]types.OID, []sql.Column, error) {
	st, err := s.statement(name)
	if err != nil {
		return nil, nil, err
	}
	return st.params, st.columns, nil
}

func (s *session) Bind(_ context.Context, name, statement string, params []types.Datum) error {
	st, err := s.statement(statement)
	if err != nil {
		return err
	}
	if name != "" && s.portals[name] != nil {
		return s.fail(sqlstate.Newf(sqlstate.DuplicateCursor, `cursor "%s" already exists`, name))
	}
	s.portals[name] = &portal{st: st, params: params}
	return nil
}

func (s *session) portal(name string) (*portal, error) {
	if p := s.portals[name]; p != nil {
		return p, nil
	}
	return nil, s.fail(sqlstate.Newf(sqlstate.InvalidCursorName, `portal "%s" does not exist`, name))
}

func (s *session) DescribePortal(_ context.Context, name string) ([]sql.Column, error) {
	p, err := s.portal(name)
	if err != nil {
		return nil, err
	}
	return p.st.columns, nil
}

func (s *session) Execute(ctx context.Context, name string, o sql.ExecuteOptions, w sql.ResultWriter) (bool, error) {
	p, err := s.portal(name)
	if err != nil {
		return false, err
	}
	s.alone = o.SyncFollows
	suspended, err := s.run(ctx, p, o.MaxRows, w)
	return suspended, s.fail(err)
}

func (s *session) CloseStatement(name string) { delete(s.stmts, name) }
func (s *session) ClosePortal(name string)    { delete(s.portals, name) }

func (s *session) Sync(context.Context) error {
	s.implicit, s.failed = false, false
	if s.status == sql.TxnIdle {
		clear(s.portals)
	}
	return nil
}

func (s *session) Status() sql.TxnStatus { return s.status }

func (s *session) Setting(name string) (string, bool) {
	v, ok := s.settings[name]
	return v, ok
}

func (s *session) FormatSettings() *types.FormatSettings { return &s.fs }

func (s *session) ms(name string) int {
	n, err := strconv.Atoi(s.settings[name])
	if err != nil || n < 0 {
		return 0
	}
	return n
}

func (s *session) IdleInTransactionTimeout() int { return s.ms("idle_in_transaction_session_timeout") }
func (s *session) StatementTimeout() int         { return s.ms("statement_timeout") }
func (s *session) TraceID() string               { return "" }
func (s *session) Cancel()                       {}

func (s *session) Close() {
	if s.closed {
		panic("wiretest: session closed twice")
	}
	s.closed = true
	s.setStatus(sql.TxnIdle)
	s.srv.mu.Lock()
	s.srv.open--
	s.srv.mu.Unlock()
}
