package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.uber.org/zap"

	"github.com/spandb/spand/integration/bench/lockload"
)

// client is one clientv3.Client, which etcd says a process should have one of.
type client struct {
	etcd    *clientv3.Client
	members []string
}

func dial(ctx context.Context, members []string) (lockload.Client, error) {
	etcd, err := clientv3.New(clientv3.Config{Endpoints: members, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	return &client{etcd: etcd, members: members}, nil
}

func (c *client) Close() error { return c.etcd.Close() }

func (c *client) Leader(ctx context.Context) (string, error) {
	for _, m := range c.members {
		st, err := c.etcd.Status(ctx, m)
		if err != nil {
			return "", err
		}
		if st.Leader == st.Header.MemberId {
			return m, nil
		}
	}
	return "", errors.New("no member leads")
}

// session is a lease that is kept alive. Files need none.
type session struct {
	*concurrency.Session
	cache      clientv3.KV // once there is a cached file
	closeCache func()
}

func (c *client) Session(context.Context) (lockload.Session, error) {
	s, err := concurrency.NewSession(c.etcd)
	return &session{Session: s, closeCache: func() {}}, err
}

func (s *session) Close() error {
	s.closeCache()
	return s.Session.Close()
}

func (s *session) Lock(_ context.Context, name string) (lockload.Lock, error) {
	return lock{concurrency.NewMutex(s.Session, "lock/"+name)}, nil
}

// KeptLock is Lock: package concurrency gives a mutex back to the store every time.
func (s *session) KeptLock(ctx context.Context, name string) (lockload.Lock, error) {
	return s.Lock(ctx, name)
}

// DurableLock is Lock: a deletion is always on disk before it is answered.
func (s *session) DurableLock(ctx context.Context, name string) (lockload.Lock, error) {
	return s.Lock(ctx, name)
}

type lock struct{ mutex *concurrency.Mutex }

func (l lock) Acquire(ctx context.Context) error { return l.mutex.Lock(ctx) }
func (l lock) Release(ctx context.Context) error { return l.mutex.Unlock(ctx) }

// file is a key.
type file struct {
	kv  clientv3.KV
	key string
}

func (s *session) File(_ context.Context, name string) (lockload.File, error) {
	return file{s.Client(), "file/" + name}, nil
}

func (s *session) CachedFile(_ context.Context, name string) (lockload.File, error) {
	if s.cache == nil {
		var err error
		if s.cache, s.closeCache, err = leasing.NewKV(s.Client(), "leasing/"); err != nil {
			return nil, err
		}
	}
	return file{s.cache, "file/" + name}, nil
}

func (f file) Set(ctx context.Context, contents []byte) (uint64, error) {
	resp, err := f.kv.Put(ctx, f.key, string(contents))
	if err != nil {
		return 0, err
	}
	return uint64(resp.Header.Revision), nil
}

func (f file) Get(ctx context.Context) ([]byte, error) {
	resp, err := f.kv.Get(ctx, f.key)
	if err != nil {
		return nil, err
	}
	if len(resp.Kvs) != 1 {
		return nil, fmt.Errorf("%s is not there", f.key)
	}
	return resp.Kvs[0].Value, nil
}

func (s *session) Watch(ctx context.Context, name string, each func(version uint64)) error {
	responses := s.Client().Watch(ctx, "file/"+name, clientv3.WithCreatedNotify())
	created, ok := <-responses
	if !ok || !created.Created {
		return fmt.Errorf("the watch was not created: %w", created.Err())
	}
	go func() {
		for r := range responses {
			for _, e := range r.Events {
				each(uint64(e.Kv.ModRevision))
			}
		}
	}()
	return nil
}
