package catalog

import (
	"context"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/tablet"
)

// This file holds the writes: every method takes the exclusive locks on what it
// changes, writes through the transaction, and records the change in the view.

func (v *View) begin() *changes {
	if v.ch == nil {
		v.ch = &changes{names: make(map[nameRef]*Entry), tables: make(map[ID]*Table)}
	}
	return v.ch
}

// Allocate takes n consecutive ids, of which the ones named by phys (offsets) are
// physical ids of table (an offset too when table is below n), in a transaction of
// its own: ids are never given twice and the rows under physical ids are always found again.
func (v *View) Allocate(ctx context.Context, n int, db, table ID, tableIsOffset bool, phys ...int) (ID, error) {
	var first ID
	var jobs []Job
	err := v.m.runSmall(ctx, func(t kv.Txn) error {
		vs, err := t.Get(ctx, []keys.Key{counterKey}, tablet.LockExclusive, tablet.WaitBlock)
		if err != nil {
			return err
		}
		next, err := decodeCounter(vs[0])
		if err != nil {
			return err
		}
		if next+uint64(n) > 1<<32-1 {
			return sqlstate.Newf(sqlstate.ProgramLimitExceeded, "object identifiers are used up")
		}
		first = ID(next)
		if err := t.Put(ctx, counterKey, encodeCounter(next+uint64(n))); err != nil {
			return err
		}
		tab := table
		if tableIsOffset {
			tab = first + table
		}
		jobs = jobs[:0]
		for _, p := range phys {
			j := Job{Kind: JobOrphan, DB: db, Table: tab, Phys: first + ID(p), At: v.m.now()}
			jobs = append(jobs, j)
			if err := t.Put(ctx, jobKey(j.Phys), encode(j)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	ch := v.begin()
	ch.newPhys = append(ch.newPhys, jobs...)
	return first, nil
}

// ClaimName locks a relation's name and maps it to e. It fails with duplicate when
// the name is taken.
func (v *View) ClaimName(ctx context.Context, t kv.Txn, schema ID, name string, e Entry, duplicate error) error {
	k := nameKey(schema, name)
	vs, err := t.Get(ctx, []keys.Key{k}, tablet.LockExclusive, tablet.WaitBlock)
	if err != nil {
		return err
	}
	if vs[0] != nil {
		return duplicate
	}
	v.begin().names[nameRef{schema, name}] = &e
	return t.Put(ctx, k, encode(e))
}

// FreeName removes a relation's name.
func (v *View) FreeName(ctx context.Context, t kv.Txn, schema ID, name string) error {
	v.begin().names[nameRef{schema, name}] = nil
	return t.Delete(ctx, nameKey(schema, name))
}

// LockTable takes the exclusive lock on a table's descriptor and returns a copy that
// the caller may change and hand to PutTable. A table that somebody else changed
// since this transaction's schema version is refused, retryably.
func (v *View) LockTable(ctx context.Context, t kv.Txn, id ID) (*Table, error) {
	seen, err := v.Table(ctx, id)
	if err != nil {
		return nil, err
	}
	d, err := readTable(ctx, t, id, tablet.LockExclusive)
	if err != nil {
		return nil, err
	}
	if d == nil || seen == nil || d.Version != seen.Version {
		return nil, errSchemaChanged()
	}
	v.begin()
	return d.Clone(), nil
}

// PutTable writes a changed or new descriptor.
func (v *View) PutTable(ctx context.Context, t kv.Txn, d *Table) error {
	d.Version++
	v.begin().tables[d.ID] = d
	return t.Put(ctx, tableKey(d.ID), encode(d))
}

// DropTable removes a locked table: its descriptor, its names, and, later, its rows.
func (v *View) DropTable(ctx context.Context, t kv.Txn, d *Table) error {
	for i := range d.Indexes {
		if err := v.RetirePhys(ctx, t, d, d.Indexes[i].Phys); err != nil {
			return err
		}
		if d.Indexes[i].Name == "" {
			continue // the hidden row id's index has no name
		}
		if err := v.FreeName(ctx, t, d.Schema, d.Indexes[i].Name); err != nil {
			return err
		}
	}
	if err := v.FreeName(ctx, t, d.Schema, d.Name); err != nil {
		return err
	}
	v.begin().tables[d.ID] = nil
	return t.Delete(ctx, tableKey(d.ID))
}

// RetirePhys leaves a job that deletes the rows under phys once this transaction has
// committed and no reader can need them. Ids of this same transaction are nobody's
// yet: their orphan row stays and serves.
func (v *View) RetirePhys(ctx context.Context, t kv.Txn, d *Table, phys ID) error {
	ch := v.begin()
	if v.IsNewPhys(phys) {
		ch.retired = append(ch.retired, phys)
		return nil
	}
	j := Job{Kind: JobDrop, DB: d.DB, Table: d.ID, Phys: phys, At: v.m.now()}
	return t.Put(ctx, jobKey(phys), encode(j))
}

// CreateSchema makes a schema.
func (v *View) CreateSchema(ctx context.Context, t kv.Txn, db ID, name string) error {
	k := nameKey(db, name)
	vs, err := t.Get(ctx, []keys.Key{k}, tablet.LockExclusive, tablet.WaitBlock)
	if err != nil {
		return err
	}
	if vs[0] != nil {
		return sqlstate.Newf(sqlstate.DuplicateSchema, "schema %q already exists", name)
	}
	id, err := v.Allocate(ctx, 1, 0, 0, false)
	if err != nil {
		return err
	}
	s := &Schema{ID: id, DB: db, Name: name}
	ch := v.begin()
	ch.schemas = append(ch.schemas, s)
	if err := t.Put(ctx, k, encode(Entry{Kind: 's', ID: id})); err != nil {
		return err
	}
	return t.Put(ctx, schemaKey(id), encode(s))
}

// CreateDatabase makes a database with its schema public.
func (v *View) CreateDatabase(ctx context.Context, t kv.Txn, name string) error {
	k := nameKey(0, name)
	vs, err := t.Get(ctx, []keys.Key{k}, tablet.LockExclusive, tablet.WaitBlock)
	if err != nil {
		return err
	}
	if vs[0] != nil {
		return sqlstate.Newf(sqlstate.DuplicateDatabase, "database %q already exists", name)
	}
	id, err := v.Allocate(ctx, 1, 0, 0, false)
	if err != nil {
		return err
	}
	d := &Database{ID: id, Name: name}
	ch := v.begin()
	ch.databases = append(ch.databases, d)
	if err := t.Put(ctx, k, encode(Entry{Kind: 'd', ID: id})); err != nil {
		return err
	}
	if err := t.Put(ctx, databaseKey(id), encode(d)); err != nil {
		return err
	}
	return v.CreateSchema(ctx, t, id, PublicSchema)
}
