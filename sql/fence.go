package sql

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/truetime"
)

// A transaction under a fence commits only while the locks that the fence names are held.
//
// The argument for L2, that the commits of a lock's next holder lie above every commit
// fenced by an earlier one:
//
//   - Before each request that may have a commit timestamp s assigned goes out
//     (Txn.AskBound), the leader of the lock's cell is asked. Its answer E says that the
//     lock is held, and from then on release, expiry and regrant of this hold take effect
//     only after After(E), or after the promise was given back by done.
//   - s <= E: E bounds the timestamp where it is assigned, in the serial step of the one
//     tablet or of the coordinator. A request that comes there too late is refused, however
//     long it, or this node, was paused on the way.
//   - done is called when the outcome is known here: not committed, which stays so (X5),
//     or committed and After(s), because Commit returns after commit wait. An outcome that is
//     not known is never reported as done, and the promise ends with E.
//   - So the next holder learns of its lock after After(s), and its commits, whose
//     timestamps are at least Now().Latest then, lie above s.
//
// What a fence does not do: it says nothing of when the statements ran. They read and wrote
// under their own locks until the commit, so it is enough that the lock is held then.

// Fencer answers for locks. Its methods may be called concurrently.
type Fencer interface {
	// Check asks whether the locks are held as sequencers, one or more in canonical
	// text, say. until is a commit timestamp, above 0: whatever commits with s <= until
	// commits before any of the locks passes to another holder. done gives the promises
	// behind it up early; it must not block, is called at most once, and never when it is
	// not known whether the transaction has committed.
	//
	// *StaleFenceError says that a lock is not held; any other error, that it could not
	// be found out. done is nil then.
	Check(ctx context.Context, sequencers []string) (until truetime.Timestamp, done func(), err error)
}

// StaleFenceError is the answer of a Fencer for a lock that is not held as a sequencer says.
type StaleFenceError struct {
	Sequencer string
	Why       string // for people, no full stop
}

func (e *StaleFenceError) Error() string { return "stale sequencer " + e.Sequencer + ": " + e.Why }

// fencePatience bounds how long a commit waits for the answer of a lock's cell: time for
// a fail-over of the cell. Meanwhile the transaction's locks keep others waiting.
const fencePatience = 10 * time.Second

// sequencer is the text form of a hold of a lock, taken apart.
type sequencer struct {
	text      string // canonical
	path      string
	exclusive bool
}

const fenceSetting = "spand.fence"

// maxFence bounds how many locks one fence may name.
const maxFence = 16

func init() {
	define(setting{name: fenceSetting, desc: "Sets the sequencers of the locks without which transactions may not commit.",
		check: func(v string) (string, error) {
			f, err := parseFence(v)
			return f.String(), err
		}})
}

// fence is the locks that must be held at commit.
type fence []sequencer

func (f fence) texts() []string {
	ts := make([]string, len(f))
	for i := range f {
		ts[i] = f[i].text
	}
	return ts
}

func (f fence) String() string { return strings.Join(f.texts(), ", ") }

// with returns f and what g has beside it. f is not changed.
func (f fence) with(g fence) fence {
	f = f[:len(f):len(f)]
next:
	for _, s := range g {
		for i := range f {
			if f[i].text == s.text {
				continue next
			}
		}
		f = append(f, s)
	}
	return f
}

// parseFence reads sequencers with commas between them; none from an empty text. Paths
// may hold commas, too, so a piece that does not end as a sequencer does goes on.
func parseFence(v string) (fence, error) {
	if strings.TrimSpace(v) == "" {
		return nil, nil
	}
	var f fence
	piece := ""
	for part := range strings.SplitSeq(v, ",") {
		if piece += part; !endsAsSequencer(piece) {
			piece += ","
			continue
		}
		s, ok := parseSequencer(strings.TrimSpace(piece))
		if !ok {
			return nil, invalidFence(v)
		}
		f = f.with(fence{s})
		piece = ""
	}
	if piece != "" || len(f) > maxFence {
		return nil, invalidFence(v)
	}
	return f, nil
}

func invalidFence(v string) error {
	return invalidValue(fenceSetting, v).(*sqlstate.Error).
		WithHint("A fence is up to %d sequencers separated by commas, such as \"/ls/local/jobs/x:exclusive:7:0\".", maxFence)
}

func endsAsSequencer(v string) bool {
	_, _, ok := cutSequencer(strings.TrimSpace(v))
	return ok
}

