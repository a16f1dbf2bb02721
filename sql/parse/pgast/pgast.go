// Package pgast is the one tree that the SQL front end works on: PostgreSQL's
// meaning, free of both PostgreSQL's spelling and the TiDB grammar's nodes.
//
// sql/parse produces it, the binder consumes it. A tree is immutable once
// parse.Parse has returned it, because trees are cached by statement shape and
// shared by connections; whoever wants to change one copies it.
//
// Constants do not live in the tree. A literal in the text becomes a *Const
// whose Slot indexes Statement.Consts, so that statements which differ in
// their constants only share one tree (the shape) and one plan.
//
// Pos fields are byte offsets into Statement.SQL, 0-based; -1 is unknown.
package pgast

import (
	"sort"

	"github.com/spandb/spand/sql/parse/pglex"
)

// Name is a possibly qualified name, outermost qualifier first, already
// case-folded as PostgreSQL's lexer folds it: {"public", "t"}.
type Name []string

// Last returns the unqualified part.
func (n Name) Last() string { return n[len(n)-1] }

// Stmt is any statement.
type Stmt interface{ stmt() }

// Expr is any scalar expression.
type Expr interface{ expr() }

// TableExpr is anything that can stand in FROM.
type TableExpr interface{ tableExpr() }

// Statement is one statement of a query string.
type Statement struct {
	SQL    string  // the client's text of this statement alone
	Shape  string  // normalised text; equal shapes share Tree and may share plans
	Tree   Stmt    // nil for an empty statement
	Consts []Value // by slot
	// AsOf are the timestamps of all AS OF TIMESTAMP clauses in Tree, in no order.
	AsOf []Expr
	// NumParams is the highest $n used; 0 means none.
	NumParams int
	// Tokens, if not nil, are the token offsets of the text that Tree was parsed
	// from, of the same shape as SQL but with other constants: Pos fields are
	// offsets in that text then, and Offset maps them to SQL.
	Tokens []int32
}

// Offset maps a Pos of Tree to a byte offset in SQL, for error positions; -1
// stays -1. It lexes SQL again if need be, so it is for errors only.
func (s *Statement) Offset(pos int) int {
	if s.Tokens == nil || pos < 0 {
		return pos
	}
	i := sort.Search(len(s.Tokens), func(i int) bool { return int(s.Tokens[i]) > pos }) - 1
	if i < 0 {
		return -1
	}
	var sc pglex.Scanner
	var t pglex.Token
	sc.Init(s.SQL)
	for n := 0; ; n++ {
		if err := sc.Next(&t); err != nil {
			return -1
		}
		if n == i || t.Kind == pglex.EOF {
			return int(t.Start)
		}
	}
}

// ValueKind says how a constant was spelled, which PostgreSQL's typing rules need.
type ValueKind uint8

const (
	Null    ValueKind = iota
	Unknown           // quoted literal 'abc' (type unknown until context decides)
	Integer           // digits; fits no particular width, Text is exact
	Numeric           // decimal point or exponent, exact text
	Bool
	BitString // B'..' or X'..', Text is "b0101" or "xFF"
)

// Value is a constant as text; Text is exact and unescaped.
type Value struct {
	Kind ValueKind
	Text string
}

// ---- Expressions ----

