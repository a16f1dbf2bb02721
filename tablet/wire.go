package tablet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// The messages between a gateway and a tablet on another node. A request is
//
//	wire version (1 byte), fields
//
// under a method byte that the carrier transports beside it; a response is
//
//	wire version (1 byte), status (1 byte; 0 fine, else an error's code), fields
//
// Errors cross the wire typed, so the local and the remote twin of a participant
// fail alike. Decoded messages alias the payload: it must not be reused.
const wireVersion = 3

// The methods.
const (
	MethodRead byte = iota + 1
	MethodCommit
	MethodPrepare
	MethodDecide
	MethodInquire
	MethodResolve
	MethodAbort
	MethodStage
	MethodHeartbeat
	MethodSplit
)

// Participant is what requests are served by: *Tablet, or a twin of it.
type Participant interface {
	Read(context.Context, *ReadRequest) (*ReadResponse, error)
	Commit(context.Context, *CommitRequest) (*CommitResponse, error)
	Prepare(context.Context, *PrepareRequest) (*PrepareResponse, error)
	Decide(context.Context, *DecideRequest) (*CommitResponse, error)
	Inquire(context.Context, *InquireRequest) (Outcome, error)
	Resolve(context.Context, *ResolveRequest) error
	Abort(context.Context, *AbortRequest) error
	Stage(context.Context, *StageRequest) (*StageResponse, error)
	Heartbeat(context.Context, *HeartbeatRequest) (*HeartbeatResponse, error)
	Split(context.Context, *SplitRequest) (*SplitResponse, error)
}

var _ Participant = (*Tablet)(nil)

// RemoteError is an error of the other side that has no type of its own here.
type RemoteError struct{ Message string }

func (e *RemoteError) Error() string { return e.Message }

func appendTarget(b []byte, t Target) []byte {
	return appendUvarint(appendUvarint(b, uint64(t.Group)), t.Generation)
}

func (d *decoder) target() Target {
	return Target{Group: keys.GroupID(d.uvarint()), Generation: d.uvarint()}
}

func appendRef(b []byte, r TxnRef) []byte {
	b = appendTxnID(b, r.ID)
	b = appendUvarint(b, r.Term)
	return appendUvarint(b, uint64(r.Client))
}

func (d *decoder) ref() TxnRef {
	return TxnRef{ID: d.txnID(), Term: d.uvarint(), Client: keys.NodeID(d.u32())}
}

func appendAnchors(b []byte, as []Anchor) []byte {
	b = appendUvarint(b, uint64(len(as)))
	for _, a := range as {
		b = appendAnchor(b, a)
	}
	return b
}

func (d *decoder) anchors() []Anchor {
	n := d.count(2)
	if n == 0 {
		return nil
	}
	as := make([]Anchor, n)
	for i := range as {
		as[i] = d.anchor()
	}
	return as
}

func appendTxnIDs(b []byte, ids []keys.TxnID) []byte {
	b = appendUvarint(b, uint64(len(ids)))
	for _, id := range ids {
		b = appendTxnID(b, id)
	}
	return b
}

func (d *decoder) txnIDs() []keys.TxnID {
	n := d.count(10)
	if n == 0 {
		return nil
	}
	ids := make([]keys.TxnID, n)
	for i := range ids {
		ids[i] = d.txnID()
	}
	return ids
}

func appendValues(b []byte, vs []Value) []byte {
	b = appendUvarint(b, uint64(len(vs)))
	for i := range vs {
		b = appendBool(b, vs[i].Exists)
		b = appendTS(b, vs[i].TS)
		b = appendBytes(b, vs[i].Bytes)
	}
	return b
}

func (d *decoder) values() []Value {
	n := d.count(10)
	if n == 0 {
		return nil
	}
	vs := make([]Value, n)
	for i := range vs {
		vs[i] = Value{Exists: d.bool(), TS: d.ts()}
		if b := d.bytes(); vs[i].Exists {
			vs[i].Bytes = b
		}
	}
	return vs
}

func appendOutcome(b []byte, o Outcome) []byte { return appendTS(append(b, byte(o.Status)), o.TS) }

func (d *decoder) outcome() Outcome {
	o := Outcome{Status: OutcomeStatus(d.u8()), TS: d.ts()}
	if o.Status > OutcomePending {
		d.fail()
	}
	return o
}

