package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/spandb/spand/integration/workload"
	"github.com/spandb/spand/internal/keys"
)

// Plan is everything about a run that the seed decides beforehand.
type Plan struct {
	Seed     uint64
	Nodes    int
	Epsilon  time.Duration
	Duration time.Duration // of the faults
	Noise    Noise         // of the healthy network
	Faults   []Fault       // by At
	Workers  int
	Helps    bool // what brings Raft's messages does their work, if it can

	DiskLatency                         time.Duration
	CheckpointKeys                      int
	CheckpointInterval                  time.Duration
	SegmentBytes                        int64
	StageAfter, ChunkBytes, InlineBytes int // 0: txn's defaults
	TailBudget                          int // 0: paxosgroup's default
	InDoubtAfter                        time.Duration
	VersionHorizon                      time.Duration // 0: nothing is collected

	Think      time.Duration // a client's longest pause
	Ahead      time.Duration // how far in the future "ahead" clients read at most
	Prompt     bool          // nothing keeps a transaction from ending in time: all must (X2)
	Splits     []string      // made before the faults
	Clients    []string      // kinds, one per client
	SQL        []string      // kinds of SQL clients (package workload), none for none
	SQLClients int
	// Clients of the lock service, none for none; what they do (package workload), their
	// sessions' TTL, and by how much of the time that passes their clocks err.
	LockClients int
	LockSteps   []string
	LockTTL     time.Duration
	LockDrift   float64
	// Lies says that some clock errs beyond ε: recency is at risk then, nothing else (T2).
	Lies bool
}

// FaultKind says what goes wrong.
type FaultKind uint8

const (
	Crash FaultKind = iota
	CrashAll
	Isolate   // a node from all others, both ways
	OneWay    // messages from Node to To
	Stall     // a node's network stands still
	NoisyNet  // Noise
	SlowDisk  // Amount more per sync
	ClockMove // to an error of Amount, drifting by PPM
	Transfer  // leadership of the tablet of Key to Node
	Split     // at Key
	Checkpoint
	Drain    // a clean shutdown, then a restart
	FailSync // the disk fails the next sync, which must end the life (R1)
	Pause    // the process is stopped
	FullDisk // below the reserve
	Wipe     // a crash that takes the disk with it; never drawn, see doc.go
	ClockLie // to an error of Amount, beyond ε (T2)
	Ambush   // a crash of the first cell's leader, Amount after a lock client sends a call of the kind Key; for For
)

func (k FaultKind) String() string {
	return [...]string{"crash", "crash all", "isolate", "cut one way", "stall", "noise", "slow disk", "clock", "transfer", "split", "checkpoint", "drain", "failing sync", "pause", "full disk", "wipe", "clock lies", "ambush"}[k]
}

// Fault happens at At and, where it lasts, ends after For.
type Fault struct {
	Kind    FaultKind
	At, For time.Duration
	Node    keys.NodeID // 0: whoever leads the tablet of Key then
	To      keys.NodeID
	Key     string
	Torn    bool
	Noise   Noise
	Amount  time.Duration
	PPM     float64
}

func (f Fault) String() string {
	s := fmt.Sprintf("%v", f.Kind)
	if f.Node != 0 {
		s += fmt.Sprintf(" node=%d", f.Node)
	}
	if f.To != 0 {
		s += fmt.Sprintf(" to=%d", f.To)
	}
	if f.Key != "" {
		s += fmt.Sprintf(" key=%s", show(f.Key))
	}
	switch f.Kind {
	case NoisyNet:
		s += " " + f.Noise.String()
	case SlowDisk, ClockMove, ClockLie, Ambush:
		s += fmt.Sprintf(" %v", f.Amount)
	}
	if f.PPM != 0 {
		s += fmt.Sprintf(" %.1fppm", f.PPM)
	}
	if f.For != 0 {
		s += fmt.Sprintf(" for=%v", f.For)
	}
	return s
}

// draw is a source of choices.
type draw struct{ *rand.Rand }

func (d draw) between(lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	return lo + time.Duration(d.Int64N(int64(hi-lo)))
}

func pick[T any](d draw, xs ...T) T { return xs[d.IntN(len(xs))] }

// Streams of a seed's choices, so that none disturbs another.
const (
	streamPlan = iota + 1
	streamFaults
	streamTorn
	streamClients // and on: one each
	streamLocks   = 1 << 32
	streamWorkers = 1 << 33
	streamHelps   = 1<<33 + 1
)

func newDraw(seed, stream uint64) draw { return draw{rand.New(rand.NewPCG(seed, stream))} }

