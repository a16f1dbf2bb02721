package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// result of one pgbench run.
type result struct {
	tps     float64
	latency float64 // ms
	retried string  // share of transactions that were retried, as pgbench prints it
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

func (s *system) env() []string {
	return append(os.Environ(), "PGHOST="+s.host, "PGPORT="+s.port, "PGUSER="+s.user, "PGDATABASE="+s.database, "PGOPTIONS="+s.options)
}

func (s *system) tool(name string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(*pgbin, name), args...)
	cmd.Env = s.env()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s on %s: %w\n%s", name, s.name, err, out)
	}
	return string(out), nil
}

func (s *system) initialise() error {
	_, err := s.tool("pgbench", "-i", "-q", "-s", strconv.Itoa(*scale))
	return err
}

var (
	reTPS     = regexp.MustCompile(`tps = ([0-9.]+)`)
	reLatency = regexp.MustCompile(`latency average = ([0-9.]+) ms`)
	reRetried = regexp.MustCompile(`number of transactions retried: \d+ \(([0-9.]+%)\)`)
	reFailed  = regexp.MustCompile(`number of failed transactions: (\d+)`)
)

func (s *system) pgbench(w work) (result, error) {
	args := append([]string{"-n", "-c", strconv.Itoa(*clients), "-j", "2", "-M", "prepared", "-T", strconv.Itoa(*seconds), "--max-tries=0"}, w.flags...)
	out, err := s.tool("pgbench", args...)
	if err != nil {
		return result{}, err
	}
	number := func(re *regexp.Regexp) float64 {
		m := re.FindStringSubmatch(out)
		if m == nil {
			return 0
		}
		f, _ := strconv.ParseFloat(m[1], 64)
		return f
	}
	r := result{tps: number(reTPS), latency: number(reLatency), retried: "0%"}
	if m := reRetried.FindStringSubmatch(out); m != nil {
		r.retried = m[1]
	}
	if r.tps == 0 || number(reFailed) != 0 {
		return r, fmt.Errorf("pgbench: %s", out)
	}
	return r, nil
}

// checkSums is pgbench's invariant: what the history says is what the balances say.
func (s *system) checkSums() error {
	out, err := s.tool("psql", "-AtX", "-c", `select (select sum(abalance) from pgbench_accounts) - (select coalesce(sum(delta), 0) from pgbench_history)`)
	if err != nil {
		return err
	}
	if strings.TrimSpace(out) != "0" {
		return fmt.Errorf("%s: accounts and history differ by %s", s.name, strings.TrimSpace(out))
	}
	return nil
}
