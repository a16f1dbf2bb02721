package rpc

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
)

// A lane brings the frames of one class to one peer: a TCP connection to the peer's RPC port
// that is not gRPC's (see doorman), for what every commit waits for. Whoever sends a frame
// writes it to the socket himself, in a call that never waits, and so nothing stands between
// him and the peer's reader but the kernel; over a gRPC stream a frame passes through three
// goroutines more, which on an idle machine are three threads to be woken.
//
// The opener says who he is (laneHello, then what a stream's header says), gets an answer
// (empty, or why not), and then sends frames, each after its length. An empty frame asks for a
// byte in return, so that a connection that swallows everything is found out. So does, once in
// progressEvery, any other: a lane that is never idle is not pinged, and a ping may be long behind
// what is queued before it.
type lane struct {
	budget int
	wake   chan struct{} // capacity 1: there is something for the lane's own goroutine to write

	mu     sync.Mutex
	way    *way   // nil: no connection
	queue  []byte // frames, each with its length before it
	rest   []byte // what the kernel did not take of frames before those
	spare  []byte
	flight int        // bytes that the lane's goroutine is writing
	writer laneWriter // what is queued meanwhile goes with it
}

// laneWriter is who writes.
type laneWriter int

const (
	nobody laneWriter = iota
	aSender
	itself // the lane's goroutine
)

const (
	laneHello  = "\x00spandL1" // begins with what neither HTTP/2 nor TLS begins with
	laneLength = 4             // bytes of a frame's length, big endian
	maxHello   = 4 << 10
)

// helloTimeout bounds the opening of a lane.
const helloTimeout = time.Second

// maxSpare bounds the memory that an idle lane keeps for its next frames.
const maxSpare = 1 << 20

// maxUnopened bounds what waits for a lane to be opened. A peer may be down for hours, and is then
// in need of what is new.
const maxUnopened = 1 << 20

// progressEvery is how often frames are answered by a byte.
const progressEvery = time.Second

func newLane(budget int) *lane { return &lane{budget: budget, wake: make(chan struct{}, 1)} }

// put sends a frame or queues it; it is dropped beyond the budget, or, while there is no
// connection, in favour of later ones. It never waits.
func (l *lane) put(frame []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(frame) > maxFrame || len(l.queue)+len(l.rest)+l.flight+laneLength+len(frame) > l.budget {
		return false
	}
	if l.way == nil && len(l.queue)+laneLength+len(frame) > maxUnopened {
		l.queue = nil
	}
	l.queue = binary.BigEndian.AppendUint32(l.queue, uint32(len(frame)))
	l.queue = append(l.queue, frame...)
	l.sendLocked()
	return true
}

// ping sends or queues an empty frame, whatever else is queued.
func (l *lane) ping() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, make([]byte, laneLength)...)
	l.sendLocked()
}

func (l *lane) sendLocked() {
	if l.writer == nobody && l.way != nil {
		l.writeNowLocked()
	}
}

// writeNowLocked writes what is queued and what comes while it does, for two turns; what the
// kernel does not take at once, and what keeps coming, is left to the lane's goroutine. The
// mutex is not held while it writes.
func (l *lane) writeNowLocked() {
	w := l.way
	l.writer = aSender
	for turn := 0; len(l.queue) > 0 && turn < 2; turn++ {
		buf := l.queue
		l.queue = l.spare[:0]
		l.spare = nil
		l.mu.Unlock()
		n := w.tryWrite(buf)
		l.mu.Lock()
		if l.way != w {
			return // broken meanwhile, and what was queued for it is gone
		}
		if n < len(buf) {
			l.rest = buf[n:]
			break
		}
		l.keepLocked(buf)
	}
	if len(l.rest)+len(l.queue) == 0 {
		l.writer = nobody
		return
	}
	l.writer = itself
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *lane) keepLocked(buf []byte) {
	if cap(buf) <= maxSpare {
		l.spare = buf
	}
}

// take returns what the lane's goroutine is to write next; nil when there is nothing, and then
// senders write by themselves again.
func (l *lane) take(written []byte) (buf []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.writer != itself {
		return nil
	}
	if written != nil {
		l.keepLocked(written)
	}
	switch {
	case len(l.rest) > 0:
		buf, l.rest = l.rest, nil
	case len(l.queue) > 0:
		buf = l.queue
		l.queue, l.spare = l.spare[:0], nil
	default:
		l.writer = nobody
	}
	l.flight = len(buf)
	return buf
}

// open makes the connection known to senders. What was queued before goes first.
func (l *lane) open(w *way) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.way = w
	l.writeNowLocked()
}

