package sql_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCorpus runs what real clients sent (the parser's corpus) through a session: some
// statements meet what is not supported or not there, but none an internal error. The
// floors say how many must succeed.
func TestCorpus(t *testing.T) {
	floors := map[string]int{"pgbench.sql": 32, "psql-backslash.sql": 82}
	files, err := filepath.Glob(filepath.Join("parse", "testdata", "corpus", "*.sql"))
	if err != nil || len(files) < len(floors) {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Base(path)
		floor := floors[file]
		e, store := newEngine(t)
		s := newSession(t, e)
		must(t, s, "create table t (id int primary key, a text not null default 'x', b numeric(10,2), c timestamptz default now(), d jsonb, e text[]); create unique index on t (a, b)")
		ok, all := 0, 0
		for _, q := range strings.Split(string(b), "-- @@ ")[1:] {
			_, q, _ = strings.Cut(q, "\n")
			if q = strings.TrimSpace(q); strings.HasPrefix(q, "DROP") || strings.HasPrefix(q, "drop table t") {
				continue
			}
			all++
			out := run(s, q)
			switch {
			case strings.Contains(out, "ERROR XX") || strings.Contains(out, "no SQLSTATE"):
				t.Errorf("%s: %s\n%s", file, q, out)
			case strings.Contains(out, "ERROR"):
				if testing.Verbose() {
					t.Logf("%s: %.100q: %.200s", file, q, out)
				}
				if s.Status() != 'I' {
					run(s, "rollback")
				}
			default:
				ok++
			}
		}
		t.Logf("%s: %d of %d succeed", file, ok, all)
		if ok < floor {
			t.Errorf("%s: %d statements succeed, floor %d", file, ok, floor)
		}
		s.Close()
		noneOpen(t, store)
	}
}
