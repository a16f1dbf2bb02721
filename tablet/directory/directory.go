package directory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/version"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// Replica is what the directory needs of a replica of its tablet;
// *tablet.Tablet and its remote twin both are one.
type Replica interface {
	Read(context.Context, *tablet.ReadRequest) (*tablet.ReadResponse, error)
	Commit(context.Context, *tablet.CommitRequest) (*tablet.CommitResponse, error)
	Abort(context.Context, *tablet.AbortRequest) error
}

// Dialer reaches the directory tablet's replicas.
type Dialer interface {
	Replica(node keys.NodeID, group keys.GroupID) (Replica, error)
	// Leader guesses who leads group, 0 when unknown; Learned corrects it, 0 forgets.
	Leader(group keys.GroupID) keys.NodeID
	Learned(group keys.GroupID, leader keys.NodeID)
}

// Config of a Directory.
type Config struct {
	Node   keys.NodeID
	Clock  truetime.Clock
	Dialer Dialer
	Logger *slog.Logger
	// Boot are the descriptors of the cluster's beginning (Bootstrap); the
	// directory tablet's is taken from them.
	Boot []keys.Descriptor
	// Timeout bounds an operation whose context has no deadline; default 10 s.
	Timeout time.Duration
	// AttemptTimeout bounds one call to one replica, so that a node that hangs
	// does not hold an operation up; default 2 s.
	AttemptTimeout time.Duration
}

// Directory reads and writes the records of the directory tablet. All methods
// may be called concurrently; they retry through changes of leader until the
// context ends.
type Directory struct {
	cfg  Config
	root atomic.Pointer[keys.Descriptor]
	seq  atomic.Uint64
}

// New returns a Directory. It panics when Boot lacks the directory tablet,
// because nothing could ever be found.
func New(cfg Config) *Directory {
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.AttemptTimeout == 0 {
		cfg.AttemptTimeout = 2 * time.Second
	}
	d := &Directory{cfg: cfg}
	for _, b := range cfg.Boot {
		if b.Group == keys.DirectoryGroup {
			d.root.Store(&b)
		}
	}
	if d.root.Load() == nil {
		panic("directory: no descriptor of the directory tablet")
	}
	return d
}

// lookAhead is how many further records a look-up brings along: neighbours are
// often wanted next, and cost nothing in the same read.
const lookAhead = 8

// Find returns the descriptors from the tablet that holds key on, in key order;
// with before, from the tablet that holds the greatest keys below key on. At least one
// is returned, a few more when there are. A key outside the keyspace is an error.
func (d *Directory) Find(ctx context.Context, key keys.Key, before bool) ([]keys.Descriptor, error) {
	start := recordKey(key)
	if !before {
		// The first end key strictly above key.
		start = append(start, 0)
	}
	descs, _, err := d.scan(ctx, keys.Span{Start: start, End: recordsEnd}, lookAhead)
	if err != nil {
		return nil, fmt.Errorf("directory: looking up %x: %w", key, err)
	}
	if len(descs) > 0 {
		if c := bytes.Compare(descs[0].Span.Start, key); c < 0 || c == 0 && !before {
			return descs, nil
		}
	}
	// Nothing published yet covers key: a cluster that has just begun.
	for _, b := range d.cfg.Boot {
		if b.Span.Contains(key) || (before && bytes.Equal(b.Span.End, key)) {
			return []keys.Descriptor{b}, nil
		}
	}
	return nil, fmt.Errorf("directory: key %x lies outside the keyspace", key)
}

// List returns every tablet's descriptor in key order. Records may lag behind
// a split for a moment, so neighbours can overlap; a tablet that no record
// mentions is found through its parent.
func (d *Directory) List(ctx context.Context) ([]keys.Descriptor, error) {
	span := keys.Span{Start: recordsStart, End: recordsEnd}
	var all []keys.Descriptor
	for {
		descs, rest, err := d.scan(ctx, span, 0)
		if err != nil {
			return nil, fmt.Errorf("directory: listing tablets: %w", err)
		}
		all = append(all, descs...)
		if rest == nil {
			break
		}
		span.Start = rest
	}
	if len(all) == 0 {
		return slices.Clone(d.cfg.Boot), nil
	}
	return all, nil
}