// broken drops everything: Raft sends it again.
func (l *lane) broken() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.way, l.queue, l.rest, l.spare, l.flight, l.writer = nil, nil, nil, nil, 0, nobody
}

// way is a connection, and how to write to it without waiting.
type way struct {
	conn net.Conn
	raw  syscall.RawConn // nil: it can only be waited for
	try  func(fd uintptr) bool
	// Of whoever writes.
	buf []byte
	n   int
}

func newWay(conn net.Conn) *way {
	w := &way{conn: conn}
	if c, ok := conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			w.raw, w.try = raw, w.write
		}
	}
	return w
}

// tryWrite writes as much of buf as the kernel takes at once. An error, which it does not
// return, is met again by whoever writes the rest.
func (w *way) tryWrite(buf []byte) int {
	if w.raw == nil {
		return 0
	}
	w.buf, w.n = buf, 0
	if err := w.raw.Write(w.try); err != nil {
		return 0
	}
	w.buf = nil
	return w.n
}

func (w *way) write(fd uintptr) bool {
	for {
		n, err := syscall.Write(int(fd), w.buf)
		if err == syscall.EINTR {
			continue
		}
		w.n = max(n, 0)
		return true
	}
}

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
	w := newWay(conn)
	l.open(w)
	defer l.broken()
	ended := make(chan error, 1)
	p.net.wg.Go(func() {
		defer cancel()
		ended <- awaitPongs(conn, in)
	})
	pings := time.NewTicker(pingEvery)
	defer pings.Stop()
	for {
		select {
		case <-l.wake:
			for buf := l.take(nil); buf != nil; buf = l.take(buf) {
				if _, err := conn.Write(buf); err != nil {
					cancel()
					return errors.Join(err, <-ended)
				}
			}
		case <-pings.C:
			l.ping()
		case <-ctx.Done():
			return <-ended
		}
	}
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
	limitUnacknowledged(conn, pingTimeout)
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
	if _, err := conn.Write(append([]byte(laneHello), lengthened(hello)...)); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(conn, 512)
	answer, err := readLengthened(in, maxHello, nil)
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
	hello, err := readLengthened(in, maxHello, nil)
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
func (n *Network) welcome(conn net.Conn, trustAll bool) (h *hearing, in *bufio.Reader, handle func(keys.NodeID, paxosgroup.Class, []byte)) {
	late := time.AfterFunc(helloTimeout, func() { conn.Close() })
	defer late.Stop()
	err := trusted(conn.RemoteAddr(), trustAll) // before anything is read or kept
	if err == nil {
		in = bufio.NewReaderSize(conn, 64<<10)
		h, err = n.receiveHello(conn, in)
	}
	n.mu.Lock()
	handle = n.frames
	n.mu.Unlock()
	if err == nil && handle == nil {
		err = errNotReady
	}
	why := ""
	if err != nil {
		why = err.Error()
		why = why[:min(len(why), maxHello)]
	}
	if _, werr := conn.Write(lengthened([]byte(why))); werr != nil || err != nil || !late.Stop() {
		return nil, nil, nil
	}
	return h, in, handle
}

// serveLane welcomes or refuses who opens a lane, and delivers his frames.
func (n *Network) serveLane(conn net.Conn, trustAll bool) {
	defer conn.Close()
	limitUnacknowledged(conn, pingTimeout)
	h, in, handle := n.welcome(conn, trustAll)
	if h == nil {
		return
	}
	p := n.peers[h.from]
	if !p.replace(h) {
		return
	}
	turn := p.turns[h.class]
	var buf []byte
	var said time.Time
	for {
		frame, err := readLengthened(in, maxFrame, buf)
		if err != nil {
			return
		}
		if cap(frame) <= maxSpare {
			buf = frame
		}
		if now := time.Now(); len(frame) == 0 || now.Sub(said) >= progressEvery {
			said = now
			if _, err := conn.Write([]byte{0}); err != nil {
				return
			}
		}
		if len(frame) == 0 {
			continue
		}
		select {
		case turn <- struct{}{}:
		case <-h.over: // the later lane waits there too
			return
		case <-n.ctx.Done():
			return
		}
		late := p.heard.Load() != h // a later lane may have delivered later frames
		if !late {
			handle(h.from, h.class, frame)
		}
		<-turn
		if late {
			return
		}
	}
}

func lengthened(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// readLengthened reads what has its length before it, into buf if that is large enough.
func readLengthened(in *bufio.Reader, most int, buf []byte) ([]byte, error) {
	var length [laneLength]byte
	if _, err := io.ReadFull(in, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if uint64(n) > uint64(most) {
		return nil, errPacket
	}
	if uint64(n) > uint64(cap(buf)) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err := io.ReadFull(in, buf)
	return buf, err
}
