package pgwire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/spandb/spand/pgwire/wiretest"
	"github.com/spandb/spand/sql/sqlstate"
)

func (s *testServer) pgx(t testing.TB, params string) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, fmt.Sprintf("postgres://root@%s/spand?%s", s.addr, params))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// A real client, in each of its ways to run a query, sends and gets the values
// in the formats it likes best.
func TestPgx(t *testing.T) {
	srv := startServer(t, Config{})
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec"} {
		t.Run(mode, func(t *testing.T) {
			ctx := t.Context()
			c := srv.pgx(t, "default_query_exec_mode="+mode+"&application_name=pgxtest")
			if got := srv.fake.Last().ApplicationName; got != "pgxtest" {
				t.Errorf("application_name %q", got)
			}
			now := time.Date(2026, 11, 22, 13, 14, 15, 123456000, time.UTC)
			for i := range 3 {
				var n int32
				var s string
				var b []byte
				var f float64
				var ok bool
				var ts time.Time
				var null *int64
				err := c.QueryRow(ctx, "echo int4 text bytea float8 bool timestamptz int8",
					int32(42+i), "naïve", []byte{0, 1, 255}, 1.5e-9, true, now, nil).Scan(&n, &s, &b, &f, &ok, &ts, &null)
				if err != nil {
					t.Fatal(err)
				}
				if n != int32(42+i) || s != "naïve" || !bytes.Equal(b, []byte{0, 1, 255}) || f != 1.5e-9 || !ok || !ts.Equal(now) || null != nil {
					t.Errorf("got %v %q %x %v %v %v %v", n, s, b, f, ok, ts, null)
				}
			}
			rows, err := c.Query(ctx, "rows 20000")
			if err != nil {
				t.Fatal(err)
			}
			sum := 0
			for rows.Next() {
				var n int
				var s string
				if err := rows.Scan(&n, &s); err != nil {
					t.Fatal(err)
				}
				sum += n
			}
			if rows.Err() != nil || sum != 20000*20001/2 {
				t.Errorf("sum %d, %v", sum, rows.Err())
			}

			var b pgx.Batch
			b.Queue("ins 1")
			b.Queue("row int4=7")
			b.Queue("error 22012 division by zero")
			b.Queue("ins 2")
			br := c.SendBatch(ctx, &b)
			if tag, err := br.Exec(); err != nil || tag.RowsAffected() != 1 {
				t.Errorf("%v %v", tag, err)
			}
			var n int
			if err := br.QueryRow().Scan(&n); err != nil || n != 7 {
				t.Errorf("%d %v", n, err)
			}
			var pe *pgconn.PgError
			if _, err := br.Exec(); !errors.As(err, &pe) || pe.Code != "22012" || pe.Hint != "a hint" || pe.ConstraintName != "t_pkey" {
				t.Errorf("%v", err)
			}
			br.Close()

			tx, err := c.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(ctx, "error 40001 retry"); err == nil {
				t.Error("no error")
			}
			if err := tx.Commit(ctx); !errors.Is(err, pgx.ErrTxCommitRollback) {
				t.Errorf("commit of a failed transaction: %v", err)
			}
		})
	}
}

