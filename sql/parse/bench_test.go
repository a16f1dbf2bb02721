package parse

import "testing"

const (
	benchSelect = "SELECT abalance FROM pgbench_accounts WHERE aid = 56093"
	benchUpdate = "UPDATE pgbench_accounts SET abalance = abalance + -3708 WHERE aid = 56093"
)

func benchMiss(b *testing.B, sql string) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(sql); err != nil {
			b.Fatal(err)
		}
	}
}

func benchHit(b *testing.B, sql string) {
	c := NewCache(1024, 16<<20)
	if _, err := c.Parse(sql); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Parse(sql); err != nil {
			b.Fatal(err)
		}
	}
	if hits, _ := c.Stats(); hits == 0 {
		b.Fatal("no hit")
	}
}

func BenchmarkPointSelectMiss(b *testing.B) { benchMiss(b, benchSelect) }
func BenchmarkPointSelectHit(b *testing.B)  { benchHit(b, benchSelect) }
func BenchmarkUpdateMiss(b *testing.B)      { benchMiss(b, benchUpdate) }
func BenchmarkUpdateHit(b *testing.B)       { benchHit(b, benchUpdate) }
