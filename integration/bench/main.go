// Command bench measures spand beside PostgreSQL 15 with PostgreSQL's own
// pgbench, and the lock service beside etcd, in one run on one machine, and writes
// docs/benchmarks.md's tables.
//
//	go run ./integration/bench -write docs/benchmarks.md
//	go run ./integration/bench -only locks -seconds 10 -write docs/benchmarks.md
//
// The systems take turns within a round, so that a slow minute of the machine hurts
// all of them alike, and a turn begins when the turn before has left nothing to
// do. A figure is the median of the rounds, with the lowest and the highest beside it.
//
// It runs as root (PostgreSQL then as Debian's user postgres) or as an ordinary
// user. All it starts ends with it, and its directory goes, also when it is interrupted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// config is the command line.
type config struct {
	seconds int
	rounds  int
	only    string
	write   string
	dir     string
	pgbin   string
	spand   string
	etcd    string
}

func parseFlags(args []string) (config, error) {
	var c config
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.IntVar(&c.seconds, "seconds", 20, "length of one pgbench run; a rate of the lock service is measured for half as long")
	fs.IntVar(&c.rounds, "rounds", 3, "alternating runs of which the median counts")
	fs.StringVar(&c.only, "only", "", "rows to measure, with commas between: a row or all that begin with its first word\n"+rowNames())
	fs.StringVar(&c.write, "write", "", "file whose generated parts are replaced, those of which rows were measured")
	fs.StringVar(&c.dir, "dir", "/var/tmp", "where the databases lie; a real disk, for the sake of fsync")
	fs.StringVar(&c.pgbin, "pgbin", "/usr/lib/postgresql/15/bin", "PostgreSQL's programs")
	fs.StringVar(&c.spand, "spand", "", "spand to measure; empty: build it")
	fs.StringVar(&c.etcd, "etcd", "", "etcd's server to measure; empty: build it")
	if err := fs.Parse(args); err != nil {
		return c, err
	}
	switch {
	case fs.NArg() > 0:
		return c, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case c.seconds < 1 || c.rounds < 1:
		return c, errors.New("-seconds and -rounds must be at least 1")
	}
	return c, nil
}

func main() {
	err := run(os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	cfg, err := parseFlags(args)
	if err != nil {
		return err
	}
	rows, err := selectRows(cfg.only)
	if err != nil {
		return err
	}
	if cfg.write != "" { // not after the figures are there
		for _, section := range rows.sections() {
			if _, _, err := aroundGenerated(cfg.write, section); err != nil {
				return err
			}
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	began, load := time.Now(), loadAverage()

	dir, err := os.MkdirTemp(cfg.dir, "spand-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // the user postgres goes through it
		return err
	}
	if cfg.spand == "" {
		cfg.spand = filepath.Join(dir, "spand")
		if _, err := output(ctx, "go", "build", "-o", cfg.spand, "github.com/spandb/spand/cmd/spand"); err != nil {
			return err
		}
	}
	b := &bench{cfg: cfg, dir: dir, rows: rows, progress: newProgress(cfg, rows), tables: map[string]*table{}}
	defer b.stopAll()
	about, err := describe(ctx, cfg, dir)
	if err != nil {
		return err
	}
	if slices.Contains(rows.sections(), sqlSection) {
		if b.tableOf(sqlSection).about, err = describePgbench(ctx, cfg); err != nil {
			return err
		}
	}
	for _, p := range parts {
		if !rows.any(p.rows) {
			continue
		}
		b.progress.begin(p)
		b.table = b.tableOf(p.section)
		if err := p.run(b, ctx); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("%w%s", err, b.dead())
		}
		b.stopAll()
	}

	about.load = [2]float64{load, loadAverage()}
	about.took = time.Since(began)
	for _, section := range rows.sections() {
		out := about.of(b.tables[section]) + "\n" + b.tables[section].String()
		fmt.Print(out)
		if cfg.write == "" {
			continue
		}
		if err := replaceGenerated(cfg.write, section, out); err != nil {
			return err
		}
	}
	return nil
}

// bench is one run of the program.
type bench struct {
	cfg      config
	dir      string
	rows     selection
	progress *progress
	running  []*server         // until stop; one may have died
	tables   map[string]*table // by section
	table    *table            // of the part that runs
}

// tableOf returns a section's table.
func (b *bench) tableOf(section string) *table {
	if b.tables[section] == nil {
		b.tables[section] = &table{}
	}
	return b.tables[section]
}
