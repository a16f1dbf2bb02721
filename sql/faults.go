package sql

import (
	"context"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
)

// Faults lets tests of applications fail what a node's clients do. In production there
// are none. Methods may be called concurrently.
type Faults interface {
	// NewSession returns the faults of one session, which asks from one goroutine at a time.
	NewSession() SessionFaults
}

// SessionFaults is asked by a session; each error is the client's answer. [ErrConnectionLost]
// ends the connection instead of one.
type SessionFaults interface {
	// Statement is asked before each statement, once however often the server itself
	// tries. first: the statement begins a transaction, or is BEGIN. An error fails it as
	// a conflict in it would: the transaction is failed and its locks are gone.
	Statement(query string, first bool) error
	// Commit is asked before (done false) and after (done true) a transaction that may
	// have written commits. Before, an error rolls back.
	Commit(done bool) error
}

// ErrConnectionLost has the front end break the connection without a word.
var ErrConnectionLost = sqlstate.Newf(sqlstate.ConnectionException, "the connection was broken on purpose")

// fault asks before a statement. A failed transaction's statements have their error already.
func (c *Conn) fault(ctx context.Context, r *request) error {
	if c.txn.failed {
		return nil
	}
	err := c.faults.Statement(r.st.SQL, !c.txn.open)
	if err == nil {
		return nil
	}
	if tc, ok := r.tree.(*pgast.Transaction); ok && tc.Kind == "commit" {
		c.noteAbort(err)
		c.rollback() // a commit that fails ends its transaction
		return c.clientError(err)
	}
	return c.refuse(ctx, err)
}