// splitKeys are where tablets may be divided; the workloads' keys lie around them.
var splitKeys = []string{acct(3), acct(6), reg(0), reg(3), mix(0), mix(4), mix(8), uniq(0, 0)}

// NewPlan draws a plan.
func NewPlan(seed uint64, o Options) Plan {
	d := newDraw(seed, streamPlan)
	p := Plan{
		Seed: seed, Nodes: 3,
		Epsilon:            pick(d, 0, time.Millisecond, 4*time.Millisecond, 4*time.Millisecond, 20*time.Millisecond, 50*time.Millisecond),
		Duration:           o.Duration,
		DiskLatency:        pick(d, 0, 100*time.Microsecond, 500*time.Microsecond, 3*time.Millisecond),
		CheckpointKeys:     pick(d, 60, 300, 2000),
		CheckpointInterval: pick(d, 300*time.Millisecond, 700*time.Millisecond, 3*time.Second, time.Minute),
		SegmentBytes:       pick[int64](d, 64<<10, 256<<10),
		InDoubtAfter:       pick(d, 300*time.Millisecond, 3*time.Second),
		VersionHorizon:     pick(d, 0, 0, 1500*time.Millisecond),
	}
	if d.IntN(6) == 0 {
		p.Nodes = 5
	}
	if o.Epsilon > 0 {
		p.Epsilon = o.Epsilon
	}
	p.Think = pick(d, 4*time.Millisecond, 12*time.Millisecond, 40*time.Millisecond)
	p.Noise = Noise{Min: 100 * time.Microsecond, Max: pick(d, 300*time.Microsecond, time.Millisecond, 5*time.Millisecond)}
	if d.IntN(3) == 0 {
		p.StageAfter, p.ChunkBytes, p.InlineBytes = 300, 200, 150
	}
	for range d.IntN(7) {
		p.Splits = append(p.Splits, pick(d, splitKeys...))
	}
	p.Lies = o.LyingClocks || d.IntN(10) == 0 && o.Adjust == nil
	p.TailBudget = pick(d, 16<<10, 256<<10, 0)
	p.Clients = []string{"bank", "bank", "bank", "register", "register", "register", "insert", "mixed", "mixed", "mixed", "audit", "stale"}
	if d.IntN(4) == 0 {
		p.Noise.Reorder = true // else a late copy keeps all that follows it on its link waiting
	}
	if d.IntN(4) == 0 {
		p.Ahead = pick(d, 50*time.Millisecond, 300*time.Millisecond)
		p.Clients = append(p.Clients, "ahead", "skew", "blind")
	}
	if o.Adjust == nil { // a plan of its own says which clients it needs
		p.drawSQL(d)
	}
	p.drawFaults(newDraw(seed, streamFaults), o)
	if o.Adjust == nil {
		p.drawLocks(newDraw(seed, streamLocks))
	}
	// Of several workers one may write the log while the others go on, if a segment has room for it.
	p.Workers = pick(newDraw(seed, streamWorkers), 1, 3)
	p.Helps = pick(newDraw(seed, streamHelps), false, true)
	if o.Adjust != nil {
		o.Adjust(&p, newDraw(seed, streamPlan+100))
	}
	slices.SortStableFunc(p.Faults, func(a, b Fault) int { return int(a.At - b.At) })
	return p
}

func (p *Plan) drawSQL(d draw) {
	kinds := append(workload.DefaultKinds(), "stale", "outcome")
	d.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	p.SQL, p.SQLClients = kinds[:1+d.IntN(3)], 6
	if slices.Contains(p.SQL, "stale") && !slices.Contains(p.SQL, "append") {
		p.SQL = append(p.SQL, "append") // whose lists it reads
	}
}

// drawLocks draws, for two of three seeds, clients of the lock service, and has the faults be
// more about its first cell: its leader is the victim more often, and crashes in the
// middle of a client's call.
func (p *Plan) drawLocks(d draw) {
	if d.IntN(3) == 0 {
		return
	}
	p.LockClients, p.LockTTL = 3+d.IntN(4), pick(d, time.Second, 2*time.Second, 2*time.Second, 4*time.Second)
	p.LockDrift = 4e-4
	for i := range p.Faults {
		if f := &p.Faults[i]; f.Key != "" && f.Kind != Split && d.IntN(2) == 0 {
			f.Key = cellKey
		}
	}
	for range d.IntN(4) {
		p.Faults = append(p.Faults, p.ambush(d, d.between(300*time.Millisecond, p.Duration)))
	}
}

