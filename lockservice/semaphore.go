package lockservice

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
)

// Semaphore admits a number of holders at a time, in the order in which they asked. It is a
// directory with a file "lock", which says the number and whose holder is next to be admitted,
// and a directory "permits" with an ephemeral file, locked, for every holder. Safe for
// concurrent use, also by one session: every Acquire is a request of its own.
type Semaphore struct {
	s     *Session
	path  string
	limit int
}

// NewSemaphore names a semaphore by its directory, which the first Acquire makes, and says how
// many it admits. All who use it must say the same.
func NewSemaphore(s *Session, path string, limit int) *Semaphore {
	return &Semaphore{s: s, path: path, limit: limit}
}

// Permit is a place in a semaphore. Its Lock's Context ends when the place may be lost.
type Permit struct {
	*Lock
}

// Release gives the place back.
func (p *Permit) Release(ctx context.Context) error {
	err := p.Handle().Delete(ctx)
	if errors.Is(err, ErrStaleHandle) || errors.Is(err, ErrNotFound) {
		err = nil
	}
	if e := p.Handle().Close(ctx); err == nil {
		err = e
	}
	return err
}

// Acquire waits for a place, or until ctx ends. The error is ErrBadRequest when the semaphore was
// made for another number of holders.
func (m *Semaphore) Acquire(ctx context.Context) (*Permit, error) {
	permits := m.path + "/permits"
	if err := m.s.MkdirAll(ctx, permits); err != nil {
		return nil, err
	}
	door, err := m.s.Open(ctx, m.path+"/lock", OpenOptions{Create: CreateIfAbsent, Contents: []byte(strconv.Itoa(m.limit))})
	if err != nil {
		return nil, err
	}
	// What is closed gives its lock up, in the background if ctx has ended.
	defer door.Close(ctx)
	if said, _, err := door.Contents(ctx); err != nil {
		return nil, err
	} else if string(said) != strconv.Itoa(m.limit) {
		return nil, fmt.Errorf("%w: semaphore %s admits %s, not %d", ErrBadRequest, m.path, said, m.limit)
	}
	if _, err := door.Lock(ctx); err != nil {
		return nil, err
	}
	if err := m.awaitPlace(ctx, permits); err != nil {
		return nil, err
	}
	// If the lock is lost meanwhile the session has ended, and what follows fails.
	name := fmt.Sprintf("%s/%016x-%08x", permits, m.s.id, rand.Uint32())
	h, err := m.s.Open(ctx, name, OpenOptions{Create: CreateExclusive, Ephemeral: true})
	if err != nil {
		return nil, err
	}
	l, err := h.TryLock(ctx)
	if err != nil {
		h.Close(ctx)
		return nil, err
	}
	return &Permit{l}, nil
}

// awaitPlace waits until fewer than limit have a permit.
func (m *Semaphore) awaitPlace(ctx context.Context, permits string) error {
	sub, err := m.s.Node(permits).Subscribe(ctx, SubscribeOptions{Kinds: []EventKind{ChildRemoved}})
	if err != nil {
		return err
	}
	defer sub.Close()
	for {
		st, err := m.s.Node(permits).Stat(ctx)
		if err != nil {
			return err
		}
		if int(st.Children) < m.limit {
			return nil
		}
		if _, err := sub.Next(ctx); err != nil {
			return err
		}
	}
}