// scan reads the records in span; rest, when not nil, is where to go on.
func (d *Directory) scan(ctx context.Context, span keys.Span, limit int) (descs []keys.Descriptor, rest keys.Key, err error) {
	ctx, cancel := d.bound(ctx)
	defer cancel()
	req := tablet.ReadRequest{Scans: []tablet.Scan{{Span: span, MaxRows: limit}}}
	var resp *tablet.ReadResponse
	err = d.call(ctx, func(ctx context.Context, t tablet.Target, r Replica) (err error) {
		req.Target, req.At = t, d.cfg.Clock.Now().Latest
		resp, err = r.Read(ctx, &req)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if len(resp.Scans) != 1 {
		return nil, nil, fmt.Errorf("directory: %d answers to one scan", len(resp.Scans))
	}
	res := resp.Scans[0]
	for _, kv := range res.Rows {
		desc, err := DecodeDescriptor(kv.Value)
		if err != nil {
			return nil, nil, fmt.Errorf("record %x: %w", kv.Key, err)
		}
		descs = append(descs, desc)
	}
	if res.More {
		rest = res.Resume.Start
		if len(res.Rows) > 0 {
			rest = append(bytes.Clone(res.Rows[len(res.Rows)-1].Key), 0)
		}
	}
	return descs, rest, nil
}

// Publish writes descriptors after a change of bounds or replicas. A record
// is replaced only by a higher generation, so publishing twice, late or out of
// order does no harm. It returns when the records are durable.
func (d *Directory) Publish(ctx context.Context, descs ...keys.Descriptor) error {
	if len(descs) == 0 {
		return nil
	}
	// A parent's old descriptor and its child's new one share an end key: one
	// record, the higher generation's.
	newest := make(map[string]keys.Descriptor, len(descs))
	for _, desc := range descs {
		if old, ok := newest[string(desc.Span.End)]; !ok || old.Generation < desc.Generation {
			newest[string(desc.Span.End)] = desc
		}
	}
	descs = slices.SortedFunc(maps.Values(newest), func(a, b keys.Descriptor) int {
		return bytes.Compare(a.Span.End, b.Span.End)
	})
	ks := make([]keys.Key, len(descs))
	for i, desc := range descs {
		ks[i] = recordKey(desc.Span.End)
	}
	err := d.update(ctx, ks, func(vals []tablet.Value) ([]tablet.Write, error) {
		var ws []tablet.Write
		for i := range descs {
			if vals[i].Exists {
				old, err := DecodeDescriptor(vals[i].Bytes)
				if err != nil {
					return nil, fmt.Errorf("record %x: %w", ks[i], err)
				}
				if old.Generation >= descs[i].Generation {
					continue
				}
			}
			ws = append(ws, tablet.Write{Key: ks[i], Value: AppendDescriptor(nil, &descs[i])})
		}
		return ws, nil
	})
	if err != nil {
		return fmt.Errorf("directory: publishing: %w", err)
	}
	return nil
}

// Ensure publishes the descriptors of the cluster's beginning where no newer
// record stands, so that List and look-ups are complete from the start.
func (d *Directory) Ensure(ctx context.Context) error { return d.Publish(ctx, d.cfg.Boot...) }

// AllocateGroupID returns a group id that was never handed out and never will
// be again. An id may be lost when the answer is.
func (d *Directory) AllocateGroupID(ctx context.Context) (keys.GroupID, error) {
	var id uint64
	err := d.update(ctx, []keys.Key{counterKey}, func(vals []tablet.Value) ([]tablet.Write, error) {
		id = uint64(keys.FirstGroup)
		if vals[0].Exists {
			v, err := decodeNumber(counterKey, vals[0].Bytes, id)
			if err != nil {
				return nil, err
			}
			id = v
		}
		id++
		return []tablet.Write{{Key: counterKey, Value: encodeNumber(id)}}, nil
	})
	if err != nil {
		return 0, fmt.Errorf("directory: allocating a group id: %w", err)
	}
	return keys.GroupID(id), nil
}

// Version returns the cluster's version, 0 while the cluster has none.
func (d *Directory) Version(ctx context.Context) (version.Version, error) {
	ctx, cancel := d.bound(ctx)
	defer cancel()
	req := tablet.ReadRequest{Gets: []keys.Key{versionKey}}
	var resp *tablet.ReadResponse
	err := d.call(ctx, func(ctx context.Context, t tablet.Target, r Replica) (err error) {
		req.Target, req.At = t, d.cfg.Clock.Now().Latest
		resp, err = r.Read(ctx, &req)
		return err
	})
	if err == nil && len(resp.Gets) != 1 {
		err = fmt.Errorf("%d answers to one get", len(resp.Gets))
	}
	if err != nil {
		return 0, fmt.Errorf("directory: reading the cluster's version: %w", err)
	}
	return decodeVersion(resp.Gets[0])
}

func decodeVersion(v tablet.Value) (version.Version, error) {
	if !v.Exists {
		return 0, nil
	}
	n, err := decodeNumber(versionKey, v.Bytes, uint64(version.V1))
	if err == nil && n > math.MaxUint32 {
		err = fmt.Errorf("directory: cluster version %d", n)
	}
	return version.Version(n), err
}

// RaiseVersion makes v the cluster's version unless it has a higher one, and
// returns what it has then. Who raises it has made sure that every member can run it
// and will be kept from forgetting how.
func (d *Directory) RaiseVersion(ctx context.Context, v version.Version) (version.Version, error) {
	var now version.Version
	err := d.update(ctx, []keys.Key{versionKey}, func(vals []tablet.Value) (_ []tablet.Write, err error) {
		if now, err = decodeVersion(vals[0]); err != nil || now >= v {
			return nil, err
		}
		now = v
		return []tablet.Write{{Key: versionKey, Value: encodeNumber(uint64(v))}}, nil
	})
	if err != nil {
		return 0, fmt.Errorf("directory: raising the cluster's version: %w", err)
	}
	return now, nil
}

// update runs one read-modify-write transaction over ks, again until it has
// certainly committed: an attempt whose outcome is unknown is repeated as a new
// transaction, which sees its effect if it had one (X2), so change must be
// harmless to repeat.
func (d *Directory) update(ctx context.Context, ks []keys.Key, change func([]tablet.Value) ([]tablet.Write, error)) error {
	ctx, cancel := d.bound(ctx)
	defer cancel()
	age := d.cfg.Clock.Now().Latest
	var back backoff
	for {
		err := d.attempt(ctx, age, ks, change)
		var aborted *tablet.AbortedError
		var ambiguous *tablet.AmbiguousError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &aborted), errors.As(err, &ambiguous):
		default:
			return err
		}
		if werr := back.wait(ctx); werr != nil {
			return errors.Join(werr, err)
		}
	}
}

