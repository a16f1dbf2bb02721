package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// part measures rows that need the same servers.
type part struct {
	section string // of the document
	rows    []string
	run     func(*bench, context.Context) error
	// What it takes, for the time that is left: once, and per round.
	setup time.Duration
	round func(config, selection) time.Duration
}

var parts = []part{
	{sqlSection, []string{"one/S", "one/N", "one/TPC-B"}, (*bench).oneNode, 20 * time.Second,
		func(c config, s selection) time.Duration { return time.Duration(2*s.count("one/")) * turn(c) }},
	{sqlSection, []string{"three/N", "three/TPC-B"}, (*bench).threeNodes, time.Minute,
		func(c config, s selection) time.Duration { return time.Duration(3*s.count("three/")) * turn(c) }},
	{sqlSection, []string{"copy"}, (*bench).copyRows, 5 * time.Second,
		func(config, selection) time.Duration { return 2 * copyTurn }},
	{sqlSection, []string{"idle"}, (*bench).idleTablets, 2 * time.Minute,
		func(c config, _ selection) time.Duration { return c.slice() }},
	{sqlSection, []string{"memory"}, (*bench).memory, 0,
		func(config, selection) time.Duration { return memoryTurn }},
	{lockSection, lockRows(), (*bench).locks, time.Minute,
		func(c config, s selection) time.Duration { return 2 * lockTurn(c, s) }},
}

// Sections of the document that have a table.
const (
	sqlSection  = "SQL"
	lockSection = "locks"
)

// Estimates of what a turn takes.
const (
	copyTurn   = 10 * time.Second
	memoryTurn = 20 * time.Second
)

func turn(c config) time.Duration { return c.slice() + 2*time.Second }

func (c config) slice() time.Duration { return time.Duration(c.seconds) * time.Second }

// selection is the rows to measure.
type selection map[string]bool

func (s selection) any(rows []string) bool {
	return slices.ContainsFunc(rows, func(r string) bool { return s[r] })
}

// sections are those that any of the rows belongs to, in the order of the parts.
func (s selection) sections() (names []string) {
	for _, p := range parts {
		if s.any(p.rows) && !slices.Contains(names, p.section) {
			names = append(names, p.section)
		}
	}
	return names
}