// EncodeRequest encodes any request of this package. The method is 0 for
// anything else.
func EncodeRequest(req any) (method byte, payload []byte) {
	switch r := req.(type) {
	case *ReadRequest:
		n := 96
		for _, k := range r.Gets {
			n += len(k) + 3
		}
		for i := range r.Scans {
			n += len(r.Scans[i].Span.Start) + len(r.Scans[i].Span.End) + 16
		}
		b := appendTarget(append(make([]byte, 0, n), wireVersion), r.Target)
		b = appendRef(b, r.Txn)
		b = appendTS(b, r.At)
		b = append(b, byte(r.Lock), byte(r.Wait))
		b = appendBool(appendBool(b, r.Follower), r.Guess)
		b = appendUvarint(b, uint64(len(r.Gets)))
		for _, k := range r.Gets {
			b = appendBytes(b, k)
		}
		b = appendUvarint(b, uint64(len(r.Scans)))
		for i := range r.Scans {
			b = appendSpan(b, r.Scans[i].Span)
			b = appendBool(b, r.Scans[i].Reverse)
			b = appendUvarint(b, uint64(max(r.Scans[i].MaxRows, 0)))
		}
		return MethodRead, appendUvarint(b, uint64(max(r.MaxBytes, 0)))
	case *CommitRequest:
		b := appendTarget(append(make([]byte, 0, 96+writesSize(r.Writes)), wireVersion), r.Target)
		b = appendRef(b, r.Txn)
		b = appendWrites(b, r.Writes)
		b = appendUvarint(b, uint64(r.Staged))
		b = appendTS(appendTS(b, r.MinTS), r.MaxTS)
		b = appendUvarint(b, r.Finished)
		b = appendUvarint(b, uint64(len(r.Expect)))
		for i := range r.Expect {
			b = appendTS(appendBytes(b, r.Expect[i].Key), r.Expect[i].TS)
		}
		return MethodCommit, appendBool(b, r.Private)
	case *PrepareRequest:
		b := appendTarget(append(make([]byte, 0, 160+writesSize(r.Writes)), wireVersion), r.Target)
		b = appendRef(b, r.Txn)
		b = appendWrites(b, r.Writes)
		b = appendUvarint(b, uint64(r.Staged))
		b = appendAnchor(b, r.Coordinator)
		b = appendBytes(b, r.AnchorKey)
		return MethodPrepare, appendTS(appendTS(b, r.MinTS), r.MaxTS)
	case *DecideRequest:
		b := appendTarget(append(make([]byte, 0, 160+writesSize(r.Writes)), wireVersion), r.Target)
		b = appendRef(b, r.Txn)
		b = appendBytes(b, r.AnchorKey)
		b = appendWrites(b, r.Writes)
		b = appendUvarint(b, uint64(r.Staged))
		b = appendAnchors(b, r.Participants)
		b = appendTS(appendTS(b, r.MinTS), r.MaxTS)
		return MethodDecide, appendUvarint(b, r.Finished)
	case *InquireRequest:
		b := appendTarget([]byte{wireVersion}, r.Target)
		b = appendTxnID(b, r.Txn)
		b = appendBytes(b, r.AnchorKey)
		return MethodInquire, appendBool(appendBool(b, r.Abort), r.Prepared)
	case *ResolveRequest:
		b := appendTarget([]byte{wireVersion}, r.Target)
		b = appendBytes(b, r.Key)
		b = appendTxnID(b, r.Txn)
		return MethodResolve, appendOutcome(b, r.Outcome)
	case *AbortRequest:
		return MethodAbort, appendRef(appendTarget([]byte{wireVersion}, r.Target), r.Txn)
	case *StageRequest:
		b := appendTarget(append(make([]byte, 0, 96+writesSize(r.Writes)), wireVersion), r.Target)
		b = appendRef(b, r.Txn)
		b = appendUvarint(b, uint64(r.Seq))
		return MethodStage, appendWrites(b, r.Writes)
	case *HeartbeatRequest:
		b := appendTarget([]byte{wireVersion}, r.Target)
		b = appendUvarint(b, uint64(r.Client))
		return MethodHeartbeat, appendTxnIDs(b, r.Txns)
	case *SplitRequest:
		b := appendTarget([]byte{wireVersion}, r.Target)
		b = appendBytes(b, r.Key)
		b = appendUvarint(b, uint64(r.Child))
		b = appendUvarint(b, uint64(len(r.Replicas)))
		for _, p := range r.Replicas {
			b = appendUvarint(appendUvarint(b, uint64(p.Node)), uint64(p.ID))
		}
		return MethodSplit, b
	}
	return 0, nil
}

