package tablet

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

const defaultMaxBytes = 1 << 20

// Read answers a read: lock-free at a timestamp (X4), or with locks (X2).
func (t *Tablet) Read(ctx context.Context, req *ReadRequest) (*ReadResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.stats.Reads.Add(1)
	if req.Guess {
		return t.guess(req)
	}
	if req.Lock != LockNone {
		return t.lockingRead(ctx, req)
	}
	if req.At <= 0 {
		return nil, errors.New("tablet: a read without locks needs a timestamp")
	}
	l, err := t.leading()
	if err != nil {
		if req.Follower && t.isBound() {
			return t.followerRead(req)
		}
		return nil, err
	}
	return t.snapshotRead(ctx, l, req)
}

func (t *Tablet) checkRead(v *view, req *ReadRequest) error {
	if BreakSpans {
		return nil
	}
	for _, k := range req.Gets {
		if !v.holds(k) {
			return v.rangeError()
		}
	}
	for i := range req.Scans {
		if !v.covers(req.Scans[i].Span) {
			return v.rangeError()
		}
	}
	return nil
}

// recheck looks again, after the versions were read, at what was checked before:
// a split that was applied meanwhile took prepared transactions and their locks
// along, so that a wait for them ended early (B1, X4), and a collection may have
// dropped versions below its low-water mark.
func (t *Tablet) recheck(before *view, req *ReadRequest) error {
	now := t.m.view.Load()
	if now != before {
		if err := t.checkRead(now, req); err != nil {
			return err
		}
	}
	if req.At < now.lowWater && !BreakLowWater {
		return &TooOldError{At: req.At, LowWater: now.lowWater}
	}
	return nil
}

// snapshotRead reads at a timestamp under the lease: after the promise no write
// gets a timestamp <= At, and those that have one already are waited for where
// they overlap.
func (t *Tablet) snapshotRead(ctx context.Context, l *leader, req *ReadRequest) (*ReadResponse, error) {
	// In this order: noted, then promised, then the map. A split that this read does
	// not see yet will hand the noted timestamp to its child.
	if err := l.note(req.At); err != nil {
		return nil, err
	}
	if err := t.group.Promise(l.term, req.At); err != nil {
		return nil, err
	}
	v := t.m.view.Load()
	if err := t.checkRead(v, req); err != nil {
		return nil, err
	}
	if l.lt.writers.Load() != 0 {
		for _, k := range req.Gets {
			if err := l.awaitReadable(ctx, keys.Span{Start: k}, req.At); err != nil {
				return nil, err
			}
		}
		for i := range req.Scans {
			if err := l.awaitReadable(ctx, req.Scans[i].Span, req.At); err != nil {
				return nil, err
			}
		}
	}
	resp, err := t.readVersions(req, req.At)
	if err != nil {
		return nil, err
	}
	if err := t.recheck(v, req); err != nil {
		return nil, err
	}
	if err := t.group.Valid(l.term); err != nil {
		return nil, err
	}
	resp.Term = l.term
	return resp, nil
}

// awaitReadable waits until nothing proposed or prepared at a timestamp <= at can
// still write into sp.
func (l *leader) awaitReadable(ctx context.Context, sp keys.Span, at truetime.Timestamp) error {
	var timer *time.Timer
	waited := false
	for {
		b, found, err := l.lt.readBlocker(sp, at)
		if err != nil || !found {
			if timer != nil {
				timer.Stop()
			}
			return err
		}
		if !waited {
			waited = true
			l.t.stats.ReadWaits.Add(1)
		}
		var fire <-chan time.Time
		if b.phase == phasePrepared {
			// Most transactions are resolved within moments; then the coordinator is asked.
			if timer == nil {
				timer = time.NewTimer(l.t.cfg.ReadInquireAfter)
			} else {
				timer.Reset(l.t.cfg.InquireEvery)
			}
			fire = timer.C
		}
		select {
		case <-b.event:
		case <-fire:
			l.inquire(b.id, false)
		case <-ctx.Done():
			if timer != nil {
				timer.Stop()
			}
			return ctx.Err()
		}
	}
}

// followerRead answers from a replica that does not lead, when everything up to
// At is closed, applied and visible here and nothing undecided overlaps (X4).
// Otherwise the reader is sent to the leader.
func (t *Tablet) followerRead(req *ReadRequest) (*ReadResponse, error) {
	elsewhere := &paxosgroup.NotLeaderError{Group: t.cfg.Group, Leader: t.group.Leader()}
	installs := t.group.Installs() // before the safe time: it moves after
	if t.group.SafeTime() < req.At || !t.parentVisible() {
		return nil, elsewhere
	}
	v := t.m.view.Load()
	if err := t.checkRead(v, req); err != nil {
		return nil, err
	}
	for _, k := range req.Gets {
		if !t.clearAt(keys.Span{Start: k}, req.At) {
			return nil, elsewhere
		}
	}
	for i := range req.Scans {
		if !t.clearAt(req.Scans[i].Span, req.At) {
			return nil, elsewhere
		}
	}
	resp, err := t.readVersions(req, req.At)
	if err != nil {
		return nil, err
	}
	if t.group.Installs() != installs {
		return nil, elsewhere // a snapshot has begun: the versions may be gone
	}
	if err := t.recheck(v, req); err != nil {
		return nil, err
	}
	return resp, nil
}

