package sql

import (
	"context"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/rowcodec"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/truetime"
)

// Reading in the past. A read-only transaction under spand.read_only_staleness, one
// begun AS OF TIMESTAMP, and a SELECT with such a clause read at a timestamp that has
// passed, under the schema of then. They need neither a lease nor a leader (X4).

// stale reports whether statements that write nothing read in the past, unless they say so.
func (c *Conn) stale() bool { return c.set.staleness.mode != strong || c.txn.asOf != 0 }

// readsPast reports whether r, whose statement is or contains the query tree, is to read
// in the past. A SELECT that turns out to take locks outside a read-only block is not.
func (c *Conn) readsPast(r *request, tree pgast.Stmt) bool {
	if r.asOf != 0 {
		return true
	}
	t := &c.txn
	if !c.stale() || t.kv != nil && !t.past {
		return false
	}
	_, query := tree.(*pgast.Select)
	return query && (t.readOnly || c.alone(r))
}

// alone reports whether r is an implicit transaction of its own, as far as the store
// can tell: SET and the like may have run before it.
func (c *Conn) alone(r *request) bool {
	t := &c.txn
	return r.single && !t.explicit && t.kv == nil && !t.view.Changed()
}

// planPast plans tree under the schema of the timestamp that the transaction reads at,
// which the first statement chooses. Nil without an error: it takes locks, so the past
// is not for it.
func (c *Conn) planPast(ctx context.Context, r *request, tree pgast.Stmt, prep *prepared) (*compiled, error) {
	t := &c.txn
	var w window
	if !t.past {
		var err error
		if w, err = c.window(ctx, r); err != nil {
			if q, ok := tree.(*pgast.Select); !ok || r.asOf != 0 || q.From != nil || !c.alone(r) || ctx.Err() != nil {
				return nil, err
			}
			// SELECT set_config(…) must work under a setting under which nothing can be read.
			return c.planTableless(ctx, r, tree, prep, err)
		}
		if err := t.view.PinPast(ctx, c.choose(w, truetime.Max, catalog.Span()), w.hi); err != nil {
			return nil, err
		}
	}
	for {
		cp, err := c.compiled(ctx, r.st, tree, prep)
		switch {
		case err != nil:
			return nil, err
		case !cp.plan.Locks:
		case r.asOf != 0:
			return nil, errAsOfLocks
		case t.readOnly:
			return nil, errReadOnly(cp.plan)
		default:
			t.view.Reset()
			return nil, nil
		}
		if t.past {
			return cp, nil
		}
		// Now the tables are known too. What all can answer may be older than what the
		// schema alone could, and then the schema may be an earlier one.
		at := t.view.PinnedAt()
		if next := c.choose(w, at, c.spans(cp.plan)...); next < at {
			if err := t.view.PinPast(ctx, next, at); err != nil {
				return nil, err
			}
			if t.view.PinnedAt() < at {
				continue
			}
		}
		t.kv, t.past, c.lastRead = c.eng.kv.ReadOnly(c.ctx, at), true, at
		return cp, nil
	}
}

// planTableless plans a statement that reads no table under the newest schema that is
// here; one that does read gets the error.
func (c *Conn) planTableless(ctx context.Context, r *request, tree pgast.Stmt, prep *prepared, refused error) (*compiled, error) {
	if err := c.txn.view.PinPast(ctx, c.eng.kv.Freshest([]keys.Span{catalog.Span()}), 0); err != nil {
		return nil, err
	}
	cp, err := c.compiled(ctx, r.st, tree, prep)
	if err == nil && (len(cp.plan.Uses) > 0 || cp.plan.Locks) {
		err = refused
	}
	return cp, err
}

// window returns what the transaction may choose its timestamp from, once all that it
// must have has passed.
func (c *Conn) window(ctx context.Context, r *request) (window, error) {
	now := c.eng.clock.Now()
	w := c.set.staleness.window(now)
	if at := max(r.asOf, c.txn.asOf); at != 0 {
		if r.asOf != 0 {
			at = r.asOf
		}
		w = window{at, at}
	}
	w, err := c.admit(w, now)
	if err != nil {
		return w, err
	}
	return w, c.eng.clock.AwaitAfter(ctx, w.lo)
}

// closedElsewhere is an age at which every replica that hears from its leader answers.
const closedElsewhere = time.Second

