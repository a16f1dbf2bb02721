package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/spandb/spand/lockservice/lockpb"
)

// Nemesis does harm to a cluster of real processes, as its seed says, and heals it.
// One goroutine, the test's own, drives it.
type Nemesis struct {
	Seed   uint64
	Health *Health
	Counts map[string]int // faults done, by kind

	t     testing.TB
	c     *Cluster
	net   Network
	rng   *rand.Rand
	least time.Duration // that faults last
}

// NewNemesis prepares faults for a healthy cluster whose nodes net connects.
func NewNemesis(t testing.TB, c *Cluster, net Network, h *Health, seed uint64) *Nemesis {
	return &Nemesis{Seed: seed, Health: h, Counts: map[string]int{}, t: t, c: c, net: net, rng: rand.New(rand.NewPCG(seed, 1))}
}

// faultPace is the least time between the beginnings of two faults: an outage that
// lasts longer than the bound is not to be excused by the next fault.
const faultPace = 4 * time.Second

// faultKinds are drawn by weight.
var faultKinds = []struct {
	name   string
	weight int
	do     func(*Nemesis)
}{
	{"kill -9", 4, (*Nemesis).kill},
	{"pause", 4, (*Nemesis).pause},
	{"isolate", 4, (*Nemesis).isolate},
	{"cut one way", 2, (*Nemesis).oneWay},
	{"mute", 2, (*Nemesis).mute},
	{"deafen", 2, (*Nemesis).deafen},
	{"hold", 2, (*Nemesis).hold},
	{"delay", 1, (*Nemesis).delay},
	{"reset", 1, (*Nemesis).reset},
	{"drain", 1, (*Nemesis).drain},
	{"kill all", 1, (*Nemesis).killAll},
	{"pause all", 1, (*Nemesis).pauseAll},
	{"cut all", 1, (*Nemesis).cutAll},
	{"two at once", 2, (*Nemesis).two},
}

// Run does one fault after the other until the time is over, and returns with all of
// them healed and all nodes serving.
func (x *Nemesis) Run(ctx context.Context, d time.Duration) {
	x.t.Logf("nemesis: seed %d", x.Seed)
	total := 0
	for _, k := range faultKinds {
		total += k.weight
	}
	for end := time.Now().Add(d); time.Now().Before(end) && ctx.Err() == nil; {
		began := time.Now()
		n := x.rng.IntN(total)
		for _, k := range faultKinds {
			if n -= k.weight; n < 0 {
				x.Do(k.name)
				break
			}
		}
		x.wait(ctx, min(max(faultPace-time.Since(began), 0)+x.between(0, time.Second), time.Until(end)))
	}
}

// Short does one of each fault that has found most, for a run of some twenty seconds.
func (x *Nemesis) Short() {
	x.t.Logf("nemesis: seed %d", x.Seed)
	x.least = 2 * time.Second // else they might prove nothing
	kinds := []string{"kill -9", "pause", "isolate", "deafen", "kill all"}
	x.rng.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	for _, k := range kinds {
		began := time.Now()
		x.Do(k)
		x.wait(context.Background(), max(faultPace-time.Since(began), 0))
	}
}

// Do does one fault of a kind and heals it.
func (x *Nemesis) Do(kind string) {
	for _, k := range faultKinds {
		if k.name == kind {
			x.Counts[kind]++
			k.do(x)
			return
		}
	}
	x.t.Fatalf("no fault is called %q", kind)
}

func (x *Nemesis) wait(ctx context.Context, d time.Duration) { pause(d, ctx.Done()) }

func (x *Nemesis) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(x.rng.Int64N(int64(hi-lo)))
}

// lasting draws how long a fault lasts: most end when a lease may just have.
func (x *Nemesis) lasting() time.Duration {
	d := x.between(time.Second, 6*time.Second)
	switch x.rng.IntN(4) {
	case 0:
		d = x.between(100*time.Millisecond, 600*time.Millisecond)
	case 1:
		d = x.between(1300*time.Millisecond, 2*time.Second)
	}
	return max(d, x.least)
}

// victim is the leader of one of the meter's tablets or of the first cell in two of three
// cases, else anybody.
func (x *Nemesis) victim() int {
	tablet, anybody := x.rng.IntN(meterTablets+1), x.rng.IntN(len(x.c.Nodes))
	v := anybody
	if x.rng.IntN(3) > 0 {
		if l := x.leader(tablet); l >= 0 {
			v = l
		}
	}
	return v
}