// DecodeRequest decodes a request and says which group it is for.
func DecodeRequest(method byte, payload []byte) (req any, group keys.GroupID, err error) {
	d := decoder{b: payload}
	if v := d.u8(); d.err == nil && v != wireVersion {
		return nil, 0, fmt.Errorf("tablet: unknown wire version %d", v)
	}
	t := d.target()
	switch method {
	case MethodRead:
		r := &ReadRequest{Target: t, Txn: d.ref(), At: d.ts(), Lock: LockStrength(d.u8()), Wait: WaitPolicy(d.u8()), Follower: d.bool(), Guess: d.bool()}
		if r.Lock > LockExclusive || r.Wait > WaitSkip {
			d.fail()
		}
		if n := d.count(1); n > 0 {
			r.Gets = make([]keys.Key, n)
			for i := range r.Gets {
				r.Gets[i] = d.bytes()
			}
		}
		if n := d.count(4); n > 0 {
			r.Scans = make([]Scan, n)
			for i := range r.Scans {
				r.Scans[i] = Scan{Span: d.span(), Reverse: d.bool(), MaxRows: int(d.u32())}
			}
		}
		r.MaxBytes = int(d.u32())
		req = r
	case MethodCommit:
		r := &CommitRequest{Target: t, Txn: d.ref(), Writes: d.writes(), Staged: d.u32(), MinTS: d.ts(), MaxTS: d.ts(), Finished: d.uvarint()}
		if n := d.count(9); n > 0 {
			r.Expect = make([]Expectation, n)
			for i := range r.Expect {
				r.Expect[i] = Expectation{Key: d.bytes(), TS: d.ts()}
			}
		}
		r.Private = d.bool()
		req = r
	case MethodPrepare:
		req = &PrepareRequest{Target: t, Txn: d.ref(), Writes: d.writes(), Staged: d.u32(), Coordinator: d.anchor(), AnchorKey: d.bytes(), MinTS: d.ts(), MaxTS: d.ts()}
	case MethodDecide:
		req = &DecideRequest{Target: t, Txn: d.ref(), AnchorKey: d.bytes(), Writes: d.writes(), Staged: d.u32(), Participants: d.anchors(), MinTS: d.ts(), MaxTS: d.ts(), Finished: d.uvarint()}
	case MethodInquire:
		req = &InquireRequest{Target: t, Txn: d.txnID(), AnchorKey: d.bytes(), Abort: d.bool(), Prepared: d.bool()}
	case MethodResolve:
		req = &ResolveRequest{Target: t, Key: d.bytes(), Txn: d.txnID(), Outcome: d.outcome()}
	case MethodAbort:
		req = &AbortRequest{Target: t, Txn: d.ref()}
	case MethodStage:
		req = &StageRequest{Target: t, Txn: d.ref(), Seq: d.u32(), Writes: d.writes()}
	case MethodHeartbeat:
		req = &HeartbeatRequest{Target: t, Client: keys.NodeID(d.u32()), Txns: d.txnIDs()}
	case MethodSplit:
		r := &SplitRequest{Target: t, Key: d.bytes(), Child: keys.GroupID(d.uvarint())}
		if n := d.count(2); n > 0 {
			r.Replicas = make([]keys.Replica, n)
			for i := range r.Replicas {
				r.Replicas[i] = keys.Replica{Node: keys.NodeID(d.u32()), ID: keys.ReplicaID(d.uvarint())}
			}
		}
		req = r
	default:
		return nil, 0, fmt.Errorf("tablet: unknown method %d", method)
	}
	if err := d.done(); err != nil {
		return nil, 0, err
	}
	return req, t.Group, nil
}

// Serve carries a decoded request out.
func Serve(ctx context.Context, p Participant, req any) (resp any, err error) {
	switch r := req.(type) {
	case *ReadRequest:
		return p.Read(ctx, r)
	case *CommitRequest:
		return p.Commit(ctx, r)
	case *PrepareRequest:
		return p.Prepare(ctx, r)
	case *DecideRequest:
		return p.Decide(ctx, r)
	case *InquireRequest:
		o, err := p.Inquire(ctx, r)
		return &o, err
	case *ResolveRequest:
		return nil, p.Resolve(ctx, r)
	case *AbortRequest:
		return nil, p.Abort(ctx, r)
	case *StageRequest:
		return p.Stage(ctx, r)
	case *HeartbeatRequest:
		return p.Heartbeat(ctx, r)
	case *SplitRequest:
		return p.Split(ctx, r)
	}
	return nil, fmt.Errorf("tablet: unknown request %T", req)
}

