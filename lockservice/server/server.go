package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
)

// Cell is what the server needs of this node's replica of a cell.
type Cell interface {
	// Status describes the cell; Epoch is 0 where the replica does not lead.
	Status() *lockpb.Cell
	// Leading returns nil while the replica leads with a valid lease.
	Leading() error
	// Cells are all other cells, as the first one's replica knows them.
	Cells() []state.Cell
	// Do carries out a call and always answers: where the replica does not lead, with a
	// failure whose reason is NOT_LEADER or NO_LEADER. A call that is going to wait tells
	// waiting (if not nil) its place in the queue.
	Do(ctx context.Context, principal string, req *lockpb.DoRequest, waiting func(ticket int64)) *lockpb.DoResponse
	// Begin carries out a call as Do does, without blocking: begun, and answer is called
	// once, from any goroutine, possibly before Begin returns, or not begun, and the
	// call is one for Do. answer, ordered and waiting do not block. giveUp is called when the caller goes:
	// an answer that is still due comes then.
	Begin(ctx context.Context, principal string, req *lockpb.DoRequest, waiting func(ticket int64), ordered func(), answer func(*lockpb.DoResponse)) (giveUp func(), begun bool)
	// OpenStream begins to answer beats, ErrNotLeader where the replica does not lead. send
	// is called from any goroutine and does not block.
	OpenStream(principal string, send func(*lockpb.Lease)) (Stream, error)
}

// Stream is a cell's end of a KeepAlive stream.
type Stream interface {
	// Beat takes a beat; its answer goes to send when there is something to tell.
	Beat(*lockpb.Beat)
	// Done is closed when the replica does not lead any more: no beat will be answered.
	Done() <-chan struct{}
	// Close ends the stream; send is not called afterwards.
	Close()
}

// ErrNotLeader says that this node does not lead the cell that a call is for.
var ErrNotLeader = errors.New("lock service: this node does not lead the cell")

// Config of a Server. All fields are required.
type Config struct {
	Node keys.NodeID
	// Cells returns this node's replica of a cell, nil if it has none.
	Cells func(name string) Cell
	// Leader returns the node that is believed to lead a cell, 0: not known.
	Leader func(name string) keys.NodeID
	// Call carries a forwarded call to HandleCall of another node's Server.
	Call func(ctx context.Context, to keys.NodeID, payload []byte) ([]byte, error)
	// Address returns a node's name and its RPC address as the cluster dials it.
	Address func(keys.NodeID) (name, addr string)
	// Create makes a cell; it is called where the first cell is led, else it returns
	// ErrNotLeader. Making one that is there is no error.
	Create func(ctx context.Context, name string) error
	// Principal says who makes a call that comes over gRPC.
	Principal func(context.Context) string
}

// Server answers the lock service's calls at one node. All methods may be called
// concurrently.
type Server struct {
	cfg  Config
	quit context.Context // ends with Shutdown, the cause errShutdown
	end  context.CancelCauseFunc

	mu    sync.Mutex    // a leaf
	calls int           // under way, streams among them
	idle  chan struct{} // closed when there are none and the server has been shut down
}

// New returns a server.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, idle: make(chan struct{})}
	s.quit, s.end = context.WithCancelCause(context.Background())
	return s
}

// Register adds LockService to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	lockpb.RegisterLockServiceServer(r, &service{s: s})
}

// Shutdown ends the streams and the calls that wait, and refuses new ones. It returns when
// all have been told, or with ctx. If this node's leaderships were handed over before, their
// clients are told to whom.
func (s *Server) Shutdown(ctx context.Context) {
	s.mu.Lock()
	if s.quit.Err() == nil {
		s.end(errShutdown)
		s.settleLocked()
	}
	s.mu.Unlock()
	select {
	case <-s.idle:
	case <-ctx.Done():
	}
}

// until begins a call: its context ends with ctx or with the server. done ends the call.
func (s *Server) until(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.quit, func() { cancel(errShutdown) })
	s.mu.Lock()
	s.calls++
	s.mu.Unlock()
	return ctx, func() {
		stop()
		cancel(nil)
		s.mu.Lock()
		s.calls--
		s.settleLocked()
		s.mu.Unlock()
	}
}

// bounded runs what a stream's handler does, which may stand in sending to a peer that does not read, or
// in receiving from one that does not send: when the server shuts down, it is not waited for for longer
// than partingPatience. gRPC ends both when the handler returns.
func (s *Server) bounded(serve func() error) error {
	end := make(chan error, 1)
	go func() { end <- serve() }()
	select {
	case err := <-end:
		return err
	case <-s.quit.Done():
	}
	enough := time.NewTimer(partingPatience)
	defer enough.Stop()
	select {
	case err := <-end:
		return err
	case <-enough.C:
		return statusOf(failure(codes.Unavailable, reasonAmbiguous, "%v: what calls that were not answered came to is not known", errShutdown))
	}
}

const partingPatience = time.Second

