// Package wiretest is a sql.Server without SQL, for tests of what lies in front
// of it: the wire protocol and its clients. Its sessions keep PostgreSQL's rules
// for transactions, prepared statements and portals, and understand a handful
// of commands that make a session do what a test needs:
//
//	row TYPE=VALUE …       one row; a value NULL is NULL, columns are named c1, c2 …
//	rows N                 N rows (n integer, t text)
//	echo TYPE …            the parameters as one row
//	ins N                  completes with INSERT 0 N
//	begin, commit, rollback
//	set NAME=VALUE         changes a setting and reports it
//	deallocate NAME
//	notice TEXT
//	error CODE TEXT        fails
//	wait                   runs until it is cancelled
//	panic                  panics
//	copyin [fail N|ignore] COPY FROM STDIN; fail after N bytes, or read nothing
//	copyout N              COPY TO STDOUT of N lines
package wiretest

import (
	"context"
	"sync"

	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/sqlstate"
)

// Server makes sessions and remembers what became of them. Fields are set
// before it is used.
type Server struct {
	// Databases that exist; empty: all.
	Databases []string
	// NoPanic makes the panic command an error (for fuzzing).
	NoPanic bool
	// Scripts run in place of a command that equals their key.
	Scripts map[string]Script

	mu      sync.Mutex
	open    int
	total   int
	openTxn int
	waiting chan struct{} // replaced and closed whenever a statement begins to wait
	last    sql.SessionOptions
}

// Script answers a statement.
type Script struct {
	Columns []string   // names; all of type text
	Rows    [][]string // "NULL" is NULL
	Tag     string
	Err     *sqlstate.Error
}

// NewSession makes a session; an unknown database is 3D000.
func (s *Server) NewSession(_ context.Context, o sql.SessionOptions) (sql.Session, error) {
	if len(s.Databases) > 0 {
		ok := false
		for _, d := range s.Databases {
			ok = ok || d == o.Database
		}
		if !ok {
			return nil, sqlstate.Newf(sqlstate.InvalidCatalogName, `database "%s" does not exist`, o.Database)
		}
	}
	s.mu.Lock()
	s.open++
	s.total++
	s.last = o
	s.mu.Unlock()
	return newSession(s, o), nil
}

// Open returns how many sessions are open, and how many transactions in them.
func (s *Server) Open() (sessions, transactions int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open, s.openTxn
}

// Total returns how many sessions were made.
func (s *Server) Total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

// Last returns the options of the newest session.
func (s *Server) Last() sql.SessionOptions {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// Waiting returns a channel that is closed when the next wait command runs.
func (s *Server) Waiting() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == nil {
		s.waiting = make(chan struct{})
	}
	return s.waiting
}

func (s *Server) announceWait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting != nil {
		close(s.waiting)
		s.waiting = nil
	}
}

func (s *Server) countTxn(d int) {
	s.mu.Lock()
	s.openTxn += d
	s.mu.Unlock()
}