func (d *Directory) attempt(ctx context.Context, age truetime.Timestamp, ks []keys.Key, change func([]tablet.Value) ([]tablet.Write, error)) error {
	id := d.nextTxn(age)
	ref := tablet.TxnRef{ID: id, Client: d.cfg.Node}
	var at tablet.Target
	var last Replica
	read := tablet.ReadRequest{Lock: tablet.LockExclusive, Gets: ks}
	var resp *tablet.ReadResponse
	err := d.call(ctx, func(ctx context.Context, t tablet.Target, r Replica) (err error) {
		at, last = t, r
		read.Target, read.Txn = t, ref
		resp, err = r.Read(ctx, &read)
		return err
	})
	release := func() {
		if last == nil {
			return
		}
		// Best effort: a lost Abort costs the tablet's liveness timeout.
		actx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.cfg.AttemptTimeout)
		defer cancel()
		if err := last.Abort(actx, &tablet.AbortRequest{Target: at, Txn: ref}); err != nil {
			d.cfg.Logger.DebugContext(ctx, "directory: abort", "txn", id.String(), "err", err)
		}
	}
	if err != nil {
		release()
		return err
	}
	if len(resp.Gets) != len(ks) {
		release()
		return fmt.Errorf("directory: %d answers to %d gets", len(resp.Gets), len(ks))
	}
	ref.Term = resp.Term
	ws, err := change(resp.Gets)
	if err != nil || len(ws) == 0 {
		release()
		return err
	}
	commit := tablet.CommitRequest{Txn: ref, Writes: ws, MinTS: resp.MaxSeen + 1}
	sent := false
	err = d.call(ctx, func(ctx context.Context, t tablet.Target, r Replica) error {
		if sent {
			// The earlier attempt may have committed: let update start afresh.
			return &tablet.AmbiguousError{Txn: id}
		}
		commit.Target = t
		_, err := r.Commit(ctx, &commit)
		var nl *paxosgroup.NotLeaderError
		sent = err != nil && !errors.As(err, &nl)
		return err
	})
	if err != nil {
		// Whatever became of the commit: if it did not happen, its locks would stand
		// in the way of the next attempt, which is younger.
		release()
	}
	return err
}