// ambush crashes the cell's leader in the middle of a call.
func (p *Plan) ambush(d draw, at time.Duration) Fault {
	return Fault{
		Kind: Ambush, At: at, Key: pick(d, "acquire", "release", "beat", "set_contents", "close_session", "create_session", "delete"),
		Amount: d.between(0, pick(d, time.Millisecond, 2*time.Millisecond+p.DiskLatency*3)), Torn: d.IntN(2) == 0,
		For: d.between(5*time.Millisecond, 2*time.Second),
	}
}

// lockDrift is by how much of the time that passes a lock client's clock errs.
func (p *Plan) lockDrift(d draw) float64 { return p.LockDrift * (2*d.Float64() - 1) }

func (p *Plan) node(d draw) keys.NodeID { return keys.NodeID(1 + d.IntN(p.Nodes)) }

// victim is a node, or in half of the cases whoever leads some tablet then.
func (p *Plan) victim(d draw) (keys.NodeID, string) {
	k := pick(d, splitKeys...)
	if d.IntN(2) == 0 {
		return 0, k
	}
	return p.node(d), ""
}

func (p *Plan) drawFaults(d draw, o Options) {
	kinds := []FaultKind{
		Crash, Crash, Crash, Isolate, Isolate, OneWay, Stall, Pause, Pause, NoisyNet, NoisyNet,
		SlowDisk, ClockMove, ClockMove, Transfer, Transfer, Split, Split, Checkpoint, Drain, FailSync, FullDisk,
	}
	if p.Lies {
		kinds = append(kinds, ClockLie, ClockLie, ClockLie)
	}
	at := 200 * time.Millisecond
	pace := pick(d, 600*time.Millisecond, 1500*time.Millisecond, 3*time.Second)
	for {
		at += d.between(10*time.Millisecond, pace)
		if at >= p.Duration {
			break
		}
		f := Fault{Kind: pick(d, kinds...), At: at}
		long := d.between(50*time.Millisecond, pick(d, time.Second, 3*time.Second, 6*time.Second))
		switch f.Kind {
		case Crash:
			if d.IntN(8) == 0 {
				f.Kind = CrashAll
			}
			f.Node, f.Key = p.victim(d)
			f.For, f.Torn = pick(d, 5*time.Millisecond, d.between(10*time.Millisecond, 300*time.Millisecond), long), d.IntN(2) == 0
		case Isolate:
			f.Node, f.Key = p.victim(d)
			f.For = long
		case OneWay:
			f.Node = p.node(d)
			if f.To = p.node(d); f.To == f.Node {
				f.To = f.Node%keys.NodeID(p.Nodes) + 1
			}
			f.For = long
		case Stall, Pause:
			f.Node, f.Key = p.victim(d)
			f.For = long
		case FullDisk:
			f.Node, f.For = p.node(d), long
		case ClockLie:
			f.Node, f.For = p.node(d), long
			f.Amount = pick(d, -3*time.Second, -200*time.Millisecond, -10*time.Millisecond, 10*time.Millisecond, 200*time.Millisecond, 3*time.Second)
		case NoisyNet:
			f.For = long
			f.Noise = Noise{
				Drop: pick(d, 0, 0.02, 0.1, 0.3), Duplicate: pick(d, 0, 0.02, 0.2), Reorder: d.IntN(2) == 0,
				Min: 50 * time.Microsecond, Max: pick(d, time.Millisecond, 20*time.Millisecond, 200*time.Millisecond),
			}
		case SlowDisk:
			f.Node, f.For, f.Amount = p.node(d), long, pick(d, 5*time.Millisecond, 50*time.Millisecond, 400*time.Millisecond)
		case ClockMove:
			f.Node = p.node(d)
			f.Amount, f.PPM = p.honestClock(d)
		case Transfer:
			f.Node, f.Key = p.node(d), pick(d, splitKeys...)
		case Split:
			f.Key = pick(d, splitKeys...)
			if d.IntN(3) == 0 {
				f.Key = uniq(d.IntN(12), d.IntN(40))
			}
		case Checkpoint:
			f.Node = p.node(d)
		case Drain, FailSync:
			f.Node = p.node(d)
			f.For = pick(d, 5*time.Millisecond, long)
		}
		p.Faults = append(p.Faults, f)
	}
}

// honestClock draws an error and a drift that stay within ε for as long as a
// world lasts.
func (p *Plan) honestClock(d draw) (time.Duration, float64) {
	if p.Epsilon == 0 {
		return 0, 0
	}
	most := p.Epsilon * 8 / 10
	e := pick(d, -most, most, d.between(-most, most))
	ppm := 1e6 * (p.Epsilon - most).Seconds() / worldLife.Seconds()
	return e, ppm * (2*d.Float64() - 1)
}

// worldLife bounds the virtual time that a world lasts.
const worldLife = 5 * time.Minute