// choose returns the newest timestamp of w, at most limit, at which this node answers
// reads of spans by itself. When it can answer nothing within w, others are to.
func (c *Conn) choose(w window, limit truetime.Timestamp, spans ...keys.Span) truetime.Timestamp {
	if w.hi <= w.lo {
		return w.lo
	}
	at := c.eng.kv.Freshest(spans)
	if at < w.lo {
		at = w.hi.Add(-closedElsewhere)
	}
	return max(w.lo, min(w.hi, limit, at))
}

// spans are the key ranges of the tables that p uses.
func (c *Conn) spans(p *plan.Plan) []keys.Span {
	out := make([]keys.Span, 0, len(p.Uses))
	for _, u := range p.Uses {
		out = append(out, rowcodec.TableSpan(false, uint64(c.db.ID), uint64(u.Table)))
	}
	return out
}

var errAsOfLocks = sqlstate.Newf(sqlstate.FeatureNotSupported, "AS OF TIMESTAMP is only allowed in a SELECT that locks no rows")

// enterAsOf makes r read at the timestamp of its AS OF TIMESTAMP clauses. In a
// transaction that is not the statement's own it reads beside it; leave goes back.
func (c *Conn) enterAsOf(ctx context.Context, r *request) (leave func(), err error) {
	t := &c.txn
	if t.wrote || t.view.Changed() {
		return nil, sqlstate.Newf(sqlstate.ActiveTransaction, "AS OF TIMESTAMP cannot be used in a transaction that has written").
			WithHint("The statement would not see what the transaction wrote.")
	}
	if r.asOf, err = c.asOf(ctx, r.st, r.prep, r.params, r.st.AsOf); err != nil {
		return nil, err
	}
	if c.alone(r) {
		t.view.Reset()
		return func() {}, nil
	}
	kv, view, past := t.kv, t.view, t.past
	t.kv, t.view, t.past = nil, c.eng.catalog.NewView(), false
	return func() { t.kv, t.view, t.past = kv, view, past }, nil
}

// asOf evaluates AS OF TIMESTAMP clauses, which must agree.
func (c *Conn) asOf(ctx context.Context, st *pgast.Statement, prep *prepared, params []types.Datum, es []pgast.Expr) (at truetime.Timestamp, err error) {
	for i, e := range es {
		ts, err := c.asOfValue(ctx, st, prep, params, e)
		switch {
		case err != nil:
			return 0, err
		case i > 0 && ts != at:
			return 0, sqlstate.Newf(sqlstate.FeatureNotSupported, "a statement can read at one timestamp only, but its AS OF TIMESTAMP clauses name two").
				WithDetail("They are %s and %s.", showTimestamp(at), showTimestamp(ts))
		}
		at = ts
	}
	return at, nil
}

// asOfValue evaluates one. Text is read to the nanosecond, as commit timestamps are
// shown, where a timestamptz would be rounded.
func (c *Conn) asOfValue(ctx context.Context, st *pgast.Statement, prep *prepared, params []types.Datum, e pgast.Expr) (truetime.Timestamp, error) {
	if k, ok := e.(*pgast.Const); ok && k.Kind == pgast.Unknown {
		return c.readTimestamp(st.Consts[k.Slot].Text)
	}
	var oids []types.OID
	if prep != nil {
		oids = prep.params
	}
	x, err := plan.BindAsOf(ctx, c.planCatalog(), st, e, oids)
	if err != nil {
		return 0, err
	}
	ec := c.execContext(ctx)
	defer c.release(ec)
	ec.Eval.Reset(st.Consts, params)
	ec.Eval.Format = c.format()
	v, err := x.Eval(&ec.Eval, nil)
	switch {
	case err != nil:
		return 0, err
	case v.IsNull():
		return 0, sqlstate.Newf(sqlstate.NullValueNotAllowed, "AS OF TIMESTAMP must not be null")
	case types.KindOf(x.Type().OID) == types.KindText:
		return c.readTimestamp(v.Str())
	}
	return fromDatum(v)
}

func (c *Conn) readTimestamp(text string) (truetime.Timestamp, error) {
	if ts, ok := parseTimestamp(text); ok {
		return ts, nil
	}
	v, err := types.ParseText(text, types.T(types.OIDTimestampTZ), c.format())
	if err != nil {
		return 0, err
	}
	return fromDatum(v)
}

// postgresEpoch is 2000-01-01 UTC in seconds since 1970, from which datums count microseconds.
const postgresEpoch = 946684800

