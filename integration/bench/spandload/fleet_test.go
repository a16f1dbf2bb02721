package main

import (
	"testing"

	"github.com/spandb/spand/lockservice/lockpb"
)

// TestRoster: only the answer to the newest beat of a session counts, and only a session that lives.
func TestRoster(t *testing.T) {
	r := &roster{byID: map[uint64]*member{}}
	a, b := &member{id: 7, epoch: 3}, &member{id: 8, epoch: 3}
	r.beats([]*member{a, b})
	beats := r.beats([]*member{a})
	if len(beats) != 1 || beats[0].Session != 7 || beats[0].Number != 2 || beats[0].Epoch != 3 {
		t.Fatalf("beats %v", beats)
	}
	lease := func(session, number uint64, ttl int64) *lockpb.Lease {
		return &lockpb.Lease{Session: session, Number: number, TtlNs: ttl}
	}
	got, err := r.answered([]*lockpb.Lease{lease(7, 1, 9), lease(8, 1, 9), lease(7, 2, 9)})
	if err != nil || len(got) != 2 || got[0] != b || got[1] != a {
		t.Errorf("answered %v, %v", got, err)
	}
	for _, l := range []*lockpb.Lease{lease(7, 2, 0), lease(9, 1, 9)} {
		if _, err := r.answered([]*lockpb.Lease{l}); err == nil {
			t.Errorf("%v passes", l)
		}
	}
}
