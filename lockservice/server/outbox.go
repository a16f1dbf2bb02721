package server

import (
	"context"
	"math"
	"runtime"
	"sync"

	"google.golang.org/grpc/codes"
)

// outbox is what a stream has to send and its reader has not taken yet. put never
// blocks: what does not fit any more, if there is a limit, ends the stream.
type outbox[T any] struct {
	limit int // bytes

	mu    sync.Mutex
	list  []T
	bytes int
	over  bool // something did not fit

	filled chan struct{} // capacity 1: there is something, or over
	taken  chan struct{} // capacity 1: there is room again
}

func newOutbox[T any](limit int) *outbox[T] {
	return &outbox[T]{limit: limit, filled: make(chan struct{}, 1), taken: make(chan struct{}, 1)}
}

func (o *outbox[T]) put(x T, size int) {
	o.mu.Lock()
	if o.over || o.bytes > 0 && size > o.limit-o.bytes {
		o.over = true
	} else {
		o.list = append(o.list, x)
		o.bytes += size
	}
	o.mu.Unlock()
	signal(o.filled)
}

// take waits until there is something to send and returns all of it.
func (o *outbox[T]) take(ctx context.Context) ([]T, error) {
	for {
		o.mu.Lock()
		list, over := o.list, o.over
		o.list, o.bytes = nil, 0
		o.mu.Unlock()
		signal(o.taken)
		switch {
		case over:
			return nil, statusOf(failure(codes.ResourceExhausted, reasonOverloaded, "the stream's answers are not being read"))
		case len(list) > 0:
			return list, nil
		}
		select {
		case <-o.filled:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// takeMany is take, but lets those who are about to put something do so first: where taking little
// costs as much as taking much.
func (o *outbox[T]) takeMany(ctx context.Context) ([]T, error) {
	select {
	case <-o.filled:
		signal(o.filled)
	case <-ctx.Done():
	}
	runtime.Gosched()
	return o.take(ctx)
}

// unlimited outboxes keep everything: those who put must wait for room.
const unlimited = math.MaxInt

// room waits until no more than most bytes stand unread.
func (o *outbox[T]) room(ctx context.Context, most int) error {
	for {
		o.mu.Lock()
		full := o.bytes > most
		o.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-o.taken:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
