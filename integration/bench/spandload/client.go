package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/spandb/spand/integration/bench/lockload"
	"github.com/spandb/spand/lockservice"
	"github.com/spandb/spand/lockservice/lockpb"
)

const (
	cell       = "local"
	sessionTTL = 60 * time.Second // what etcd's package concurrency gives its sessions
	closing    = 5 * time.Second
)

type client struct {
	locks   *lockservice.Client
	members []string
}

func dial(ctx context.Context, members []string) (lockload.Client, error) {
	c, err := lockservice.Dial(ctx, strings.Join(members, ","))
	if err != nil {
		return nil, err
	}
	return &client{locks: c, members: members}, nil
}

func (c *client) Close() error { return c.locks.Close() }

func (c *client) Leader(ctx context.Context) (string, error) {
	conn, err := connect(c.members[0])
	if err != nil {
		return "", err
	}
	defer conn.Close()
	resp, err := lockpb.NewLockServiceClient(conn).GetCell(ctx, &lockpb.GetCellRequest{Cell: cell})
	if err != nil {
		return "", err
	}
	leader := resp.GetCell().GetLeader().GetAddr()
	if leader == "" {
		return "", errors.New("no node leads the cell")
	}
	return leader, nil
}

func connect(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// session may have a second one behind it, which caches.
type session struct {
	client *lockservice.Client
	plain  *lockservice.Session

	mu      sync.Mutex
	caching *lockservice.Session // nil: no cached file yet
}

func (c *client) Session(ctx context.Context) (lockload.Session, error) {
	s, err := c.locks.NewSession(ctx, lockservice.SessionOptions{Cell: cell, TTL: sessionTTL})
	return &session{client: c.locks, plain: s}, err
}

func (s *session) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closing)
	defer cancel()
	s.mu.Lock()
	caching := s.caching
	s.mu.Unlock()
	if caching != nil {
		if err := caching.Close(ctx); err != nil {
			return err
		}
	}
	return s.plain.Close(ctx)
}

func open(ctx context.Context, s *lockservice.Session, name string) (*lockservice.Handle, error) {
	return s.Open(ctx, "/ls/"+cell+"/"+name, lockservice.OpenOptions{Create: lockservice.CreateIfAbsent})
}

func (s *session) Lock(ctx context.Context, name string) (lockload.Lock, error) {
	h, err := open(ctx, s.plain, name)
	return &lock{handle: h}, err
}

func (s *session) KeptLock(ctx context.Context, name string) (lockload.Lock, error) {
	h, err := s.plain.Open(ctx, "/ls/"+cell+"/"+name, lockservice.OpenOptions{Create: lockservice.CreateIfAbsent, KeepLock: time.Minute})
	return &lock{handle: h}, err
}

func (s *session) DurableLock(ctx context.Context, name string) (lockload.Lock, error) {
	h, err := s.plain.Open(ctx, "/ls/"+cell+"/"+name, lockservice.OpenOptions{Create: lockservice.CreateIfAbsent, DurableUnlock: true})
	return &lock{handle: h}, err
}

type lock struct {
	handle *lockservice.Handle
	held   *lockservice.Lock
}

func (l *lock) Acquire(ctx context.Context) (err error) {
	l.held, err = l.handle.Lock(ctx)
	return err
}

func (l *lock) Release(ctx context.Context) error { return l.held.Unlock(ctx) }

func (s *session) File(ctx context.Context, name string) (lockload.File, error) {
	h, err := open(ctx, s.plain, name)
	return file{h}, err
}

func (s *session) CachedFile(ctx context.Context, name string) (lockload.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.caching == nil {
		var err error
		if s.caching, err = s.client.NewSession(ctx, lockservice.SessionOptions{Cell: cell, TTL: sessionTTL, Cache: true}); err != nil {
			return nil, err
		}
	}
	h, err := open(ctx, s.caching, name)
	return file{h}, err
}

type file struct{ handle *lockservice.Handle }

func (f file) Set(ctx context.Context, contents []byte) (uint64, error) {
	stat, err := f.handle.SetContents(ctx, contents)
	if err != nil {
		return 0, err
	}
	return stat.ContentGeneration, nil
}

func (f file) Get(ctx context.Context) ([]byte, error) {
	contents, _, err := f.handle.Contents(ctx)
	return contents, err
}

func (s *session) Watch(ctx context.Context, name string, each func(version uint64)) error {
	h, err := open(ctx, s.plain, name)
	if err != nil {
		return err
	}
	events, err := h.Subscribe(ctx, lockservice.SubscribeOptions{Kinds: []lockservice.EventKind{lockservice.ContentsChanged}})
	if err != nil {
		return err
	}
	go func() {
		defer events.Close()
		for {
			e, err := events.Next(ctx)
			if err != nil {
				return
			}
			if e.Kind == lockservice.ContentsChanged {
				each(e.Generation)
			}
		}
	}()
	return nil
}