func (s selection) count(prefix string) (n int) {
	for r := range s {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	return n
}

func rowNames() string {
	var all []string
	for _, p := range parts {
		all = append(all, p.rows...)
	}
	return strings.Join(all, ",")
}

func selectRows(only string) (selection, error) {
	all := strings.Split(rowNames(), ",")
	s := selection{}
	if only == "" {
		only = rowNames()
	}
	for _, want := range strings.Split(only, ",") {
		found := false
		for _, r := range all {
			if r == want || strings.HasPrefix(r, want+"/") {
				s[r], found = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("-only: no row %q; there are %s", want, rowNames())
		}
	}
	return s, nil
}

func (b *bench) oneNode(ctx context.Context) error {
	pg, err := b.postgres(ctx, "PostgreSQL", 0)
	if err != nil {
		return err
	}
	serializable := pg.serializable("PostgreSQL SERIALIZABLE")
	sp, err := b.spand(ctx, "spand", 1, "0")
	if err != nil {
		return err
	}
	if err := initialise(ctx, pg, sp); err != nil {
		return err
	}
	races := []*race{
		b.pgbench("one/S", "-S", pg, sp),
		b.pgbench("one/N", "-N", serializable, sp),
		b.pgbench("one/TPC-B", "", serializable, sp),
	}
	if err := b.contest(ctx, races); err != nil {
		return err
	}
	reach := []string{"0.6", "0.4", "1.5"}
	for i, work := range []string{"`-S`", "`-N`", "TPC-B"} {
		b.table.contest("one node, "+work, races[i], 1, reach[i])
	}
	return checkSums(ctx, pg, sp)
}

func (b *bench) threeNodes(ctx context.Context) error {
	pg, err := b.postgres(ctx, "", 2)
	if err != nil {
		return err
	}
	pg = pg.serializable("PostgreSQL SERIALIZABLE, two synchronous standbys (`ANY 1`)")
	shared, err := b.spand(ctx, "spand, ε = 0", 3, "0")
	if err != nil {
		return err
	}
	apart, err := b.spand(ctx, "spand, ε = 4 ms", 3, "4ms")
	if err != nil {
		return err
	}
	if err := initialise(ctx, pg, shared, apart); err != nil {
		return err
	}
	if err := errors.Join(shared.toLeader(ctx), apart.toLeader(ctx)); err != nil {
		return err
	}
	races := []*race{
		b.pgbench("three/N", "-N", pg, shared, apart),
		b.pgbench("three/TPC-B", "", pg, shared, apart),
	}
	if err := b.contest(ctx, races); err != nil {
		return err
	}
	hope := []string{"0.4 hoped for", "1.0 hoped for"}
	for i, work := range []string{"`-N`", "TPC-B"} {
		b.table.contest("three nodes, "+work+", ε = 0", races[i], 1, hope[i])
		b.table.contest("three nodes, "+work+", ε = 4 ms", races[i], 2, "")
	}
	return checkSums(ctx, pg, shared, apart)
}

// copyRows times pgbench's own COPY of 1,000,000 rows, and with it the whole of
// its initialisation, which makes the primary keys afterwards.
func (b *bench) copyRows(ctx context.Context) error {
	pg, err := b.postgres(ctx, "PostgreSQL", 0)
	if err != nil {
		return err
	}
	sp, err := b.spand(ctx, "spand", 1, "0")
	if err != nil {
		return err
	}
	load := &race{row: "copy", unit: " s", decimals: 2, fewer: true, systems: []*system{pg, sp}, nominal: copyTurn}
	whole := &race{row: "copy", unit: " s", decimals: 2, fewer: true, systems: load.systems, samples: make([][]sample, 2)}
	load.measure = func(ctx context.Context, s *system) (sample, error) {
		out, err := s.initialise(ctx)
		if err != nil {
			return sample{}, err
		}
		t, err := parseInit(out)
		i := slices.Index(whole.systems, s)
		whole.samples[i] = append(whole.samples[i], sample{figure: t.whole})
		return sample{figure: t.generate}, err
	}
	if err := b.contest(ctx, []*race{load}); err != nil {
		return err
	}
	b.table.contest("COPY of 1,000,000 pgbench_accounts rows", load, 1, "0.3")
	b.table.contest("all of `pgbench -i -s 10`, primary keys included", whole, 1, "")
	return nil
}

// idleTablets measures what three nodes with 1,000 tablets use when nobody asks
// them for anything.
func (b *bench) idleTablets(ctx context.Context) error {
	sp, err := b.spand(ctx, "spand, three nodes", 3, "0")
	if err != nil {
		return err
	}
	if _, err := sp.psql(ctx, "create table idle (k bigint primary key)"); err != nil {
		return err
	}
	if _, err := sp.psql(ctx, "split table idle between (0) and (1000000) regions 1000"); err != nil {
		return err
	}
	if err := b.awaitQuiescence(ctx, sp, 1000); err != nil {
		return err
	}
	var shares series // of every node in every round
	for round := range b.cfg.rounds {
		before := make([]time.Duration, len(sp.servers))
		for i, s := range sp.servers {
			before[i] = cpuTime(s.pid())
		}
		if err := pause(ctx, b.cfg.slice()); err != nil {
			return err
		}
		var now series
		for i, s := range sp.servers {
			now = append(now, 100*float64(cpuTime(s.pid())-before[i])/float64(b.cfg.slice()))
		}
		shares = append(shares, now...)
		b.progress.step("idle", round, sp.name, now.cell(2, " %")+" of a core", b.cfg.slice())
	}
	b.table.alone("1,000 idle tablets on three nodes, share of a core each", shares.cell(2, " %"), "under 3 %")
	return nil
}

// memory measures fresh nodes that have loaded 1,000,000 rows and read them all.
func (b *bench) memory(ctx context.Context) error {
	var anon, file, peak series
	for round := range b.cfg.rounds {
		sp, err := b.spand(ctx, "spand", 1, "0")
		if err != nil {
			return err
		}
		pid := sp.servers[0].pid()
		highest := watch(func() float64 { a, _ := rss(pid); return a })
		if _, err = sp.initialise(ctx); err == nil {
			_, err = sp.psql(ctx, `\copy pgbench_accounts to '/dev/null'`)
		}
		high := highest()
		if err != nil {
			return err
		}
		a, f := rss(pid)
		anon, file, peak = append(anon, a), append(file, f), append(peak, high)
		b.progress.step("memory", round, sp.name, fmt.Sprintf("RssAnon %.0f MiB, at most %.0f; RssFile %.0f MiB", a, high, f), memoryTurn)
		b.stop(sp.servers...)
	}
	b.table.alone("RssAnon with 1,000,000 rows loaded and read", anon.cell(0, " MiB"), "400 MiB")
	b.table.alone("the highest RssAnon while loading and reading them", peak.cell(0, " MiB"), "")
	b.table.alone("RssFile afterwards", file.cell(0, " MiB"), "")
	return nil
}