// cellLeader is who leads the first cell, by the word of a live node; -1: unknown.
func (x *Nemesis) cellLeader() int {
	for _, i := range x.Health.Live() {
		conn, err := grpc.NewClient("passthrough:///"+x.c.Nodes[i].RPCAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return -1
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		resp, err := lockpb.NewLockServiceClient(conn).GetCell(ctx, &lockpb.GetCellRequest{Cell: "local"})
		cancel()
		conn.Close()
		if l := resp.GetCell().GetLeader().GetNode(); err == nil && l != "" {
			return slices.IndexFunc(x.c.Nodes, func(n *Node) bool { return n.Name == l })
		}
	}
	return -1
}

// leader is who leads a tablet of the meter, by the word of a live node; -1: unknown.
func (x *Nemesis) leader(tablet int) int {
	if tablet == meterCell {
		return x.cellLeader()
	}
	for _, i := range x.Health.Live() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		conn, err := pgx.Connect(ctx, x.c.Nodes[i].URL())
		var leaders []string
		if err == nil {
			rows, _ := conn.Query(ctx, "select coalesce(leader, '') from spand.tablets where start_key > '01' order by start_key")
			var l string
			for rows.Next() && rows.Scan(&l) == nil {
				leaders = append(leaders, l)
			}
			closeConn(conn)
		}
		cancel()
		if len(leaders) > 0 {
			// The meter's tablets are not told apart from the workload's: any will do.
			l := leaders[tablet%len(leaders)]
			return slices.IndexFunc(x.c.Nodes, func(n *Node) bool { return n.Name == l })
		}
	}
	return -1
}

func (x *Nemesis) others(v int) (list []int) {
	for i := range x.c.Nodes {
		if i != v {
			list = append(list, i)
		}
	}
	return list
}

// say logs a fault, or its end, in one line.
func (x *Nemesis) say(heal bool, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	x.Health.Fault(Event{At: time.Now(), What: what, Heal: heal})
	x.t.Logf("nemesis: %s %s", time.Now().UTC().Format("15:04:05.000"), what)
}

func (x *Nemesis) name(i int) string { return x.c.Nodes[i].Name }

func (x *Nemesis) kill() {
	v := x.victim()
	x.killNode(v)
	x.wait(context.Background(), x.between(0, 4*time.Second))
	x.restart(v)
}

func (x *Nemesis) killNode(v int) {
	x.Health.Running(v, false)
	x.say(false, "kill -9 %s", x.name(v))
	x.c.Nodes[v].Kill(x.t)
}

// restart starts nodes that have ended and waits until they serve.
func (x *Nemesis) restart(nodes ...int) {
	for _, v := range nodes {
		x.say(true, "start %s", x.name(v))
		x.c.Nodes[v].Launch(x.t)
		x.Health.Running(v, true)
	}
	for _, v := range nodes {
		x.c.Nodes[v].AwaitReady(x.t)
		x.t.Logf("nemesis: %s %s is ready", time.Now().UTC().Format("15:04:05.000"), x.name(v))
	}
}

func (x *Nemesis) pause() {
	v, d := x.victim(), x.lasting()
	x.pauseNodes(d, v)
}

func (x *Nemesis) pauseNodes(d time.Duration, nodes ...int) {
	for _, v := range nodes {
		x.Health.Running(v, false)
		x.say(false, "SIGSTOP %s for %v", x.name(v), d.Round(time.Millisecond))
		x.c.Nodes[v].Pause(x.t)
	}
	x.wait(context.Background(), d)
	for _, v := range nodes {
		x.c.Nodes[v].Resume(x.t)
		x.Health.Running(v, true)
		x.say(true, "SIGCONT %s", x.name(v))
	}
}

// cut does something to directions for a time, then heals them.
func (x *Nemesis) cut(what string, d time.Duration, how func(from, to int) error, pairs ...[2]int) {
	for _, p := range pairs {
		x.Health.Cut(p[0], p[1], true)
	}
	x.say(false, "%s for %v", what, d.Round(time.Millisecond))
	for _, p := range pairs {
		if err := how(p[0], p[1]); err != nil {
			x.t.Fatal(err)
		}
	}
	x.wait(context.Background(), d)
	for _, p := range pairs {
		if err := x.net.Heal(p[0], p[1]); err != nil {
			x.t.Fatal(err)
		}
		x.Health.Cut(p[0], p[1], false)
	}
	x.say(true, "heal (%s)", what)
}

func (x *Nemesis) from(v int) (pairs [][2]int) {
	for _, o := range x.others(v) {
		pairs = append(pairs, [2]int{v, o})
	}
	return pairs
}