// clearAt reports whether the replicated state leaves no doubt about sp at time at.
func (t *Tablet) clearAt(sp keys.Span, at truetime.Timestamp) bool {
	if BreakReadFollower {
		return true
	}
	m := t.m
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, p := range m.prepared {
		if p.ts <= at && writesInto(p.writes, sp) {
			return false
		}
	}
	for _, s := range m.staged {
		if s.status != stageOpen && s.ts <= at && s.min != nil && s.hull().Overlaps(sp) {
			return false
		}
	}
	for i := range t.settling {
		if s := &t.settling[i]; s.ts <= at && s.span.Overlaps(sp) && !t.settled(s) {
			return false
		}
	}
	return true
}

// settled reports whether s is visible by now.
func (t *Tablet) settled(s *settling) bool {
	if s.index != 0 {
		v, ok, err := t.cfg.Reader.Get(chunksKey(t.cfg.Group))
		return err == nil && ok && len(v) == 8 && binary.BigEndian.Uint64(v) >= s.index
	}
	_, ok, err := t.cfg.Reader.Get(s.witness)
	return err == nil && ok
}

// readVersions evaluates the request on the versions as of at.
func (t *Tablet) readVersions(req *ReadRequest, at truetime.Timestamp) (*ReadResponse, error) {
	resp := newReadResponse(len(req.Gets))
	room := maxBytes(req)
	for i, k := range req.Gets {
		if room <= 0 && i > 0 {
			resp.Gets = resp.Gets[:i]
			break
		}
		v, err := t.mvcc.get(k, at)
		if err != nil {
			return nil, err
		}
		resp.Gets[i] = v
		resp.see(v.TS)
		room -= len(v.Bytes)
	}
	if len(req.Scans) > 0 {
		resp.Scans = make([]ScanResult, len(req.Scans))
		for i := range req.Scans {
			if room <= 0 && (i > 0 || len(req.Gets) > 0) {
				resp.Scans[i] = ScanResult{More: true, Resume: req.Scans[i].Span}
				continue
			}
			p := page{maxRows: req.Scans[i].MaxRows, maxBytes: room}
			if err := t.mvcc.scan(req.Scans[i].Span, at, req.Scans[i].Reverse, p.add); err != nil {
				return nil, err
			}
			resp.Scans[i] = p.result(req.Scans[i])
			resp.see(p.maxSeen)
			room -= p.bytes
		}
	}
	return resp, nil
}

// newReadResponse makes a response with room for so many gets; the usual one in
// the same piece of memory.
func newReadResponse(gets int) *ReadResponse {
	switch gets {
	case 0:
		return new(ReadResponse)
	case 1:
	default:
		return &ReadResponse{Gets: make([]Value, gets)}
	}
	r := new(struct {
		ReadResponse
		one [1]Value
	})
	r.Gets = r.one[:]
	return &r.ReadResponse
}

func maxBytes(req *ReadRequest) int {
	if req.MaxBytes <= 0 {
		return defaultMaxBytes
	}
	return req.MaxBytes
}

func (r *ReadResponse) see(ts truetime.Timestamp) {
	if ts > r.MaxSeen {
		r.MaxSeen = ts
	}
}

// lockingRead takes its locks first and then reads the newest versions: whoever
// wrote them has released its locks, and released them only once they were
// visible.
func (t *Tablet) lockingRead(ctx context.Context, req *ReadRequest) (*ReadResponse, error) {
	l, err := t.leading()
	if err != nil {
		return nil, err
	}
	if err := t.checkRead(t.m.view.Load(), req); err != nil {
		return nil, err
	}
	tx, err := l.lt.txn(&req.Txn, true)
	if err != nil {
		return nil, t.lostOrDecided(l, &req.Txn, err)
	}
	l.arm()
	resp := newReadResponse(len(req.Gets))
	resp.Term = l.term
	room := maxBytes(req)
	if len(req.Gets) > 0 {
		if room, err = t.lockingGets(ctx, l, tx, req, resp, room); err != nil {
			return nil, err
		}
	}
	if len(req.Scans) > 0 {
		resp.Scans = make([]ScanResult, len(req.Scans))
		for i := range req.Scans {
			if room <= 0 && (i > 0 || len(req.Gets) > 0) {
				resp.Scans[i] = ScanResult{More: true, Resume: req.Scans[i].Span}
				continue
			}
			p, err := t.lockingScan(ctx, l, tx, req, req.Scans[i], room)
			if err != nil {
				return nil, err
			}
			resp.Scans[i] = p.result(req.Scans[i])
			resp.see(p.maxSeen)
			room -= p.bytes
		}
	}
	// A transaction wounded meanwhile may have read a mixture: it must not see it.
	if why := l.lt.whyDead(tx); why != nil {
		return nil, why
	}
	if err := t.group.Valid(l.term); err != nil {
		return nil, err
	}
	return resp, nil
}

