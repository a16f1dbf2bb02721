package catalog

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// Use names a descriptor that a plan was made from.
type Use struct {
	Table   ID
	Version uint64
}

// View is the schema as one transaction sees it: the lease's descriptors, with its
// own uncommitted changes on top. It belongs to one goroutine.
type View struct {
	m     *Manager
	lease *Lease
	at    truetime.Timestamp // of a read-only transaction, 0 for others

	// What the transaction used, by schema version: checked again at commit (B2).
	version uint64 // of all uses so far; 0: none yet
	mixed   bool   // uses of several versions: validate one by one
	uses    [][]Use

	ch *changes // nil: the transaction did not change the schema
}

// changes are uncommitted descriptors.
type changes struct {
	names     map[nameRef]*Entry // nil: removed
	tables    map[ID]*Table      // nil: dropped
	databases []*Database
	schemas   []*Schema
	newPhys   []Job // orphan rows to delete at commit; only grows
	retired   []ID  // new ids dropped again by this transaction: their orphan rows stay
}

// NewView returns a view for one transaction.
func (m *Manager) NewView() *View { return &View{m: m} }

// Reset makes v ready for another transaction.
func (v *View) Reset() { *v = View{m: v.m, uses: v.uses[:0]} }

// Begin pins a valid lease for the next statement. Version then says which schema
// version a cached plan must have been made for.
func (v *View) Begin(ctx context.Context) error {
	if v.at != 0 {
		return nil // a read-only transaction keeps the lease that its timestamp lies under
	}
	l, err := v.m.Lease(ctx)
	if err != nil {
		return err
	}
	v.lease = l
	return nil
}

// Pin ties the view to a read-only transaction's timestamp. It reports false when
// the lease pinned by Begin does not cover t: begin again.
func (v *View) Pin(t truetime.Timestamp) bool {
	if !v.m.Current(v.lease, t) {
		return false
	}
	v.at = t
	return true
}

// Version of the schema pinned by Begin.
func (v *View) Version() uint64 { return v.lease.Version }

// Changed reports whether this transaction changed the schema, so that plans from
// the shared cache do not fit it.
func (v *View) Changed() bool { return v.ch != nil }

// Used records that a statement used descriptors of the pinned version.
func (v *View) Used(uses []Use) {
	if len(uses) == 0 {
		return
	}
	if v.version != 0 && v.version != v.lease.Version {
		v.mixed = true
	}
	v.version = v.lease.Version
	for _, have := range v.uses {
		if &have[0] == &uses[0] {
			return
		}
	}
	v.uses = append(v.uses, uses)
}

// retry runs f again under a newer lease when the pinned one ended in between.
func (v *View) retry(ctx context.Context, f func() error) error {
	for {
		err := f()
		if !errors.Is(err, errStaleLease) {
			return err
		}
		if err := v.Begin(ctx); err != nil {
			return err
		}
	}
}

// Name looks a relation up in a schema.
func (v *View) Name(ctx context.Context, schema ID, name string) (e Entry, ok bool, err error) {
	if v.ch != nil {
		if c, changed := v.ch.names[nameRef{schema, name}]; changed {
			if c == nil {
				return Entry{}, false, nil
			}
			return *c, true, nil
		}
	}
	err = v.retry(ctx, func() error {
		n, err := v.m.cachedName(ctx, v.lease, v.at, schema, name)
		e, ok = n.entry, n.found
		return err
	})
	return e, ok, err
}

// Table returns a table's descriptor, nil when there is none.
func (v *View) Table(ctx context.Context, id ID) (t *Table, err error) {
	if v.ch != nil {
		if c, changed := v.ch.tables[id]; changed {
			return c, nil
		}
	}
	err = v.retry(ctx, func() error {
		t, err = v.m.cachedTable(ctx, v.lease, v.at, id)
		return err
	})
	return t, err
}

// Databases lists them.
func (v *View) Databases(ctx context.Context) (ds []*Database, err error) {
	err = v.retry(ctx, func() error {
		ds, err = v.m.cachedDatabases(ctx, v.lease, v.at)
		return err
	})
	if v.ch != nil {
		ds = append(slices.Clip(ds), v.ch.databases...)
	}
	return ds, err
}

