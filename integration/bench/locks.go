package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spandb/spand/integration/bench/lockload"
)

// lockStore is a lock service to measure: a cluster of three members, and the program that loads
// it.
type lockStore struct {
	name  string
	about string // its version and settings
	load  string // program
	start func(*bench, context.Context) (*lockCluster, error)
}

type lockCluster struct {
	members []string // addresses that clients dial
	servers []*server
}

// lockLine is a line of the table: one figure of a row.
type lockLine struct {
	row, figure string
	work        string
	unit        string
	decimals    int
	fewer       bool
	reach       string
}

var lockLines = []lockLine{
	{"acquire", "acquire 1", "acquire and release, nobody else wants the lock, 1 client", "/s", 0, false, "3.0"},
	{"acquire", "acquire 16", "the same, 16 clients", "/s", 0, false, "3.0"},
	{"acquire", "acquire 64", "the same, 64 clients", "/s", 0, false, "3.0"},
	{"durable", "durable 1", "acquire and release, the release on disk before it returns, 1 client", "/s", 0, false, ""},
	{"durable", "durable 16", "the same, 16 clients", "/s", 0, false, ""},
	{"kept", "kept 1", "acquire and release of a lock that the client keeps, 1 client", "/s", 0, false, ""},
	{"kept", "kept 16", "the same, 16 clients", "/s", 0, false, ""},
	{"handover", "handover p50", "hand-over of a lock with 8 waiters, median", " ms", 2, true, "3.0"},
	{"handover", "handover p99", "the same, 99 %", " ms", 2, true, "3.0"},
	{"write", "write 1", "writes of 100 bytes, 1 client", "/s", 0, false, "1.0"},
	{"write", "write 64", "the same, 64 clients", "/s", 0, false, "1.0"},
	{"read", "read 64", "linearizable reads, 64 clients", "/s", 0, false, "1.0"},
	{"cached", "cached 64", "cached reads, 64 clients", "/s", 0, false, "1.0"},
	{"watch", "watch events", "events to 1,000 watchers of one file", "/s", 0, false, "1.0"},
	{"watch", "watch p50", "write to the last of 1,000 watchers, median", " ms", 2, true, "1.0"},
	{"watch", "watch p99", "the same, 99 %", " ms", 2, true, "1.0"},
	{"failover", "failover", "kill -9 of the leader until a lock is acquired", " ms", 0, true, "under 3,000 ms"},
	{"sessions", "sessions opened", "sessions opened, on the way to 100,000", "/s", 0, false, ""},
	{"sessions", "keepalives", "keepalives with 100,000 sessions", "/s", 0, false, "1.0"},
	{"sessions", "memory leader", "RssAnon of the leader holding 100,000 sessions", " MiB", 0, true, "1.0"},
	{"sessions", "memory all", "the same, all three members", " MiB", 0, true, "1.0"},
	{"sessions", "memory idle", "the same, before the first session", " MiB", 0, true, ""},
	{"sessions", "cpu held", "cores used by all members to hold them", "", 3, true, ""},
}

// keptNote says what is not compared like with like.
const keptNote = "A lock that the client keeps: spand's with `OpenOptions.KeepLock`, which after the first time takes no call while nobody else wants the lock. " +
	"etcd has no such thing: its figure is its ordinary mutex, as in the lines above."

// lockRows are the rows of lockLines in their order, as -only names them.
func lockRows() (rows []string) {
	for _, l := range lockLines {
		if r := "locks/" + l.row; !slices.Contains(rows, r) {
			rows = append(rows, r)
		}
	}
	return rows
}

// What a row takes beside the rates it measures, whose number is counted from lockLines.
var lockRowTakes = map[string]time.Duration{
	"locks/watch":    3 * time.Second,
	"locks/sessions": time.Minute,
	"locks/failover": 4 * time.Second,
}

// lockTurn is about how long one store takes for the rows wanted.
func lockTurn(c config, s selection) time.Duration {
	d := 10 * time.Second // start and stop, twice
	for _, row := range lockRows() {
		if s[row] {
			d += lockRowTime(c, row)
		}
	}
	return d
}

func lockRowTime(c config, row string) time.Duration {
	rates := map[string]int{"locks/acquire": 3, "locks/durable": 2, "locks/kept": 2, "locks/write": 2, "locks/watch": 2, "locks/failover": 0}
	n, ok := rates[row]
	if !ok {
		n = 1
	}
	return time.Duration(n)*(c.lockLength()+time.Second) + lockRowTakes[row] + 2*time.Second
}

// lockLength is how long a rate of the lock service is measured: half of a run of pgbench.
func (c config) lockLength() time.Duration { return max(c.slice()/2, time.Second) }

