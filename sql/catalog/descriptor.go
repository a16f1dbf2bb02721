package catalog

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/truetime"
)

// ID names a database, schema, table, index or user, or is a physical id. Ids of
// one cluster come from one counter and double as PostgreSQL's oids.
type ID uint64

// Ids that exist from bootstrap on, and where the counter starts (PostgreSQL's
// FirstNormalObjectId).
const (
	DefaultDatabaseID ID = 1
	RootUserID        ID = 10
	PGCatalogID       ID = 11
	PublicSchemaID    ID = 2200
	InformationID     ID = 13000
	SpandSchemaID     ID = 13500
	firstFreeID       ID = 16384
)

// The names that bootstrap makes.
const (
	DefaultDatabase = "spand"
	PublicSchema    = "public"
	RootUser        = "root"
)

type (
	// Database is a descriptor.
	Database struct {
		ID   ID
		Name string
	}
	// Schema is a descriptor.
	Schema struct {
		ID   ID
		DB   ID
		Name string
	}
	// Column of a table. ID is its attribute number: from 1, never reused.
	Column struct {
		ID      uint32
		Name    string
		Type    types.Type
		NotNull bool   `json:",omitempty"`
		Default string `json:",omitempty"` // SQL text, "" for none
		// Hidden marks the row id of a table without a primary key: unique without
		// coordination, never shown.
		Hidden bool `json:",omitempty"`
	}
	// IndexColumn is a column of an index by its id.
	IndexColumn struct {
		Column uint32
		Desc   bool `json:",omitempty"`
	}
	// Index of a table, the primary one included. ID is its oid, Phys the id under
	// which its rows are stored now.
	Index struct {
		ID         ID
		Phys       ID
		Name       string
		Columns    []IndexColumn
		Unique     bool `json:",omitempty"`
		Primary    bool `json:",omitempty"`
		Constraint bool `json:",omitempty"` // made by a UNIQUE or PRIMARY KEY constraint
	}
	// Table is a descriptor. Version grows with every change of it. Indexes[0] is
	// the primary index, whose rows are the table's rows.
	Table struct {
		ID         ID
		DB         ID
		Schema     ID
		Name       string
		Version    uint64
		Columns    []Column
		NextColumn uint32
		Indexes    []Index
		// FencedBy is the path of the lock that must be held to write, "" for none.
		FencedBy string `json:",omitempty"`
	}
)

// HasPrimaryKey reports whether the user declared a primary key.
func (t *Table) HasPrimaryKey() bool { return t.Indexes[0].Constraint }

// Primary returns the primary index.
func (t *Table) Primary() *Index { return &t.Indexes[0] }

// Ordinal returns the position of the column with id, -1 when there is none.
func (t *Table) Ordinal(id uint32) int {
	for i := range t.Columns {
		if t.Columns[i].ID == id {
			return i
		}
	}
	return -1
}

// ColumnByName returns a visible column's position, -1 when there is none.
func (t *Table) ColumnByName(name string) int {
	for i := range t.Columns {
		if t.Columns[i].Name == name && !t.Columns[i].Hidden {
			return i
		}
	}
	return -1
}

// HiddenColumn returns the position of the hidden row id, -1 when there is none.
func (t *Table) HiddenColumn() int {
	for i := range t.Columns {
		if t.Columns[i].Hidden {
			return i
		}
	}
	return -1
}

// Clone returns a copy that may be changed.
func (t *Table) Clone() *Table {
	c := *t
	c.Columns = append([]Column(nil), t.Columns...)
	c.Indexes = append([]Index(nil), t.Indexes...)
	for i := range c.Indexes {
		c.Indexes[i].Columns = append([]IndexColumn(nil), c.Indexes[i].Columns...)
	}
	return &c
}

// RelationKind of a name entry.
type RelationKind byte

const (
	KindTable RelationKind = 'r'
	KindIndex RelationKind = 'i'
)

// Entry is what a relation name maps to.
type Entry struct {
	Kind  RelationKind
	ID    ID
	Table ID // the index's table; ID itself for a table
}

// JobKind of a cleanup job.
type JobKind string

const (
	JobOrphan JobKind = "orphan" // not yet published by any committed catalog
	JobDrop   JobKind = "drop"   // no longer named; due after the GC horizon
)

// Job says that the rows under a physical id are to be deleted.
type Job struct {
	Kind  JobKind
	DB    ID
	Table ID
	Phys  ID
	At    truetime.Timestamp
}

// formatVersion is the first byte of every stored catalog value. A table that is
// fenced_by a lock has fencedVersion, so that a program which knows nothing of fences
// refuses the table instead of writing to it without one.
const (
	formatVersion = 1
	fencedVersion = 2
)

var errFormat = errors.New("catalog: unknown format version")

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("catalog: descriptor does not encode: %v", err)) // plain structs only
	}
	version := byte(formatVersion)
	if t, ok := v.(*Table); ok && t.FencedBy != "" {
		version = fencedVersion
	}
	return append([]byte{version}, b...)
}

func decode(b []byte, into any) error {
	if len(b) == 0 || b[0] != formatVersion {
		return errFormat
	}
	if err := json.Unmarshal(b[1:], into); err != nil {
		return fmt.Errorf("catalog: damaged descriptor: %w", err)
	}
	return nil
}

func decodeTable(b []byte) (*Table, error) {
	t := new(Table)
	fenced := len(b) > 0 && b[0] == fencedVersion
	if fenced {
		b = append([]byte{formatVersion}, b[1:]...)
	}
	if err := decode(b, t); err != nil {
		return nil, err
	}
	if fenced != (t.FencedBy != "") {
		return nil, errors.New("catalog: damaged descriptor: format version and fence disagree")
	}
	if len(t.Indexes) == 0 || len(t.Indexes[0].Columns) == 0 {
		return nil, errors.New("catalog: damaged descriptor: table without primary index")
	}
	for i := range t.Indexes {
		for _, c := range t.Indexes[i].Columns {
			if t.Ordinal(c.Column) < 0 {
				return nil, errors.New("catalog: damaged descriptor: index on a missing column")
			}
		}
	}
	return t, nil
}
