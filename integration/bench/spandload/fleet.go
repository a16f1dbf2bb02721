package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/spandb/spand/integration/bench/lockload"
	"github.com/spandb/spand/lockservice/lockpb"
)

// As many as on etcd's side: sessions opened at once, streams that renew them, and beats
// of one stream that were sent and not answered. A message carries up to batch beats.
const (
	openers  = 64
	streams  = 8
	inFlight = 1024
	batch    = 256
)

// fleet is sessions on the leader. The i-th is renewed over stream i % streams.
type fleet struct {
	conn   *grpc.ClientConn
	client lockpb.LockServiceClient

	mu       sync.Mutex
	sessions []*member // only grows; what it points to belongs to the stream
	due      [streams][]*member
	wake     [streams]chan struct{} // capacity 1: something is due
}

type member struct {
	id, number, epoch uint64
}

func (c *client) Fleet(context.Context) (lockload.Fleet, error) {
	conn, err := connect(c.members[0])
	if err != nil {
		return nil, err
	}
	f := &fleet{conn: conn, client: lockpb.NewLockServiceClient(conn)}
	for i := range f.wake {
		f.wake[i] = make(chan struct{}, 1)
	}
	return f, nil
}

func (f *fleet) Close() error { return f.conn.Close() }

func (f *fleet) Grow(ctx context.Context, n int, ttl time.Duration) error {
	var asked atomic.Int64
	return lockload.Together(ctx, openers, func(ctx context.Context, _ int) error {
		for asked.Add(1) <= int64(n) {
			s, err := f.client.CreateSession(ctx, &lockpb.CreateSessionRequest{Cell: cell, TtlNs: int64(ttl)})
			if err != nil {
				return err
			}
			f.mu.Lock()
			m := &member{id: s.Session, epoch: s.Epoch}
			i := len(f.sessions) % streams
			f.sessions = append(f.sessions, m)
			f.due[i] = append(f.due[i], m)
			f.mu.Unlock()
			f.poke(i)
		}
		return nil
	})
}

func (f *fleet) poke(i int) {
	select {
	case f.wake[i] <- struct{}{}:
	default:
	}
}

func (f *fleet) Alive(ctx context.Context) (alive int, err error) {
	f.mu.Lock()
	ours := make(map[uint64]bool, len(f.sessions))
	for _, m := range f.sessions {
		ours[m.id] = true
	}
	f.mu.Unlock()
	for after, more := uint64(0), true; more; {
		resp, err := f.client.ListSessions(ctx, &lockpb.ListSessionsRequest{Cell: cell, After: after, Limit: 10_000})
		if err != nil {
			return 0, err
		}
		for _, s := range resp.Sessions {
			if ours[s.Session] {
				alive++
			}
			after = s.Session
		}
		more = resp.More
	}
	return alive, nil
}

// Keep sends a session's next beat when the last one is answered: the server sets the pace.
func (f *fleet) Keep(ctx context.Context) error {
	return f.serve(ctx, func(ctx context.Context, i int, send func([]*member) error) error {
		for {
			select {
			case <-f.wake[i]:
			case <-ctx.Done():
				return nil
			}
			f.mu.Lock()
			due := f.due[i]
			f.due[i] = nil
			f.mu.Unlock()
			for len(due) > 0 {
				n := min(batch, len(due))
				if err := send(due[:n]); err != nil {
					return err
				}
				due = due[n:]
			}
		}
	}, func(i int, answered []*member) {
		f.mu.Lock()
		f.due[i] = append(f.due[i], answered...)
		f.mu.Unlock()
		f.poke(i)
	})
}

// Renew sends beats of an epoch that is none, which are answered at once: it is how package
// lockservice asks for an early renewal.
func (f *fleet) Renew(ctx context.Context) (int64, error) {
	f.mu.Lock()
	sessions := f.sessions
	f.mu.Unlock()
	var mine [streams][]*member
	for i, m := range sessions {
		m.epoch = 0
		mine[i%streams] = append(mine[i%streams], m)
	}
	var answers atomic.Int64
	var windows [streams]chan struct{}
	for i := range windows {
		windows[i] = make(chan struct{}, inFlight)
	}
	err := f.serve(ctx, func(ctx context.Context, i int, send func([]*member) error) error {
		for at := 0; ; at += batch {
			if at >= len(mine[i]) {
				at = 0
			}
			beats := mine[i][at:min(at+batch, len(mine[i]))]
			for range beats {
				select {
				case windows[i] <- struct{}{}:
				case <-ctx.Done():
					return nil
				}
			}
			if err := send(beats); err != nil {
				return err
			}
		}
	}, func(i int, answered []*member) {
		answers.Add(int64(len(answered)))
		for range answered {
			<-windows[i]
		}
	})
	return answers.Load(), err
}

// serve opens the streams and lets source say what each sends, until ctx ends. Answered
// sessions go to sink, from one goroutine per stream.
func (f *fleet) serve(ctx context.Context, source func(ctx context.Context, stream int, send func([]*member) error) error, sink func(stream int, answered []*member)) error {
	return lockload.Together(ctx, streams, func(ctx context.Context, i int) error {
		stream, err := f.client.KeepAlive(ctx)
		if err != nil {
			return err
		}
		known := &roster{byID: map[uint64]*member{}}
		return lockload.Together(ctx, 2, func(ctx context.Context, half int) error {
			if half == 0 {
				return source(ctx, i, func(ms []*member) error {
					return stream.Send(&lockpb.KeepAliveRequest{Cell: cell, Beats: known.beats(ms)})
				})
			}
			for {
				resp, err := stream.Recv()
				if err != nil {
					return err
				}
				answered, err := known.answered(resp.Leases)
				if err != nil {
					return err
				}
				sink(i, answered)
			}
		})
	})
}

// roster is the sessions that were sent over a stream, whose members it guards.
type roster struct {
	mu   sync.Mutex
	byID map[uint64]*member
}

// beats makes the next beat of each.
func (r *roster) beats(ms []*member) []*lockpb.Beat {
	r.mu.Lock()
	defer r.mu.Unlock()
	beats := make([]*lockpb.Beat, len(ms))
	for i, m := range ms {
		m.number++
		beats[i] = &lockpb.Beat{Session: m.id, Number: m.number, Epoch: m.epoch}
		r.byID[m.id] = m
	}
	return beats
}

// answered are those whose newest beat the leases answer.
func (r *roster) answered(leases []*lockpb.Lease) ([]*member, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ms []*member
	for _, l := range leases {
		m := r.byID[l.Session]
		switch {
		case m == nil:
			return nil, fmt.Errorf("an answer to session %x, which was not sent", l.Session)
		case l.TtlNs <= 0:
			return nil, fmt.Errorf("session %x has ended", l.Session)
		case l.Number == m.number:
			ms = append(ms, m)
		}
	}
	return ms, nil
}
