package lockservice

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
)

// Barrier is a file: while it is there, Wait waits. It stays when the session that made it
// ends. Safe for concurrent use.
type Barrier struct{ n *Node }

// NewBarrier names a barrier by its file. The directory must be there.
func NewBarrier(s *Session, path string) *Barrier { return &Barrier{s.Node(path)} }

// Hold puts the barrier up. ErrExists if it is.
func (b *Barrier) Hold(ctx context.Context) error {
	h, err := b.n.s.Open(ctx, b.n.path, OpenOptions{Create: CreateExclusive})
	if err != nil {
		return err
	}
	return h.Close(ctx)
}

// Release takes the barrier away, so that all who wait go on. ErrNotFound if it is not there.
func (b *Barrier) Release(ctx context.Context) error { return b.n.Delete(ctx) }

// Wait waits until the barrier is not there.
func (b *Barrier) Wait(ctx context.Context) error {
	return await(ctx, b.n, []EventKind{HandleInvalid}, func() (bool, error) {
		_, err := b.n.Stat(ctx)
		if errors.Is(err, ErrNotFound) {
			return true, nil
		}
		return false, err
	})
}

// await waits until done, looking again after every event of the kinds.
func await(ctx context.Context, n *Node, kinds []EventKind, done func() (bool, error)) error {
	sub, err := n.Subscribe(ctx, SubscribeOptions{Kinds: kinds})
	if err != nil {
		return err
	}
	defer sub.Close()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if _, err := sub.Next(ctx); err != nil {
			return err
		}
	}
}

// DoubleBarrier has a number of participants begin together and end together. It is a directory
// with an ephemeral file for each of them, so that one that dies does not keep the others in,
// and a file "ready" once all have come. A path serves one round: take another for the next.
type DoubleBarrier struct {
	s     *Session
	path  string
	count int
	name  string // of the participant's file
	mine  *Handle
}

// NewDoubleBarrier names a barrier by its directory, which the first to enter makes. It is one
// participant: Enter and Leave are not called concurrently.
func NewDoubleBarrier(s *Session, path string, count int) *DoubleBarrier {
	return &DoubleBarrier{s: s, path: path, count: count, name: fmt.Sprintf("%s/p-%016x-%08x", path, s.id, rand.Uint32())}
}

// Enter waits until count participants have entered. When it fails this one stays entered, until Leave
// or the next Enter.
func (b *DoubleBarrier) Enter(ctx context.Context) error {
	if err := b.s.MkdirAll(ctx, b.path); err != nil {
		return err
	}
	if b.mine == nil { // else an earlier Enter was given up
		h, err := b.s.Open(ctx, b.name, OpenOptions{Create: CreateIfAbsent, Ephemeral: true})
		if err != nil {
			return err
		}
		b.mine = h
	}
	return await(ctx, b.s.Node(b.path), []EventKind{ChildAdded}, func() (bool, error) {
		inside, ready, err := b.look(ctx)
		if ready || err != nil || inside < b.count {
			return ready, err
		}
		// Whoever sees all of them says so to those who come too late to see it.
		r, err := b.s.Open(ctx, b.path+"/ready", OpenOptions{Create: CreateIfAbsent})
		if err != nil {
			return false, err
		}
		return true, r.Close(ctx)
	})
}

// Leave waits until every participant has left, or is dead.
func (b *DoubleBarrier) Leave(ctx context.Context) error {
	if b.mine != nil {
		if err := b.mine.Close(ctx); err != nil {
			return err
		}
		b.mine = nil
	}
	return await(ctx, b.s.Node(b.path), []EventKind{ChildRemoved}, func() (bool, error) {
		inside, _, err := b.look(ctx)
		return err == nil && inside == 0, err
	})
}

func (b *DoubleBarrier) look(ctx context.Context) (inside int, ready bool, err error) {
	list, err := b.s.Node(b.path).ReadDir(ctx)
	for i := range list {
		if list[i].Name() == "ready" {
			ready = true
		} else {
			inside++
		}
	}
	return inside, ready, err
}