type (
	// Const is a literal, Statement.Consts[Slot].
	Const struct {
		Slot int
		Kind ValueKind // part of the shape
		Pos  int
	}
	// Param is $N, 1-based.
	Param struct {
		N   int
		Pos int
	}
	// ColumnRef is a, t.a, s.t.a; Star makes it *, t.*.
	ColumnRef struct {
		Name Name // empty with Star for a bare *
		Star bool
		Pos  int
	}
	// Op is an operator named as PostgreSQL spells it: "+", "||", "=", "<>",
	// "<", "~*", "->>", "@>", … Left is nil for a prefix operator. != arrives as "<>".
	// "like", "ilike", "similar to" and their negations "not like", … are ops
	// too; ESCAPE is a third argument in Escape.
	Op struct {
		Name        string
		Left, Right Expr
		Escape      Expr
		Pos         int
	}
	// And, Or are n-ary (at least two Args).
	And struct{ Args []Expr }
	Or  struct{ Args []Expr }
	Not struct{ Arg Expr }
	// IsTest is x IS [NOT] NULL | TRUE | FALSE | UNKNOWN.
	IsTest struct {
		Arg  Expr
		Test string // "null", "true", "false", "unknown"
		Not  bool
	}
	// Distinct is a IS [NOT] DISTINCT FROM b.
	Distinct struct {
		Left, Right Expr
		Not         bool
		Pos         int
	}
	// Between is x [NOT] BETWEEN [SYMMETRIC] lo AND hi.
	Between struct {
		Arg, Lo, Hi    Expr
		Not, Symmetric bool
		Pos            int
	}
	// In is x [NOT] IN (list) or x [NOT] IN (subquery); exactly one is set.
	In struct {
		Arg   Expr
		List  []Expr
		Query *Select
		Not   bool
		Pos   int
	}
	// Quantified is a op ANY|ALL (array or subquery).
	Quantified struct {
		Left  Expr
		Op    string
		All   bool
		Array Expr
		Query *Select
		Pos   int
	}
	// Func is any function call, aggregates and SQL-syntax functions included
	// (CURRENT_TIMESTAMP is Name {"current_timestamp"} with no Args and NoParens,
	// EXTRACT(f FROM x) is {"extract"} with f as a text constant,
	// SUBSTRING(x FROM a FOR b) is {"substring"}, COALESCE, NULLIF, GREATEST …).
	Func struct {
		Name        Name
		Args        []Expr
		ArgNames    []string // for f(a => 1); nil when none is named
		Star        bool     // count(*)
		Distinct    bool
		Variadic    bool
		NoParens    bool
		OrderBy     []OrderItem
		WithinGroup bool // OrderBy came from WITHIN GROUP
		Filter      Expr
		Over        *Window
		Pos         int
	}
	// Window is an OVER clause or a WINDOW definition.
	Window struct {
		Ref         string // OVER name, or the name that a definition extends
		Defined     bool   // a definition in parentheses; false is OVER name alone
		PartitionBy []Expr
		OrderBy     []OrderItem
		// Frame is "" for the default, else "rows|range|groups between B and B",
		// B being "unbounded preceding", "offset preceding", "current row",
		// "offset following" or "unbounded following", then perhaps " exclude
		// current row|group|ties". FrameStart and FrameEnd are the offsets.
		Frame      string
		FrameStart Expr
		FrameEnd   Expr
	}
	// Case is CASE [arg] WHEN … THEN … [ELSE …] END.
	Case struct {
		Arg   Expr
		Whens []When
		Else  Expr
	}
	When struct{ Cond, Result Expr }
	// Cast is x::type, CAST(x AS type) or type 'literal'.
	Cast struct {
		Arg  Expr
		Type TypeName
		Pos  int
	}
	// Collate is x COLLATE "name".
	Collate struct {
		Arg  Expr
		Name Name
	}
	// Subquery is a scalar subquery; Exists is EXISTS(…); ArrayQuery is ARRAY(…).
	Subquery   struct{ Query *Select }
	Exists     struct{ Query *Select }
	ArrayQuery struct{ Query *Select }
	// Array is ARRAY[…].
	Array struct{ Elems []Expr }
	// Row is ROW(…) or (a, b).
	Row struct{ Elems []Expr }
	// Subscript is a[i] or, with Slice, a[lo:hi] (either may be nil).
	Subscript struct {
		Arg    Expr
		Lo, Hi Expr
		Slice  bool
	}
	// Field is (composite).name; Star is (composite).*.
	Field struct {
		Arg  Expr
		Name string
		Star bool
	}
	// Default is the word DEFAULT in VALUES or SET.
	Default struct{ Pos int }
)

// TypeName is a type as written, e.g. {Name:{"numeric"}, Mods:{"10","2"}}.
// Aliases are resolved to PostgreSQL's internal names as its grammar does it:
// int -> int4, bigint -> int8, double precision -> float8, varchar, bpchar
// (char without length gets Mods {"1"}), timestamp with time zone -> timestamptz.
type TypeName struct {
	Name  Name
	Mods  []string
	Array int // number of [] dimensions
	SetOf bool
	Pos   int
}

