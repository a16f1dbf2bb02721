//go:build pgoracle

package parse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spandb/spand/sql/parse/pglex"
)

// These run against a PostgreSQL 15 named by PGORACLE (a connection string) and
// record what its grammar says, for the tests that do not need it:
//
//	PGORACLE=postgres://… go test -tags pgoracle -run Record ./sql/parse

const oraclePrefix = "SELECT 1/0;\n"

type oracle struct{ c *pgconn.PgConn }

func newOracle(t testing.TB) *oracle {
	c, err := pgconn.Connect(context.Background(), os.Getenv("PGORACLE"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return &oracle{c}
}

// verdict is "ok" or "position message". PostgreSQL parses a whole query string before it
// runs the first statement, which fails, so nothing is ever executed.
func (o *oracle) verdict(t testing.TB, sql string) string {
	_, err := o.c.Exec(context.Background(), oraclePrefix+sql).ReadAll()
	var pe *pgconn.PgError
	if !errors.As(err, &pe) {
		t.Fatalf("%s: %v", sql, err)
	}
	if pe.Code == "22012" {
		return "ok"
	}
	return fmt.Sprintf("%d %s %s", int(pe.Position)-len([]rune(oraclePrefix)), pe.Code, pe.Message)
}

// mutants are sql with one token left out each.
func mutants(sql string) []string {
	toks, err := pglex.All(sql, nil)
	if err != nil {
		return nil
	}
	var out []string
	for i := range toks[:len(toks)-1] {
		out = append(out, sql[:toks[i].Start]+sql[toks[i].End:])
	}
	return out
}

func TestRecordMutants(t *testing.T) {
	o := newOracle(t)
	var b strings.Builder
	seen := map[string]bool{}
	for _, s := range readCorpus(t, "testdata/corpus/pgbench.sql") {
		for _, m := range mutants(strings.TrimSuffix(s.sql, ";")) {
			if m = strings.Join(strings.Fields(m), " "); m == "" || seen[m] {
				continue
			}
			seen[m] = true
			fmt.Fprintf(&b, "%s\n%s\n\n", m, o.verdict(t, m))
		}
	}
	if err := os.WriteFile("testdata/mutants.txt", []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestCompareOracle prints where we and PostgreSQL differ over the files named in FILES.
func TestCompareOracle(t *testing.T) {
	o := newOracle(t)
	n, over, under, diff := 0, 0, 0, 0
	for _, f := range strings.Fields(os.Getenv("FILES")) {
		for _, s := range readCorpus(t, f) {
			all := []string{s.sql}
			if os.Getenv("MUTANTS") != "" {
				all = append(all, mutants(s.sql)...)
			}
			for _, m := range all {
				n++
				pg, us := o.verdict(t, m), verdict(m)
				switch {
				case pg == us:
				case pg == "ok":
					under++
					fmt.Printf("UNDER %s\n   %s\n", us, strings.Join(strings.Fields(m), " "))
				case us == "ok":
					over++
					fmt.Printf("OVER %s\n   %s\n", pg, strings.Join(strings.Fields(m), " "))
				default:
					diff++
					fmt.Printf("DIFF pg %s\n     us %s\n   %s\n", pg, us, strings.Join(strings.Fields(m), " "))
				}
			}
		}
	}
	fmt.Printf("TOTAL %d over %d under %d diff %d\n", n, over, under, diff)
}