// lockingGets locks all the keys and answers those for which there is room, one at
// least. It returns what is left of room.
func (t *Tablet) lockingGets(ctx context.Context, l *leader, tx *txnState, req *ReadRequest, resp *ReadResponse, room int) (int, error) {
	var skipped []int
	if req.Wait == WaitBlock {
		if err := l.lt.lockPoints(ctx, tx, req.Gets, req.Lock); err != nil {
			return 0, err
		}
	} else {
		for i, k := range req.Gets {
			_, err := l.lt.acquire(ctx, tx, keys.Span{Start: k}, req.Lock, req.Wait, false)
			var un *LockUnavailableError
			if req.Wait == WaitSkip && errors.As(err, &un) {
				skipped = append(skipped, i)
				continue
			}
			if err != nil {
				return 0, err
			}
		}
	}
	for i, k := range req.Gets {
		if room <= 0 && i > 0 {
			resp.Gets = resp.Gets[:i]
			break
		}
		if len(skipped) > 0 && skipped[0] == i {
			skipped = skipped[1:]
			continue
		}
		if v, own, err := t.ownStaged(tx, k); err != nil {
			return 0, err
		} else if own {
			resp.Gets[i] = v
			room -= len(v.Bytes)
			continue
		}
		v, err := t.mvcc.get(k, truetime.Max)
		if err != nil {
			return 0, err
		}
		resp.Gets[i] = v
		room -= len(v.Bytes)
		resp.see(v.TS)
	}
	return room, nil
}

// lockingScan locks what the page of rows covers, no more (X2). How far that is
// shows only in the data, so it looks first, locks, and looks again unless
// nothing can have changed in between.
func (t *Tablet) lockingScan(ctx context.Context, l *leader, tx *txnState, req *ReadRequest, s Scan, room int) (*page, error) {
	if req.Wait == WaitSkip {
		return t.skippingScan(ctx, l, tx, req, s, room)
	}
	epoch := l.lt.epoch.Load()
	p := &page{maxRows: s.MaxRows, maxBytes: room}
	if err := t.scanWithOwn(tx, s, p.add); err != nil {
		return nil, err
	}
	covered := p.covered(s)
	waited, err := l.lt.acquire(ctx, tx, covered, req.Lock, req.Wait, false)
	if err != nil {
		return nil, err
	}
	if !waited && l.lt.epoch.Load() == epoch {
		return p, nil
	}
	// Within the lock nothing moves any more. Fewer rows than before may be left;
	// then the scan goes on behind the locked part.
	q := &page{maxRows: s.MaxRows, maxBytes: room}
	in := s
	in.Span = covered
	if err := t.scanWithOwn(tx, in, q.add); err != nil {
		return nil, err
	}
	if !q.full && p.full {
		q.stopAt = &covered
	}
	return q, nil
}

// skippingScan locks row by row and leaves out the rows that others have locked.
// The gaps between the rows stay open: who skips rows has asked for less than
// serializability there.
func (t *Tablet) skippingScan(ctx context.Context, l *leader, tx *txnState, req *ReadRequest, s Scan, room int) (*page, error) {
	p := &page{maxRows: s.MaxRows, maxBytes: room}
	var fail error
	err := t.scanWithOwn(tx, s, func(k keys.Key, v []byte, ts truetime.Timestamp, exists bool) bool {
		if !exists {
			return true
		}
		_, err := l.lt.acquire(ctx, tx, keys.Span{Start: k}, req.Lock, WaitSkip, false)
		var un *LockUnavailableError
		if errors.As(err, &un) {
			return true
		}
		if err != nil {
			fail = err
			return false
		}
		// The row may have changed before it was locked.
		now, own, err := t.ownStaged(tx, k)
		if err == nil && !own {
			now, err = t.mvcc.get(k, truetime.Max)
		}
		if err != nil {
			fail = err
			return false
		}
		return p.add(k, now.Bytes, now.TS, now.Exists)
	})
	if fail != nil {
		err = fail
	}
	return p, err
}
