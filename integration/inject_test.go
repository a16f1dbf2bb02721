package integration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// What is injected reaches a pgx client as the real thing does, in both protocols.
func TestInject(t *testing.T) {
	for _, mode := range []Mode{InProcess, Virtual} {
		t.Run(mode.String(), func(t *testing.T) {
			inMode(t, Options{Mode: mode}, func(t *testing.T, c *Cluster) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				c.Exec(0, "CREATE TABLE t (k int PRIMARY KEY, v int)")
				c.Exec(0, "INSERT INTO t VALUES (1, 0)")
				conn := c.Connect(0)
				value := func(want int) {
					t.Helper()
					var v int
					if err := c.Connect(0).QueryRow(ctx, "SELECT v FROM t").Scan(&v); err != nil || v != want {
						t.Errorf("v = %d, %v; want %d", v, err, want)
					}
				}

				x := c.Inject(Fault{Match: SQL(`^update t`), Times: 2})
				attempts := 0
				for {
					attempts++
					err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
						_, err := tx.Exec(ctx, "UPDATE t SET v = v + 1 WHERE k = $1", 1)
						return err
					})
					if err == nil {
						break
					}
					var pe *pgconn.PgError
					if !errors.As(err, &pe) || pe.Code != "40001" || pe.Hint != "The transaction might succeed if retried." {
						t.Fatalf("attempt %d: %v", attempts, err)
					}
				}
				if attempts != 3 || x.Hits() != 2 {
					t.Errorf("%d attempts, %d hits", attempts, x.Hits())
				}
				value(1)

				x = c.Inject(Fault{Code: "53100", Message: "no space", Times: -1, Nodes: []int{0}})
				for range 3 {
					_, err := conn.Exec(ctx, "SELECT 1")
					var pe *pgconn.PgError
					if !errors.As(err, &pe) || pe.Code != "53100" || pe.Message != "no space" {
						t.Errorf("another code: %v", err)
					}
				}
				x.Remove()
				value(1)

				want := 1
				for _, committed := range []bool{false, true} {
					for name, write := range map[string]func(*pgx.Conn) error{
						"block": func(conn *pgx.Conn) error {
							return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
								_, err := tx.Exec(ctx, "UPDATE t SET v = v + $1", 10)
								return err
							})
						},
						"extended": func(conn *pgx.Conn) error { _, err := conn.Exec(ctx, "UPDATE t SET v = v + $1", 10); return err },
						"simple": func(conn *pgx.Conn) error {
							_, err := conn.Exec(ctx, "UPDATE t SET v = v + 10", pgx.QueryExecModeSimpleProtocol)
							return err
						},
						"batch": func(conn *pgx.Conn) error {
							var b pgx.Batch
							b.Queue("UPDATE t SET v = v + 4")
							b.Queue("UPDATE t SET v = v + $1", 6)
							return conn.SendBatch(ctx, &b).Close()
						},
					} {
						what := fmt.Sprintf("%s, committed %v", name, committed)
						conn := c.Connect(0)
						x := c.Inject(LoseCommit{Match: SQL(`^update t`), Committed: committed})
						other := c.Connect(0)
						if _, err := other.Exec(ctx, "INSERT INTO t VALUES (2, 0); DELETE FROM t WHERE k = 2"); err != nil {
							t.Errorf("%s: another's commit: %v", what, err)
						}
						err := write(conn)
						var pe *pgconn.PgError
						if err == nil || errors.As(err, &pe) || ctx.Err() != nil {
							t.Errorf("%s: %v", what, err)
						}
						if x.Hits() != 1 || !conn.IsClosed() {
							t.Errorf("%s: %d hits, closed %v", what, x.Hits(), conn.IsClosed())
						}
						if committed {
							want += 10
						}
						value(want)
					}
				}
			})
		})
	}
}

// Leaders go where a test puts them, and stay.
func TestLeaders(t *testing.T) {
	for _, mode := range []Mode{InProcess, Virtual} {
		t.Run(mode.String(), func(t *testing.T) {
			inMode(t, Options{Nodes: 3, Mode: mode}, func(t *testing.T, c *Cluster) {
				c.Exec(0, "CREATE TABLE t (a text, b int, PRIMARY KEY (a, b))")
				c.SplitAt("t", []any{"it's", 5}, "m")
				for key, to := range map[any]int{"a": 0, "k": 1, "m": 2} {
					c.TransferLeader("t", key, to)
				}
				c.Exec(1, "INSERT INTO t VALUES ('it''s', 4), ('it''s', 5), ('m', 1)")
				for _, w := range []struct {
					key    []any
					leader int
				}{{[]any{"it's", 4}, 0}, {[]any{"it's", 5}, 1}, {[]any{"m", 1}, 2}} {
					if got := c.Leader("t", w.key); got != w.leader {
						t.Errorf("node %d leads the tablet of %v, want %d", got, w.key, w.leader)
					}
				}
				c.Kill(2)
				if got := c.Leader("t", "z"); got == 2 {
					t.Error("a dead node leads")
				}
				c.Restart(2)
				c.TransferLeader("t", "z", 2)
			})
		})
	}
}
