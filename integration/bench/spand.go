package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// spand starts a store of one node or a cluster, reached through its first node.
func (b *bench) spand(ctx context.Context, name string, nodes int, epsilon string) (*system, error) {
	dir, err := os.MkdirTemp(b.dir, "spand")
	if err != nil {
		return nil, err
	}
	ports := make([]string, 3*nodes)
	for i := range ports {
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	sys := &system{name: name, pgbin: b.cfg.pgbin, port: ports[0], user: "root", database: "spand"}
	var members []string
	for i := range nodes {
		sys.sql = append(sys.sql, ports[3*i])
		sys.rpc = append(sys.rpc, "127.0.0.1:"+ports[3*i+1])
		members = append(members, fmt.Sprintf("n%d=%s", i+1, sys.rpc[i]))
	}
	var ready []<-chan struct{}
	for i := range nodes {
		node := fmt.Sprintf("n%d", i+1)
		args := []string{"start", "--node", node, "--data-dir", filepath.Join(dir, node), "--sql-addr", "127.0.0.1:" + ports[3*i],
			"--rpc-addr", sys.rpc[i], "--http-addr", "127.0.0.1:" + ports[3*i+2], "--max-clock-error", epsilon, "--log-level", "warn"}
		if nodes > 1 {
			args = append(args, "--cluster", strings.Join(members, ","))
		}
		cmd := exec.Command(b.cfg.spand, args...)
		line := &firstLine{seen: make(chan struct{})}
		cmd.Stdout = line
		s, err := b.launch(cmd, syscall.SIGTERM)
		if err != nil {
			return nil, err
		}
		sys.servers, ready = append(sys.servers, s), append(ready, line.seen)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for i, s := range sys.servers {
		select {
		case <-ready[i]:
		case <-s.done:
			return nil, fmt.Errorf("%s: node %d ended before it was ready", name, i+1)
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: node %d is not ready: %w", name, i+1, ctx.Err())
		}
	}
	return sys, nil
}

// firstLine closes seen when a line has been written: a node prints one, when it serves.
type firstLine struct{ seen chan struct{} }

func (f *firstLine) Write(p []byte) (int, error) {
	if bytes.IndexByte(p, '\n') >= 0 {
		select {
		case <-f.seen:
		default:
			close(f.seen)
		}
	}
	return len(p), nil
}

// toLeader makes the node that leads the tables' tablet the one that clients talk
// to, as they do to PostgreSQL's primary. It must be asked when the tables are there:
// leaders spread over the nodes at the start, by luck.
func (s *system) toLeader(ctx context.Context) error {
	leader, err := s.psql(ctx, "select leader from spand.tablets order by tablet desc limit 1")
	if err != nil {
		return err
	}
	for i, port := range s.sql {
		if leader == fmt.Sprintf("n%d", i+1) {
			s.port = port
			return nil
		}
	}
	return fmt.Errorf("%s: no node %q leads", s.name, leader)
}

// awaitQuiescence waits until the cluster has at least so many tablets, all of them
// sleep, and their leaders, which spread over the nodes first, stay where they are.
func (b *bench) awaitQuiescence(ctx context.Context, s *system, tablets int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var before []int
	for {
		var now []int // tablets asleep, by the node that leads them
		all, asleep := 0, 0
		for _, addr := range s.rpc {
			out, err := output(ctx, b.cfg.spand, "status", "--addr", addr, "--json")
			if err != nil {
				return err
			}
			replicas, led, err := parseStatus(out)
			if err != nil {
				return err
			}
			all, asleep, now = replicas, asleep+led, append(now, led)
		}
		if all >= tablets && asleep == all && slices.Equal(now, before) {
			return nil
		}
		before = now
		if pause(ctx, 3*time.Second) != nil {
			return fmt.Errorf("%s: of %d tablets %d sleep: %w", s.name, all, now, ctx.Err())
		}
	}
}

// parseStatus counts, in what spand status --json prints, a node's replicas and
// those it leads that are asleep.
func parseStatus(out string) (replicas, asleep int, err error) {
	var st struct{ Tablets []struct{ Quiesced bool } }
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		return 0, 0, fmt.Errorf("spand status: %w", err)
	}
	for _, t := range st.Tablets {
		if t.Quiesced {
			asleep++
		}
	}
	return len(st.Tablets), asleep, nil
}
