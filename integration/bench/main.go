// Command bench measures spand beside PostgreSQL 15 with PostgreSQL's own
// pgbench, in one run on one machine, and writes docs/benchmarks.md's tables.
//
//	go run ./integration/bench -seconds 20 -rounds 3 -write docs/benchmarks.md
//
// Every figure is the median of the rounds; the systems take turns within a
// round, so that a slow minute of the machine hurts all of them alike.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

var (
	seconds = flag.Int("seconds", 20, "length of one pgbench run")
	rounds  = flag.Int("rounds", 3, "alternating runs of which the median counts")
	scale   = flag.Int("scale", 10, "pgbench scale")
	clients = flag.Int("clients", 8, "pgbench clients")
	write   = flag.String("write", "", "file whose generated part is replaced; empty: print only")
	only    = flag.String("only", "one,three,copy,idle", "parts to run")
	pgbin   = flag.String("pgbin", "/usr/lib/postgresql/15/bin", "PostgreSQL's binaries")
	spandB  = flag.String("spand", "", "spand binary; empty: build it")
)

func main() {
	flag.Parse()
	log.SetFlags(log.Ltime)
	dir, err := os.MkdirTemp("", "spand-bench")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	os.Chmod(dir, 0o755)
	b := &bench{dir: dir}
	defer b.stopAll()
	if err := b.run(); err != nil {
		b.stopAll()
		log.Fatal(err)
	}
	out := b.report()
	fmt.Print(out)
	if *write != "" {
		if err := replaceGenerated(*write, out); err != nil {
			log.Fatal(err)
		}
	}
}

type bench struct {
	dir     string
	started []*server
	tables  []table
}

// table is one part of the report.
type table struct {
	title string
	head  []string
	rows  [][]string
}

func (b *bench) run() error {
	if *spandB == "" {
		*spandB = filepath.Join(b.dir, "spand")
		if err := command("go", "build", "-o", *spandB, "./cmd/spand"); err != nil {
			return err
		}
	}
	parts := map[string]func() error{"one": b.oneNode, "three": b.threeNodes, "copy": b.copyRows, "idle": b.idleTablets}
	for _, name := range strings.Split(*only, ",") {
		part, ok := parts[name]
		if !ok {
			return fmt.Errorf("-only: no part %q", name)
		}
		if err := part(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		b.stopAll()
	}
	return nil
}

// work is one kind of pgbench run.
type work struct {
	name  string
	flags []string
}

var (
	selectOnly = work{"-S", []string{"-S"}}
	simple     = work{"-N", []string{"-N"}}
	tpcb       = work{"TPC-B", nil}
)

// contest runs works on systems in turns and returns tps by [work][system].
func contest(works []work, systems []*system) (map[string]map[string]result, error) {
	samples := map[string]map[string][]result{}
	for range *rounds {
		for _, w := range works {
			if samples[w.name] == nil {
				samples[w.name] = map[string][]result{}
			}
			for _, s := range systems {
				r, err := s.pgbench(w)
				if err != nil {
					return nil, fmt.Errorf("%s %s: %w", s.name, w.name, err)
				}
				log.Printf("%-34s %-6s %8.0f tps  latency %.2f ms  retried %s", s.name, w.name, r.tps, r.latency, r.retried)
				samples[w.name][s.name] = append(samples[w.name][s.name], r)
			}
		}
	}
	medians := map[string]map[string]result{}
	for w, by := range samples {
		medians[w] = map[string]result{}
		for s, rs := range by {
			sort.Slice(rs, func(i, j int) bool { return rs[i].tps < rs[j].tps })
			medians[w][s] = rs[len(rs)/2]
		}
	}
	for _, s := range systems {
		if err := s.checkSums(); err != nil {
			return nil, err
		}
	}
	return medians, nil
}

func (b *bench) oneNode() error {
	pg, err := b.postgres("PostgreSQL", 0)
	if err != nil {
		return err
	}
	serializable := *pg
	serializable.name, serializable.options = "PostgreSQL SERIALIZABLE", "-c default_transaction_isolation=serializable"
	sp, err := b.spand("spand, one node", 1, "0")
	if err != nil {
		return err
	}
	for _, s := range []*system{pg, sp} {
		if err := s.initialise(); err != nil {
			return err
		}
	}
	reads, err := contest([]work{selectOnly}, []*system{pg, sp})
	if err != nil {
		return err
	}
	writes, err := contest([]work{simple, tpcb}, []*system{&serializable, sp})
	if err != nil {
		return err
	}
	t := table{title: "One node", head: []string{"work", "peer", "peer tps", "spand tps", "ratio", "to reach", "spand latency ms", "spand retried", "peer retried"}}
	t.add("`-S`", reads["-S"][pg.name], reads["-S"][sp.name], "PostgreSQL", "0.6")
	t.add("`-N`", writes["-N"][serializable.name], writes["-N"][sp.name], "PostgreSQL SERIALIZABLE", "0.4")
	t.add("TPC-B", writes["TPC-B"][serializable.name], writes["TPC-B"][sp.name], "PostgreSQL SERIALIZABLE", "1.5")
	b.tables = append(b.tables, t)
	return nil
}

func (t *table) add(work string, peer, ours result, peerName, reach string) {
	t.rows = append(t.rows, []string{work, peerName, fmt.Sprintf("%.0f", peer.tps), fmt.Sprintf("%.0f", ours.tps),
		fmt.Sprintf("%.2f", ours.tps/peer.tps), reach, fmt.Sprintf("%.2f", ours.latency), ours.retried, peer.retried})
}

func (b *bench) threeNodes() error {
	pg, err := b.postgres("PostgreSQL, two sync standbys", 2)
	if err != nil {
		return err
	}
	pg.options = "-c default_transaction_isolation=serializable"
	if err := pg.initialise(); err != nil {
		return err
	}
	t := table{title: "Three nodes on one machine", head: []string{"work", "peer", "peer tps", "spand tps", "ratio", "hoped for", "spand latency ms", "spand retried", "peer retried"}}
	for _, epsilon := range []string{"0", "4ms"} {
		sp, err := b.spand("spand, three nodes, ε="+epsilon, 3, epsilon)
		if err != nil {
			return err
		}
		if err := sp.initialise(); err != nil {
			return err
		}
		m, err := contest([]work{simple, tpcb}, []*system{pg, sp})
		if err != nil {
			return err
		}
		hope := map[string][2]string{"0": {"0.4", "1.0"}, "4ms": {"–", "–"}}[epsilon]
		t.add("`-N`, ε = "+epsilon, m["-N"][pg.name], m["-N"][sp.name], "two synchronous standbys, ANY 1, SERIALIZABLE", hope[0])
		t.add("TPC-B, ε = "+epsilon, m["TPC-B"][pg.name], m["TPC-B"][sp.name], "two synchronous standbys, ANY 1, SERIALIZABLE", hope[1])
		b.stop(sp.servers...)
	}
	b.tables = append(b.tables, t)
	return nil
}

func (t table) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "### %s\n\n| %s |\n|%s\n", t.title, strings.Join(t.head, " | "), strings.Repeat("---|", len(t.head)))
	for _, r := range t.rows {
		fmt.Fprintf(&s, "| %s |\n", strings.Join(r, " | "))
	}
	return s.String() + "\n"
}
