package rpc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/lane"
	"github.com/spandb/spand/paxosgroup"
)

// A lane brings the frames of one class to one peer, for what every commit waits for: see package
// lane. The opener says who he is (lane.RaftHello, then what a stream's header says), gets an answer
// (empty, or why not), and then sends frames. An empty frame asks for a byte in return, so that a
// connection that swallows everything is found out. So does, once in progressEvery, any other: a lane
// that is never idle is not pinged, and a ping may be long behind what is queued before it.

const maxHello = 4 << 10

// helloTimeout bounds the opening of a lane.
const helloTimeout = time.Second

// maxSpare bounds the memory that an idle lane keeps for its next frame.
const maxSpare = 1 << 20

// progressEvery is how often frames are answered by a byte.
const progressEvery = time.Second

// runLane opens the lane to the peer and keeps it until it breaks.
func (p *netPeer) runLane(class paxosgroup.Class) error {
	ctx, cancel := context.WithCancel(p.net.ctx)
	defer cancel()
	l := p.lane
	conn, err := p.net.dial(ctx, p.addr)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	in, err := p.net.sayHello(conn, p.id, class)
	if err != nil {
		return err
	}
	l.Open(conn)
	defer l.Broken()
	ended := make(chan error, 1)
	p.net.wg.Go(func() {
		defer cancel()
		ended <- awaitPongs(conn, in)
	})
	err = l.Run(ctx, conn, pingEvery)
	cancel()
	return errors.Join(err, <-ended)
}

// awaitPongs returns when the connection ends, or answers no more.
func awaitPongs(conn net.Conn, in *bufio.Reader) error {
	for {
		if err := conn.SetReadDeadline(time.Now().Add(pingEvery + pingTimeout)); err != nil {
			return err
		}
		if _, err := in.ReadByte(); err != nil {
			return err
		}
	}
}

func (n *Network) dial(ctx context.Context, addr string) (net.Conn, error) {
	dial := n.cfg.Dial
	if dial == nil {
		dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	conn, err := dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	lane.LimitUnacknowledged(conn, pingTimeout)
	return conn, nil
}

// sayHello introduces this node, and returns the reader of what the peer says after its welcome.
func (n *Network) sayHello(conn net.Conn, to keys.NodeID, class paxosgroup.Class) (*bufio.Reader, error) {
	if err := conn.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return nil, err
	}
	var hello []byte
	for _, s := range append(n.identity(to), mdClass, fmt.Sprint(class)) {
		hello = appendFrame(hello, []byte(s))
	}
	if _, err := conn.Write(lane.Append([]byte(lane.RaftHello), hello)); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(conn, 512)
	answer, err := lane.Read(in, maxHello, nil)
	if err != nil {
		return nil, err
	}
	if len(answer) > 0 {
		return nil, errors.New(string(answer))
	}
	return in, conn.SetDeadline(time.Time{})
}

// hearing is a lane that a peer opened, seen from its end.
type hearing struct {
	conn  net.Conn
	from  keys.NodeID
	class paxosgroup.Class
	life  uint64        // the peer's incarnation
	over  chan struct{} // closed when a later lane replaces this one
	to    paxosgroup.Receiver

	// Of whoever reads, see shift.
	in        *bufio.Reader
	buf       []byte
	said      time.Time // when a byte was last sent
	collected bool      // frames were, and Work has not been called since
}

// replace makes h the lane that is heard of its peer, and ends the one before; false if that is a
// later life's.
func (p *netPeer) replace(h *hearing) bool {
	for {
		old := p.heard.Load()
		if old != nil && old.life > h.life {
			return false
		}
		if p.heard.CompareAndSwap(old, h) {
			if old != nil {
				close(old.over)
				old.conn.Close()
			}
			return true
		}
	}
}

// receiveHello checks who opens a lane.
func (n *Network) receiveHello(conn net.Conn, in *bufio.Reader) (*hearing, error) {
	hello, err := lane.Read(in, maxHello, nil)
	if err != nil {
		return nil, err
	}
	said, key := map[string]string{}, ""
	err = eachFrame(hello, func(f []byte) {
		if key == "" {
			key = string(f)
			return
		}
		said[key], key = string(f), ""
	})
	if err != nil {
		return nil, err
	}
	from, err := n.identify(func(key string) string { return said[key] })
	if err != nil {
		return nil, err
	}
	if said[mdClass] != fmt.Sprint(paxosgroup.ClassRaft) {
		return nil, fmt.Errorf("frames of class %q have no lane", said[mdClass])
	}
	life, err := strconv.ParseUint(said[mdIncarnation], 10, 64)
	if err != nil {
		return nil, err
	}
	return &hearing{conn: conn, from: from, class: paxosgroup.ClassRaft, life: life, over: make(chan struct{})}, nil
}

// welcome answers who opens a lane. It gives him helloTimeout, by a timer of its own: gRPC takes
// the connection's deadline away at some moment after the doorman has let it in.
func (n *Network) welcome(conn net.Conn, trustAll bool) (h *hearing, in *bufio.Reader, to paxosgroup.Receiver) {
	late := time.AfterFunc(helloTimeout, func() { conn.Close() })
	defer late.Stop()
	err := trusted(conn.RemoteAddr(), trustAll) // before anything is read or kept
	if err == nil {
		in = bufio.NewReaderSize(conn, 64<<10)
		h, err = n.receiveHello(conn, in)
	}
	n.mu.Lock()
	to = n.frames
	n.mu.Unlock()
	if err == nil && to == nil {
		err = errNotReady
	}
	why := ""
	if err != nil {
		why = err.Error()
		why = why[:min(len(why), maxHello)]
	}
	if _, werr := conn.Write(lane.Append(nil, []byte(why))); werr != nil || err != nil || !late.Stop() {
		return nil, nil, nil
	}
	return h, in, to
}

// serveLane welcomes or refuses who opens a lane, and delivers his frames.
func (n *Network) serveLane(conn net.Conn, trustAll bool) {
	lane.LimitUnacknowledged(conn, pingTimeout)
	h, in, to := n.welcome(conn, trustAll)
	if h == nil || !n.peers[h.from].replace(h) {
		conn.Close()
		return
	}
	h.in, h.to = in, to
	(&shift{net: n, h: h}).run()
}