func (x *Nemesis) to(v int) (pairs [][2]int) {
	for _, o := range x.others(v) {
		pairs = append(pairs, [2]int{o, v})
	}
	return pairs
}

func (x *Nemesis) isolate() {
	v := x.victim()
	x.cut("isolate "+x.name(v), x.lasting(), x.net.Cut, append(x.from(v), x.to(v)...)...)
}

func (x *Nemesis) mute() {
	v := x.victim()
	x.cut("mute "+x.name(v), x.lasting(), x.net.Cut, x.from(v)...)
}

func (x *Nemesis) deafen() {
	v := x.victim()
	x.cut("deafen "+x.name(v), x.lasting(), x.net.Cut, x.to(v)...)
}

func (x *Nemesis) oneWay() {
	v := x.victim()
	pairs := append(x.from(v), x.to(v)...)
	p := pairs[x.rng.IntN(len(pairs))]
	x.cut(fmt.Sprintf("cut %s to %s", x.name(p[0]), x.name(p[1])), x.lasting(), x.net.Cut, p)
}

// latency is what a Network may be able to do besides: late, not lost.
type latency interface {
	Hold(from, to int) error
	Delay(from, to int, d time.Duration)
	Reset(from, to int)
}

// hold keeps back what a leader sends; it arrives when others may lead.
func (x *Nemesis) hold() {
	v := x.victim()
	l, ok := x.net.(latency)
	if !ok {
		x.cut("mute "+x.name(v), x.lasting(), x.net.Cut, x.from(v)...)
		return
	}
	x.cut("hold what "+x.name(v)+" sends", x.lasting(), l.Hold, x.from(v)...)
}

func (x *Nemesis) delay() {
	v := x.victim()
	l, ok := x.net.(latency)
	if !ok {
		return
	}
	d, long := x.between(time.Millisecond, 150*time.Millisecond), x.between(time.Second, 4*time.Second)
	x.say(false, "delay what %s sends by %v for %v", x.name(v), d.Round(time.Millisecond), long.Round(time.Millisecond))
	for _, o := range x.others(v) {
		l.Delay(v, o, d)
	}
	x.wait(context.Background(), long)
	for _, o := range x.others(v) {
		l.Delay(v, o, 0)
	}
	x.say(true, "heal (delay)")
}

func (x *Nemesis) reset() {
	v := x.victim()
	if l, ok := x.net.(latency); ok {
		x.say(false, "reset the connections of %s", x.name(v))
		for _, o := range x.others(v) {
			l.Reset(v, o)
			l.Reset(o, v)
		}
	}
}

func (x *Nemesis) drain() {
	v := x.victim()
	// It serves, and counts, until it says that it does not.
	x.say(false, "SIGTERM %s", x.name(v))
	x.Health.Running(v, false)
	if code := x.c.Nodes[v].Terminate(x.t); code != 0 {
		x.t.Errorf("%s drained and exited with %d", x.name(v), code)
	}
	x.wait(context.Background(), x.between(0, 2*time.Second))
	x.restart(v)
}

func (x *Nemesis) all() (list []int) { return x.others(-1) }

func (x *Nemesis) killAll() {
	for _, v := range x.rng.Perm(len(x.c.Nodes)) {
		x.killNode(v)
	}
	x.restart(x.rng.Perm(len(x.c.Nodes))...)
}

func (x *Nemesis) pauseAll() { x.pauseNodes(x.lasting(), x.all()...) }

func (x *Nemesis) cutAll() {
	var pairs [][2]int
	for v := range x.c.Nodes {
		pairs = append(pairs, x.from(v)...)
	}
	x.cut("cut all from each other", x.lasting(), x.net.Cut, pairs...)
}

// two has a second node fail while the first one is away, so that for a time no
// majority of three is left, and the one that comes back first is needed at once.
func (x *Nemesis) two() {
	v := x.victim()
	w := x.others(v)[x.rng.IntN(len(x.c.Nodes)-1)]
	x.killNode(v)
	x.wait(context.Background(), x.between(0, 2*time.Second))
	if x.rng.IntN(2) == 0 {
		x.pauseNodes(x.between(100*time.Millisecond, 3*time.Second), w)
		x.restart(v)
		return
	}
	x.killNode(w)
	x.wait(context.Background(), x.between(0, time.Second))
	order := []int{v, w}
	x.rng.Shuffle(2, func(i, j int) { order[i], order[j] = order[j], order[i] })
	x.restart(order...)
}