// ---- Queries ----

type (
	// Select is a query: exactly one of a plain body, Values or a set operation.
	Select struct {
		With       []CTE
		Recursive  bool
		Distinct   bool
		DistinctOn []Expr
		Targets    []Target
		From       []TableExpr // comma list
		Where      Expr
		GroupBy    []Expr // ordinals arrive as *Const with Kind Integer
		// GroupSets is "", "rollup", "cube", "grouping sets" or "()"; with "mixed"
		// the sets are Funcs of those names among GroupBy. A set of grouping sets
		// is a Row, or a Func again.
		GroupSets   string
		Having      Expr
		Windows     map[string]*Window
		Values      [][]Expr
		SetOp       string // "", "union", "intersect", "except"
		SetAll      bool
		Left, Right *Select
		OrderBy     []OrderItem
		Limit       Expr // nil: none; LIMIT ALL is nil too
		WithTies    bool
		Offset      Expr
		Locking     []Locking
		AsOf        Expr // AS OF TIMESTAMP expr behind a whole query; behind a table it is Table.AsOf
	}
	// Target is one output column; Alias "" when not given.
	Target struct {
		Expr  Expr
		Alias string
	}
	OrderItem struct {
		Expr       Expr
		Desc       bool
		NullsFirst *bool // nil: the default (last for ASC, first for DESC)
		Using      string
	}
	CTE struct {
		Name         string
		Columns      []string
		Query        Stmt  // *Select, *Insert, *Update or *Delete
		Materialized *bool // nil: unspecified
	}
	// Locking is FOR UPDATE|NO KEY UPDATE|SHARE|KEY SHARE [OF …] [NOWAIT|SKIP LOCKED].
	Locking struct {
		Strength string // "update", "no key update", "share", "key share"
		Of       []Name
		Wait     string // "", "nowait", "skip locked"
	}

	// Alias is [AS] Name [(Columns)]; empty Name is no alias.
	Alias struct {
		Name    string
		Columns []string
	}
	Table struct {
		Name  Name
		Only  bool
		Alias Alias
		AsOf  Expr
		Pos   int
	}
	SubqueryTable struct {
		Query   *Select
		Lateral bool
		Alias   Alias
	}
	// FuncTable is f(…) in FROM; several Funcs for ROWS FROM.
	FuncTable struct {
		Funcs      []*Func
		Ordinality bool
		Lateral    bool
		Alias      Alias
		ColumnDefs []ColumnDef // AS t(a int, b text)
	}
	Join struct {
		Left, Right TableExpr
		Type        string // "inner", "left", "right", "full", "cross"
		Natural     bool
		On          Expr
		Using       []string
		Alias       Alias
		UsingAlias  bool // Alias came from USING (…) AS alias and names the merged columns only
	}
)

// ---- Data manipulation ----

type (
	Insert struct {
		With       []CTE
		Recursive  bool
		Table      Name
		Alias      string
		Columns    []string // nil: all in table order
		ColumnsPos []int
		Source     *Select // nil with DefaultValues
		Defaults   bool    // DEFAULT VALUES
		Overriding string  // "", "user", "system"
		OnConflict *OnConflict
		Returning  []Target
		Pos        int // of the table's name
	}
	OnConflict struct {
		Columns    []Expr // conflict target; empty with Constraint or none
		Where      Expr   // index predicate
		Constraint string
		DoNothing  bool
		Set        []Assignment
		SetWhere   Expr
	}
	// Assignment is col = expr or, with several Columns, (a,b) = row or query.
	Assignment struct {
		Columns []string
		Value   Expr
		// Part, if not nil, is the element or field of the column that is set, as
		// an expression: a[1], a.b.
		Part Expr
		Pos  int
	}
	Update struct {
		With      []CTE
		Recursive bool
		Table     Table
		Set       []Assignment
		From      []TableExpr
		Where     Expr
		Returning []Target
	}
	Delete struct {
		With      []CTE
		Recursive bool
		Table     Table
		Using     []TableExpr
		Where     Expr
		Returning []Target
	}
)

