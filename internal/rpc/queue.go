package rpc

import (
	"context"
	"sync"
)

// queue holds frames on their way to one stream. Put never blocks: above its
// budget it drops the new frame, which best-effort users (Raft) repair by
// themselves and calls answer with an error. So it does with one that is larger
// than a frame may be, for which the receiver would break the stream.
type queue struct {
	budget int
	wake   chan struct{} // capacity 1: set when frames went from none to some

	mu     sync.Mutex
	frames [][]byte
	bytes  int
}

func newQueue(budget int) *queue {
	return &queue{budget: budget, wake: make(chan struct{}, 1)}
}

func (q *queue) put(frame []byte) bool {
	q.mu.Lock()
	if len(frame) > maxFrame || q.bytes+len(frame) > q.budget {
		q.mu.Unlock()
		return false
	}
	first := len(q.frames) == 0
	q.frames = append(q.frames, frame)
	q.bytes += len(frame)
	q.mu.Unlock()
	if first {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// take waits for frames and packs as many as fit into one packet, which is
// freshly allocated because gRPC keeps it while it is being written.
func (q *queue) take(ctx context.Context) ([]byte, error) {
	for {
		q.mu.Lock()
		if len(q.frames) > 0 {
			size, n := 1, 0
			for n < len(q.frames) && (n == 0 || size+len(q.frames[n]) <= maxPacket) {
				size += len(q.frames[n]) + 5
				n++
			}
			out := make([]byte, 0, size)
			for _, f := range q.frames[:n] {
				out = appendFrame(out, f)
				q.bytes -= len(f)
			}
			rest := copy(q.frames, q.frames[n:])
			clear(q.frames[rest:])
			q.frames = q.frames[:rest]
			q.mu.Unlock()
			return out, nil
		}
		q.mu.Unlock()
		select {
		case <-q.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// clear drops everything: what was meant for a stream that broke.
func (q *queue) clear() {
	q.mu.Lock()
	clear(q.frames)
	q.frames, q.bytes = q.frames[:0], 0
	q.mu.Unlock()
}
