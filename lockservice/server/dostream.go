package server

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/spandb/spand/lockservice/lockpb"
)

const (
	// maxCalls under way on one Do stream.
	maxCalls = 4096
	// maxIdle bounds the goroutines that wait for a stream's calls. They are kept because
	// of their stacks: a fresh one grows its own, copying, in every call.
	maxIdle = 64
	// maxAnswers are the bytes of answers that a stream's reader has not taken above which no more
	// calls are. What has been carried out is answered, however much that is.
	maxAnswers = 8 << 20
	// fewCalls may be under way for an answer to be written at once: of more, several come together, and
	// one write is cheaper than many.
	fewCalls = 2
	// maxReads bounds the calls at work on one stream whose answers may be large.
	maxReads = 64
)

// doStream is a Do stream at work, or a lane, which carries the same.
type doStream struct {
	s         *Server
	ctx       context.Context
	principal string
	out       *outbox[*lockpb.DoResponse]
	direct    func(*lockpb.DoResponse) // if set, sends an answer at once, past out, without waiting
	wg        sync.WaitGroup           // calls under way, and their goroutines
	under     atomic.Int32             // how many calls
	work      chan doCall              // to idle goroutines
	reads     chan struct{}

	mu      sync.Mutex
	idle    int
	cancels map[uint64]func() // of the calls under way; nil: being begun
	ended   bool              // no more are started
	left    bool              // what is under way is to be given up
}

type doCall struct {
	ctx    context.Context
	cancel context.CancelFunc
	req    *lockpb.DoRequest
}

// Do implements LockService. Its end ends what is under way.
func (v *service) Do(ss grpc.BidiStreamingServer[lockpb.DoRequest, lockpb.DoResponse]) error {
	d, end := v.s.newDoStream(ss.Context(), v.s.cfg.Principal(ss.Context()))
	defer end()
	received := make(chan error, 1)
	sendCtx, stopSending := context.WithCancelCause(d.ctx)
	defer stopSending(nil)
	go func() { // ends with the stream
		err := d.receive(d.ctx, ss.Recv)
		if errors.Is(err, io.EOF) { // the client will send no more; it still reads
			d.finish()
			err = io.EOF
		}
		received <- err
		stopSending(err)
	}()
	return v.s.bounded(func() error {
		for {
			list, err := d.out.take(sendCtx)
			if err != nil {
				return d.over(ss, err)
			}
			for _, resp := range list {
				if err := ss.Send(resp); err != nil {
					return err
				}
			}
		}
	})
}

// newDoStream begins a stream's work; end ends it, and what is under way.
func (s *Server) newDoStream(ctx context.Context, principal string) (d *doStream, end func()) {
	ctx, done := s.until(ctx)
	ctx, stop := context.WithCancel(ctx)
	d = &doStream{
		s: s, ctx: ctx, principal: principal, out: newOutbox[*lockpb.DoResponse](unlimited),
		work: make(chan doCall), reads: make(chan struct{}, maxReads), cancels: map[uint64]func(){},
	}
	return d, func() {
		stop()
		d.giveUp()
		d.finish()
		done()
	}
}

// over returns what a stream ends with.
func (d *doStream) over(ss grpc.ServerStream, err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return d.flush(ss)
	case errors.Is(err, errShutdown):
		d.giveUp()
		d.finish() // they end now
		if err := d.flush(ss); err != nil {
			return err
		}
		return statusOf(failure(codes.Unavailable, reasonNoLeader, "%v", errShutdown))
	}
	return err
}

// flush sends what is left when the client has half-closed the stream and all its calls
// have been answered.
func (d *doStream) flush(ss grpc.ServerStream) error {
	d.out.mu.Lock()
	list := d.out.list
	d.out.list = nil
	d.out.mu.Unlock()
	for _, resp := range list {
		if err := ss.SendMsg(resp); err != nil {
			return err
		}
	}
	return nil
}

// finish waits for the calls under way and starts no more.
func (d *doStream) finish() {
	d.mu.Lock()
	if !d.ended {
		d.ended = true
		close(d.work)
	}
	d.mu.Unlock()
	d.wg.Wait()
}

// giveUp ends the calls under way that were begun; the others end with the stream's context.
func (d *doStream) giveUp() {
	d.mu.Lock()
	d.left = true
	calls := make([]func(), 0, len(d.cancels))
	for _, cancel := range d.cancels {
		if cancel != nil {
			calls = append(calls, cancel)
		}
	}
	d.mu.Unlock()
	for _, cancel := range calls {
		cancel()
	}
}

// receive begins the calls that come, while there is room for their answers.
func (d *doStream) receive(ctx context.Context, next func() (*lockpb.DoRequest, error)) error {
	for {
		req, err := next()
		if err != nil {
			return err
		}
		if id, ok := req.GetCall().(*lockpb.DoRequest_Cancel); ok {
			d.mu.Lock()
			cancel := d.cancels[id.Cancel]
			d.mu.Unlock()
			if cancel != nil {
				cancel()
			}
			continue
		}
		if err := d.out.room(ctx, maxAnswers); err != nil {
			return err
		}
		if f := d.start(req); f != nil {
			d.answer(failed(req, f))
		}
	}
}