// Database finds one by name, nil when there is none.
func (v *View) Database(ctx context.Context, name string) (*Database, error) {
	ds, err := v.Databases(ctx)
	for _, d := range ds {
		if d.Name == name {
			return d, err
		}
	}
	return nil, err
}

// Schemas lists the schemas of a database.
func (v *View) Schemas(ctx context.Context, db ID) (out []*Schema, err error) {
	err = v.retry(ctx, func() error {
		all, err := v.m.cachedSchemas(ctx, v.lease, v.at)
		out = out[:0]
		for _, s := range all {
			if s.DB == db {
				out = append(out, s)
			}
		}
		return err
	})
	if v.ch != nil {
		for _, s := range v.ch.schemas {
			if s.DB == db {
				out = append(out, s)
			}
		}
	}
	return out, err
}

// Schema finds one by name, nil when there is none.
func (v *View) Schema(ctx context.Context, db ID, name string) (*Schema, error) {
	ss, err := v.Schemas(ctx, db)
	for _, s := range ss {
		if s.Name == name {
			return s, err
		}
	}
	return nil, err
}

// Tables lists the tables of a database in id order.
func (v *View) Tables(ctx context.Context, db ID) (out []*Table, err error) {
	err = v.retry(ctx, func() error {
		all, err := v.m.cachedTables(ctx, v.lease, v.at)
		out = out[:0]
		for _, t := range all {
			if t.DB == db {
				out = append(out, t)
			}
		}
		return err
	})
	if err != nil || v.ch == nil {
		return out, err
	}
	kept := out[:0]
	for _, t := range out {
		if _, changed := v.ch.tables[t.ID]; !changed {
			kept = append(kept, t)
		}
	}
	for _, t := range v.ch.tables {
		if t != nil && t.DB == db {
			kept = append(kept, t)
		}
	}
	slices.SortFunc(kept, func(a, b *Table) int { return int(int64(a.ID) - int64(b.ID)) })
	return kept, nil
}

// EnterCommit makes a read-write transaction that did not change the schema ready
// to commit: it checks that the descriptors used are unchanged and bounds the
// commit by the lease (B2). After the commit the caller calls Manager.LeaveCommit
// with the lease, which is nil when no descriptor was used.
func (v *View) EnterCommit(ctx context.Context, t kv.Txn) (*Lease, error) {
	if v.version == 0 {
		return nil, nil
	}
	for {
		l, err := v.m.EnterCommit(ctx)
		if err != nil {
			return nil, err
		}
		if v.mixed || l.Version != v.version {
			v.lease = l
			err = v.validate(func(id ID) (*Table, error) { return v.m.cachedTable(ctx, l, 0, id) })
		}
		if err == nil {
			t.BoundCommit(l.End)
			return l, nil
		}
		v.m.LeaveCommit(l, false)
		if !errors.Is(err, errStaleLease) {
			return nil, err
		}
	}
}

// errSchemaChanged is what a transaction gets whose tables were changed under it.
func errSchemaChanged() error {
	return sqlstate.Newf(sqlstate.SerializationFailure, "could not serialize access due to a concurrent schema change").
		WithHint("The transaction might succeed if retried.")
}

func (v *View) validate(table func(ID) (*Table, error)) error {
	for _, uses := range v.uses {
		for _, u := range uses {
			if v.ch != nil {
				if _, own := v.ch.tables[u.Table]; own {
					continue // checked under its lock when it was changed
				}
			}
			t, err := table(u.Table)
			if err != nil {
				return err
			}
			if t == nil || t.Version != u.Version {
				return errSchemaChanged()
			}
		}
	}
	return nil
}

