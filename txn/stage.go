package txn

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
)

// stager lays chunks of a large transaction's writes down at their tablets in
// the background: in order at each tablet, tablets in parallel, at most
// Config.Window chunks under way. Its goroutines, one per tablet with work, end
// when their queue is empty, on the first error, or with stop.
//
// A tablet that splits between two chunks aborts the transaction (retryable):
// the chunks laid down so far are the parent's, and following them is not
// worth its weight.
type stager struct {
	t      *Txn
	ctx    context.Context
	cancel context.CancelFunc
	window chan struct{}
	wg     sync.WaitGroup

	mu     sync.Mutex // a leaf, but for Txn.mu
	queues map[keys.GroupID][]*chunk
	// flying are the chunks not yet acknowledged, oldest first: own reads of
	// their keys are answered from here.
	flying []*chunk
	idle   chan struct{} // closed when flying becomes empty
	err    error
}

type chunk struct {
	desc   keys.Descriptor
	part   int
	seq    uint32
	writes []tablet.Write // in key order
}

func newStager(t *Txn) *stager {
	s := &stager{t: t, window: make(chan struct{}, t.c.cfg.Window), queues: map[keys.GroupID][]*chunk{}}
	s.ctx, s.cancel = context.WithCancel(t.c.ctx)
	return s
}

// stageBuffer stages the buffered writes, but for those that an open scan could
// still meet at the tablets: it must not see writes made after it began.
func (t *Txn) stageBuffer(ctx context.Context) error {
	all := slices.Clone(t.buf.all())
	// The last one stays: the commit needs a key to stand under (the anchor).
	keep := []tablet.Write{all[len(all)-1]}
	kept := len(keep[0].Key) + len(keep[0].Value)
	stage := all[:0]
	for _, w := range all[:len(all)-1] {
		if t.scanAhead(w.Key) {
			keep = append(keep, w)
			kept += len(w.Key) + len(w.Value) + entryOverhead
		} else {
			stage = append(stage, w)
		}
	}
	if kept > t.c.cfg.MaxBuffer {
		t.failed = ErrTooLarge
		return ErrTooLarge
	}
	t.stageAt = kept + t.c.cfg.StageAfter
	if len(stage) == 0 {
		return nil
	}
	t.buf.reset(keep)
	if err := t.stageWrites(ctx, stage); err != nil {
		t.failed = err
		return err
	}
	return nil
}

func (t *Txn) scanAhead(k keys.Key) bool {
	for _, it := range t.open {
		if it.rest.Start != nil && it.rest.Contains(k) {
			return true
		}
	}
	return false
}

// stageWrites sends writes, sorted, on their way in chunks.
func (t *Txn) stageWrites(ctx context.Context, ws []tablet.Write) error {
	if t.stager == nil {
		t.stager = newStager(t)
	}
	for len(ws) > 0 {
		desc, err := t.c.cfg.Router.Lookup(ctx, ws[0].Key)
		if err != nil {
			return err
		}
		here := writesBefore(ws, desc.Span.End)
		ws = ws[len(here):]
		for len(here) > 0 {
			n := chunkLen(here, t.c.cfg.ChunkBytes)
			if err := t.stager.enqueue(ctx, &desc, here[:n:n]); err != nil {
				return err
			}
			here = here[n:]
		}
	}
	return nil
}

// chunkLen returns how many of ws, at least one, fit into limit bytes.
func chunkLen(ws []tablet.Write, limit int) int {
	size := 0
	for i := range ws {
		size += len(ws[i].Key) + len(ws[i].Value) + 8
		if size > limit && i > 0 {
			return i
		}
	}
	return len(ws)
}

// writesBefore returns the prefix of ws, sorted, with keys below end.
func writesBefore(ws []tablet.Write, end keys.Key) []tablet.Write {
	n, _ := searchWrites(ws, end)
	return ws[:n]
}

