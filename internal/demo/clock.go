package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spandb/spand/truetime"
)

// ClockReport is what the clock scenario measured.
type ClockReport struct {
	Levels []Level
	// Refusal is what the node with the wrong clock answered, and Health what its
	// /healthz said.
	Refusal *pgconn.PgError
	Health  string
	// After the refusal, before the restart: commits at the other nodes.
	Others []Commit
	// Rows that the restarted node found, and the first one.
	Restarted, First int
}

// Level is one setting of ε.
type Level struct {
	Added         time.Duration
	Commits       []Commit
	Strong, Stale []time.Duration // reads
}

// Commit is one commit as its client saw it.
type Commit struct {
	Took time.Duration
	TS   truetime.Timestamp
	// Answered is the gateway's interval when the answer was there: its Earliest lies
	// above TS (X1).
	Answered truetime.Interval
}

// early counts the commits that were answered before their timestamp had passed.
func early(cs []Commit) (n int) {
	for _, c := range cs {
		if c.Answered.Earliest <= c.TS {
			n++
		}
	}
	return n
}

// The steps of ε, and how many commits are measured at each: the wide ones take long.
var clockLevels = []struct {
	added time.Duration
	runs  int
}{{0, 60}, {5 * time.Millisecond, 40}, {20 * time.Millisecond, 25}, {50 * time.Millisecond, 15}}

// staleness is what stale reads are made under: far enough back to lie behind all that
// is uncertain, and not before the row was there.
const (
	staleness = "SET spand.read_only_staleness = 'EXACT_STALENESS 300ms'"
	staleBy   = 300 * time.Millisecond
)

// wrongBy is how far the lying clock is put ahead.
const wrongBy = 2 * time.Second

// clockTour is the scenario under way.
type clockTour struct {
	c     *Cluster
	out   io.Writer
	conns []*pgx.Conn
	r     ClockReport
	keys  int
	first truetime.Timestamp // of the first commit
}

// Clock runs the guided demonstration of clock uncertainty on a cluster of three nodes or
// more, printing to out. next is called between the steps.
func Clock(ctx context.Context, c *Cluster, out io.Writer, next func(context.Context) error) (*ClockReport, error) {
	if c.Nodes() < 3 {
		return nil, errors.New("the clock scenario needs three nodes: with fewer nobody is outvoted")
	}
	t := &clockTour{c: c, out: out, conns: make([]*pgx.Conn, c.Nodes())}
	defer func() {
		for _, conn := range t.conns {
			if conn != nil {
				conn.Close(context.WithoutCancel(ctx))
			}
		}
	}()
	for _, step := range []func(context.Context) error{t.open, t.widen, t.lie, t.heal} {
		if err := step(ctx); err != nil {
			return &t.r, err
		}
		if err := next(ctx); err != nil {
			return &t.r, err
		}
	}
	t.say("That was it. What is shown here is in SHOW spand.clock, SELECT * FROM spand.clock, EXPLAIN ANALYZE and `spand clock`.")
	return &t.r, nil
}

func (t *clockTour) say(format string, args ...any) { fmt.Fprintf(t.out, format+"\n", args...) }

// open connects and explains what there is to see.
func (t *clockTour) open(ctx context.Context) (err error) {
	t.say(`
Clock uncertainty, live

A clock answers an interval that contains true time; ε is half its width. A commit takes
its timestamp from the interval's upper end and is answered only once that has surely
passed: commit wait, about 2ε. So who starts later gets a later timestamp, on any node.
Here all nodes share one clock, so that ε = 0 is true. We shall make it worse by hand.`)
	for i := range t.conns {
		if t.conns[i], err = pgx.Connect(ctx, t.c.URL(i)); err != nil {
			return err
		}
	}
	t.say("\n  %s> CREATE TABLE visit (id int PRIMARY KEY, page text)", t.c.Name(0))
	_, err = t.conns[0].Exec(ctx, "CREATE TABLE visit (id int PRIMARY KEY, page text)")
	return err
}

// commit makes one at node i and measures it.
func (t *clockTour) commit(ctx context.Context, i int) (m Commit, err error) {
	t.keys++
	began := time.Now()
	if _, err = t.conns[i].Exec(ctx, "INSERT INTO visit VALUES ($1, 'home')", t.keys); err != nil {
		return m, err
	}
	m.Took, m.Answered = time.Since(began), t.c.Now(i)
	var ts string
	if err = t.conns[i].QueryRow(ctx, "SHOW spand.commit_timestamp").Scan(&ts); err != nil {
		return m, err
	}
	at, err := time.Parse(time.RFC3339Nano, ts)
	m.TS = truetime.FromTime(at)
	if t.first == 0 {
		t.first = m.TS
	}
	return m, err
}

