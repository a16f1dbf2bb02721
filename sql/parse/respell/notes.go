package respell

import "github.com/spandb/spand/sql/parse/pgast"

// Notes are what carriers and named identifiers point at. Args in a comment
// are the carrier call's arguments.
type (
	// OpNote is an operator: args (left, right), (right) with Prefix; then the
	// ESCAPE with Escape.
	OpNote struct {
		Name   string
		Prefix bool
		Escape bool
	}
	// BoolNote is a long AND or OR chain.
	BoolNote struct{ Or bool }
	// IsNote is IS [NOT] UNKNOWN; args (x).
	IsNote struct {
		Test string
		Not  bool
	}
	// DistinctNote is IS DISTINCT FROM; args (a, b).
	DistinctNote struct{}
	// BetweenNote is BETWEEN SYMMETRIC; args (x, lo, hi).
	BetweenNote struct{ Not bool }
	// QuantNote is op ANY|ALL; args (left, array or subquery).
	QuantNote struct {
		Op    string
		All   bool
		Query bool
	}
	// CastNote is a cast; args (x).
	CastNote struct{ Type pgast.TypeName }
	// CollateNote is COLLATE; args (x).
	CollateNote struct{ Name pgast.Name }
	// RowNote is a row of fewer than two elements; args the elements.
	RowNote struct{}
	// ArrayNote is ARRAY[…]; args the elements.
	ArrayNote struct{}
	// ArrayQueryNote is ARRAY(SELECT …); args (subquery).
	ArrayQueryNote struct{}
	// SubscriptNote is x[lo:hi] or x[lo]; args (x), then Lo and Hi if present.
	SubscriptNote struct{ Slice, Lo, Hi bool }
	// FieldNote is (x).name or (x).*; args (x).
	FieldNote struct {
		Name string
		Star bool
	}
	// ColumnNote is a column reference with a star inside an expression, or with
	// more than three parts; no args.
	ColumnNote struct {
		Name pgast.Name
		Star bool
	}
	// FuncNote is a call with more than a name and plain arguments. Args: the
	// NArgs arguments, the ORDER BY expressions, the FILTER condition.
	FuncNote struct {
		Name        pgast.Name
		NArgs       int
		ArgNames    []string
		Star        bool
		Distinct    bool
		Variadic    bool
		NoParens    bool
		OrderBy     []pgast.OrderItem // without Expr
		WithinGroup bool
		Filter      bool
		Exclude     string // the frame's EXCLUDE, lower case
	}
	// OrderNote wraps a sort expression that has NULLS or USING; args (x).
	OrderNote struct {
		NullsFirst *bool
		Using      string
	}
	// DistinctOnNote is the first field of SELECT DISTINCT ON; args the keys.
	DistinctOnNote struct{}
	// NoTargetsNote stands for an empty select list.
	NoTargetsNote struct{}
	// GroupNote is ROLLUP, CUBE, GROUPING SETS; args the elements.
	GroupNote struct{ Kind string }
	// TailNote is the last sort item of a query; args Limit, Offset, AsOf if set.
	TailNote struct {
		Limit, Offset, AsOf bool
		WithTies            bool
		Locking             []pgast.Locking
	}
	// NoFromNote names the table that stands for a missing FROM clause.
	NoFromNote struct{}
	// TableNote hangs on a table's name.
	TableNote struct {
		Name pgast.Name
		Only bool
		Pos  int
	}
	// AliasNote hangs on an alias.
	AliasNote struct {
		Columns    []string
		ColumnDefs []pgast.ColumnDef
	}
	// FuncTableNote is the only field of a function in FROM; args the functions.
	FuncTableNote struct {
		Ordinality bool
		Lateral    bool
	}
	// JoinNote is the ON condition of a join the grammar has no form for; args
	// (on) unless Natural or Using.
	JoinNote struct {
		Type    string
		Natural bool
		Using   []string
		Alias   pgast.Alias
		On      bool
	}
	// CTENote hangs on a CTE's name.
	CTENote struct {
		Materialized *bool
		Part         int // statement index of a data-modifying query, 0 none
	}
	// InsertNote hangs on an INSERT's table name. Parts are statement indexes, 0 none.
	InsertNote struct {
		Table      pgast.Name
		Pos        int
		ColumnsPos []int
		Alias      string
		Defaults   bool
		Overriding string
		With       int
		Returning  int
		Conflict   int // part whose fields are ConflictNote's expressions
	}
	// ConflictNote is the only field of the conflict part; args: NTarget target
	// expressions, then Where, then SetWhere if present.
	ConflictNote struct {
		NTarget         int
		Where, SetWhere bool
		Constraint      string
		DoNothing       bool
	}
	// DMLNote hangs on an UPDATE's or DELETE's target.
	DMLNote struct {
		TableNote
		With, Returning int
	}
	// SetNote hangs on an assignment's first column.
	SetNote struct {
		Columns []string
		Pos     int
	}
	// ColumnDefNote hangs on the name of a defined column; the grammar's options
	// carry the expressions, in order.
	ColumnDefNote struct {
		Def         pgast.ColumnDef // without expressions and constraints
		Constraints []ConstraintNote
	}
	// ConstraintNote is what the grammar's constraint cannot carry.
	ConstraintNote struct {
		Name       string
		CheckText  string
		Deferrable bool
		Deferred   bool
		NotValid   bool
		UsingIndex string
		Include    []string
		RefTable   pgast.Name
	}
	// CreateTableNote hangs on a new table's name.
	CreateTableNote struct {
		Table pgast.CreateTable // names and options only
		As    int               // part of the AS query
	}
	// IndexNote hangs on an index's name.
	IndexNote struct {
		Index pgast.CreateIndex // Items without Expr
		Where int
	}
	// AlterNote hangs on an altered table's name; one entry per action.
	AlterNote struct {
		Name           pgast.Name
		IfExists, Only bool
		Actions        []AlterActionNote
	}
	// AlterActionNote says what one spec of the grammar stands for.
	AlterActionNote struct {
		Action     pgast.AlterAction // without column, constraint, Using
		Constraint ConstraintNote
	}
	// PartNote is the value assigned to a part of a column; args (value, part).
	PartNote struct{}
	// DefaultNote is DEFAULT inside a row; no args.
	DefaultNote struct{}
	// DefaultExprNote is a column's DEFAULT or an ALTER … TYPE's USING; args (e).
	DefaultExprNote struct{}
)
