package integration

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// T2: a schema change commits beside a node whose clock was outvoted and which lives on.
// The node used to ask for a schema lease again and again, in transactions dated by the
// instant at which its clock was found out, and wounded every change (X2, B2).
func TestT2_SchemaChangesBesideAnOutvotedNode(t *testing.T) {
	c := Start(t, Options{Nodes: 3, ClockError: 5 * time.Millisecond})
	c.Exec(0, "CREATE TABLE z (a INT PRIMARY KEY)")
	c.Clock(2).SetOffset(time.Second)
	awaitOutvoted(t, c, 2)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn := c.Connect(0)
	exec := func(q string) {
		t.Helper()
		if _, err := conn.Exec(ctx, q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	exec("SELECT * FROM z") // the others have taken over
	exec("BEGIN")
	exec("SELECT * FROM z")
	exec("CREATE TABLE y (a INT PRIMARY KEY)")
	began := time.Now()
	exec("COMMIT")
	exec("INSERT INTO y VALUES (1)")
	exec("DROP TABLE y")
	// It serves no SQL, so it gives up its schema lease rather than let it run out (4 s).
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("B2: the changes took %v", took)
	}
}

// awaitOutvoted returns once node i refuses clients for its clock's sake.
func awaitOutvoted(t *testing.T, c *Cluster, i int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		conn, err := pgx.ConnectConfig(ctx, c.Config(i))
		if err == nil {
			_, err = conn.Exec(ctx, "SELECT 1")
			conn.Close(ctx)
		}
		var pe *pgconn.PgError
		if errors.As(err, &pe) && pe.Code == "57P03" {
			return
		}
	}
	t.Fatalf("node %d still serves", i)
}