// Dispatch serves an encoded request at whatever find returns for its group, and
// returns the encoded response; errors, find's too, are part of it.
func Dispatch(ctx context.Context, find func(keys.GroupID) (Participant, error), method byte, payload []byte) []byte {
	req, group, err := DecodeRequest(method, payload)
	if err != nil {
		return EncodeResponse(nil, err)
	}
	p, err := find(group)
	if err != nil {
		return EncodeResponse(nil, err)
	}
	return EncodeResponse(Serve(ctx, p, req))
}

// EncodeResponse encodes what Serve returned.
func EncodeResponse(resp any, err error) []byte {
	if err != nil {
		return appendError([]byte{wireVersion}, err)
	}
	switch r := resp.(type) {
	case *ReadResponse:
		n := 32
		for i := range r.Gets {
			n += len(r.Gets[i].Bytes) + 14
		}
		for i := range r.Scans {
			n += 16 + len(r.Scans[i].Resume.Start) + len(r.Scans[i].Resume.End)
			for j := range r.Scans[i].Rows {
				n += len(r.Scans[i].Rows[j].Key) + len(r.Scans[i].Rows[j].Value) + 6
			}
		}
		b := appendValues(append(make([]byte, 0, n), wireVersion, 0), r.Gets)
		b = appendUvarint(b, uint64(len(r.Scans)))
		for i := range r.Scans {
			s := &r.Scans[i]
			b = appendBool(b, s.More)
			b = appendSpan(b, s.Resume)
			b = appendUvarint(b, uint64(len(s.Rows)))
			for j := range s.Rows {
				b = appendBytes(b, s.Rows[j].Key)
				b = appendBytes(b, s.Rows[j].Value)
			}
		}
		return appendTS(appendUvarint(b, r.Term), r.MaxSeen)
	case *CommitResponse:
		b := appendTS([]byte{wireVersion, 0}, r.TS)
		b = appendValues(appendUvarint(b, r.Term), r.Found)
		return appendUvarint(appendUvarint(b, uint64(r.Epsilon)), uint64(r.Since))
	case *PrepareResponse:
		return appendTS([]byte{wireVersion, 0}, r.TS)
	case *Outcome:
		return appendOutcome([]byte{wireVersion, 0}, *r)
	case *StageResponse:
		return appendUvarint([]byte{wireVersion, 0}, r.Term)
	case *HeartbeatResponse:
		return appendTxnIDs([]byte{wireVersion, 0}, r.Lost)
	case *SplitResponse:
		return appendDescriptor(appendDescriptor([]byte{wireVersion, 0}, r.Left), r.Right)
	}
	return []byte{wireVersion, 0}
}

// DecodeResponse returns the response to a request of the given method (*Outcome
// for Inquire, nil for Resolve and Abort), or the error that it carries.
func DecodeResponse(method byte, payload []byte) (any, error) {
	d := decoder{b: payload}
	if v := d.u8(); d.err == nil && v != wireVersion {
		return nil, fmt.Errorf("tablet: unknown wire version %d", v)
	}
	if code := d.u8(); code != 0 {
		e := d.wireError(code)
		if err := d.done(); err != nil {
			return nil, err
		}
		return nil, e
	}
	var resp any
	switch method {
	case MethodRead:
		r := &ReadResponse{Gets: d.values()}
		if n := d.count(4); n > 0 {
			r.Scans = make([]ScanResult, n)
			for i := range r.Scans {
				s := &r.Scans[i]
				s.More, s.Resume = d.bool(), d.span()
				if m := d.count(2); m > 0 {
					s.Rows = make([]KV, m)
					for j := range s.Rows {
						s.Rows[j] = KV{Key: d.bytes(), Value: d.bytes()}
					}
				}
			}
		}
		r.Term, r.MaxSeen = d.uvarint(), d.ts()
		resp = r
	case MethodCommit, MethodDecide:
		resp = &CommitResponse{TS: d.ts(), Term: d.uvarint(), Found: d.values(), Epsilon: time.Duration(d.uvarint()), Since: time.Duration(d.uvarint())}
	case MethodPrepare:
		resp = &PrepareResponse{TS: d.ts()}
	case MethodInquire:
		o := d.outcome()
		resp = &o
	case MethodResolve, MethodAbort:
	case MethodStage:
		resp = &StageResponse{Term: d.uvarint()}
	case MethodHeartbeat:
		resp = &HeartbeatResponse{Lost: d.txnIDs()}
	case MethodSplit:
		resp = &SplitResponse{Left: d.descriptor(), Right: d.descriptor()}
	default:
		return nil, fmt.Errorf("tablet: unknown method %d", method)
	}
	if err := d.done(); err != nil {
		return nil, err
	}
	return resp, nil
}