// ---- Schema ----

type (
	ColumnDef struct {
		Name        string
		Type        TypeName
		NotNull     bool
		Null        bool
		Default     Expr
		DefaultText string // source text, for catalogs
		Collation   Name
		Identity    string // "", "always", "by default"
		Generated   Expr   // GENERATED ALWAYS AS (…) STORED
		Constraints []Constraint
		Pos         int
	}
	// Constraint is a table or column constraint.
	Constraint struct {
		Name       string
		Kind       string // "primary key", "unique", "check", "foreign key"
		Columns    []string
		Check      Expr
		CheckText  string
		RefTable   Name
		RefColumns []string
		OnDelete   string // "", "cascade", "restrict", "set null", "set default", "no action"
		OnUpdate   string
		Deferrable bool
		Deferred   bool
		NotValid   bool
		UsingIndex string
		Include    []string
	}
	// Option is one of WITH (…), COPY's, EXPLAIN's, VACUUM's options; Value is ""
	// where none was given. COPY's old spelling arrives as the new one, with
	// "true" for its bare words; lists are joined with commas.
	Option struct {
		Name  string
		Value string
	}
	CreateTable struct {
		Name        Name
		IfNotExists bool
		Temporary   bool
		Unlogged    bool
		Columns     []ColumnDef
		Constraints []Constraint
		Like        []Name
		Options     []Option // WITH (…)
		As          *Select
		WithNoData  bool
		Interleave  Name // INTERLEAVE IN PARENT
	}
	DropTable struct {
		Names    []Name
		IfExists bool
		Cascade  bool
		Kind     string // "table", "view", "index", "sequence", "schema", "type", …
	}
	Truncate struct {
		Names           []Name
		Cascade         bool
		RestartIdentity bool
	}
	// AlterTable carries its actions in order.
	AlterTable struct {
		Name     Name
		IfExists bool
		Only     bool
		Actions  []AlterAction
	}
	AlterAction struct {
		Kind       string // "add column", "drop column", "add constraint", "drop constraint", "alter type", "set default", "drop default", "set not null", "drop not null", "rename", "rename column", "rename constraint", "set schema", "owner", "set options", "reset options", "validate constraint"
		Column     *ColumnDef
		Name       string
		NewName    string
		Constraint *Constraint
		Using      Expr
		IfExists   bool // or IF NOT EXISTS for add column
		Cascade    bool
		Options    []Option
	}
	IndexItem struct {
		Column  string
		Expr    Expr
		Desc    bool
		Nulls   *bool // true: NULLS FIRST
		OpClass string
	}
	CreateIndex struct {
		Name         string
		Table        Name
		Unique       bool
		Concurrently bool
		IfNotExists  bool
		Using        string
		Items        []IndexItem
		Include      []string
		Where        Expr
		Options      []Option
	}
	CreateSchema struct {
		Name        string
		IfNotExists bool
	}
	CreateDatabase struct{ Name string }
	// SplitTable is SPLIT TABLE t [INDEX i] BY (…),(…) or BETWEEN (…) AND (…) REGIONS n.
	SplitTable struct {
		Table   Name
		Index   string
		By      [][]Expr
		Lo, Hi  []Expr
		Regions int
	}
)

// ---- Utility ----

