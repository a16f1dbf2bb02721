package server

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/lockservice/lockpb"
)

const file = "/ls/local/f"

func handle() *lockpb.Handle { return &lockpb.Handle{Path: file} }

// echo answers a GetStat with the principal, and waits in Acquire for its context's end.
func echo(ctx context.Context, principal string, req *lockpb.DoRequest, waiting func(int64)) *lockpb.DoResponse {
	switch {
	case req.GetGetStat() != nil:
		return &lockpb.DoResponse{Id: req.Id, Answer: &lockpb.DoResponse_GetStat{GetStat: &lockpb.GetStatResponse{Stat: &lockpb.Stat{Path: principal}}}}
	case req.GetAcquire() != nil:
		if waiting != nil {
			waiting(7)
		}
		<-ctx.Done()
		return failed(req, ended(ctx))
	case req.GetDelete() != nil:
		f := failure(codes.NotFound, "NODE_NOT_FOUND", "there is no %s", file)
		f.Info.Path = file
		return failed(req, f)
	}
	return failed(req, failure(codes.Unimplemented, "", "no"))
}

// info returns the code and the ErrorInfo of a call's error.
func info(t *testing.T, err error) (codes.Code, *lockpb.ErrorInfo) {
	t.Helper()
	st := status.Convert(err)
	for _, d := range st.Details() {
		if i, ok := d.(*lockpb.ErrorInfo); ok {
			return st.Code(), i
		}
	}
	t.Fatalf("no ErrorInfo in %v", err)
	return 0, nil
}

func TestErrorsCarryTheirReason(t *testing.T) {
	w := newWorld(t, 1, echo)
	_, err := w.clients[1].Delete(t.Context(), &lockpb.DeleteRequest{Handle: handle()})
	if code, i := info(t, err); code != codes.NotFound || i.Reason != "NODE_NOT_FOUND" || i.Path != file {
		t.Errorf("%v %v", code, i)
	}
	for path, want := range map[string]string{"": reasonBadPath, "f": reasonBadPath, "/ls/": reasonBadPath, "/ls//f": reasonBadPath, "/ls/other/f": reasonNoSuchCell} {
		_, err := w.clients[1].GetStat(t.Context(), &lockpb.GetRequest{Handle: &lockpb.Handle{Path: path}})
		if _, i := info(t, err); i.Reason != want {
			t.Errorf("path %q: %v", path, err)
		}
	}
	for sequencer, want := range map[string]string{"rubbish": reasonBadRequest, "/ls/local/f": reasonBadRequest, "/ls/other/f:exclusive:1:1": reasonNoSuchCell} {
		_, err := w.clients[1].CheckSequencer(t.Context(), &lockpb.CheckSequencerRequest{Sequencer: sequencer})
		if _, i := info(t, err); i.Reason != want {
			t.Errorf("sequencer %q: %v", sequencer, err)
		}
	}
}

// A call at another node than the leader is forwarded, with who made it; what waits is
// refused with the leader's address.
func TestForwarding(t *testing.T) {
	w := newWorld(t, 3, echo)
	r, err := w.clients[3].GetStat(t.Context(), &lockpb.GetRequest{Handle: handle()})
	if err != nil || r.Stat.Path != "client of n3" {
		t.Fatalf("%v, %v", r, err)
	}
	_, err = w.clients[3].Acquire(t.Context(), &lockpb.AcquireRequest{Handle: handle()})
	if code, i := info(t, err); code != codes.FailedPrecondition || i.Reason != reasonNotLeader || i.Leader.Node != "n1" || i.Leader.Addr != "host1:15433" {
		t.Errorf("Acquire at a follower: %v %v", code, i)
	}
	w.believe(3, 2) // stale, but n2 knows
	if _, err := w.clients[3].GetStat(t.Context(), &lockpb.GetRequest{Handle: handle()}); err != nil {
		t.Errorf("over a node that knows better: %v", err)
	}
	w.believe(2, 3) // n2 and n3 send callers to each other: this must end
	_, err = w.clients[3].GetStat(t.Context(), &lockpb.GetRequest{Handle: handle()})
	if _, i := info(t, err); i.Reason != reasonNotLeader {
		t.Errorf("in a circle: %v", err)
	}
	w.believe(3, 0)
	_, err = w.clients[3].GetStat(t.Context(), &lockpb.GetRequest{Handle: handle()})
	if code, i := info(t, err); code != codes.Unavailable || i.Reason != reasonNoLeader {
		t.Errorf("nobody leads: %v", err)
	}
	c, err := w.clients[2].GetCell(t.Context(), &lockpb.GetCellRequest{Cell: First})
	if err != nil || c.Cell.Name != First || c.Cell.Leader.GetNode() != "n3" || c.Cell.Epoch != 0 {
		t.Errorf("GetCell without the leader: %v, %v", c, err)
	}
}