// fromDatum converts a timestamptz.
func fromDatum(v types.Datum) (truetime.Timestamp, error) {
	micros := v.Int() + postgresEpoch*1e6
	if micros <= 0 || micros > int64(truetime.Max)/1000 {
		return 0, sqlstate.Newf(sqlstate.InvalidParameterValue, "AS OF TIMESTAMP is out of range")
	}
	return truetime.Timestamp(micros * 1000), nil
}

var errAsOfWrites = sqlstate.Newf(sqlstate.InvalidTransactionState, "a transaction with AS OF TIMESTAMP must be read only")

// beginAsOf makes the block that is open read at one timestamp, READ ONLY AS OF TIMESTAMP.
func (c *Conn) beginAsOf(ctx context.Context, st *pgast.Statement, e pgast.Expr) error {
	t := &c.txn
	if !t.readOnly { // READ WRITE came after it
		return errAsOfWrites
	}
	if t.kv != nil {
		return sqlstate.Newf(sqlstate.ActiveTransaction, "transaction read timestamp must be set before any query")
	}
	at, err := c.asOf(ctx, st, nil, nil, []pgast.Expr{e})
	if err != nil {
		return err
	}
	if _, err := c.admit(window{at, at}, c.eng.clock.Now()); err != nil {
		return err
	}
	t.asOf = at
	return nil
}

// glance runs f under the schema that a query would be planned under now, without
// settling when the transaction reads: to describe it, or for values beside it.
func (c *Conn) glance(ctx context.Context, st *pgast.Statement, tree pgast.Stmt, f func() error) error {
	t := &c.txn
	if !t.open {
		defer func() { t.start = time.Time{} }() // now() is not settled by this either
	}
	r := request{st: st, tree: tree, single: true}
	if len(st.AsOf) > 0 && st.NumParams == 0 {
		var err error
		if r.asOf, err = c.asOf(ctx, st, nil, nil, st.AsOf); err != nil {
			return err
		}
	}
	if t.past && r.asOf == 0 || !c.readsPast(&r, tree) {
		if err := t.view.Begin(ctx); err != nil {
			return err
		}
		return f()
	}
	var at, newest truetime.Timestamp
	switch w, err := c.window(ctx, &r); {
	case err == nil:
		at, newest = c.choose(w, truetime.Max, catalog.Span()), w.hi
	case r.asOf != 0 || ctx.Err() != nil:
		return err
	default:
		// What reads no table runs all the same (planTableless), and what does is refused
		// when it runs.
		at = c.eng.kv.Freshest([]keys.Span{catalog.Span()})
	}
	view := t.view
	t.view = c.eng.catalog.NewView()
	defer func() { t.view = view }()
	if err := t.view.PinPast(ctx, at, newest); err != nil {
		return err
	}
	return f()
}

// leaseAlone is how long a new session waits for a schema lease before it is content
// with the schema that this node has.
const leaseAlone = time.Second

// findDatabase finds the session's database, nil when there is none. Without a leader
// to ask, one that was there when this node last heard will do: the session's reads in
// the past need no more, and its other statements wait by themselves.
func (c *Conn) findDatabase(ctx context.Context) (*catalog.Database, error) {
	if c.stale() {
		if db := c.pastDatabase(ctx); db != nil {
			return db, nil
		}
	}
	short, cancel := context.WithTimeout(ctx, leaseAlone)
	db, err := c.presentDatabase(short)
	cancel()
	if err == nil || ctx.Err() != nil {
		return db, err
	}
	if db := c.pastDatabase(ctx); db != nil {
		return db, nil
	}
	return c.presentDatabase(ctx)
}

func (c *Conn) presentDatabase(ctx context.Context) (*catalog.Database, error) {
	view := c.eng.catalog.NewView()
	if err := view.Begin(ctx); err != nil {
		return nil, err
	}
	return view.Database(ctx, c.dbName)
}

// pastDatabase looks at this node's replicas only, nil when they do not say.
func (c *Conn) pastDatabase(ctx context.Context) *catalog.Database {
	at := c.eng.kv.Freshest([]keys.Span{catalog.Span()})
	if at == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, leaseAlone)
	defer cancel()
	view := c.eng.catalog.NewView()
	if view.PinPast(ctx, at, 0) != nil {
		return nil
	}
	db, err := view.Database(ctx, c.dbName)
	if err != nil {
		return nil
	}
	return db
}