// nextTxn makes a transaction id. Odd sequence numbers are the directory's, even
// ones the transaction client's of the same node.
func (d *Directory) nextTxn(age truetime.Timestamp) keys.TxnID {
	now := uint64(d.cfg.Clock.Now().Earliest)<<1 | 1
	for {
		last := d.seq.Load()
		next := max(now, last+2)
		if d.seq.CompareAndSwap(last, next) {
			return keys.TxnID{Age: age, Node: d.cfg.Node, Seq: next}
		}
	}
}

func (d *Directory) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d.cfg.Timeout)
}

// call finds the directory tablet's leader and runs f against it, again on
// another replica while the leader is unknown or out of reach.
func (d *Directory) call(ctx context.Context, f func(context.Context, tablet.Target, Replica) error) error {
	var back backoff
	next := 0
	hint := d.cfg.Dialer.Leader(keys.DirectoryGroup)
	for {
		root := d.root.Load()
		node := hint
		if node == 0 && len(root.Replicas) > 0 {
			node = root.Replicas[next%len(root.Replicas)].Node
			next++
		}
		hint = 0
		r, err := d.cfg.Dialer.Replica(node, keys.DirectoryGroup)
		if err == nil {
			actx, cancel := context.WithTimeout(ctx, d.cfg.AttemptTimeout)
			err = f(actx, tablet.Target{Group: keys.DirectoryGroup, Generation: root.Generation}, r)
			cancel()
		}
		var nl *paxosgroup.NotLeaderError
		var re *tablet.RangeError
		var aborted *tablet.AbortedError
		var ambiguous *tablet.AmbiguousError
		switch {
		case err == nil:
			d.cfg.Dialer.Learned(keys.DirectoryGroup, node)
			return nil
		case ctx.Err() != nil:
			return errors.Join(ctx.Err(), err)
		case errors.As(err, &nl):
			d.cfg.Dialer.Learned(keys.DirectoryGroup, nl.Leader)
			if nl.Leader != 0 && nl.Leader != node {
				hint = nl.Leader
			}
		case errors.As(err, &re):
			if !d.learnRoot(re.Descriptors) {
				return err
			}
			hint = node
		case errors.As(err, &aborted), errors.As(err, &ambiguous),
			errors.Is(err, paxosgroup.ErrDiskFull), errors.Is(err, paxosgroup.ErrTooLarge):
			return err
		default: // out of reach, stopped, overloaded, attempt timed out
			d.cfg.Dialer.Learned(keys.DirectoryGroup, 0)
		}
		if werr := back.wait(ctx); werr != nil {
			return errors.Join(werr, err)
		}
	}
}

// learnRoot takes a newer descriptor of the directory tablet itself (its
// replicas may move; it never splits).
func (d *Directory) learnRoot(descs []keys.Descriptor) bool {
	for i := range descs {
		if descs[i].Group != keys.DirectoryGroup {
			continue
		}
		for {
			old := d.root.Load()
			if old.Generation >= descs[i].Generation {
				break
			}
			if d.root.CompareAndSwap(old, &descs[i]) {
				return true
			}
		}
	}
	return false
}

// backoff waits 2 ms, doubling to 100 ms, with jitter.
type backoff struct{ d time.Duration }

func (b *backoff) wait(ctx context.Context) error {
	b.d = min(max(2*time.Millisecond, 2*b.d), 100*time.Millisecond)
	t := time.NewTimer(b.d/2 + jitter(b.d))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// jitter returns a duration below d that is as good as random. It is drawn from the
// clock, not from a seedless source, so that a simulated run repeats itself.
func jitter(d time.Duration) time.Duration {
	z := uint64(time.Now().UnixNano()) * 0x9e3779b97f4a7c15 // splitmix64
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return time.Duration((z ^ z>>31) % uint64(d))
}