type lost struct{ sent bool }

func (l lost) Error() string { return "connection broke" }
func (l lost) NotSent() bool { return !l.sent }

// A change whose answer is lost may have taken effect, and the caller is told so.
func TestForwardedCallsAreNotAnsweredWrongly(t *testing.T) {
	w := newWorld(t, 2, echo)
	for _, c := range []struct {
		err    error
		change string
		code   codes.Code
	}{{lost{sent: false}, reasonNoLeader, codes.Unavailable}, {lost{sent: true}, reasonAmbiguous, codes.Unknown}} {
		w.calls = func(keys.NodeID) error { return c.err }
		_, err := w.clients[2].Delete(t.Context(), &lockpb.DeleteRequest{Handle: handle()})
		if code, i := info(t, err); code != c.code || i.Reason != c.change {
			t.Errorf("%v, a change: %v", c.err, err)
		}
		_, err = w.clients[2].GetStat(t.Context(), &lockpb.GetRequest{Handle: handle()})
		if code, i := info(t, err); code != codes.Unavailable || i.Reason != reasonNoLeader {
			t.Errorf("%v, a read: %v", c.err, err)
		}
	}
}

// What a deposed leader has swallowed is not waited for: it goes to the successor, unless it must not be
// carried out twice.
func TestForwardedCallsFollowTheLeader(t *testing.T) {
	for _, c := range []struct {
		what      string
		call      func(lockpb.LockServiceClient) error
		ambiguous bool
	}{
		{"a read", func(c lockpb.LockServiceClient) error {
			_, err := c.GetStat(t.Context(), &lockpb.GetRequest{Handle: handle()})
			return err
		}, false},
		{"a numbered change", func(c lockpb.LockServiceClient) error {
			_, err := c.SetContents(t.Context(), &lockpb.SetContentsRequest{Handle: &lockpb.Handle{Path: file, Session: 1}, Request: 1})
			return err
		}, false},
		{"a change with a number that no session knows", func(c lockpb.LockServiceClient) error {
			_, err := c.SetContents(t.Context(), &lockpb.SetContentsRequest{Handle: handle(), Request: 1})
			return err
		}, true},
		{"a release of an attempt", func(c lockpb.LockServiceClient) error {
			_, err := c.Release(t.Context(), &lockpb.ReleaseRequest{Handle: handle(), Attempt: 1})
			return err
		}, false},
		{"a change", func(c lockpb.LockServiceClient) error {
			_, err := c.SetContents(t.Context(), &lockpb.SetContentsRequest{Handle: handle()})
			return err
		}, true},
		{"a release of whatever there is", func(c lockpb.LockServiceClient) error {
			_, err := c.Release(t.Context(), &lockpb.ReleaseRequest{Handle: handle()})
			return err
		}, true},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t, 3, func(_ context.Context, _ string, req *lockpb.DoRequest, _ func(int64)) *lockpb.DoResponse {
				resp := &lockpb.DoResponse{Id: req.Id}
				switch req.Call.(type) {
				case *lockpb.DoRequest_GetStat:
					resp.Answer = &lockpb.DoResponse_GetStat{GetStat: &lockpb.GetStatResponse{}}
				case *lockpb.DoRequest_SetContents:
					resp.Answer = &lockpb.DoResponse_SetContents{SetContents: &lockpb.SetContentsResponse{}}
				case *lockpb.DoRequest_Release:
					resp.Answer = &lockpb.DoResponse_Release{Release: &lockpb.ReleaseResponse{}}
				}
				return resp
			})
			w.swallow = func(to keys.NodeID) bool {
				if to != 1 {
					return false
				}
				w.cells[1].follow()
				w.cells[2].lead()
				w.believe(3, 2)
				return true
			}
			err := c.call(w.clients[3])
			if !c.ambiguous {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if code, i := info(t, err); code != codes.Unknown || i.Reason != reasonAmbiguous {
				t.Errorf("%v", err)
			}
		})
	}
}

