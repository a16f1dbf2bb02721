package lockload

import (
	"context"
	"time"
)

// Client is what a process has of a store: connections shared by all that it does. Its
// methods may be called concurrently, as may those of the other interfaces unless
// they say otherwise.
type Client interface {
	// Session opens a session that is kept alive until it is closed.
	Session(ctx context.Context) (Session, error)
	// Fleet is an empty fleet on the member dialled, which leads.
	Fleet(ctx context.Context) (Fleet, error)
	// Leader is the address of the member that leads.
	Leader(ctx context.Context) (string, error)
	Close() error
}

// Session is what locks are held by and files are read through.
type Session interface {
	// Lock prepares the lock of that name, which belongs to nobody yet.
	Lock(ctx context.Context, name string) (Lock, error)
	// KeptLock is Lock; a store whose clients can keeps it between uses while nobody else wants it.
	KeptLock(ctx context.Context, name string) (Lock, error)
	// DurableLock is Lock, whose Release returns only when it is on disk at a majority, if that is not so anyway.
	DurableLock(ctx context.Context, name string) (Lock, error)
	// File opens the file of that name, and makes it if it is not there.
	File(ctx context.Context, name string) (File, error)
	// CachedFile is File; its reads are served from a cache that stays consistent.
	CachedFile(ctx context.Context, name string) (File, error)
	// Watch calls each with every version of the file that is written after Watch has
	// returned, in order, perhaps more than once, from a goroutine of its own,
	// until ctx ends.
	Watch(ctx context.Context, name string, each func(version uint64)) error
	Close() error
}

// Lock is one client's way to a lock. It is used by one goroutine at a time.
type Lock interface {
	Acquire(context.Context) error
	Release(context.Context) error
}

// File is a small value.
type File interface {
	// Set replaces the contents and returns their version, higher than every earlier one.
	Set(ctx context.Context, contents []byte) (version uint64, err error)
	// Get returns the newest contents.
	Get(context.Context) ([]byte, error)
}

// Fleet is a great many sessions that do nothing but live, kept alive over raw streams in
// the fastest way that the store has. One goroutine calls its methods, Keep aside,
// which runs beside Grow and Alive.
type Fleet interface {
	// Grow opens n more sessions of that time to live.
	Grow(ctx context.Context, n int, ttl time.Duration) error
	// Keep renews all sessions at the pace that the store recommends, those that come
	// to be meanwhile too, until ctx ends.
	Keep(ctx context.Context) error
	// Renew renews the sessions, one after the other and then from the start, as fast as
	// the store answers, until ctx ends. It returns the number of answers.
	Renew(ctx context.Context) (int64, error)
	// Alive counts the fleet's sessions that the store says are alive.
	Alive(context.Context) (int, error)
	Close() error
}
