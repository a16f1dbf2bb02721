package parse

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type corpusStmt struct{ source, sql string }

// corpusFiles hold what real clients sent to PostgreSQL 15.
var corpusFiles = func() []string {
	fs, err := filepath.Glob("testdata/corpus/*.sql")
	if err != nil {
		panic(err)
	}
	return fs
}()

func readCorpus(t testing.TB, path string) []corpusStmt {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []corpusStmt
	for _, chunk := range strings.Split(string(b), "-- @@ ")[1:] {
		src, sql, _ := strings.Cut(chunk, "\n")
		out = append(out, corpusStmt{strings.TrimSpace(src), strings.TrimSpace(sql)})
	}
	return out
}

// corpusRefused are the corpus statements that Parse refuses and may: PostgreSQL
// refuses them too, right behind its grammar.
var corpusRefused = map[string]string{
	"subquery in FROM must have an alias":                                       "SELECT * FROM (SELECT * FROM foo);",
	"ON CONFLICT DO UPDATE requires inference specification or constraint name": "ON CONFLICT DO UPDATE SET name = EXCLUDED.name;",
}

// corpusFloor is how many statements must parse; raise it when more do.
const corpusFloor = 1974

func TestCorpus(t *testing.T) {
	if len(corpusFiles) != 10 {
		t.Fatalf("corpus has %d files", len(corpusFiles))
	}
	ok, n := 0, 0
	for _, f := range corpusFiles {
		for _, s := range readCorpus(t, f) {
			n++
			_, err := Parse(s.sql)
			if err == nil {
				ok++
				continue
			}
			known := false
			for msg, part := range corpusRefused {
				known = known || strings.Contains(err.Error(), msg) && strings.Contains(s.sql, part)
			}
			if !known {
				t.Errorf("%s: %v\n%s", s.source, err, s.sql)
			}
		}
	}
	t.Logf("%d of %d", ok, n)
	if ok < corpusFloor {
		t.Errorf("%d of %d statements parse, %d did before", ok, n, corpusFloor)
	}
}

// TestMutants holds every statement of pgbench with one token left out against
// what PostgreSQL 15 said: acceptance, SQLSTATE, message and position.
func TestMutants(t *testing.T) {
	b, err := os.ReadFile("testdata/mutants.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, chunk := range strings.Split(strings.TrimSpace(string(b)), "\n\n") {
		sql, want, ok := strings.Cut(chunk, "\n")
		if !ok {
			t.Fatalf("bad entry %q", chunk)
		}
		n++
		if got := verdict(sql); got != want {
			t.Errorf("%s\n got %s\nwant %s", sql, got, want)
		}
	}
	if n < 500 {
		t.Fatalf("only %d mutants", n)
	}
}
