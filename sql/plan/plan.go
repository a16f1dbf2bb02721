package plan

import (
	"context"

	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/tablet"
)

// Plan of one statement; exactly one of Query, Insert and Modify is set.
type Plan struct {
	Query  *Query
	Insert *Insert
	Modify *Modify

	Columns []Column     // of the result, nil when the statement returns no rows
	Params  []types.Type // of $1 …
	Uses    []catalog.Use
	Version uint64 // schema version the plan was made for
	// Locks says that the plan takes locks or writes: it needs a read-write transaction.
	Locks bool
	// ValueDependent: the plan's form depends on the values of constants.
	ValueDependent bool
}

// Column of a result.
type Column struct {
	Name     string
	Type     types.Type
	TableOID types.OID
	AttNum   int16
}

// Query yields rows: a SELECT core, VALUES or a set operation, then DISTINCT,
// ORDER BY and LIMIT over the output rows.
type Query struct {
	Core   *Core
	Values [][]expr.Expr
	SetOp  *SetOp

	Columns []Column // visible output columns; rows may carry sort keys behind them
	Width   int      // of an output row, sort keys included

	Distinct   bool
	DistinctOn int       // rows equal in the first DistinctOn sort keys: only the first; 0: none
	Sort       []SortKey // nil: none needed
	Limit      expr.Expr // nil: none
	Offset     expr.Expr
	// Streams says that Core's rows come out one by one, so that Limit bounds the scan.
	Streams bool
}

// SortKey of an output row.
type SortKey struct {
	Col        int
	Type       types.Type
	Desc       bool
	NullsFirst bool
	Text       string // for EXPLAIN
}

// Core is FROM … WHERE … GROUP BY … HAVING and the target list.
type Core struct {
	Width   int  // of the frame, without aggregates
	From    Node // nil: one row without columns
	Agg     *Agg
	Having  expr.Expr   // nil: none
	Targets []expr.Expr // over the frame (and the aggregates behind it)
}

// Agg groups the frame.
type Agg struct {
	Keys  []expr.Expr
	Calls []*expr.AggCall
	// Orders are the calls' own ORDER BY, by call; nil for most.
	Orders [][]AggOrder
	// Keep are the frame slots that expressions above the aggregate read.
	Keep []int
	// Grouped says there is a GROUP BY; without it there is exactly one group.
	Grouped bool
	// First: the single call is min or max and rows arrive in that order, so the first
	// value that is not NULL is the answer.
	First bool
	// FirstRow: the column is NOT NULL, so it is the very first row.
	FirstRow bool
}

// AggOrder is a sort key of an aggregate's input: string_agg(x, ',' ORDER BY y).
type AggOrder struct {
	Expr             expr.Expr
	Desc, NullsFirst bool
}

// SetOp combines two queries.
type SetOp struct {
	Kind        string // "union", "intersect", "except"
	All         bool
	Left, Right *Query
	// Casts over the child's row, nil where it fits as it is.
	LeftCasts, RightCasts []expr.Expr
	Types                 []types.Type
}

// Node of a FROM tree. It fills slots of the frame.
type Node interface{ node() }

type (
	// Scan reads a table through one of its indexes.
	Scan struct {
		Table *TableInfo
		Index *IndexInfo
		Name  string // alias, for EXPLAIN
		Off   int
		Need  []int // table ordinals to decode
		// Covered: the index entry holds all of Need, the row itself is not read.
		Covered bool
		// Reader decodes the index's entries: Need, or when not Covered the primary key;
		// then RowReader decodes Need from the rows.
		Reader, RowReader *Reader

		Eq      [][]expr.Expr // for each leading key column its possible values (several: IN)
		Arrays  []bool        // Eq[i] is one array whose elements are the values (= ANY)
		Nulls   []bool        // Eq[i] is IS NULL
		Lo, Hi  *Bound        // of the column behind Eq
		Point   bool          // Eq names a whole unique key: at most one row per combination
		Reverse bool
		Filter  []expr.Expr

		Lock tablet.LockStrength // over the transaction's default
		Wait tablet.WaitPolicy

		CondText, FilterText []pgast.Expr // for EXPLAIN
	}
	// Bound of a range on one key column.
	Bound struct {
		Value     expr.Expr
		Inclusive bool
	}
	// FuncScan reads set-returning functions.
	FuncScan struct {
		Name       string
		Off        int
		Funcs      []FuncCall
		Ordinality int // slot of the ordinal, -1: none
		Filter     []expr.Expr
		FilterText []pgast.Expr
	}
	// FuncCall is one function of a FuncScan.
	FuncCall struct {
		Set   expr.SetFunc
		Off   int // within the FuncScan's slots
		Width int
	}
	// SubqueryScan reads a query in FROM.
	SubqueryScan struct {
		Name       string
		Query      *Query
		Off        int
		Filter     []expr.Expr
		FilterText []pgast.Expr
	}
	// VirtualScan reads a system relation.
	VirtualScan struct {
		Table      *VirtualTable
		Name       string
		Off        int
		Need       []int
		Filter     []expr.Expr
		FilterText []pgast.Expr
	}
	// Filter passes the frames for which all conditions hold.
	Filter struct {
		Input Node
		Conds []expr.Expr
		Text  []pgast.Expr
	}
	// NestLoop runs Right for every frame of Left.
	NestLoop struct {
		Left, Right Node
		Type        JoinType
		Conds       []expr.Expr
		// Dependent: Right reads slots that Left fills, so it is opened again for each
		// frame; otherwise its rows are kept after the first pass.
		Dependent  bool
		RightSlots []int // what Right fills and somebody reads
		Text       []pgast.Expr
	}
	// HashJoin keeps Right's rows in a hash table by RightKeys.
	HashJoin struct {
		Left, Right           Node
		Type                  JoinType
		LeftKeys, RightKeys   []expr.Expr
		Conds                 []expr.Expr // beside the keys
		LeftSlots, RightSlots []int
		Text                  []pgast.Expr
	}
	// Merge computes the columns that FULL JOIN USING merges.
	Merge struct {
		Input Node
		Cols  []MergedCol
	}
	// MergedCol is COALESCE of two slots.
	MergedCol struct{ Slot, Left, Right int }
	// OneRow yields the frame once.
	OneRow struct{}
	// NoRows yields nothing: a condition is false whatever the rows.
	NoRows struct{}
)