func TestPgxCopyAndPipeline(t *testing.T) {
	srv := startServer(t, Config{})
	c := srv.pgx(t, "default_query_exec_mode=exec").PgConn()
	ctx := t.Context()
	data := strings.Repeat("0123456789\tabcdefghijklmnop\n", 100_000)
	tag, err := c.CopyFrom(ctx, strings.NewReader(data), "copyin")
	if err != nil || tag.RowsAffected() != 100_000 {
		t.Fatalf("%v %v", tag, err)
	}
	var pe *pgconn.PgError
	if _, err = c.CopyFrom(ctx, strings.NewReader(data), "copyin fail 100000"); !errors.As(err, &pe) || pe.Code != string(sqlstate.BadCopyFileFormat) {
		t.Fatalf("%v", err)
	}
	var out bytes.Buffer
	if tag, err = c.CopyTo(ctx, &out, "copyout 10000"); err != nil || tag.RowsAffected() != 10000 || bytes.Count(out.Bytes(), []byte("\n")) != 10000 {
		t.Fatalf("%v %v %d bytes", tag, err, out.Len())
	}

	p := c.StartPipeline(ctx)
	for i := range 100 {
		p.SendQueryParams("echo int4", [][]byte{fmt.Append(nil, i)}, nil, nil, nil)
		p.SendPipelineSync()
	}
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for range 200 {
		r, err := p.GetResults()
		if err != nil {
			t.Fatal(err)
		}
		if rr, ok := r.(*pgconn.ResultReader); ok {
			if res := rr.Read(); res.Err != nil || string(res.Rows[0][0]) != fmt.Sprint(seen) {
				t.Fatalf("%d: %v", seen, res)
			}
			seen++
		}
	}
	if seen != 100 {
		t.Errorf("%d results", seen)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// A context that ends makes pgx ask for a cancel or drop the connection; either
// way the statement ends.
func TestPgxCancel(t *testing.T) {
	srv := startServer(t, Config{})
	c := srv.pgx(t, "")
	waiting := srv.fake.Waiting()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-waiting
		cancel()
	}()
	if _, err := c.Exec(ctx, "begin; wait", pgx.QueryExecModeSimpleProtocol); err == nil {
		t.Error("no error")
	}

	d := srv.pgx(t, "")
	waiting = srv.fake.Waiting()
	go func() {
		<-waiting
		if err := d.PgConn().CancelRequest(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	_, err := d.Exec(t.Context(), "wait")
	var pe *pgconn.PgError
	if !errors.As(err, &pe) || pe.Message != errUserCancel.Message {
		t.Errorf("%v", err)
	}
	if _, err := d.Exec(t.Context(), "ins 1"); err != nil {
		t.Error(err)
	}
}

// BenchmarkPointSelect is what pgbench -M prepared -S sends, over loopback.
func BenchmarkPointSelect(b *testing.B) {
	for _, mode := range []string{"prepared", "simple"} {
		b.Run(mode, func(b *testing.B) {
			srv := startServer(b, Config{})
			c := srv.dial(b)
			c.startup(nil)
			c.send(&pgproto3.Parse{Name: "P0_1", Query: "echo int4"}, &pgproto3.Sync{})
			c.until()
			req := encode(b, &pgproto3.Bind{PreparedStatement: "P0_1", Parameters: [][]byte{[]byte("12345")}},
				&pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}, &pgproto3.Sync{})
			if mode == "simple" {
				req = encode(b, &pgproto3.Query{String: "row int4=12345"})
			}
			buf := make([]byte, 4096)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.conn.Write(req); err != nil {
					b.Fatal(err)
				}
				for {
					n, err := c.conn.Read(buf)
					if err != nil {
						b.Fatal(err)
					}
					if n >= 6 && buf[n-6] == 'Z' {
						break
					}
				}
			}
		})
	}
}

// BenchmarkMessages is the same without a network: what this package costs.
func BenchmarkMessages(b *testing.B) {
	srv, err := New(Config{SQL: &wiretest.Server{}})
	if err != nil {
		b.Fatal(err)
	}
	batch := encode(b, &pgproto3.Bind{PreparedStatement: "P0_1", Parameters: [][]byte{[]byte("12345")}},
		&pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}, &pgproto3.Sync{})
	head := append(bytes.Clone(startupBytes), encode(b, &pgproto3.Parse{Name: "P0_1", Query: "echo int4"}, &pgproto3.Sync{})...)
	c := newConn(srv, &loopConn{next: head, batch: batch, left: b.N})
	b.ReportAllocs()
	b.ResetTimer()
	c.serve()
}

// loopConn is a client that sends head, then batch left times, one per Read.
type loopConn struct {
	bytesConn
	next, batch []byte
	left        int
}

func (c *loopConn) Read(p []byte) (int, error) {
	if len(c.next) == 0 {
		if c.left == 0 {
			return 0, io.EOF
		}
		c.left--
		c.next = c.batch
	}
	n := copy(p, c.next)
	c.next = c.next[n:]
	return n, nil
}

func (c *loopConn) Write(p []byte) (int, error) { return len(p), nil }
