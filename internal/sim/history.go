package sim

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
)

// Status of an operation as its client heard it.
type Status uint8

const (
	// Unknown: it may have taken effect, or may yet.
	Unknown Status = iota
	OK
	// Failed: it has not taken effect and never will.
	Failed
)

func (s Status) String() string { return [...]string{"unknown", "ok", "failed"}[s] }

// Op is one transaction as its client saw it: one attempt, not a sequence of retries.
type Op struct {
	ID     int
	Client int
	Node   keys.NodeID
	Kind   string
	Txn    keys.TxnID

	// Begin and End are places in the true order of events; an operation that
	// ended before another one began has End < Begin of that.
	Begin, End     int64
	BeganAt, EndAt time.Duration

	Status   Status
	ReadOnly bool
	Stale    bool               // a read-only read at a timestamp in the past
	TS       truetime.Timestamp // commit or read timestamp, when OK
	Bound    truetime.Timestamp // highest commit timestamp allowed, 0: any
	Reads    []Row              // Value "" is absence
	Scans    []ScanSeen
	Writes   []Row // Value "" deletes
	Err      error
}

// Row is a key with a value.
type Row struct{ Key, Value string }

func (r Row) String() string { return show(r.Key) + "=" + brief(r.Value) }

// ScanSeen is what a scan of [Start, End) returned.
type ScanSeen struct {
	Start, End string
	Rows       []Row
}

func (o *Op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "op%d %s client=%d node=%d [%.6f..%.6f] %v", o.ID, o.Kind, o.Client, o.Node, o.BeganAt.Seconds(), o.EndAt.Seconds(), o.Status)
	if o.TS != 0 {
		fmt.Fprintf(&b, " ts=%s", stamp(o.TS))
	}
	for _, r := range o.Reads {
		fmt.Fprintf(&b, " read %s=%s", show(r.Key), r.Value)
	}
	for _, s := range o.Scans {
		fmt.Fprintf(&b, " scan %s..%s=%d rows", show(s.Start), show(s.End), len(s.Rows))
	}
	for _, r := range o.Writes {
		fmt.Fprintf(&b, " write %s=%s", show(r.Key), brief(r.Value))
	}
	if o.Err != nil {
		fmt.Fprintf(&b, " err=%v", o.Err)
	}
	return b.String()
}

// epoch is the instant at which every bubble's time begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// stamp shows a timestamp in seconds since the bubble's beginning, as the trace does.
func stamp(ts truetime.Timestamp) string {
	return fmt.Sprintf("%.9f", float64(ts-truetime.FromTime(epoch))/1e9)
}

func show(k string) string { return strings.TrimPrefix(k, string(rune(keys.TablePrefix))) }

func brief(v string) string {
	if len(v) > 40 {
		return v[:24] + "…" + v[len(v)-10:]
	}
	return v
}

// History collects operations. Safe for concurrent use.
type History struct {
	trace *Trace
	order atomic.Int64
	mu    sync.Mutex // a leaf
	ops   []*Op
	last  map[int]int // operations begun, by client
}

// opID numbers operations by client, so that what they write does not depend on the
// order of what different clients do at one instant.
func opID(client, n int) int { return (client+1)*100_000 + n }

func (h *History) begin(client int, node keys.NodeID, kind string) *Op {
	o := &Op{Client: client, Node: node, Kind: kind, BeganAt: time.Since(h.trace.start)}
	h.mu.Lock()
	if h.last == nil {
		h.last = map[int]int{}
	}
	h.last[client]++
	o.ID = opID(client, h.last[client])
	h.ops = append(h.ops, o)
	h.mu.Unlock()
	o.Begin = h.order.Add(1)
	return o
}

func (h *History) end(o *Op, s Status, ts truetime.Timestamp, err error) {
	o.End = h.order.Add(1)
	o.EndAt = time.Since(h.trace.start)
	o.Status, o.Err = s, err
	if s == OK {
		o.TS = ts
	}
	h.trace.Addf("%v", o)
}

// answered settles an operation whose client asked for the outcome later.
func (w *World) answered(o *Op, s Status, ts truetime.Timestamp) {
	o.End = w.history.order.Add(1)
	o.Status = s
	if s == OK {
		o.TS = ts
	}
}

// value makes the value that an operation writes: payload and who wrote it, so
// that no two writes are equal.
func (o *Op) value(payload string) string { return fmt.Sprintf("%s|op%d", payload, o.ID) }

// writer returns the operation that wrote v, 0 if it is not such a value.
func writer(v string) int {
	i := strings.LastIndex(v, "|op")
	if i < 0 {
		return 0
	}
	n := 0
	for _, c := range v[i+3:] {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// payload returns what v was made of.
func payload(v string) string {
	if i := strings.LastIndex(v, "|op"); i >= 0 {
		return v[:i]
	}
	return v
}