// CommitChanges makes a transaction that changed the schema ready to commit: it
// takes the version key's exclusive lock, revokes every lease and writes the new
// version. The caller commits at once afterwards.
func (v *View) CommitChanges(ctx context.Context, t kv.Txn) error {
	version, err := readVersion(ctx, t, tablet.LockExclusive)
	if err != nil {
		return err
	}
	lockedAt := v.m.clock.Now().Latest
	if v.version != 0 && (v.mixed || version != v.version) {
		err := v.validate(func(id ID) (*Table, error) { return readTable(ctx, t, id, tablet.LockShared) })
		if err != nil {
			return err
		}
	}
	if err := v.publishPhys(ctx, t); err != nil {
		return err
	}
	if err := t.Put(ctx, versionKey, encodeCounter(version+1)); err != nil {
		return err
	}
	return v.m.revokeAll(ctx, version+1, lockedAt)
}

// publishPhys deletes the orphan rows of the ids that this transaction publishes.
func (v *View) publishPhys(ctx context.Context, t kv.Txn) error {
	if len(v.ch.newPhys) == 0 {
		return nil
	}
	var ks []keys.Key
	for _, j := range v.ch.newPhys {
		if !slices.Contains(v.ch.retired, j.Phys) {
			ks = append(ks, jobKey(j.Phys))
		}
	}
	if len(ks) == 0 {
		return nil
	}
	vs, err := t.Get(ctx, ks, tablet.LockExclusive, tablet.WaitBlock)
	if err != nil {
		return err
	}
	for i, val := range vs {
		if val == nil {
			return sqlstate.Newf(sqlstate.SerializationFailure, "transaction took too long: its new table's storage was reclaimed").
				WithHint("The transaction might succeed if retried.")
		}
		if err := t.Delete(ctx, ks[i]); err != nil {
			return err
		}
	}
	return nil
}

// Abandon tells the cleaner that the transaction has ended without committing.
func (v *View) Abandon() {
	if v.ch != nil {
		v.m.reclaim(v.ch.newPhys)
	}
}

// Committed tells the cleaner which of the transaction's own new ids it dropped again.
func (v *View) Committed() {
	if v.ch == nil || len(v.ch.retired) == 0 {
		return
	}
	var dead []Job
	for _, j := range v.ch.newPhys {
		if slices.Contains(v.ch.retired, j.Phys) {
			dead = append(dead, j)
		}
	}
	v.m.reclaim(dead)
}

// IsNewPhys reports whether phys was made by this transaction: nobody else can know
// of rows under it.
func (v *View) IsNewPhys(phys ID) bool {
	return v.ch != nil && slices.ContainsFunc(v.ch.newPhys, func(j Job) bool { return j.Phys == phys })
}

// Mark copies the uncommitted changes for a savepoint; Restore goes back to it.
func (v *View) Mark() any {
	if v.ch == nil {
		return (*changes)(nil)
	}
	c := *v.ch
	c.names, c.tables = maps.Clone(c.names), maps.Clone(c.tables)
	c.databases, c.schemas = slices.Clone(c.databases), slices.Clone(c.schemas)
	c.retired = slices.Clone(c.retired)
	return &c
}

// Restore goes back to a Mark. Physical ids taken since then stay known, so that
// they are cleaned up.
func (v *View) Restore(mark any) {
	m := mark.(*changes)
	if v.ch == nil {
		return
	}
	phys := v.ch.newPhys
	if m == nil {
		if len(phys) > 0 {
			v.m.reclaim(phys)
		}
		v.ch = nil
		return
	}
	c := *m
	c.names, c.tables = maps.Clone(c.names), maps.Clone(c.tables)
	c.databases, c.schemas = slices.Clone(c.databases), slices.Clone(c.schemas)
	c.retired = slices.Clone(c.retired)
	v.m.reclaim(phys[len(m.newPhys):])
	v.ch = &c
}

func readTable(ctx context.Context, t kv.Txn, id ID, lock tablet.LockStrength) (*Table, error) {
	vs, err := t.Get(ctx, []keys.Key{tableKey(id)}, lock, tablet.WaitBlock)
	if err != nil || vs[0] == nil {
		return nil, err
	}
	return decodeTable(vs[0])
}

// now is the timestamp that job rows carry.
func (m *Manager) now() truetime.Timestamp { return m.clock.Now().Latest }

// Pinned reports whether Begin has been called since the last Reset.
func (v *View) Pinned() bool { return v.lease != nil }
