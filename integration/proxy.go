package integration

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// Proxy is a Network in this process: a listener for each ordered pair of nodes, at
// which the one dials the other (--dial). It reads and acknowledges whatever comes, as
// proxies do; so a node notices a cut only by the silence, never by TCP. What is lost
// is lost: a connection that misses bytes is reset when its path heals. (Namespaces
// are the Network on which TCP itself sees the cut.)
//
// Goroutines: one per listener, ended by Close; per connection one that dials and
// serves it, and two per direction, ended by the connection's end or by Close. Lock
// order: Proxy.mu, then path.mu; neither is held across I/O.
type Proxy struct {
	listeners map[[2]int]net.Listener // by who dials whom
	targets   []string
	paths     map[[2]int]*path // by direction
	wg        sync.WaitGroup

	mu    sync.Mutex // guards links, over
	links map[*link]struct{}
	over  bool
}

// path is one direction between two nodes, which all connections between them share.
type path struct {
	mu      sync.Mutex // guards all below
	state   pathState
	delay   time.Duration
	changed chan struct{} // closed and replaced with every change
	lossy   map[*link]struct{}
}

type pathState uint8

const (
	pathOpen pathState = iota
	pathCut            // what comes is dropped
	pathHeld           // what comes waits
)

// link is one connection that a node made to another.
type link struct {
	from, to int
	over     chan struct{} // closed with the link
	end      func()        // closes it, hard
}

// NewProxy returns a proxy between nodes that will listen at targets.
func NewProxy(targets []string) (*Proxy, error) {
	p := &Proxy{listeners: map[[2]int]net.Listener{}, targets: targets, paths: map[[2]int]*path{}, links: map[*link]struct{}{}}
	for from := range targets {
		for to := range targets {
			if from == to {
				continue
			}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				p.Close()
				return nil, err
			}
			p.listeners[[2]int{from, to}] = ln
			p.paths[[2]int{from, to}] = &path{changed: make(chan struct{}), lossy: map[*link]struct{}{}}
		}
	}
	for pair, ln := range p.listeners {
		p.wg.Go(func() { p.accept(ln, pair[0], pair[1]) })
	}
	return p, nil
}

// Addr is where node from must dial node to.
func (p *Proxy) Addr(from, to int) string { return p.listeners[[2]int{from, to}].Addr().String() }

// Cut loses what from sends to to, while all connections stand.
func (p *Proxy) Cut(from, to int) error { return p.set(from, to, pathCut) }

// Hold keeps back what from sends to to; it arrives, late, when the path is healed,
// as what TCP retransmits does.
func (p *Proxy) Hold(from, to int) error { return p.set(from, to, pathHeld) }

// Heal opens a path and resets the connections that have lost bytes on it.
func (p *Proxy) Heal(from, to int) error { return p.set(from, to, pathOpen) }

func (p *Proxy) set(from, to int, s pathState) error {
	d := p.paths[[2]int{from, to}]
	if d == nil {
		return fmt.Errorf("no path from node %d to node %d", from, to)
	}
	d.mu.Lock()
	var lossy []*link
	if s == pathOpen {
		for l := range d.lossy {
			lossy = append(lossy, l)
		}
		clear(d.lossy)
	}
	d.state = s
	close(d.changed)
	d.changed = make(chan struct{})
	d.mu.Unlock()
	for _, l := range lossy {
		l.end()
	}
	return nil
}

// Delay has everything from one node to the other arrive later by d from now on.
func (p *Proxy) Delay(from, to int, d time.Duration) {
	path := p.paths[[2]int{from, to}]
	path.mu.Lock()
	path.delay = d
	path.mu.Unlock()
}

// Reset breaks the connections that from has made to to.
func (p *Proxy) Reset(from, to int) {
	p.mu.Lock()
	var links []*link
	for l := range p.links {
		if l.from == from && l.to == to {
			links = append(links, l)
		}
	}
	p.mu.Unlock()
	for _, l := range links {
		l.end()
	}
}

// Close breaks all connections and returns when no goroutine is left.
func (p *Proxy) Close() {
	for _, ln := range p.listeners {
		ln.Close()
	}
	p.mu.Lock()
	p.over = true
	var links []*link
	for l := range p.links {
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		l.end()
	}
	p.wg.Wait()
}