// enqueue waits for room in the window and hands a chunk to its tablet's queue.
func (s *stager) enqueue(ctx context.Context, desc *keys.Descriptor, ws []tablet.Write) error {
	select {
	case s.window <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return s.stopped()
	}
	t := s.t
	i, _ := t.part(desc)
	t.mu.Lock()
	p := &t.parts[i]
	if p.staged == 0 {
		p.stagedGen = desc.Generation
	}
	ch := &chunk{desc: *desc, part: i, seq: p.staged, writes: ws}
	p.staged++
	p.addPoint(ws[0].Key)
	p.addPoint(ws[len(ws)-1].Key)
	t.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		<-s.window
		return s.err
	}
	if len(s.flying) == 0 {
		s.idle = make(chan struct{})
	}
	s.flying = append(s.flying, ch)
	q, running := s.queues[desc.Group]
	s.queues[desc.Group] = append(q, ch)
	if !running {
		s.wg.Add(1)
		if !t.c.spawn(func() { s.run(desc.Group) }) {
			s.wg.Done()
			s.failLocked(ErrClosed)
			return ErrClosed
		}
	}
	return nil
}

// run works one tablet's queue off.
func (s *stager) run(group keys.GroupID) {
	defer s.wg.Done()
	for {
		s.mu.Lock()
		if s.err != nil || len(s.queues[group]) == 0 {
			delete(s.queues, group)
			s.mu.Unlock()
			return
		}
		ch := s.queues[group][0]
		s.queues[group] = s.queues[group][1:]
		s.mu.Unlock()

		err := s.send(ch)

		s.mu.Lock()
		if err != nil {
			s.failLocked(err)
		} else if i := slices.Index(s.flying, ch); i >= 0 {
			s.flying = slices.Delete(s.flying, i, i+1)
			if len(s.flying) == 0 {
				close(s.idle)
			}
		}
		s.mu.Unlock()
		<-s.window
	}
}

func (s *stager) send(ch *chunk) error {
	t := s.t
	t.mu.Lock()
	sent := t.parts[ch.part].term
	t.mu.Unlock()
	req := &tablet.StageRequest{
		Target: tablet.Target{Group: ch.desc.Group, Generation: ch.desc.Generation},
		Txn:    t.ref(sent), Seq: ch.seq, Writes: ch.writes,
	}
	var resp *tablet.StageResponse
	// Repeating is harmless: the chunk has a number.
	err := t.c.do(s.ctx, &ch.desc, true, func(ctx context.Context, p Participant) (err error) {
		resp, err = p.Stage(ctx, req)
		return err
	})
	var re *tablet.RangeError
	if errors.As(err, &re) {
		t.c.cfg.Router.Update(re.Descriptors...)
		return &tablet.AbortedError{Txn: t.id, Reason: tablet.AbortLocksLost, Key: ch.writes[0].Key}
	}
	if err != nil {
		return err
	}
	t.mu.Lock()
	err = t.meet(&t.parts[ch.part], sent, resp.Term)
	t.mu.Unlock()
	if err != nil {
		return err
	}
	for i := range ch.writes {
		t.c.stats.Staged.Add(uint64(len(ch.writes[i].Key) + len(ch.writes[i].Value)))
	}
	return nil
}

func (s *stager) failLocked(err error) {
	if s.err == nil {
		s.err = err
		s.cancel()
	}
	if len(s.flying) > 0 {
		s.flying = nil
		close(s.idle)
	}
}

func (s *stager) stopped() error {
	if err := s.failure(); err != nil {
		return err
	}
	return ErrClosed
}

// failure is the error that ended staging, nil while it goes well.
func (s *stager) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// get looks for key among the chunks that are on their way.
func (s *stager) get(key keys.Key) (value []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.flying) - 1; i >= 0; i-- {
		ws := s.flying[i].writes
		if j, ok := searchWrites(ws, key); ok {
			return ws[j].Value, true
		}
	}
	return nil, false
}

// barrier waits until every chunk has been acknowledged.
func (s *stager) barrier(ctx context.Context) error {
	for {
		s.mu.Lock()
		err, n, idle := s.err, len(s.flying), s.idle
		s.mu.Unlock()
		if err != nil || n == 0 {
			return err
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stop ends staging; wait waits for its goroutines.
func (s *stager) stop() {
	s.mu.Lock()
	s.failLocked(ErrFinished)
	s.mu.Unlock()
}

func (s *stager) wait() { s.wg.Wait() }
