package sql

import (
	"hash/maphash"
	"sync"

	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/types"
)

// compiled is a plan as a session runs it: with its columns and parameter types in
// the form that clients are told.
type compiled struct {
	plan   *plan.Plan
	cols   []Column // nil: no rows
	params []types.OID
}

func compile(p *plan.Plan) *compiled {
	c := &compiled{plan: p}
	if p.Columns != nil {
		c.cols = make([]Column, len(p.Columns))
		for i, pc := range p.Columns {
			c.cols[i] = Column(pc)
		}
	}
	for _, t := range p.Params {
		oid := t.OID
		if oid == 0 {
			oid = types.OIDText
		}
		c.params = append(c.params, oid)
	}
	return c
}

// planCache shares plans between sessions, by statement shape, classes of constants,
// parameter types and name space. Entries of an older schema version are replaced
// when they are met.
type planCache struct {
	seed   maphash.Seed
	shards [16]planShard
}

type planShard struct {
	mu    sync.RWMutex
	plans map[string]*compiled
}

// plansPerShard bounds a shard.
const plansPerShard = 512

func (pc *planCache) init() {
	pc.seed = maphash.MakeSeed()
	for i := range pc.shards {
		pc.shards[i].plans = make(map[string]*compiled)
	}
}

func (pc *planCache) shard(key []byte) *planShard {
	return &pc.shards[maphash.Bytes(pc.seed, key)%uint64(len(pc.shards))]
}

// get returns the plan for key if it was made for version.
func (pc *planCache) get(key []byte, version uint64) *compiled {
	s := pc.shard(key)
	s.mu.RLock()
	c := s.plans[string(key)]
	s.mu.RUnlock()
	if c == nil || c.plan.Version != version {
		return nil
	}
	return c
}

func (pc *planCache) put(key []byte, c *compiled) {
	s := pc.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.plans) >= plansPerShard {
		for k := range s.plans { // any one: the map's order is random
			delete(s.plans, k)
			break
		}
	}
	s.plans[string(key)] = c
}