// Codes of errors on the wire. Never reused.
const (
	codeNotLeader byte = iota + 1
	codeRange
	codeAborted
	codeAmbiguous
	codeLockUnavailable
	codeTooOld
	codeGroupAmbiguous
	codeTooLate
	codeTooLarge
	codeDiskFull
	codeOverloaded
	codeStopped
	codeDeadline
	codeCanceled
	codeCorrupt
	codeOther byte = 255
)

var wireSentinels = []struct {
	code byte
	err  error
}{
	{codeGroupAmbiguous, paxosgroup.ErrAmbiguous},
	{codeTooLate, paxosgroup.ErrTooLate},
	{codeTooLarge, paxosgroup.ErrTooLarge},
	{codeDiskFull, paxosgroup.ErrDiskFull},
	{codeOverloaded, paxosgroup.ErrOverloaded},
	{codeStopped, paxosgroup.ErrStopped},
	{codeDeadline, context.DeadlineExceeded},
	{codeCanceled, context.Canceled},
}

func appendError(b []byte, err error) []byte {
	var (
		notLeader *paxosgroup.NotLeaderError
		ranged    *RangeError
		aborted   *AbortedError
		ambiguous *AmbiguousError
		locked    *LockUnavailableError
		tooOld    *TooOldError
		corrupt   *CorruptError
	)
	switch {
	case errors.As(err, &notLeader):
		b = appendUvarint(append(b, codeNotLeader), uint64(notLeader.Group))
		return appendUvarint(b, uint64(notLeader.Leader))
	case errors.As(err, &ranged):
		b = appendUvarint(append(b, codeRange), uint64(len(ranged.Descriptors)))
		for _, ds := range ranged.Descriptors {
			b = appendDescriptor(b, ds)
		}
		return b
	case errors.As(err, &aborted):
		b = appendTxnID(append(b, codeAborted), aborted.Txn)
		b = appendTxnID(append(b, byte(aborted.Reason)), aborted.By)
		return appendBytes(b, aborted.Key)
	case errors.As(err, &ambiguous):
		return appendTxnID(append(b, codeAmbiguous), ambiguous.Txn)
	case errors.As(err, &locked):
		return appendTxnID(appendBytes(append(b, codeLockUnavailable), locked.Key), locked.Holder)
	case errors.As(err, &tooOld):
		return appendTS(appendTS(append(b, codeTooOld), tooOld.At), tooOld.LowWater)
	case errors.As(err, &corrupt):
		b = appendString(appendString(append(b, codeCorrupt), corrupt.File), corrupt.Reason)
		return appendTS(b, truetime.Timestamp(corrupt.Offset))
	}
	for _, s := range wireSentinels {
		if errors.Is(err, s.err) {
			return append(b, s.code)
		}
	}
	return appendString(append(b, codeOther), err.Error())
}

// Unexpected returns the message of a response that is an error of no known type:
// one that the log of the answering node should have.
func Unexpected(response []byte) (message string, ok bool) {
	if len(response) < 2 || response[0] != wireVersion || response[1] != codeOther {
		return "", false
	}
	d := decoder{b: response[2:]}
	message = string(d.bytes())
	return message, d.err == nil
}

func (d *decoder) wireError(code byte) error {
	switch code {
	case codeNotLeader:
		return &paxosgroup.NotLeaderError{Group: keys.GroupID(d.uvarint()), Leader: keys.NodeID(d.u32())}
	case codeRange:
		e := &RangeError{}
		if n := d.count(5); n > 0 {
			e.Descriptors = make([]keys.Descriptor, n)
			for i := range e.Descriptors {
				e.Descriptors[i] = d.descriptor()
			}
		}
		return e
	case codeAborted:
		e := &AbortedError{Txn: d.txnID(), Reason: AbortReason(d.u8()), By: d.txnID()}
		if k := d.bytes(); len(k) > 0 {
			e.Key = k
		}
		return e
	case codeAmbiguous:
		return &AmbiguousError{Txn: d.txnID()}
	case codeLockUnavailable:
		return &LockUnavailableError{Key: d.bytes(), Holder: d.txnID()}
	case codeTooOld:
		return &TooOldError{At: truetime.Timestamp(d.ts()), LowWater: truetime.Timestamp(d.ts())}
	case codeCorrupt:
		return &CorruptError{File: string(d.bytes()), Reason: string(d.bytes()), Offset: int64(d.ts())}
	case codeOther:
		return &RemoteError{Message: string(d.bytes())}
	}
	for _, s := range wireSentinels {
		if s.code == code {
			return s.err
		}
	}
	d.fail()
	return nil
}
