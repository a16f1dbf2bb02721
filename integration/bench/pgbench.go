package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// system is what PostgreSQL's programs talk to.
type system struct {
	name     string
	pgbin    string
	port     string
	user     string
	database string
	options  string // PGOPTIONS
	servers  []*server
	sql, rpc []string // spand's nodes: ports for clients, addresses between them
}

// tool runs one of PostgreSQL's programs against the system.
func (s *system) tool(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.pgbin, name), args...)
	cmd.Env = append(os.Environ(), "PGHOST=127.0.0.1", "PGPORT="+s.port, "PGUSER="+s.user, "PGDATABASE="+s.database,
		"PGOPTIONS="+s.options, "PGSSLMODE=disable", "LC_ALL=C")
	out, err := runTool(cmd)
	if err != nil {
		return "", fmt.Errorf("%s: %w", s.name, err)
	}
	return out, nil
}

// psql runs one command and returns its rows, unaligned.
func (s *system) psql(ctx context.Context, sql string) (string, error) {
	out, err := s.tool(ctx, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql)
	return strings.TrimSpace(out), err
}

// initialise makes pgbench's tables anew and fills them from the client, at scale 10.
func (s *system) initialise(ctx context.Context) (string, error) {
	return s.tool(ctx, "pgbench", "-i", "-q", "-s", "10")
}

func initialise(ctx context.Context, systems ...*system) error {
	for _, s := range systems {
		if _, err := s.initialise(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pgbenchArgs are the same for everybody. With --max-tries=0 a transaction that is
// refused because of others (40001, deadlocks) is repeated until it commits, by all
// systems alike: it counts once, and its time is that of all its tries.
func pgbenchArgs(cfg config) []string {
	return []string{"-n", "-c", "8", "-j", "2", "-M", "prepared", "-T", strconv.Itoa(cfg.seconds), "--max-tries=0"}
}

// describePgbench is what the figures of its works depend on.
func describePgbench(ctx context.Context, cfg config) (string, error) {
	version, err := postgresVersion(ctx, cfg.pgbin)
	return fmt.Sprintf("- %s. pgbench: `%s`, scale 10.\n", version, strings.Join(pgbenchArgs(cfg), " ")), err
}

// pgbench is the race that one of its built-in scripts is; "" is TPC-B.
func (b *bench) pgbench(row, script string, systems ...*system) *race {
	args := pgbenchArgs(b.cfg)
	if script != "" {
		args = append(args, script)
	}
	return &race{row: row, systems: systems, unit: " tps", retries: true, nominal: turn(b.cfg),
		measure: func(ctx context.Context, s *system) (sample, error) {
			out, err := s.tool(ctx, "pgbench", args...)
			if err != nil {
				return sample{}, err
			}
			return parseRun(out)
		}}
}

var (
	reTPS     = regexp.MustCompile(`(?m)^tps = ([0-9.]+) `)
	reRetried = regexp.MustCompile(`(?m)^number of transactions retried: \d+ \(([0-9.]+)%\)`)
	reFailed  = regexp.MustCompile(`(?m)^number of failed transactions: (\d+) `)
	reWhole   = regexp.MustCompile(`(?m)^done in ([0-9.]+) s `)
	reLoad    = regexp.MustCompile(`client-side generate ([0-9.]+) s`)
)

func find(re *regexp.Regexp, out string) (float64, error) {
	m := re.FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("pgbench does not say %s:\n%s", re, out)
	}
	return strconv.ParseFloat(m[1], 64)
}

// parseRun reads pgbench's summary.
func parseRun(out string) (m sample, err error) {
	if m.figure, err = find(reTPS, out); err != nil {
		return m, err
	}
	if failed, err := find(reFailed, out); err != nil || failed > 0 {
		return m, fmt.Errorf("transactions failed for good (%w):\n%s", err, out)
	}
	m.retried, err = find(reRetried, out)
	return m, err
}

// initTimes are seconds of pgbench -i.
type initTimes struct{ generate, whole float64 }

func parseInit(out string) (t initTimes, err error) {
	if t.generate, err = find(reLoad, out); err != nil {
		return t, err
	}
	t.whole, err = find(reWhole, out)
	return t, err
}

// checkSums demands pgbench's invariant: what the history says is what the balances say.
func checkSums(ctx context.Context, systems ...*system) error {
	for _, s := range systems {
		out, err := s.psql(ctx, "select (select sum(abalance) from pgbench_accounts) - (select coalesce(sum(delta), 0) from pgbench_history)")
		if err != nil {
			return err
		}
		if out != "0" {
			return fmt.Errorf("%s: accounts and history differ by %s", s.name, out)
		}
	}
	return nil
}