// A call that was swallowed may have been done: that its repetition had no effect says nothing.
func TestForwardedCallsStayInDoubt(t *testing.T) {
	w := newWorld(t, 3, func(_ context.Context, _ string, req *lockpb.DoRequest, _ func(int64)) *lockpb.DoResponse {
		return failed(req, failure(codes.ResourceExhausted, reasonOverloaded, "busy"))
	})
	w.swallow = func(to keys.NodeID) bool {
		if to == 1 {
			w.cells[1].follow()
			w.cells[2].lead()
			w.believe(3, 2)
		}
		return to == 1
	}
	_, err := w.clients[3].TryAcquire(t.Context(), &lockpb.AcquireRequest{Handle: &lockpb.Handle{Path: file, Session: 1, Handle: 1}, Attempt: 1})
	if code, i := info(t, err); code != codes.Unknown || i.Reason != reasonAmbiguous {
		t.Errorf("%v", err)
	}
}

// Cells are made and listed where the first one is led, whoever is asked.
func TestCells(t *testing.T) {
	w := newWorld(t, 2, echo)
	for range 2 { // making one that is there is no error
		r, err := w.clients[2].CreateCell(t.Context(), &lockpb.CreateCellRequest{Cell: "mine"})
		if err != nil || r.Cell.Name != "mine" || keys.GroupID(r.Cell.Group) != keys.FirstCell+3 {
			t.Fatalf("%v, %v", r, err)
		}
	}
	if r, err := w.clients[2].CreateCell(t.Context(), &lockpb.CreateCellRequest{Cell: First}); err != nil || r.Cell.Leader.GetNode() != "n1" {
		t.Errorf("the first cell: %v, %v", r, err)
	}
	for _, name := range []string{"", "A", "a/b", strings.Repeat("a", 64)} {
		_, err := w.clients[2].CreateCell(t.Context(), &lockpb.CreateCellRequest{Cell: name})
		if code, i := info(t, err); code != codes.InvalidArgument || i.Reason != reasonBadRequest {
			t.Errorf("%q: %v", name, err)
		}
	}
	l, err := w.clients[2].ListCells(t.Context(), &lockpb.ListCellsRequest{})
	if err != nil || len(l.Cells) != 2 || l.Cells[0].Name != First || l.Cells[1].Name != "mine" {
		t.Errorf("%v, %v", l, err)
	}
}

func FuzzHandleCall(f *testing.F) {
	s := New(Config{Node: 1, Cells: func(string) Cell { return nil }, Leader: func(string) keys.NodeID { return 1 }})
	good, err := encodeForward("me", &lockpb.DoRequest{Id: 5, Call: &lockpb.DoRequest_GetStat{GetStat: &lockpb.GetRequest{Handle: handle()}}}, 1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{forwardFormat, 200, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, payload []byte) {
		if out := s.HandleCall(context.Background(), payload); len(out) == 0 {
			t.Error("no answer")
		}
	})
}

// Calls of one stream do not wait for each other, and one can be given up.
func TestDoStream(t *testing.T) { overBoth(t, testDoStream) }

