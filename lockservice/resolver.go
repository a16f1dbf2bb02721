package lockservice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/resolver"
)

// Scheme of the resolver's targets.
const Scheme = "spandlock"

// Resolver resolves gRPC targets such as spandlock:///ls/local/services/x to the addresses that
// servers have registered in that directory (Session.Register: the contents of its files), and
// follows them: a server that dies is gone when its session is. Give it to a client connection with grpc.WithResolvers. Calls are balanced
// round robin unless the connection says otherwise. While the cell cannot be reached the last
// addresses stay.
//
// Every connection keeps a session of its own, with a cache, until it is closed.
type Resolver struct{ c *Client }

// NewResolver makes a resolver that uses the client, which must outlive the connections.
func NewResolver(c *Client) *Resolver { return &Resolver{c} }

// Scheme implements resolver.Builder.
func (r *Resolver) Scheme() string { return Scheme }

// Register makes an ephemeral file with a server's address (host:port) in a service's directory, which
// it makes if need be. The server is registered until the handle is closed or the session ends.
// ErrExists if the name is taken: also by an earlier life of the same server whose session is not
// over yet.
func (s *Session) Register(ctx context.Context, dir, name, addr string) (*Handle, error) {
	if err := s.MkdirAll(ctx, dir); err != nil {
		return nil, err
	}
	return s.Open(ctx, dir+"/"+name, OpenOptions{Create: CreateExclusive, Ephemeral: true, Contents: []byte(addr)})
}

// Build implements resolver.Builder.
func (r *Resolver) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	path := target.URL.Path
	cell, err := cellOf(path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(r.c.ctx)
	w := &watcher{c: r.c, cell: cell, path: strings.TrimSuffix(path, "/"), cc: cc, cancel: cancel, done: make(chan struct{})}
	if !r.c.start(func() { defer close(w.done); w.run(ctx) }) {
		cancel()
		return nil, ErrClosed
	}
	return w, nil
}

// watcher follows a directory for one connection, on a goroutine that ends with Close or the
// client.
type watcher struct {
	c      *Client
	cell   string
	path   string
	cc     resolver.ClientConn
	cancel context.CancelFunc
	done   chan struct{}
}

// ResolveNow implements resolver.Resolver: there is nothing that events do not tell.
func (w *watcher) ResolveNow(resolver.ResolveNowOptions) {}

// Close implements resolver.Resolver.
func (w *watcher) Close() {
	w.cancel()
	<-w.done
}

// run follows the directory under one session after the other.
func (w *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := w.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		// Without its status: gRPC holds that to be the call's own, and fails also calls that would wait.
		w.cc.ReportError(errors.New(err.Error()))
		// A path that cannot be read is looked at again in a while; a session that ended is
		// replaced at once, its successor's NewSession waiting for the cell.
		if !errors.Is(err, ErrSessionExpired) {
			t := time.NewTimer(time.Second)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
			}
		}
	}
}

func (w *watcher) follow(ctx context.Context) error {
	s, err := w.c.NewSession(ctx, SessionOptions{Cell: w.cell, Cache: true})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(w.c.ctx, time.Second)
		defer cancel()
		s.Close(end)
	}()
	dir := s.Node(w.path)
	sub, err := dir.Subscribe(ctx, SubscribeOptions{Kinds: []EventKind{ChildAdded, ChildRemoved, ChildModified}})
	if err != nil {
		return err
	}
	defer sub.Close()
	for {
		if err := w.update(ctx, s, dir); err != nil {
			return err
		}
		if _, err := sub.Next(ctx); err != nil {
			return err
		}
	}
}

// update tells the connection what is there.
func (w *watcher) update(ctx context.Context, s *Session, dir *Node) error {
	list, err := dir.ReadDir(ctx)
	if err != nil {
		return err
	}
	var state resolver.State
	for i := range list {
		if list[i].Directory {
			continue
		}
		text, _, err := s.Node(list[i].Path).Contents(ctx)
		if errors.Is(err, ErrNotFound) {
			continue // went meanwhile; an event tells
		}
		if err != nil {
			return err
		}
		if addr := strings.TrimSpace(string(text)); addr != "" {
			state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: addr}}})
		}
	}
	if len(state.Endpoints) == 0 {
		w.cc.ReportError(fmt.Errorf("lockservice: nobody is registered in %s", w.path))
	}
	for _, e := range state.Endpoints {
		state.Addresses = append(state.Addresses, e.Addresses...)
	}
	slices.SortFunc(state.Addresses, func(a, b resolver.Address) int { return strings.Compare(a.Addr, b.Addr) })
	state.ServiceConfig = w.cc.ParseServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`)
	// An error says that the balancer has no use for the addresses; events bring others.
	_ = w.cc.UpdateState(state)
	return nil
}
