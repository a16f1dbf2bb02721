package tablet

import (
	"fmt"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/version"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// Commands are what a tablet's group replicates. Every one starts with
//
//	format version (1 byte), kind (1 byte), descriptor generation (uvarint)
//
// and names the generation of the descriptor under which the leader evaluated
// it: when a split was applied in between, apply refuses the command, the leader
// evaluates the request again, and nothing lands on the wrong side (B1). A
// version or kind that apply does not know stops the replica; new kinds, and new
// forms of old ones, are proposed only once the cluster's version allows them.
const commandVersion = 1

type commandKind byte

const (
	cmdCommit      commandKind = iota + 1 // one-phase commit (X5)
	cmdPrepare                            // phase one at a participant (X3)
	cmdDecide                             // commit at the coordinator
	cmdInquire                            // an outcome is asked for, or made: aborted
	cmdResolve                            // a participant learns the outcome
	cmdForget                             // every participant has acknowledged
	cmdStage                              // a chunk of a large transaction
	cmdMaterialise                        // a committed chunk becomes versions
	cmdDropStage                          // the chunks of a dead transaction go
	cmdSplit                              // the tablet divides (B1)
	cmdCollect                            // versions below the low-water mark go
	cmdKindEnd
)

// cameWith says with which version of the cluster each kind came.
var cameWith = [cmdKindEnd]version.Version{
	cmdCommit:      version.V1,
	cmdPrepare:     version.V1,
	cmdDecide:      version.V1,
	cmdInquire:     version.V1,
	cmdResolve:     version.V1,
	cmdForget:      version.V1,
	cmdStage:       version.V1,
	cmdMaterialise: version.V1,
	cmdDropStage:   version.V1,
	cmdSplit:       version.V1,
	cmdCollect:     version.V1,
}

// allowed returns an error for a command that some replica may not know yet.
func (t *Tablet) allowed(command []byte) error {
	kind := commandKind(command[1])
	if active := t.cfg.Version.Active(); cameWith[kind] > active {
		return fmt.Errorf("tablet: command kind %d came with cluster version %d, the cluster's is %d", kind, cameWith[kind], active)
	}
	return nil
}

// frees reports commands that end what was begun before the disk was full: prepared transactions,
// whose locks others wait for, and the chunks of dead ones. Small, and each needed once.
// Materialise is not among them: the versions that it makes take as much memory as there were chunks,
// until a checkpoint finds space.
func frees(command []byte) bool {
	switch commandKind(command[1]) {
	case cmdInquire, cmdResolve, cmdDropStage:
		return true
	}
	return false
}

func appendHeader(dst []byte, kind commandKind, generation uint64) []byte {
	return appendUvarint(append(dst, commandVersion, byte(kind)), generation)
}

// command is any decoded command; kind says which fields count. Byte slices
// alias the encoding.
type command struct {
	kind       commandKind
	generation uint64

	txn         keys.TxnID
	finished    uint64
	staged      uint32 // Commit, Prepare, Decide: chunks that must be there
	writes      []byte // encoded, see appendWrites
	coordinator Anchor
	anchor      keys.Key // Prepare, Decide; the split key of a Split
	locks       []byte   // encoded, see appendLocks
	parts       []Anchor // Decide: participants
	txns        []keys.TxnID
	abort       bool // Inquire
	prepared    bool // Inquire
	status      OutcomeStatus
	ts          truetime.Timestamp // Resolve: commit timestamp; Collect: low-water mark
	seq         uint32             // Stage, Materialise
	child       keys.GroupID
	replicas    []keys.Replica
	holder      keys.NodeID
	versions    []byte // Collect: encoded list of (key, timestamp)
}

// lockSpec is one lock as a prepare replicates it.
type lockSpec struct {
	span     keys.Span
	strength LockStrength
}

func appendLocks(dst []byte, ls []lockSpec) []byte {
	dst = appendUvarint(dst, uint64(len(ls)))
	for i := range ls {
		dst = append(dst, byte(ls[i].strength))
		dst = appendSpan(dst, ls[i].span)
	}
	return dst
}

// locksSize bounds the encoded size of ls from above.
func locksSize(ls []lockSpec) int {
	n := 5
	for i := range ls {
		n += len(ls[i].span.Start) + len(ls[i].span.End) + 8
	}
	return n
}

func (d *decoder) lock() lockSpec {
	l := lockSpec{strength: LockStrength(d.u8()), span: d.span()}
	if l.strength != LockShared && l.strength != LockExclusive {
		d.fail()
	}
	return l
}

// eachLock calls f for every lock of an encoded, validated list.
func eachLock(enc []byte, f func(lockSpec)) {
	if len(enc) == 0 {
		return
	}
	d := decoder{b: enc}
	for n := d.count(3); n > 0; n-- {
		l := d.lock()
		if d.err != nil {
			return
		}
		f(l)
	}
}

// eachWrite calls f for every write of an encoded, validated list.
func eachWrite(enc []byte, f func(key, value []byte)) {
	if len(enc) == 0 {
		return
	}
	d := decoder{b: enc}
	for n := d.count(2); n > 0; n-- {
		k, v, ok := d.write()
		if !ok {
			return
		}
		f(k, v)
	}
}

// writeCount returns the number of writes in an encoded list.
func writeCount(enc []byte) int {
	d := decoder{b: enc}
	if len(enc) == 0 {
		return 0
	}
	return d.count(2)
}

func encodeCommit(gen uint64, r *CommitRequest) []byte {
	b := make([]byte, 0, 48+writesSize(r.Writes))
	b = appendHeader(b, cmdCommit, gen)
	b = appendTxnID(b, r.Txn.ID)
	b = appendUvarint(b, r.Finished)
	b = appendUvarint(b, uint64(r.Staged))
	return appendWrites(b, r.Writes)
}

func encodePrepare(gen uint64, r *PrepareRequest, anchor keys.Key, locks []lockSpec) []byte {
	b := make([]byte, 0, 96+writesSize(r.Writes)+len(r.Coordinator.Key)+len(anchor)+locksSize(locks))
	b = appendHeader(b, cmdPrepare, gen)
	b = appendTxnID(b, r.Txn.ID)
	b = appendAnchor(b, r.Coordinator)
	b = appendBytes(b, anchor)
	b = appendUvarint(b, uint64(r.Staged))
	b = appendWrites(b, r.Writes)
	return appendLocks(b, locks)
}

func encodeDecide(gen uint64, r *DecideRequest) []byte {
	n := 64 + writesSize(r.Writes) + len(r.AnchorKey)
	for i := range r.Participants {
		n += len(r.Participants[i].Key) + 12
	}
	b := make([]byte, 0, n)
	b = appendHeader(b, cmdDecide, gen)
	b = appendTxnID(b, r.Txn.ID)
	b = appendUvarint(b, r.Finished)
	b = appendBytes(b, r.AnchorKey)
	b = appendUvarint(b, uint64(r.Staged))
	b = appendUvarint(b, uint64(len(r.Participants)))
	for _, p := range r.Participants {
		b = appendAnchor(b, p)
	}
	return appendWrites(b, r.Writes)
}

func encodeInquire(gen uint64, r *InquireRequest) []byte {
	b := appendHeader(make([]byte, 0, 40), cmdInquire, gen)
	b = appendTxnID(b, r.Txn)
	b = appendBool(b, r.Abort)
	return appendBool(b, r.Prepared)
}

func encodeResolve(gen uint64, id keys.TxnID, o Outcome) []byte {
	b := appendHeader(make([]byte, 0, 40), cmdResolve, gen)
	b = appendTxnID(b, id)
	b = append(b, byte(o.Status))
	return appendTS(b, o.TS)
}

func encodeForget(gen uint64, ids []keys.TxnID) []byte {
	b := appendHeader(make([]byte, 0, 16+20*len(ids)), cmdForget, gen)
	b = appendUvarint(b, uint64(len(ids)))
	for _, id := range ids {
		b = appendTxnID(b, id)
	}
	return b
}

func encodeStage(gen uint64, id keys.TxnID, seq uint32, ws []Write) []byte {
	b := appendHeader(make([]byte, 0, 48+writesSize(ws)), cmdStage, gen)
	b = appendTxnID(b, id)
	b = appendUvarint(b, uint64(seq))
	return appendWrites(b, ws)
}

func encodeMaterialise(gen uint64, id keys.TxnID, seq uint32) []byte {
	b := appendHeader(make([]byte, 0, 40), cmdMaterialise, gen)
	b = appendTxnID(b, id)
	return appendUvarint(b, uint64(seq))
}

func encodeDropStage(gen uint64, id keys.TxnID) []byte {
	return appendTxnID(appendHeader(make([]byte, 0, 40), cmdDropStage, gen), id)
}

func encodeSplit(gen uint64, r *SplitRequest, holder keys.NodeID) []byte {
	b := appendHeader(nil, cmdSplit, gen)
	b = appendBytes(b, r.Key)
	b = appendUvarint(b, uint64(r.Child))
	b = appendUvarint(b, uint64(len(r.Replicas)))
	for _, p := range r.Replicas {
		b = appendUvarint(b, uint64(p.Node))
		b = appendUvarint(b, uint64(p.ID))
	}
	return appendUvarint(b, uint64(holder))
}

// decodeCommand checks and decodes a whole command.
func decodeCommand(data []byte, c *command) error {
	d := decoder{b: data}
	if v := d.u8(); d.err == nil && v != commandVersion {
		return fmt.Errorf("tablet: unknown command version %d", v)
	}
	*c = command{kind: commandKind(d.u8()), generation: d.uvarint()}
	if d.err == nil && (c.kind == 0 || c.kind >= cmdKindEnd) {
		return fmt.Errorf("tablet: unknown command kind %d", c.kind)
	}
	switch c.kind {
	case cmdForget:
		n := d.count(10)
		c.txns = make([]keys.TxnID, n)
		for i := range c.txns {
			c.txns[i] = d.txnID()
		}
		return d.done()
	case cmdSplit:
		c.anchor = d.bytes()
		c.child = keys.GroupID(d.uvarint())
		c.replicas = make([]keys.Replica, d.count(2))
		for i := range c.replicas {
			c.replicas[i] = keys.Replica{Node: keys.NodeID(d.u32()), ID: keys.ReplicaID(d.uvarint())}
		}
		c.holder = keys.NodeID(d.u32())
		return d.done()
	case cmdCollect:
		c.ts = d.ts()
		start := d.b
		for n := d.count(9); n > 0 && d.err == nil; n-- {
			d.bytes()
			d.ts()
		}
		c.versions = start
		return d.done()
	}
	c.txn = d.txnID()
	switch c.kind {
	case cmdCommit:
		c.finished = d.uvarint()
		c.staged = d.u32()
		c.writes = d.skipWrites()
	case cmdPrepare:
		c.coordinator = d.anchor()
		c.anchor = d.bytes()
		c.staged = d.u32()
		c.writes = d.skipWrites()
		start := d.b
		for n := d.count(3); n > 0 && d.err == nil; n-- {
			d.lock()
		}
		c.locks = start
	case cmdDecide:
		c.finished = d.uvarint()
		c.anchor = d.bytes()
		c.staged = d.u32()
		c.parts = make([]Anchor, d.count(2))
		for i := range c.parts {
			c.parts[i] = d.anchor()
		}
		c.writes = d.skipWrites()
	case cmdInquire:
		c.abort, c.prepared = d.bool(), d.bool()
	case cmdResolve:
		c.status, c.ts = OutcomeStatus(d.u8()), d.ts()
		if c.status != OutcomeCommitted && c.status != OutcomeAborted {
			d.fail()
		}
	case cmdStage:
		c.seq = d.u32()
		c.writes = d.skipWrites()
	case cmdMaterialise:
		c.seq = d.u32()
	}
	return d.done()
}

// commandRoom is what a command's writes may take up at most; the rest of
// paxosgroup.MaxCommand is left for everything else in it.
const commandRoom = paxosgroup.MaxCommand - 64<<10