func testDoStream(t *testing.T, dial func(*world) doClient) {
	w := newWorld(t, 1, echo)
	ss := dial(w)
	send := func(req *lockpb.DoRequest) {
		t.Helper()
		if err := ss.Send(req); err != nil {
			t.Fatal(err)
		}
	}
	receive := func() *lockpb.DoResponse {
		t.Helper()
		r, err := ss.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	acquire := func(id uint64) *lockpb.DoRequest {
		return &lockpb.DoRequest{Id: id, Call: &lockpb.DoRequest_Acquire{Acquire: &lockpb.AcquireRequest{Handle: handle()}}}
	}
	stat := func(id uint64) *lockpb.DoRequest {
		return &lockpb.DoRequest{Id: id, Call: &lockpb.DoRequest_GetStat{GetStat: &lockpb.GetRequest{Handle: handle()}}}
	}
	send(acquire(1))
	if r := receive(); r.Id != 1 || r.GetWaiting() != 7 {
		t.Fatalf("%v", r)
	}
	send(acquire(1))
	if r := receive(); r.GetFailure().GetInfo().GetReason() != reasonBadRequest {
		t.Errorf("the same id again: %v", r)
	}
	send(stat(2))
	if r := receive(); r.Id != 2 || r.GetGetStat() == nil {
		t.Errorf("a call beside one that waits: %v", r)
	}
	send(&lockpb.DoRequest{Call: &lockpb.DoRequest_Cancel{Cancel: 1}})
	if r := receive(); r.Id != 1 || codes.Code(r.GetFailure().GetCode()) != codes.Canceled {
		t.Errorf("given up: %v", r)
	}
	for id := uint64(10); id < 10+maxCalls; id++ {
		send(acquire(id))
	}
	for range maxCalls {
		receive() // it waits
	}
	send(stat(3))
	if r := receive(); r.Id != 3 || r.GetFailure().GetInfo().GetReason() != reasonOverloaded {
		t.Errorf("one call more than may be under way: %v", r)
	}
	send(&lockpb.DoRequest{Call: &lockpb.DoRequest_Cancel{Cancel: 10}})
	if r := receive(); r.Id != 10 {
		t.Errorf("%v", r)
	}
	send(stat(4))
	if r := receive(); r.Id != 4 || r.GetGetStat() == nil {
		t.Errorf("after one has gone: %v", r)
	}
}

// What was asked is answered although the client sends no more.
func TestDoStreamHalfClosed(t *testing.T) {
	w := newWorld(t, 1, echo)
	ss, err := w.clients[1].Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const n = 500
	for id := range uint64(n) {
		if err := ss.Send(&lockpb.DoRequest{Id: id, Call: &lockpb.DoRequest_GetStat{GetStat: &lockpb.GetRequest{Handle: handle()}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := ss.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for got := 0; ; got++ {
		_, err := ss.Recv()
		if errors.Is(err, io.EOF) && got == n {
			return
		}
		if err != nil {
			t.Fatalf("after %d answers: %v", got, err)
		}
	}
}

// once lets the first call of answer through.
func once(answer func(*lockpb.DoResponse)) func(*lockpb.DoResponse) {
	var o sync.Once
	return func(r *lockpb.DoResponse) { o.Do(func() { answer(r) }) }
}

// Calls that the cell begins: answered from elsewhere, given up when they are cancelled and when the
// stream ends, told where to go when the node ceases to lead.
func TestDoStreamBeginsCalls(t *testing.T) { overBoth(t, testDoStreamBeginsCalls) }

func testDoStreamBeginsCalls(t *testing.T, dial func(*world) doClient) {
	w := newWorld(t, 2, echo)
	type begun struct {
		ordered func()
		answer  func(*lockpb.DoResponse)
		gone    chan struct{}
	}
	calls := make(chan begun, 10)
	w.cells[1].begin = func(req *lockpb.DoRequest, ordered func(), answer func(*lockpb.DoResponse)) func() {
		b := begun{ordered, once(answer), make(chan struct{})}
		calls <- b
		return sync.OnceFunc(func() {
			close(b.gone)
			b.answer(failed(req, failure(codes.Canceled, reasonCancelled, "given up")))
		})
	}
	ss := dial(w)
	call := func(id uint64) begun {
		t.Helper()
		if err := ss.Send(&lockpb.DoRequest{Id: id, Call: &lockpb.DoRequest_Acquire{Acquire: &lockpb.AcquireRequest{Handle: handle()}}}); err != nil {
			t.Fatal(err)
		}
		return <-calls
	}
	expect := func(id uint64, reason string) {
		t.Helper()
		r, err := ss.Recv()
		if got := r.GetFailure().GetInfo().GetReason(); err != nil || r.Id != id || got != reason {
			t.Errorf("call %d: %v, %v, want %d %q", r.GetId(), r, err, id, reason)
		}
	}
	one, two, three := call(1), call(2), call(3)
	two.answer(&lockpb.DoResponse{Id: 2, Answer: &lockpb.DoResponse_Acquire{Acquire: &lockpb.AcquireResponse{}}})
	expect(2, "")
	if err := ss.Send(&lockpb.DoRequest{Call: &lockpb.DoRequest_Cancel{Cancel: 3}}); err != nil {
		t.Fatal(err)
	}
	<-three.gone
	expect(3, reasonCancelled)
	call(2) // the number is free again
	release := &lockpb.ReleaseRequest{Handle: handle(), Attempt: 1, Early: true}
	if err := ss.Send(&lockpb.DoRequest{Id: 5, Call: &lockpb.DoRequest_Release{Release: release}}); err != nil {
		t.Fatal(err)
	}
	five := <-calls
	five.ordered()
	if r, err := ss.Recv(); err != nil || r.Id != 5 || !r.GetOrdered() {
		t.Errorf("call 5: %v, %v, want that it is ordered", r, err)
	}
	five.answer(&lockpb.DoResponse{Id: 5, Answer: &lockpb.DoResponse_Release{Release: &lockpb.ReleaseResponse{Released: true}}})
	expect(5, "")
	w.believe(1, 2)
	one.answer(&lockpb.DoResponse{Id: 1, Answer: &lockpb.DoResponse_Failure{Failure: failure(codes.Unavailable, reasonNoLeader, "")}})
	expect(1, reasonNotLeader)
	four := call(4)
	if err := ss.CloseSend(); err != nil {
		t.Fatal(err)
	}
	w.servers[1].Shutdown(t.Context()) // returns when the handler has, and that when its calls are answered
	<-four.gone
}

// The node's end is told to all who wait: with the new leader's address if there is one.
func TestShutdownEndsWhatWaits(t *testing.T) {
	w := newWorld(t, 2, echo)
	acquired, beaten := make(chan error, 1), make(chan error, 1)
	ss, err := w.clients[1].Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := ss.Send(&lockpb.DoRequest{Id: 1, Call: &lockpb.DoRequest_Acquire{Acquire: &lockpb.AcquireRequest{Handle: handle()}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := ss.Recv(); err != nil { // it waits
		t.Fatal(err)
	}
	beats, err := w.clients[1].KeepAlive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := beats.Send(&lockpb.KeepAliveRequest{Cell: First, Beats: []*lockpb.Beat{{Session: 1, Number: 1}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := beats.Recv(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := w.clients[1].Acquire(t.Context(), &lockpb.AcquireRequest{Handle: handle()})
		acquired <- err
	}()
	go func() {
		_, err := beats.Recv()
		beaten <- err
	}()
	w.believe(1, 2)
	w.servers[1].Shutdown(t.Context())
	for what, ch := range map[string]chan error{"Acquire": acquired, "KeepAlive": beaten} {
		if code, i := info(t, <-ch); code != codes.FailedPrecondition || i.Reason != reasonNotLeader || i.Leader.Node != "n2" {
			t.Errorf("%s: %v %v", what, code, i)
		}
	}
	r, err := ss.Recv()
	if i := r.GetFailure().GetInfo(); err != nil || i.GetReason() != reasonNotLeader || i.GetLeader().GetNode() != "n2" {
		t.Errorf("Acquire in a Do stream: %v, %v", r, err)
	}
	_, err = ss.Recv()
	if code, i := info(t, err); code != codes.Unavailable || i.Reason != reasonNoLeader {
		t.Errorf("Do: %v %v", code, i)
	}
}

func TestKeepAliveEndsWithLeadership(t *testing.T) {
	w := newWorld(t, 2, echo)
	beats, err := w.clients[1].KeepAlive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var list []*lockpb.Beat
	for i := range uint64(1000) {
		list = append(list, &lockpb.Beat{Session: i + 1, Number: 1})
	}
	if err := beats.Send(&lockpb.KeepAliveRequest{Cell: First, Beats: list}); err != nil {
		t.Fatal(err)
	}
	messages, leases := 0, 0
	for leases < len(list) {
		r, err := beats.Recv()
		if err != nil {
			t.Fatal(err)
		}
		messages, leases = messages+1, leases+len(r.Leases)
	}
	if messages > len(list)/10 {
		t.Errorf("%d leases in %d messages: they are not gathered", leases, messages)
	}
	w.believe(1, 2)
	w.cells[1].follow()
	_, err = beats.Recv()
	if code, i := info(t, err); code != codes.FailedPrecondition || i.Leader.GetNode() != "n2" {
		t.Errorf("%v", err)
	}
	beats, err = w.clients[1].KeepAlive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := beats.Send(&lockpb.KeepAliveRequest{Cell: First}); err != nil {
		t.Fatal(err)
	}
	_, err = beats.Recv()
	if _, i := info(t, err); i.Reason != reasonNotLeader {
		t.Errorf("at a follower: %v", err)
	}
	beats, err = w.clients[2].KeepAlive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := beats.Send(&lockpb.KeepAliveRequest{Cell: "other"}); err != nil {
		t.Fatal(err)
	}
	_, err = beats.Recv()
	if _, i := info(t, err); i.Reason != reasonNotLeader {
		t.Errorf("of a cell that is not there, where that is not known: %v", err)
	}
}

// A client that does not read its leases is asked for no more beats, and loses its stream
// when it would have to be told more than is kept for it; another one does not notice.
func TestKeepAliveSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, echo)
		cell := w.cells[1]
		slow, err := w.clients[1].KeepAlive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		go func() { // ends with the stream; flow control holds it
			for slow.Send(&lockpb.KeepAliveRequest{Cell: First, Beats: []*lockpb.Beat{{Session: 1, Seen: 256 << 10}}}) == nil {
			}
		}()
		synctest.Wait()
		cell.mu.Lock()
		beats := cell.beats
		var send func(*lockpb.Lease)
		for s := range cell.streams {
			send = s.send
		}
		cell.mu.Unlock()
		if most := 3 * maxLeases / beatsAt / (256 << 10); beats > most {
			t.Errorf("%d beats taken while nobody reads their answers", beats)
		}
		other := dial(t, w.servers[1])
		fast, err := other.KeepAlive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range uint64(200) {
			send(&lockpb.Lease{Invalidate: []string{strings.Repeat("x", 256<<10)}})
			if err := fast.Send(&lockpb.KeepAliveRequest{Cell: First, Beats: []*lockpb.Beat{{Session: 2, Number: i}}}); err != nil {
				t.Fatal(err)
			}
			if r, err := fast.Recv(); err != nil || r.Leases[0].Number != i {
				t.Fatalf("%v, %v", r, err)
			}
		}
		for read := 0; ; {
			r, err := slow.Recv()
			if err != nil {
				if code, _ := info(t, err); code != codes.ResourceExhausted {
					t.Errorf("%v", err)
				}
				break
			}
			if read += proto.Size(r); read > maxLeases {
				t.Fatal("more was kept for the slow reader than may be")
			}
		}
	})
}