func (*Scan) node()         {}
func (*FuncScan) node()     {}
func (*SubqueryScan) node() {}
func (*VirtualScan) node()  {}
func (*Filter) node()       {}
func (*NestLoop) node()     {}
func (*HashJoin) node()     {}
func (*Merge) node()        {}
func (*OneRow) node()       {}
func (*NoRows) node()       {}

// JoinType of a join; right joins are planned as left ones.
type JoinType uint8

const (
	InnerJoin JoinType = iota
	LeftJoin
	FullJoin
)

// Insert adds rows to a table.
type Insert struct {
	Table *TableInfo
	// Rows are VALUES lists already in table order with defaults filled in, over an
	// empty row; or Source with Cols over its rows.
	Rows   [][]expr.Expr
	Source *Query
	Cols   []expr.Expr
	// Spool: the source reads the target table, so it is read out before the first insert.
	Spool      bool
	OnConflict *OnConflict
	Returning  []expr.Expr // over the inserted row
}

// OnConflict of an Insert.
type OnConflict struct {
	Index *IndexInfo // arbiter; nil: every unique index (DO NOTHING only)
	// Set is nil for DO NOTHING. Expressions see the existing row, then the proposed
	// one (EXCLUDED) behind it.
	Set   []SetCol
	Where expr.Expr
}

// SetCol assigns a column.
type SetCol struct {
	Ord  int // table ordinal
	Expr expr.Expr
}

// Modify is UPDATE (Set is not nil) or DELETE.
type Modify struct {
	Table *TableInfo
	Width int
	From  Node
	Off   int // of the target's slots
	Set   []SetCol
	// Multi assigns several columns from one subquery.
	Multi []MultiSet
	// Spool: the scan could meet rows that the statement itself writes.
	Spool bool
	// Once: a join may yield a target row several times; only the first counts.
	Once      bool
	Returning []expr.Expr
}

// MultiSet is (a, b) = (SELECT …).
type MultiSet struct {
	Ords  []int
	Casts []expr.Expr // over the subquery's row
	Query expr.SubPlan
}

// SubPlan is a planned subquery of an expression. It implements expr.SubPlan; exec runs it.
type SubPlan struct {
	Query      *Query
	types      []types.Type
	correlated bool
}

// Runner runs subplans; exec's context, found behind expr.EvalContext.Session.
type Runner interface {
	RunSubPlan(p *SubPlan, ec *expr.EvalContext, outer []types.Datum, f func([]types.Datum) (bool, error)) error
}

// Types of the subquery's columns.
func (p *SubPlan) Types() []types.Type { return p.types }

// Correlated reports whether the rows depend on an enclosing query's row.
func (p *SubPlan) Correlated() bool { return p.correlated }

// Run streams the rows to f.
func (p *SubPlan) Run(ec *expr.EvalContext, outer []types.Datum, f func([]types.Datum) (bool, error)) error {
	return ec.Session.(Runner).RunSubPlan(p, ec, outer, f)
}

// VirtualTable is a relation that is computed: a system catalog or a view of the node.
type VirtualTable struct {
	OID     types.OID
	Schema  string
	Name    string
	Columns []VirtualColumn
	Rows    func(rc *RowsContext, emit func([]types.Datum) error) error
}

// VirtualColumn of a VirtualTable.
type VirtualColumn struct {
	Name string
	Type types.Type
}

// RowsContext is what a virtual table's generator may use. Context ends with the statement.
type RowsContext struct {
	Context context.Context
	View    *catalog.View
	DB      *catalog.Database
	Session expr.Session
}