// reads measures n reads of a row.
func (t *clockTour) reads(ctx context.Context, n int) (took []time.Duration, err error) {
	for range n {
		var page string
		began := time.Now()
		if err := t.conns[0].QueryRow(ctx, "SELECT page FROM visit WHERE id = 1").Scan(&page); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	return took, nil
}

// widen measures commits and reads under growing uncertainty.
func (t *clockTour) widen(ctx context.Context) error {
	t.say("\nStep 1: ε grows on every node, while it runs. Commits wait, reads do not.\n")
	t.say("  %s>  INSERT INTO visit VALUES ($1, 'home')", t.c.Name(0))
	t.say("  %s>  SELECT page FROM visit WHERE id = 1   -- and again after\n  %s>  %s\n", t.c.Name(0), t.c.Name(0), staleness)
	t.say("  %-37s %7s %12s %12s %12s", "", "", "commit", "strong read", "stale read")
	t.say("  %-37s %7s %12s %12s %12s", "on every node", "2ε", "p50", "p50", "p50")
	for _, l := range clockLevels {
		if err := t.add(ctx, l.added); err != nil {
			return err
		}
		level := Level{Added: l.added}
		for range l.runs {
			m, err := t.commit(ctx, 0)
			if err != nil {
				return err
			}
			level.Commits = append(level.Commits, m)
		}
		var err error
		if level.Strong, err = t.reads(ctx, 100); err != nil {
			return err
		}
		if level.Stale, err = t.staleReads(ctx, 100); err != nil {
			return err
		}
		t.r.Levels = append(t.r.Levels, level)
		commits := make([]time.Duration, len(level.Commits))
		for i := range commits {
			commits[i] = level.Commits[i].Took
		}
		t.say("  %-37s %7v %12s %12s %12s", widening(l.added), 2*t.c.Now(0).Epsilon().Round(100*time.Microsecond), ms(p50(commits)), ms(p50(level.Strong)), ms(p50(level.Stale)))
	}
	all, bad := 0, 0
	for _, l := range t.r.Levels {
		all, bad = all+len(l.Commits), bad+early(l.Commits)
	}
	t.say("\n  Of %d commits %d were answered before their timestamp had passed on the node's clock.", all, bad)
	t.say("  What one of them says of itself:\n\n  %s>  EXPLAIN ANALYZE INSERT INTO visit VALUES (…)", t.c.Name(0))
	t.keys++
	lines, err := t.table(ctx, 0, fmt.Sprintf("EXPLAIN ANALYZE INSERT INTO visit VALUES (%d, 'home')", t.keys))
	if err != nil {
		return err
	}
	for _, l := range lines {
		t.say("    %s", l[0])
	}
	t.say("\n  every node>  RESET spand.clock_error_add")
	return t.add(ctx, 0)
}

func widening(d time.Duration) string {
	return fmt.Sprintf("SET spand.clock_error_add = '%dms'", d.Milliseconds())
}

// add sets the added error on every node and waits until the intervals are as wide.
func (t *clockTour) add(ctx context.Context, d time.Duration) error {
	for i, conn := range t.conns {
		if _, err := conn.Exec(ctx, widening(d)); err != nil {
			return err
		}
		if err := t.c.await(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// await returns when all that node i's clock has said so far has passed: after a change
// of its error its interval is then as wide as it will be.
func (c *Cluster) await(ctx context.Context, i int) error {
	clock := c.nodes[i].Rooms().Clock
	return clock.AwaitAfter(ctx, clock.Now().Latest)
}

// staleReads are reads in the past.
func (t *clockTour) staleReads(ctx context.Context, n int) ([]time.Duration, error) {
	// The row that is read must have been there.
	if err := t.c.nodes[0].Rooms().Clock.AwaitAfter(ctx, t.first.Add(staleBy)); err != nil {
		return nil, err
	}
	if _, err := t.conns[0].Exec(ctx, staleness); err != nil {
		return nil, err
	}
	took, err := t.reads(ctx, n)
	if err != nil {
		return nil, err
	}
	_, err = t.conns[0].Exec(ctx, "RESET spand.read_only_staleness")
	return took, err
}

// lie puts the last node's clock wrong and watches it being found out.
func (t *clockTour) lie(ctx context.Context) error {
	liar := t.c.Nodes() - 1
	name := t.c.Name(liar)
	t.say("\nStep 2: the clock of %s is put %v ahead, behind its back: it still vouches for ε = %v.\n", name, wrongBy, t.c.Now(liar).Epsilon())
	tablets, err := t.table(ctx, 0, "SELECT count(*), coalesce(sum(CASE WHEN leader = '"+name+"' THEN 1 ELSE 0 END), 0) FROM spand.tablets")
	if err != nil {
		return err
	}
	t.say("  It leads %s of %s tablets.", tablets[0][1], tablets[0][0])
	const query = "SELECT count(*) FROM visit"
	began := time.Now()
	t.c.Clock(liar).SetOffset(wrongBy)
	for t.r.Refusal == nil {
		var n int
		err := t.conns[liar].QueryRow(ctx, query).Scan(&n)
		if err != nil && !errors.As(err, &t.r.Refusal) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	t.say("  After %s its peers have proved it wrong:\n\n  %s>  %s", ms(time.Since(began)), name, query)
	e := t.r.Refusal
	t.say("  %s:  %s: %s\n  DETAIL:  %s\n  HINT:  %s", e.Severity, e.Code, e.Message, e.Detail, e.Hint)
	health, err := get(ctx, "http://"+t.c.HTTP(liar)+"/healthz")
	if err != nil {
		return err
	}
	t.r.Health = health
	t.say("\n  $ curl %s/healthz\n  %s", t.c.HTTP(liar), strings.TrimSpace(health))

	t.say("\n  The others go on, once what they have promised %s as a leader has ended:\n", name)
	for i := range liar {
		m, err := t.commit(ctx, i)
		if err != nil {
			return fmt.Errorf("%s: %w", t.c.Name(i), err)
		}
		t.r.Others = append(t.r.Others, m)
		t.say("  %s>  INSERT INTO visit VALUES (%d, 'home')   -- took %s", t.c.Name(i), t.keys, ms(m.Took))
	}
	t.say("\n  And they know:\n\n  %s>  SELECT node, state, offset_seconds, offset_bound_seconds FROM spand.clock WHERE NOT is_self ORDER BY node", t.c.Name(0))
	rows, err := t.table(ctx, 0, "SELECT node, state, offset_seconds, offset_bound_seconds FROM spand.clock WHERE NOT is_self ORDER BY node")
	if err != nil {
		return err
	}
	for _, r := range rows {
		offset := "-" // not known: it told that it does not vouch before it told a wrong time
		if r[2] != "" {
			offset = r[2] + " s ± " + r[3] + " s"
		}
		t.say("    %-4s %-12s %s", r[0], r[1], offset)
	}
	return nil
}

// heal puts the clock right and restarts the node.
func (t *clockTour) heal(ctx context.Context) error {
	liar := t.c.Nodes() - 1
	t.say("\nStep 3: the clock of %s is put right. The node must restart: since when its clock was wrong\nnobody knows, so only a new life, which compares clocks afresh, may vouch again.\n", t.c.Name(liar))
	t.conns[liar].Close(ctx)
	t.conns[liar] = nil
	began := time.Now()
	if err := t.c.Restart(ctx, liar); err != nil {
		return err
	}
	var err error
	if t.conns[liar], err = pgx.Connect(ctx, t.c.URL(liar)); err != nil {
		return err
	}
	for i, n := range map[int]*int{0: &t.r.First, liar: &t.r.Restarted} {
		if err := t.conns[i].QueryRow(ctx, "SELECT count(*) FROM visit").Scan(n); err != nil {
			return err
		}
	}
	t.say("  %s serves again after %s and finds %d rows, as %s does (%d).\n", t.c.Name(liar), ms(time.Since(began)), t.r.Restarted, t.c.Name(0), t.r.First)
	return nil
}

// table runs a query at node i and returns its rows as text.
func (t *clockTour) table(ctx context.Context, i int, query string) (out [][]string, err error) {
	results, err := t.conns[i].PgConn().Exec(ctx, query).ReadAll()
	if err != nil {
		return nil, err
	}
	for _, r := range results {
		for _, row := range r.Rows {
			cells := make([]string, len(row))
			for j := range row {
				cells[j] = string(row[j])
			}
			out = append(out, cells)
		}
	}
	return out, nil
}

func get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return fmt.Sprintf("%s %s", resp.Status, body), err
}

func p50(ds []time.Duration) time.Duration {
	if len(ds) == 0 {
		return -1
	}
	s := slices.Sorted(slices.Values(ds))
	return s[len(s)/2]
}

// ms writes a duration in milliseconds, "-" for none.
func ms(d time.Duration) string {
	if d < 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
