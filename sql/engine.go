package sql

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/exec"
	"github.com/spandb/spand/sql/parse"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/sql/xact"
	"github.com/spandb/spand/truetime"
)

// Config of an Engine.
type Config struct {
	KV      KV
	Clock   truetime.Clock // nil: the store's
	Node    keys.NodeID    // from 1; below 4096
	Peers   catalog.Peers  // nil: this is the only node
	Lived   bool           // see catalog.Config
	Logger  *slog.Logger   // nil: discard
	Views   []View         // beside those of RegisterView
	Version string         // of spand, for version()
	// NodeClock lets the operator see and widen the clock; nil: SQL cannot.
	NodeClock NodeClock
	// Fencer answers for the locks of spand.fence; nil: nothing commits under a fence.
	Fencer Fencer

	// Memory bounds the rows that all statements together collect, in bytes; 0:
	// exec.DefaultNodeMemory.
	Memory int64

	// Faults fail what clients do, in tests; nil: none.
	Faults Faults

	// LeaseDuration, GCHorizon and CleanEvery override the catalog's; see catalog.Config.
	LeaseDuration, GCHorizon, CleanEvery time.Duration
	// KeepOutcomes is how long the outcomes of transactions that asked for their ids
	// are kept after their commit; 0: an hour. CleanEvery is for them, too.
	KeepOutcomes time.Duration
}

// View is a virtual table that the node provides.
type View struct {
	Schema, Name string
	Columns      []ViewColumn
	// Rows emits the rows; datums are of the columns' types. It may be called by
	// several sessions at once.
	Rows func(ctx context.Context, emit func([]types.Datum) error) error
}

// ViewColumn of a View.
type ViewColumn struct {
	Name string
	Type types.Type
}

// Engine is SQL on one node. It implements Server; its methods may be called
// concurrently.
type Engine struct {
	cfg     Config
	kv      KV
	clock   truetime.Clock
	log     *slog.Logger
	catalog *catalog.Manager
	views   *plan.Registry
	parse   *parse.Cache
	plans   planCache
	memory  *exec.Memory
	rowIDs  rowIDs
	xacts   *xact.Table
	started time.Time

	slowSaid       atomic.Int64 // when a slow statement was last logged
	slowCommitSaid atomic.Int64 // likewise of a slow statement's commit

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu struct {
		sync.Mutex
		sessions map[*Conn]struct{}
		closed   bool
	}
}

var _ Server = (*Engine)(nil)

// NewEngine makes an engine. Register views, then call Start.
func NewEngine(cfg Config) (*Engine, error) {
	if cfg.KV == nil {
		return nil, errors.New("sql: no store")
	}
	if cfg.Node < 1 || cfg.Node > maxRowIDNode {
		return nil, errors.New("sql: node id out of range")
	}
	if cfg.Clock == nil {
		cfg.Clock = cfg.KV.Clock()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Memory == 0 {
		cfg.Memory = exec.DefaultNodeMemory
	}
	e := &Engine{cfg: cfg, memory: exec.NewMemory(cfg.Memory), kv: cfg.KV, clock: cfg.Clock, log: cfg.Logger, views: plan.NewRegistry(), started: time.Now()}
	e.catalog = catalog.NewManager(catalog.Config{
		KV: cfg.KV, Peers: cfg.Peers, Logger: cfg.Logger, Lived: cfg.Lived,
		LeaseDuration: cfg.LeaseDuration, GCHorizon: cfg.GCHorizon, CleanEvery: cfg.CleanEvery,
	})
	e.xacts = xact.New(xact.Config{
		KV: cfg.KV, Clock: cfg.Clock, Node: cfg.Node, Logger: cfg.Logger, Keep: cfg.KeepOutcomes, CleanEvery: cfg.CleanEvery,
	})
	e.parse = parse.NewCache(10000, 64<<20)
	e.plans.init()
	e.rowIDs.init(int64(cfg.Node), cfg.Clock)
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.mu.sessions = make(map[*Conn]struct{})
	e.registerSystemViews()
	for _, v := range cfg.Views {
		e.RegisterView(v.Schema, v.Name, v.Columns, v.Rows)
	}
	return e, nil
}

// RegisterView adds a virtual table. All must be registered before Start.
func (e *Engine) RegisterView(schema, name string, columns []ViewColumn, rows func(ctx context.Context, emit func([]types.Datum) error) error) {
	t := &plan.VirtualTable{Schema: schema, Name: name}
	for _, c := range columns {
		t.Columns = append(t.Columns, plan.VirtualColumn{Name: c.Name, Type: c.Type})
	}
	t.Rows = func(rc *plan.RowsContext, emit func([]types.Datum) error) error { return rows(rc.Context, emit) }
	e.views.Add(t)
}

// Start makes the first database if no node has done so yet, and starts background
// work. It waits until the store answers or ctx ends.
func (e *Engine) Start(ctx context.Context) error {
	if err := e.catalog.Bootstrap(ctx); err != nil {
		return err
	}
	// What this node gave out before a restart, row ids and transaction ids, lies behind
	// what it gives out now.
	if err := e.clock.AwaitAfter(ctx, e.clock.Now().Latest.Add(rowIDLead*time.Microsecond)); err != nil {
		return err
	}
	e.catalog.Start()
	e.xacts.Start()
	return nil
}

// Close ends every session and the background work, and waits for the latter.
func (e *Engine) Close() {
	e.mu.Lock()
	e.mu.closed = true
	all := make([]*Conn, 0, len(e.mu.sessions))
	for c := range e.mu.sessions {
		all = append(all, c)
	}
	e.mu.Unlock()
	for _, c := range all {
		c.Cancel()
	}
	e.cancel()
	e.catalog.Close()
	e.xacts.Close()
}

// HandleRevoke drops this node's schema lease at another node's request (B2). It
// returns nil when nothing uses the old schema any more.
func (e *Engine) HandleRevoke(ctx context.Context) error { return e.catalog.HandleRevoke(ctx) }

// NewSession makes a session for a client.
func (e *Engine) NewSession(ctx context.Context, o SessionOptions) (Session, error) {
	c := &Conn{eng: e, opts: o, memory: e.memory.NewAccount(), stmts: make(map[string]*prepared), portals: make(map[string]*portal)}
	c.dbName = o.Database
	if c.dbName == "" {
		c.dbName = o.User
	}
	if err := e.clock.Err(); err != nil {
		return nil, clockError(err)
	}
	if e.cfg.Faults != nil {
		c.faults = e.cfg.Faults.NewSession()
	}
	c.ctx, c.stop = context.WithCancelCause(e.ctx)
	if err := c.initSettings(o); err != nil {
		return nil, err
	}
	db, err := c.findDatabase(ctx)
	if err != nil {
		return nil, c.clientError(err)
	}
	if db == nil {
		return nil, sqlstate.Newf(sqlstate.InvalidCatalogName, "database %q does not exist", c.dbName)
	}
	if o.User != catalog.RootUser {
		return nil, sqlstate.Newf(sqlstate.InvalidAuthorization, "role %q does not exist", o.User)
	}
	c.db = db
	c.txn.view = e.catalog.NewView() // for good: endTxn keeps it
	c.doneFunc, c.isNewPhys = c.done, c.txn.view.IsNewPhys
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.closed {
		return nil, sqlstate.Newf(sqlstate.AdminShutdown, "the database system is shutting down")
	}
	e.mu.sessions[c] = struct{}{}
	return c, nil
}

func (e *Engine) serverVersion() string {
	v := e.cfg.Version
	if v == "" {
		v = "dev"
	}
	return "15.0 (spand " + v + ")"
}