// settleLocked notes that nothing is under way any more.
func (s *Server) settleLocked() {
	if s.calls > 0 || s.quit.Err() == nil {
		return
	}
	select {
	case <-s.idle: // calls that came late
	default:
		close(s.idle)
	}
}

// Do carries out one call, here or, unless it waits, where its cell is led. It always
// answers; a failure is an answer.
func (s *Server) Do(ctx context.Context, principal string, req *lockpb.DoRequest) *lockpb.DoResponse {
	ctx, done := s.until(ctx)
	defer done()
	return s.answer(ctx, principal, req, maxHops, nil)
}

// answer is do for a caller of this node: one who asks about a cell whose leader cannot be
// asked is told what is known without.
func (s *Server) answer(ctx context.Context, principal string, req *lockpb.DoRequest, hops int, waiting func(ticket int64)) *lockpb.DoResponse {
	resp := s.do(ctx, principal, req, hops, waiting)
	if get := req.GetGetCell(); get != nil && resp.GetFailure() != nil {
		if c := s.cfg.Cells(get.GetCell()); c != nil {
			return s.describe(c, req)
		}
	}
	return resp
}

// do carries out one call; hops is how often it may be forwarded. What a node that was deposed
// meanwhile has swallowed goes to its successor, if it may be repeated.
func (s *Server) do(ctx context.Context, principal string, req *lockpb.DoRequest, hops int, waiting func(ticket int64)) *lockpb.DoResponse {
	resp, swallowed := s.once(ctx, principal, req, hops, waiting)
	for n := 0; swallowed && repeatable(req) && n < maxSuccessors; n++ {
		resp, swallowed = s.once(ctx, principal, req, hops, waiting)
		if reads(req) || !undone(resp) {
			continue
		}
		// It may have been done where it was swallowed. Who is elected may not lead yet.
		resp = failed(req, failure(codes.Unknown, reasonAmbiguous, "it is not known whether the call took effect at the cell's earlier leader; and now: %s", resp.GetFailure().Message))
	}
	return resp
}

// undone reports an answer which says that the call has had no effect, and may be tried again.
func undone(resp *lockpb.DoResponse) bool {
	switch resp.GetFailure().GetInfo().GetReason() {
	case reasonNotLeader, reasonNoLeader, reasonOverloaded, reasonDiskFull, reasonCancelled:
		return true
	}
	return false
}

// once is one attempt of do; swallowed: a node that does not lead any more did not answer.
func (s *Server) once(ctx context.Context, principal string, req *lockpb.DoRequest, hops int, waiting func(ticket int64)) (resp *lockpb.DoResponse, swallowed bool) {
	name, f := cellOf(req)
	if f != nil {
		return failed(req, f), false
	}
	if waits(req) {
		hops = 0
	}
	if s.cfg.Cells(First) == nil {
		return failed(req, starting()), false
	}
	c := s.cfg.Cells(name)
	if c == nil {
		f := s.absent(name)
		if f.Info.Reason == reasonNotLeader && hops > 0 {
			return s.forward(ctx, First, principal, req, hops, f)
		}
		return failed(req, f), false
	}
	resp = s.here(ctx, principal, c, name, req, waiting)
	switch {
	case !leaves(resp):
		return resp, false
	case waits(req):
		return failed(req, s.successor(name)), false
	}
	f = s.notLeading(name)
	if hops > 0 {
		return s.forward(ctx, name, principal, req, hops, f)
	}
	return failed(req, f), false
}

// absent is the failure of a call for a cell of which this node has no replica. That there is no such
// cell only the first one's leader can know: elsewhere its making may not have been heard of.
func (s *Server) absent(name string) *lockpb.Failure {
	first := s.cfg.Cells(First)
	there := s.find(first, name) != nil
	switch {
	case first.Leading() != nil: // looked at last: what was read is the latest
		return s.notLeading(First)
	case there: // it is being opened, or is not on this node
		return s.notLeading(name)
	}
	return failure(codes.NotFound, reasonNoSuchCell, "there is no cell %.100q", name)
}

// here carries out a call at this node's replica.
func (s *Server) here(ctx context.Context, principal string, c Cell, name string, req *lockpb.DoRequest, waiting func(int64)) *lockpb.DoResponse {
	switch {
	case req.GetCreateCell() != nil:
		return s.create(ctx, c, req, req.GetCreateCell().GetCell())
	case req.GetListCells() != nil:
		return s.list(c, req)
	}
	resp := c.Do(ctx, principal, req, waiting)
	if s.evicted(resp) {
		return failed(req, s.successor(name))
	}
	s.locate(resp.GetGetCell().GetCell())
	return resp
}

// evicted reports that a call was given up because this node is shutting down.
func (s *Server) evicted(resp *lockpb.DoResponse) bool {
	f := resp.GetFailure()
	return f != nil && s.quit.Err() != nil && codes.Code(f.Code) == codes.Canceled
}