// start begins a call, or gives it to a goroutine, or says why not.
func (d *doStream) start(req *lockpb.DoRequest) *lockpb.Failure {
	id := req.GetId()
	if f := d.enter(req); f != nil {
		return f
	}
	giveUp, begun := d.s.begin(d.ctx, d.principal, req, func(ticket int64) { d.waiting(id, ticket) }, func() { d.ordered(id) },
		func(resp *lockpb.DoResponse) { d.begunDone(req, resp) })
	d.mu.Lock()
	if begun {
		_, open := d.cancels[id]
		if open {
			d.cancels[id] = giveUp
		}
		late := open && d.left
		d.mu.Unlock()
		if late {
			giveUp()
		}
		return nil
	}
	c := doCall{req: req}
	c.ctx, c.cancel = context.WithCancel(d.ctx)
	d.cancels[id] = c.cancel
	given := false
	if !d.ended {
		select {
		case d.work <- c:
			given = true
		default: // nobody idle
		}
	}
	d.mu.Unlock()
	if !given {
		d.wg.Go(func() { d.run(c) })
	}
	return nil
}

// enter notes a call as under way, until end, or says why it is not.
func (d *doStream) enter(req *lockpb.DoRequest) *lockpb.Failure {
	d.mu.Lock()
	_, taken := d.cancels[req.GetId()]
	over, full := d.ended, len(d.cancels) >= maxCalls
	if !taken && !over && !full {
		d.cancels[req.GetId()] = nil
		d.wg.Add(1)
	}
	d.mu.Unlock()
	switch {
	case !taken && !over && !full:
		d.under.Add(1)
	case taken:
		return failure(codes.InvalidArgument, reasonBadRequest, "a call with id %d is under way on this stream", req.GetId())
	case over && d.s.quit.Err() != nil:
		name, f := cellOf(req)
		if f != nil {
			return f
		}
		return d.s.notLeading(name)
	case over:
		return ended(d.ctx)
	case full:
		return failure(codes.ResourceExhausted, reasonOverloaded, "%d calls are under way on this stream", maxCalls)
	}
	return nil
}

// begunDone ends a call that was begun. It does not block.
func (d *doStream) begunDone(req *lockpb.DoRequest, resp *lockpb.DoResponse) {
	if d.s.directs(resp) {
		go func() { d.end(req.GetId(), d.s.redirected(req, resp)) }() // finish waits for it
		return
	}
	d.end(req.GetId(), resp)
}

// end ends a call with its answer.
func (d *doStream) end(id uint64, resp *lockpb.DoResponse) {
	d.mu.Lock()
	delete(d.cancels, id)
	d.mu.Unlock()
	d.answer(resp)
	d.under.Add(-1)
	d.wg.Done()
}

func (d *doStream) waiting(id uint64, ticket int64) {
	d.answer(&lockpb.DoResponse{Id: id, Answer: &lockpb.DoResponse_Waiting{Waiting: ticket}})
}

func (d *doStream) ordered(id uint64) {
	d.answer(&lockpb.DoResponse{Id: id, Answer: &lockpb.DoResponse_Ordered{Ordered: true}})
}

// run carries out c, then calls to come; it ends with the stream.
func (d *doStream) run(c doCall) {
	for {
		d.call(c)
		d.mu.Lock()
		stay := d.idle < maxIdle
		if stay {
			d.idle++
		}
		d.mu.Unlock()
		if !stay {
			return
		}
		var ok bool
		select {
		case c, ok = <-d.work:
		case <-d.ctx.Done():
		}
		d.mu.Lock()
		d.idle--
		d.mu.Unlock()
		if !ok {
			return
		}
	}
}

func (d *doStream) call(c doCall) {
	id := c.req.GetId()
	if large(c.req) {
		select {
		case d.reads <- struct{}{}:
			defer func() { <-d.reads }()
		case <-c.ctx.Done(): // and so it ends
		}
	}
	resp := d.s.answer(c.ctx, d.principal, c.req, 0, func(ticket int64) { d.waiting(id, ticket) })
	resp.Id = id
	c.cancel()
	d.end(id, resp)
}

// large reports that a call's answer may be large.
func large(req *lockpb.DoRequest) bool {
	switch req.GetCall().(type) {
	case *lockpb.DoRequest_GetContentsAndStat, *lockpb.DoRequest_ReadDir, *lockpb.DoRequest_ListSessions, *lockpb.DoRequest_ListLocks, *lockpb.DoRequest_LockHistory:
		return true
	}
	return false
}

func (d *doStream) answer(resp *lockpb.DoResponse) {
	if d.direct != nil && d.under.Load() <= fewCalls {
		d.direct(resp)
		return
	}
	d.out.put(resp, proto.Size(resp))
}