// locks measures lock services: in every round one after the other is started, measured and
// stopped.
func (b *bench) locks(ctx context.Context) error {
	stores, err := b.lockStores(ctx)
	if err != nil {
		return err
	}
	var systems []*system
	var about []string
	for _, s := range stores {
		systems, about = append(systems, &system{name: s.name}), append(about, s.about)
	}
	if b.rows["locks/kept"] {
		about = append(about, keptNote)
	}
	b.table.about = "- " + strings.Join(about, "\n- ") + "\n"
	races := make([]*race, len(lockLines))
	for i, l := range lockLines {
		races[i] = &race{row: "locks/" + l.row, systems: systems, unit: l.unit, decimals: l.decimals, fewer: l.fewer, unlike: l.row == "kept", samples: make([][]sample, len(stores))}
	}
	for round := range b.cfg.rounds {
		for i, s := range stores {
			if err := b.lockTurn(ctx, s, i, round, races); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	for i, l := range lockLines {
		b.table.contest(l.work, races[i], 1, l.reach)
	}
	return nil
}

// lockTurn measures one store in one round. The sessions, whose memory is looked at, get a cluster
// to themselves.
func (b *bench) lockTurn(ctx context.Context, s *lockStore, system, round int, races []*race) error {
	var cluster *lockCluster
	for _, row := range lockRows() {
		if !b.rows[row] {
			continue
		}
		if row == "locks/sessions" && cluster != nil {
			b.stop(cluster.servers...)
			cluster = nil
		}
		if cluster == nil {
			var err error
			if cluster, err = s.start(b, ctx); err != nil {
				return err
			}
		}
		if err := b.rest(ctx); err != nil {
			return err
		}
		figures, err := b.loadLocks(ctx, s, cluster, strings.TrimPrefix(row, "locks/"))
		if err != nil {
			return err
		}
		var text []string
		for i, l := range lockLines {
			if races[i].row != row {
				continue
			}
			f, ok := figures[l.figure]
			if !ok {
				return fmt.Errorf("%s: no figure %q", row, l.figure)
			}
			races[i].samples[system] = append(races[i].samples[system], sample{figure: f})
			text = append(text, l.figure+" "+series{f}.cell(l.decimals, l.unit))
		}
		b.progress.step(row, round, s.name, strings.Join(text, ", "), lockRowTime(b.cfg, row))
	}
	if cluster != nil {
		b.stop(cluster.servers...)
	}
	return nil
}

// loadLocks runs a store's program for one row, does what it asks, and returns the figures.
func (b *bench) loadLocks(ctx context.Context, s *lockStore, cluster *lockCluster, row string) (lockload.Figures, error) {
	cmd := exec.CommandContext(ctx, s.load, "-members", strings.Join(cluster.members, ","), "-row", row, "-length", b.cfg.lockLength().String())
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	figures, err := b.answer(cluster, json.NewDecoder(out), in)
	if err != nil {
		cmd.Process.Kill()
	}
	if werr := cmd.Wait(); werr != nil {
		return nil, errors.Join(err, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), werr, complaint.Bytes()))
	}
	return figures, err
}

// answer does what a program asks until it ends.
func (b *bench) answer(cluster *lockCluster, questions *json.Decoder, answers io.Writer) (lockload.Figures, error) {
	seen := lockload.Figures{}
	var mark time.Time
	var used time.Duration
	for {
		var m lockload.Message
		if err := questions.Decode(&m); errors.Is(err, io.EOF) {
			return nil, errors.New("it ended without figures")
		} else if err != nil {
			return nil, err
		}
		if m.Figures != nil {
			for name, f := range m.Figures {
				seen[name] = f
			}
			return seen, nil
		}
		leader := slices.Index(cluster.members, m.Leader)
		if leader < 0 {
			return nil, fmt.Errorf("%q leads, which is not a member", m.Leader)
		}
		switch m.Ask {
		case "kill":
			s := cluster.servers[leader]
			b.running = slices.DeleteFunc(b.running, func(r *server) bool { return r == s })
			s.cmd.Process.Kill()
			<-s.done
		case "idle":
			seen["memory idle"], _ = cluster.memory(leader)
		case "mark":
			mark, used = time.Now(), cluster.cpuTime()
		case "held":
			seen["cpu held"] = float64(cluster.cpuTime()-used) / float64(time.Since(mark))
			seen["memory all"], seen["memory leader"] = cluster.memory(leader)
		default:
			return nil, fmt.Errorf("unknown question %q", m.Ask)
		}
		if _, err := io.WriteString(answers, "\n"); err != nil {
			return nil, err
		}
	}
}

// memory is the members' RssAnon in MiB.
func (c *lockCluster) memory(leader int) (all, leads float64) {
	for i, s := range c.servers {
		anon, _ := rss(s.pid())
		all += anon
		if i == leader {
			leads = anon
		}
	}
	return all, leads
}

func (c *lockCluster) cpuTime() (sum time.Duration) {
	for _, s := range c.servers {
		sum += cpuTime(s.pid())
	}
	return sum
}

// lockStores builds what is measured and what loads it, the peer first.
func (b *bench) lockStores(ctx context.Context) ([]*lockStore, error) {
	etcd, err := b.buildEtcd(ctx)
	if err != nil {
		return nil, err
	}
	spand := &lockStore{name: "spand", about: "spand, three nodes with its defaults, ε = 0: every write on disk at a majority before it is acknowledged; a release of a lock when it is in order, except where a line says otherwise. Its Go client makes calls over a TCP connection of its own beside gRPC (docs/decisions.md), etcd's over gRPC.",
		load: filepath.Join(b.dir, "spandload"), start: (*bench).spandLocks}
	_, err = output(ctx, "go", "build", "-o", spand.load, "github.com/spandb/spand/integration/bench/spandload")
	return []*lockStore{etcd, spand}, err
}

func (b *bench) spandLocks(ctx context.Context) (*lockCluster, error) {
	s, err := b.spand(ctx, "spand", 3, "0")
	if err != nil {
		return nil, err
	}
	return &lockCluster{s.rpc, s.servers}, nil
}
