package integration

import (
	"database/sql"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

// The configuration of a node fits database/sql and pgx's pool, in virtual time too,
// where whatever they leave running would fail the bubble.
func TestPools(t *testing.T) {
	for _, mode := range []Mode{InProcess, Virtual} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			inMode(t, Options{Mode: mode}, func(t *testing.T, c *Cluster) {
				c.Exec(0, "CREATE TABLE t (k int PRIMARY KEY)")
				dbs := []*sql.DB{stdlib.OpenDB(*c.Config(0))}
				if mode == InProcess {
					db, err := sql.Open("pgx", c.URL(0))
					if err != nil {
						t.Fatal(err)
					}
					dbs = append(dbs, db)
				}
				for i, db := range dbs {
					if _, err := db.ExecContext(t.Context(), "INSERT INTO t VALUES ($1)", i); err != nil {
						t.Error(err)
					}
					if err := db.Close(); err != nil {
						t.Error(err)
					}
				}
				cfg, err := pgxpool.ParseConfig(c.URL(0))
				if err != nil {
					t.Fatal(err)
				}
				cfg.ConnConfig = c.Config(0)
				pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer pool.Close()
				var wg sync.WaitGroup
				for range 8 {
					wg.Go(func() {
						var n int
						if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM t").Scan(&n); err != nil || n != len(dbs) {
							t.Errorf("%d rows, %v", n, err)
						}
					})
				}
				wg.Wait()
			})
		})
	}
}
