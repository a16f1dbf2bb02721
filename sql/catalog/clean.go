package catalog

import (
	"context"
	"errors"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/sql/rowcodec"
	"github.com/spandb/spand/tablet"
)

// cleanBatch bounds how many rows one transaction of the cleaner deletes.
const cleanBatch = 1000

// reclaim hands orphans whose transaction has ended to the cleaner.
func (m *Manager) reclaim(jobs []Job) {
	if len(jobs) == 0 {
		return
	}
	m.mu.Lock()
	m.mu.dead = append(m.mu.dead, jobs...)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default: // it is awake already
	}
}

func (m *Manager) cleanLoop() {
	defer m.wg.Done()
	tick := time.NewTicker(m.cfg.CleanEvery)
	defer tick.Stop()
	for {
		if err := m.Clean(m.ctx); err != nil && m.ctx.Err() == nil {
			m.cfg.Logger.Warn("cleaning up dropped tables failed; it will be tried again", "error", err)
		}
		select {
		case <-m.ctx.Done():
			return
		case <-tick.C:
		case <-m.wake:
		}
	}
}

// Clean deletes the rows of every cleanup job that is due.
func (m *Manager) Clean(ctx context.Context) error {
	m.mu.Lock()
	dead := m.mu.dead
	m.mu.dead = nil
	m.mu.Unlock()
	known := make(map[ID]bool, len(dead))
	for _, j := range dead {
		known[j.Phys] = true
	}
	var due []Job
	t := m.cfg.KV.ReadOnly(ctx, 0)
	it := t.Scan(ctx, kv.ScanRequest{Span: letterSpan('j')})
	now := m.now()
	for it.Next() {
		var j Job
		if err := decode(it.Value(), &j); err != nil {
			it.Close()
			t.Rollback(ctx)
			return err
		}
		switch {
		case known[j.Phys],
			j.Kind == JobOrphan && now.Sub(j.At) > m.cfg.OrphanAge,
			j.Kind == JobDrop && now.Sub(j.At) > m.cfg.GCHorizon:
			due = append(due, j)
		}
	}
	err := it.Err()
	it.Close()
	t.Rollback(ctx)
	if err != nil {
		m.reclaimLater(dead)
		return err
	}
	var errs []error
	for _, j := range due {
		if err := m.cleanJob(ctx, j); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// reclaimLater puts orphans back without waking the cleaner.
func (m *Manager) reclaimLater(jobs []Job) {
	m.mu.Lock()
	m.mu.dead = append(m.mu.dead, jobs...)
	m.mu.Unlock()
}

// cleanJob first takes the orphan row away, so that its transaction can no longer
// commit (publishPhys), then deletes the rows in batches, then the job. Another
// node's cleaner may be at the same job: its lock makes this one leave it alone.
func (m *Manager) cleanJob(ctx context.Context, j Job) error {
	k := jobKey(j.Phys)
	if j.Kind == JobOrphan {
		done := false
		err := m.runSmall(ctx, func(t kv.Txn) error {
			vs, err := t.Get(ctx, []keys.Key{k}, tablet.LockExclusive, tablet.WaitNoWait)
			if err != nil || vs[0] == nil {
				done = true
				return err
			}
			j.Kind, j.At = JobDrop, 0
			return t.Put(ctx, k, encode(j))
		})
		if err != nil || done {
			return ignoreLocked(err)
		}
	}
	prefix := rowcodec.AppendPrefix(nil, false, uint64(j.DB), uint64(j.Table), uint64(j.Phys))
	span := keys.Span{Start: prefix, End: keys.PrefixEnd(prefix)}
	for more := true; more; {
		err := m.runSmall(ctx, func(t kv.Txn) error {
			vs, err := t.Get(ctx, []keys.Key{k}, tablet.LockExclusive, tablet.WaitNoWait)
			if err != nil {
				return err
			}
			if more = vs[0] != nil; !more {
				return nil // finished by another node
			}
			it := t.Scan(ctx, kv.ScanRequest{Span: span, Limit: cleanBatch, Lock: tablet.LockExclusive})
			var found []keys.Key
			for len(found) < cleanBatch && it.Next() {
				found = append(found, it.Key())
			}
			err = it.Err()
			it.Close()
			if err != nil {
				return err
			}
			for _, row := range found {
				if err := t.Delete(ctx, row); err != nil {
					return err
				}
			}
			if more = len(found) == cleanBatch; !more {
				return t.Delete(ctx, k)
			}
			return nil
		})
		if err != nil {
			return ignoreLocked(err)
		}
	}
	return nil
}

// ignoreLocked: another node is at it.
func ignoreLocked(err error) error {
	var locked *tablet.LockUnavailableError
	if errors.As(err, &locked) {
		return nil
	}
	return err
}