// begin begins a call at this node's replica; false: it is one for answer.
func (s *Server) begin(ctx context.Context, principal string, req *lockpb.DoRequest, waiting func(ticket int64), ordered func(), answer func(*lockpb.DoResponse)) (giveUp func(), begun bool) {
	switch req.GetCall().(type) {
	case *lockpb.DoRequest_Acquire, *lockpb.DoRequest_TryAcquire, *lockpb.DoRequest_Release:
	default:
		return nil, false
	}
	name, f := cellOf(req)
	if f != nil || s.cfg.Cells(First) == nil {
		return nil, false
	}
	c := s.cfg.Cells(name)
	if c == nil {
		return nil, false
	}
	return c.Begin(ctx, principal, req, waiting, ordered, answer)
}

// directs reports that the answer to a call that was begun does not say enough: redirected, which
// may wait, finds out where the caller has to go.
func (s *Server) directs(resp *lockpb.DoResponse) bool {
	return resp.GetFailure() != nil && (leaves(resp) || s.evicted(resp))
}

func (s *Server) redirected(req *lockpb.DoRequest, resp *lockpb.DoResponse) *lockpb.DoResponse {
	name, _ := cellOf(req)
	if waits(req) || s.evicted(resp) {
		return failed(req, s.successor(name))
	}
	return failed(req, s.notLeading(name))
}

// locate says in a cell's description where its leader is.
func (s *Server) locate(c *lockpb.Cell) *lockpb.Cell {
	if n := s.cfg.Leader(c.GetName()); c != nil && n != 0 {
		c.Leader = s.address(n)
	}
	return c
}

// describe answers GetCell at a node that does not lead.
func (s *Server) describe(c Cell, req *lockpb.DoRequest) *lockpb.DoResponse {
	return &lockpb.DoResponse{Id: req.GetId(), Answer: &lockpb.DoResponse_GetCell{GetCell: &lockpb.GetCellResponse{Cell: s.locate(c.Status())}}}
}

// list answers ListCells, which only the first cell's leader can.
func (s *Server) list(first Cell, req *lockpb.DoRequest) *lockpb.DoResponse {
	cells := []*lockpb.Cell{s.locate(first.Status())}
	for _, c := range first.Cells() {
		cells = append(cells, s.known(c))
	}
	if first.Leading() != nil { // looked at last: what was read is the latest
		return failed(req, s.notLeading(First))
	}
	return &lockpb.DoResponse{Id: req.GetId(), Answer: &lockpb.DoResponse_ListCells{ListCells: &lockpb.ListCellsResponse{Cells: cells}}}
}

// known describes a cell on the first one's list, as far as this node's replica of it goes.
func (s *Server) known(c state.Cell) *lockpb.Cell {
	if here := s.cfg.Cells(c.Name); here != nil {
		return s.locate(here.Status())
	}
	return &lockpb.Cell{Name: c.Name, Group: c.Group}
}

// create makes a cell, at the leader of the first one.
func (s *Server) create(ctx context.Context, first Cell, req *lockpb.DoRequest, name string) *lockpb.DoResponse {
	if !validName(name) {
		return failed(req, failure(codes.InvalidArgument, reasonBadRequest, "%.100q is not a cell's name: 1 to 63 of a-z, 0-9 and \"-\"", name))
	}
	if first.Leading() != nil {
		return failed(req, s.notLeading(First))
	}
	// One that is on the list is there for good.
	c := s.find(first, name)
	if c == nil {
		if err := s.cfg.Create(ctx, name); err != nil {
			return failed(req, s.failureOf(ctx, First, err))
		}
		s.awaitLeader(ctx, name, 0, electionPatience)
		if c = s.find(first, name); c == nil {
			return failed(req, failure(codes.Unknown, reasonAmbiguous, "whether cell %s was made is not known; try again", name))
		}
	}
	return &lockpb.DoResponse{Id: req.GetId(), Answer: &lockpb.DoResponse_CreateCell{CreateCell: &lockpb.CreateCellResponse{Cell: c}}}
}

// electionPatience is how long the answer to CreateCell waits for the new cell's leader.
const electionPatience = 2 * time.Second

// awaitLeader waits until a node is known to lead a cell that is not the one given, but only
// for a while: it may be that nobody does. It has to look, since nobody tells.
func (s *Server) awaitLeader(ctx context.Context, name string, not keys.NodeID, patience time.Duration) {
	tick, enough := time.NewTicker(5*time.Millisecond), time.NewTimer(patience)
	defer tick.Stop()
	defer enough.Stop()
	for {
		if n := s.cfg.Leader(name); n != 0 && n != not {
			return
		}
		select {
		case <-tick.C:
		case <-enough.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// find describes a cell, nil if the first one does not know it.
func (s *Server) find(first Cell, name string) *lockpb.Cell {
	if name == First {
		return s.locate(first.Status())
	}
	for _, c := range first.Cells() {
		if c.Name == name {
			return s.known(c)
		}
	}
	return nil
}

func validName(name string) bool {
	if len(name) == 0 || len(name) > 63 {
		return false
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
