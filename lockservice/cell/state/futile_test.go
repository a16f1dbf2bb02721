package state

import "testing"

// A probe is refused as its command would be, and remembered so; what nothing refuses it leaves alone.
func TestProbe(t *testing.T) {
	s := New("local")
	blobs := discard{}
	index := uint64(0)
	apply := func(c Command) Result {
		index++
		r, _ := s.Apply(&c, index, 1000, blobs)
		return r
	}
	apply(Command{Kind: CreateSession, Session: 1, TTL: 1e10})
	const path = "/ls/local/f"
	create := Command{Kind: SetContents, Session: 1, Request: 1, Path: path, Create: CreateIfAbsent, Contents: []byte("a")}
	for _, c := range []Command{create, {Kind: SetACL, Path: "/ls/local", ACL: &ACL{}}} {
		c.Probe = true
		if s.Futile(&c) {
			t.Fatal("would be refused")
		}
		before := s.Revision()
		if r := apply(c); !r.Spared || r.Err != nil || r.Node != nil || s.Revision() != before {
			t.Errorf("a probe that is not refused: %+v", r)
		}
	}
	if r := apply(create); r.Err != nil || !r.Created {
		t.Fatalf("after the probe: %+v", r)
	}
	wrong := uint64(9)
	probe := Command{Kind: Delete, Session: 1, Request: 2, Path: path, IfGeneration: &wrong, Probe: true}
	if !s.Futile(&probe) {
		t.Error("would be carried out")
	}
	if r := apply(probe); r.Spared || r.Err == nil || r.Err.Reason != GenerationMismatch {
		t.Errorf("a probe that is refused: %+v", r)
	}
	again := probe
	again.Probe, again.IfGeneration = false, nil
	if !s.Futile(&again) {
		t.Error("what was answered would be carried out")
	}
	if r := apply(again); r.Err == nil || r.Err.Reason != GenerationMismatch {
		t.Errorf("the refusal was forgotten: %+v", r)
	}
	held := Command{Kind: Delete, Session: 1, Request: 3, Path: path, Hold: 77}
	if r := apply(held); r.Err == nil || r.Err.Reason != StaleSequencer {
		t.Errorf("L1: deleted under a hold that there is not: %+v", r)
	}
}

type discard struct{}

func (discard) Put(uint64, []byte) {}
func (discard) Delete(uint64)      {}