func (p *Proxy) accept(ln net.Listener, from, to int) {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors: whoever dials tries again
			time.Sleep(10 * time.Millisecond)
			continue
		}
		p.wg.Go(func() { p.serve(conn.(*net.TCPConn), from, to) })
	}
}

// serve connects a caller to its target and carries bytes until either side ends.
func (p *Proxy) serve(caller *net.TCPConn, from, to int) {
	over := make(chan struct{})
	var (
		once   sync.Once
		mu     sync.Mutex // guards target
		target *net.TCPConn
	)
	l := &link{from: from, to: to, over: over}
	l.end = func() {
		once.Do(func() {
			close(over)
			mu.Lock()
			far := target
			mu.Unlock()
			for _, c := range []*net.TCPConn{caller, far} {
				if c != nil {
					c.SetLinger(0)
					c.Close()
				}
			}
		})
	}
	defer l.end()
	p.mu.Lock()
	if p.over {
		p.mu.Unlock()
		return
	}
	p.links[l] = struct{}{}
	p.mu.Unlock()
	forth, back := p.paths[[2]int{from, to}], p.paths[[2]int{to, from}]
	defer func() {
		p.mu.Lock()
		delete(p.links, l)
		p.mu.Unlock()
		forth.forget(l)
		back.forget(l)
	}()

	// No handshake gets through while either direction is closed. The caller hears
	// nothing, gives up when it likes, and what it has sent meanwhile is not looked at.
	if !forth.admits(l) || !back.admits(l) {
		return
	}
	conn, err := net.DialTimeout("tcp", p.targets[to], time.Second)
	if err != nil {
		return
	}
	mu.Lock()
	target = conn.(*net.TCPConn)
	mu.Unlock()
	select {
	case <-over: // end has not seen target
		conn.Close()
		return
	default:
	}
	var wg sync.WaitGroup
	wg.Go(func() { carry(l, caller, target, forth) })
	wg.Go(func() { carry(l, target, caller, back) })
	wg.Wait()
}

// chunk is what was read at once. An empty one is the end of the stream.
type chunk struct {
	data []byte
	at   time.Time
}

// carry moves bytes one way. What a path drops, the end of a stream too, is never
// heard of at the other side.
func carry(l *link, src, dst *net.TCPConn, d *path) {
	const depth = 256
	chunks := make(chan chunk, depth)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for buf := make([]byte, 32<<10); ; {
			n, err := src.Read(buf)
			if err != nil {
				n = 0
			}
			select {
			case chunks <- chunk{append([]byte(nil), buf[:n]...), time.Now()}:
			case <-l.over:
				return
			}
			if err != nil {
				return
			}
		}
	})
	for {
		var c chunk
		select {
		case c = <-chunks:
		case <-l.over:
			return
		}
		deliver, ok := d.pass(l, c.at)
		if !ok {
			return
		}
		if !deliver {
			continue
		}
		if len(c.data) == 0 {
			l.end()
			return
		}
		// A failed write is the other side's end; that travels the other way.
		dst.Write(c.data)
	}
}

// pass returns when something sent at that time is due at the other side, or is lost.
// ok is false when the link has ended.
func (d *path) pass(l *link, at time.Time) (deliver, ok bool) {
	for {
		d.mu.Lock()
		state, wait, changed := d.state, time.Until(at.Add(d.delay)), d.changed
		if state == pathCut {
			d.lossy[l] = struct{}{}
		}
		d.mu.Unlock()
		switch {
		case state == pathCut:
			return false, true
		case state == pathHeld:
			select {
			case <-changed:
			case <-l.over:
				return false, false
			}
		case wait > 0:
			if pause(wait, l.over) {
				return false, false
			}
		default:
			return true, true
		}
	}
}

// admits reports whether a path is open for a new connection. If it is not, admits
// returns when the path is healed, which ends the link.
func (d *path) admits(l *link) bool {
	d.mu.Lock()
	open := d.state == pathOpen
	if !open {
		d.lossy[l] = struct{}{}
	}
	d.mu.Unlock()
	if !open {
		<-l.over
	}
	return open
}

func (d *path) forget(l *link) {
	d.mu.Lock()
	delete(d.lossy, l)
	d.mu.Unlock()
}

// dialList is --dial of one node.
func (p *Proxy) dialList(self int, names []string) string {
	var list []string
	for to, name := range names {
		if to != self {
			list = append(list, name+"="+p.Addr(self, to))
		}
	}
	return strings.Join(list, ",")
}
