package catalog

import (
	"context"
	"errors"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// Bootstrap makes the first database, schema and user unless a node has done so
// already. It is one transaction, so the first node to come wins.
func (m *Manager) Bootstrap(ctx context.Context) error {
	return m.runSmall(ctx, func(t kv.Txn) error {
		vs, err := t.Get(ctx, []keys.Key{versionKey}, tablet.LockExclusive, tablet.WaitBlock)
		if err != nil {
			return err
		}
		if vs[0] != nil {
			_, err := decodeCounter(vs[0])
			return err
		}
		db := Database{ID: DefaultDatabaseID, Name: DefaultDatabase}
		schema := Schema{ID: PublicSchemaID, DB: db.ID, Name: PublicSchema}
		for _, w := range []tablet.Write{
			{Key: versionKey, Value: encodeCounter(1)},
			{Key: counterKey, Value: encodeCounter(uint64(firstFreeID))},
			{Key: databaseKey(db.ID), Value: encode(db)},
			{Key: nameKey(0, db.Name), Value: encode(Entry{Kind: 'd', ID: db.ID})},
			{Key: schemaKey(schema.ID), Value: encode(schema)},
			{Key: nameKey(db.ID, schema.Name), Value: encode(Entry{Kind: 's', ID: schema.ID})},
		} {
			if err := t.Put(ctx, w.Key, w.Value); err != nil {
				return err
			}
		}
		return nil
	})
}

// runSmall runs f in a transaction of its own until it commits. Every use can be
// repeated harmlessly, so an unknown outcome is simply tried again by the caller.
func (m *Manager) runSmall(ctx context.Context, f func(kv.Txn) error) error {
	var age truetime.Timestamp
	for {
		t := m.cfg.KV.Begin(ctx, kv.TxnOptions{Age: age})
		age = t.ID().Age
		err := f(t)
		if err == nil {
			_, err = t.Commit(ctx)
		}
		if err == nil {
			return nil
		}
		t.Rollback(ctx)
		var aborted *tablet.AbortedError
		if !errors.As(err, &aborted) {
			return err
		}
		if aborted.Reason == tablet.AbortHorizon {
			age = 0
		}
	}
}
