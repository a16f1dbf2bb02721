package parse

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
)

// sameStatement compares what the cache gave with a fresh parse: the tree up to
// positions, which Offset maps, and everything else exactly.
func sameStatement(t *testing.T, got, want *pgast.Statement) {
	t.Helper()
	if got.SQL != want.SQL || got.Shape != want.Shape || got.NumParams != want.NumParams {
		t.Fatalf("got %q %q %d\nwant %q %q %d", got.SQL, got.Shape, got.NumParams, want.SQL, want.Shape, want.NumParams)
	}
	if len(got.Consts) != len(want.Consts) || len(want.Consts) > 0 && !reflect.DeepEqual(got.Consts, want.Consts) {
		t.Fatalf("%s: got %v, want %v", got.SQL, got.Consts, want.Consts)
	}
	if g, w := pgast.Print(got.Tree, false), pgast.Print(want.Tree, false); g != w {
		t.Fatalf("%s: got\n%s\nwant\n%s", got.SQL, g, w)
	}
}

// TestCacheCorpus: a hit is indistinguishable from a parse, for every statement
// that real clients send.
func TestCacheCorpus(t *testing.T) {
	c := NewCache(1<<16, 1<<30)
	for _, f := range corpusFiles {
		for _, s := range readCorpus(t, f) {
			want, err := Parse(s.sql)
			if err != nil {
				continue
			}
			for range 2 {
				got, err := c.Parse(s.sql)
				if err != nil {
					t.Fatal(err)
				}
				if len(got) != len(want) {
					t.Fatalf("%s: %d statements instead of %d", s.sql, len(got), len(want))
				}
				for i := range got {
					sameStatement(t, got[i], want[i])
				}
			}
		}
	}
	if hits, misses := c.Stats(); hits < 1000 || misses < 1000 {
		t.Fatalf("%d hits, %d misses", hits, misses)
	}
}

func one(t *testing.T, c *Cache, sql string) *pgast.Statement {
	t.Helper()
	sts, err := c.Parse(sql)
	if err != nil || len(sts) != 1 {
		t.Fatalf("%s: %d, %v", sql, len(sts), err)
	}
	return sts[0]
}

// TestCacheShares: constants, spacing, comments and letter case do not make
// another shape; kinds of constants, values that the tree depends on, and
// quoted names do.
func TestCacheShares(t *testing.T) {
	c := NewCache(1024, 16<<20)
	a := one(t, c, "select a from t where b = 1 and c = 'x' and d = -5 order by 1")
	b := one(t, c, "SELECT a /* hi */ FROM t\nWHERE b = 22 AND c = 'it''s' and d = - 7 ORDER BY 1 -- end")
	if a.Tree != b.Tree || a.Shape != b.Shape {
		t.Fatalf("not shared: %q %q", a.Shape, b.Shape)
	}
	want := []pgast.Value{{Kind: pgast.Integer, Text: "22"}, {Kind: pgast.Unknown, Text: "it's"}, {Kind: pgast.Integer, Text: "-7"}, {Kind: pgast.Integer, Text: "1"}}
	if !reflect.DeepEqual(b.Consts, want) {
		t.Fatalf("got %v", b.Consts)
	}
	for _, other := range []string{
		"select a from t where b = 1 and c = 'x' and d = -5 order by 2",
		"select a from t where b = 1.5 and c = 'x' and d = -5 order by 1",
		"select a from t where b = $1 and c = 'x' and d = -5 order by 1",
		"select \"A\" from t where b = 1 and c = 'x' and d = -5 order by 1",
	} {
		if o := one(t, c, other); o.Shape == a.Shape || o.Tree == a.Tree {
			t.Errorf("shared: %s", other)
		}
	}
	x, y := one(t, c, "select x::numeric(10,2)"), one(t, c, "select x::numeric(12,2)")
	if x.Shape == y.Shape || x.Tree == y.Tree {
		t.Error("type modifiers are not part of the shape")
	}
	if q := one(t, c, `select "select" from "t"`); q.Shape == one(t, c, `select "a b" from t`).Shape {
		t.Error("quoted names collide")
	}
}

// TestCacheOffset: positions in a shared tree lead to the right place in each text.
func TestCacheOffset(t *testing.T) {
	c := NewCache(1024, 16<<20)
	one(t, c, "select 1, foo from t")
	s := one(t, c, "select   123456  , foo from t")
	ref := s.Tree.(*pgast.Select).Targets[1].Expr.(*pgast.ColumnRef)
	if at := s.Offset(ref.Pos); at < 0 || !strings.HasPrefix(s.SQL[at:], "foo") {
		t.Fatalf("offset %d", at)
	}
	if s.Offset(-1) != -1 {
		t.Fatal("unknown position became known")
	}
}

func TestCacheMulti(t *testing.T) {
	c := NewCache(1024, 16<<20)
	const text = "begin; update t set a = a + %d where b = %d; commit"
	if _, err := c.Parse(fmt.Sprintf(text, 1, 2)); err != nil {
		t.Fatal(err)
	}
	sts, err := c.Parse(fmt.Sprintf(text, 30, 40))
	if err != nil || len(sts) != 3 || sts[1].Consts[1].Text != "40" || sts[2].SQL != "commit" {
		t.Fatalf("%v %v", sts, err)
	}
	if hits, _ := c.Stats(); hits != 1 {
		t.Fatalf("%d hits", hits)
	}
	if _, err := c.Parse("begin; bogus"); code(err) != sqlstate.SyntaxError {
		t.Fatalf("got %v", err)
	}
}

// TestCacheBounded: neither shapes, nor bytes, nor variants grow without end.
func TestCacheBounded(t *testing.T) {
	c := NewCache(64, 1<<20)
	for i := range 1000 {
		one(t, c, fmt.Sprintf("select c%d from t", i))
		one(t, c, fmt.Sprintf("select a from t order by %d", i+1))
	}
	if n := c.Len(); n > 64 || n < 16 {
		t.Fatalf("%d shapes", n)
	}
	long := NewCache(1<<20, 1<<20)
	for i := range 150 {
		one(t, long, fmt.Sprintf("select c%d%s", i, strings.Repeat(", x", 1000)))
	}
	total := 0
	for i := range long.shards {
		s := &long.shards[i]
		total += s.bytes
		for _, e := range s.m {
			if len(e.variants) > maxVariants {
				t.Fatalf("%d variants", len(e.variants))
			}
		}
	}
	// A shard keeps its newest entry even if that alone is over the bound.
	if limit := 1<<20 + cacheShards*(maxCachedText*shapeCost+512); total > limit {
		t.Fatalf("%d bytes", total)
	}
	for i := range c.shards {
		for _, e := range c.shards[i].m {
			if len(e.variants) > maxVariants {
				t.Fatalf("%d variants", len(e.variants))
			}
		}
	}
}

func TestCacheConcurrent(t *testing.T) {
	c := NewCache(32, 1<<20)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 2000 {
				sql := fmt.Sprintf("select c%d from t where a = %d order by %d", (i+g)%50, i, i%3+1)
				sts, err := c.Parse(sql)
				if err != nil || sts[0].Consts[0].Text != fmt.Sprint(i) || sts[0].Consts[1].Text != fmt.Sprint(i%3+1) {
					t.Errorf("%s: %v %v", sql, sts, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
