package exec

import (
	"sync/atomic"

	"github.com/spandb/spand/sql/sqlstate"
)

// DefaultMemory is what one statement may collect, in bytes; DefaultNodeMemory what
// all statements of a node may, together.
const (
	DefaultMemory     = 256 << 20
	DefaultNodeMemory = 1 << 30
)

// Memory is what the statements of a node may still collect. It may be used
// concurrently.
type Memory struct {
	size int64
	left atomic.Int64
}

// NewMemory returns a Memory of size bytes.
func NewMemory(size int64) *Memory {
	m := &Memory{size: size}
	m.left.Store(size)
	return m
}

// Account is a session's share of a Memory. It belongs to one goroutine.
type Account struct {
	m              *Memory
	used, reserved int64
}

// NewAccount opens an account without anything in it. Close gives back what is left.
func (m *Memory) NewAccount() *Account { return &Account{m: m} }

// accountStep is what an account reserves at a time, so that a row costs no atomic
// operation.
const accountStep = 1 << 20

func (a *Account) charge(n int64) error {
	a.used += n
	if a.used <= a.reserved {
		return nil
	}
	more := (a.used - a.reserved + accountStep - 1) / accountStep * accountStep
	if a.m.left.Add(-more) < 0 {
		a.m.left.Add(more)
		return sqlstate.Newf(sqlstate.OutOfMemory, "out of memory").
			WithDetail("The statements of this node together collect more than %d MB of rows.", a.m.size>>20).
			WithHint("Try again when others have ended, or add an index that avoids the sort or hash.")
	}
	a.reserved += more
	return nil
}

func (a *Account) release(n int64) {
	a.used -= n
	keep := (max(a.used, 0) + accountStep - 1) / accountStep * accountStep
	if spare := a.reserved - keep; spare > 0 {
		a.m.left.Add(spare)
		a.reserved = keep
	}
}

// Close gives everything back, also what a statement that failed badly has left.
func (a *Account) Close() {
	a.m.left.Add(a.reserved)
	a.used, a.reserved = 0, 0
}

// budget is what one operator has taken of the statement's memory.
type budget struct {
	c    *Context
	used int64
}

// release gives it all back.
func (b *budget) release() {
	b.c.Memory += b.used
	if a := b.c.Account; a != nil {
		a.release(b.used)
	}
	b.used = 0
}

// charge takes n bytes.
func (b *budget) charge(n int64) error {
	b.used += n
	var err error
	if a := b.c.Account; a != nil {
		err = a.charge(n)
	}
	if b.c.Memory -= n; b.c.Memory < 0 {
		return sqlstate.Newf(sqlstate.OutOfMemory, "out of memory").
			WithDetail("The statement collects more than %d MB of rows.", DefaultMemory>>20).
			WithHint("Add an index that avoids the sort or hash, or a LIMIT.")
	}
	return err
}