type (
	// Transaction is BEGIN, COMMIT, ROLLBACK, SAVEPOINT, RELEASE, ROLLBACK TO,
	// SET TRANSACTION and SET SESSION CHARACTERISTICS.
	Transaction struct {
		Kind      string // "begin", "commit", "rollback", "savepoint", "release", "rollback to", "set transaction", "set session characteristics"
		Name      string // savepoint
		Isolation string // "" or as asked for, lower case
		ReadOnly  *bool
		Deferr    *bool
		Chain     bool
		AsOf      Expr // of BEGIN READ ONLY AS OF TIMESTAMP, or nil
	}
	// SetVar is SET [LOCAL] name = values, or RESET (Default) / RESET ALL.
	SetVar struct {
		Name    string // lower case, dotted; "all" for RESET ALL; SET TIME ZONE is "timezone"
		Values  []string
		Local   bool
		Default bool
	}
	ShowVar struct{ Name string } // "all" for SHOW ALL
	// Copy is COPY t [(cols)] | (query) FROM STDIN | TO STDOUT.
	Copy struct {
		Table   Name
		Columns []string
		Query   Stmt
		From    bool
		Program bool
		File    string // "" is STDIN/STDOUT
		Options []Option
		Where   Expr
	}
	Explain struct {
		Stmt    Stmt
		Analyze bool
		Verbose bool
		Options []Option
	}
	// Maintenance is VACUUM, ANALYZE, REINDEX, CHECKPOINT, CLUSTER.
	Maintenance struct {
		Kind    string
		Tables  []Name
		Options []Option
	}
	Prepare struct {
		Name  string
		Types []TypeName
		Stmt  *Statement
	}
	Execute struct {
		Name string
		Args []Expr
	}
	Deallocate struct{ Name string } // "" is ALL
	Discard    struct{ What string }
	Declare    struct {
		Name         string
		Query        *Select
		Hold, Binary bool
		Scroll       *bool
		Insensitive  bool
	}
	// Fetch is FETCH or MOVE; Count is its row count, All for ALL.
	Fetch struct {
		Cursor    string
		Direction string // "forward", "backward", "absolute", "relative"
		Count     int64
		All       bool
		Move      bool
	}
	Close  struct{ Name string } // "" is ALL
	Listen struct {
		Kind    string // "listen", "unlisten", "notify"
		Channel string
		Payload string
	}
	Lock struct {
		Names  []Name
		Mode   string
		NoWait bool
	}
	Comment struct {
		Kind string
		Name Name
		Text *string
	}
	// Other is a statement that PostgreSQL has and that is parsed strictly but
	// not executed yet; Tag is its command tag ("CREATE FUNCTION").
	Other struct {
		Tag  string
		Text string
	}
)

func (*Select) stmt()         {}
func (*Insert) stmt()         {}
func (*Update) stmt()         {}
func (*Delete) stmt()         {}
func (*CreateTable) stmt()    {}
func (*DropTable) stmt()      {}
func (*Truncate) stmt()       {}
func (*AlterTable) stmt()     {}
func (*CreateIndex) stmt()    {}
func (*CreateSchema) stmt()   {}
func (*CreateDatabase) stmt() {}
func (*SplitTable) stmt()     {}
func (*Transaction) stmt()    {}
func (*SetVar) stmt()         {}
func (*ShowVar) stmt()        {}
func (*Copy) stmt()           {}
func (*Explain) stmt()        {}
func (*Maintenance) stmt()    {}
func (*Prepare) stmt()        {}
func (*Execute) stmt()        {}
func (*Deallocate) stmt()     {}
func (*Discard) stmt()        {}
func (*Declare) stmt()        {}
func (*Fetch) stmt()          {}
func (*Close) stmt()          {}
func (*Listen) stmt()         {}
func (*Lock) stmt()           {}
func (*Comment) stmt()        {}
func (*Other) stmt()          {}

func (*Const) expr()      {}
func (*Param) expr()      {}
func (*ColumnRef) expr()  {}
func (*Op) expr()         {}
func (*And) expr()        {}
func (*Or) expr()         {}
func (*Not) expr()        {}
func (*IsTest) expr()     {}
func (*Distinct) expr()   {}
func (*Between) expr()    {}
func (*In) expr()         {}
func (*Quantified) expr() {}
func (*Func) expr()       {}
func (*Case) expr()       {}
func (*Cast) expr()       {}
func (*Collate) expr()    {}
func (*Subquery) expr()   {}
func (*Exists) expr()     {}
func (*ArrayQuery) expr() {}
func (*Array) expr()      {}
func (*Row) expr()        {}
func (*Subscript) expr()  {}
func (*Field) expr()      {}
func (*Default) expr()    {}

func (*Table) tableExpr()         {}
func (*SubqueryTable) tableExpr() {}
func (*FuncTable) tableExpr()     {}
func (*Join) tableExpr()          {}