// cutSequencer reads <path>:<exclusive|shared>:<generation>:<hold> from the right. The
// path is not looked at.
func cutSequencer(v string) (s sequencer, numbers [2]uint64, ok bool) {
	for i := 1; i >= 0; i-- {
		at := strings.LastIndexByte(v, ':')
		if at < 0 {
			return s, numbers, false
		}
		n, err := strconv.ParseUint(v[at+1:], 10, 64)
		if err != nil || strconv.FormatUint(n, 10) != v[at+1:] {
			return s, numbers, false
		}
		numbers[i], v = n, v[:at]
	}
	at := strings.LastIndexByte(v, ':')
	if at < 0 || v[at+1:] != "exclusive" && v[at+1:] != "shared" {
		return s, numbers, false
	}
	s.path, s.exclusive = v[:at], v[at+1:] == "exclusive"
	return s, numbers, true
}

func parseSequencer(v string) (sequencer, bool) {
	s, numbers, ok := cutSequencer(v)
	s.text = v
	return s, ok && numbers[0] > 0 && isLockPath(s.path)
}

// isLockPath reports whether p is the path of a node in a cell (LockService's rules): a
// lock.
func isLockPath(p string) bool {
	rest, ok := strings.CutPrefix(p, "/ls/")
	if !ok || len(p) > 4096 || !utf8.ValidString(p) {
		return false
	}
	for c := range strings.SplitSeq(rest, "/") {
		if c == "" || c == "." || c == ".." || len(c) > 255 || strings.ContainsFunc(c, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }) {
			return false
		}
	}
	return true
}

// underFence notes that a statement of the open transaction writes to table (nil: to the
// schema). Whatever fence is in force now is checked at the commit, even when it is not any
// more then, unless the statement is rolled back to a savepoint.
func (c *Conn) underFence(table *catalog.Table) error {
	if table != nil {
		if err := c.fencedBy(table); err != nil {
			return err
		}
	}
	if len(c.set.fence) > 0 {
		c.txn.fence = c.txn.fence.with(c.set.fence)
	}
	return nil
}

// fencing is a commit under a fence.
type fencing struct {
	c     *Conn
	ctx   context.Context // of the statement
	locks []string
	dones []func()
}

// enterFence puts the commit that follows under the fence, if there is any: nil else. The
// caller calls leave with what became of the commit.
func (c *Conn) enterFence(ctx context.Context) *fencing {
	locks := c.txn.fence.with(c.set.fence)
	if len(locks) == 0 {
		return nil
	}
	f := &fencing{c: c, ctx: ctx, locks: locks.texts()}
	c.txn.kv.AskBound(f.ask)
	return f
}

// ask has the locks' cells say until when they are held.
func (f *fencing) ask() (truetime.Timestamp, error) {
	fencer := f.c.eng.cfg.Fencer
	if fencer == nil {
		return 0, sqlstate.Newf(sqlstate.FeatureNotSupported, "fences cannot be checked on this server")
	}
	ctx, cancel := context.WithTimeout(f.ctx, fencePatience)
	defer cancel()
	until, done, err := fencer.Check(ctx, f.locks)
	if err == nil && until <= 0 {
		err = errors.New("the answer has no end")
	}
	if done != nil {
		f.dones = append(f.dones, done)
	}
	return until, f.refused(err)
}

// refused gives an error of Check the form that clients see.
func (f *fencing) refused(err error) error {
	var stale *StaleFenceError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &stale):
		return staleFence(stale)
	case f.ctx.Err() != nil:
		if se, ok := context.Cause(f.ctx).(*sqlstate.Error); ok {
			return se // cancelled, or timed out, by whoever waits for the statement
		}
	}
	return &sqlstate.Error{Code: sqlstate.CannotConnectNow, Cause: err,
		Message: "could not find out in time whether the locks of the fence are held",
		Detail:  sentence(err.Error()),
		Hint:    "The transaction was rolled back. A majority of the nodes that keep the locks' cell must be alive and reachable from this node."}
}

// leave ends a commit under a fence. f may be nil.
func (f *fencing) leave(err error) {
	if f == nil || err != nil && unresolved(err) {
		return
	}
	for _, done := range f.dones {
		done()
	}
}

// staleFence is what a client hears whose lock is lost.
func staleFence(stale *StaleFenceError) *sqlstate.Error {
	lock, how := stale.Sequencer, ""
	if s, numbers, ok := cutSequencer(stale.Sequencer); ok {
		mode := "shared"
		if s.exclusive {
			mode = "exclusive"
		}
		lock, how = s.path, ", in "+mode+" mode under generation "+strconv.FormatUint(numbers[0], 10)
	}
	return &sqlstate.Error{Code: sqlstate.StaleFence, Cause: stale,
		Message: "lock \"" + lock + "\" is not held as the fence says" + how,
		Detail:  sentence(stale.Why),
		Hint:    "The transaction was rolled back. Acquire the lock again and run the transaction under its new sequencer."}
}
