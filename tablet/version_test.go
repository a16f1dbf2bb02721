package tablet

import (
	"context"
	"strings"
	"testing"

	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/internal/version"
	"github.com/spandb/spand/paxosgroup"
)

// A command that came with a later version than the cluster's is not proposed,
// hence never met by a replica that does not know it.
func TestCommandsWaitForTheClustersVersion(t *testing.T) {
	for kind := commandKind(1); kind < cmdKindEnd; kind++ {
		if cameWith[kind] < version.V1 || cameWith[kind] > version.Binary.Max {
			t.Errorf("command kind %d came with version %d; name one that this program runs", kind, cameWith[kind])
		}
	}
	defer func(v version.Version) { cameWith[cmdCommit] = v }(cameWith[cmdCommit])
	cameWith[cmdCommit] = 2
	var gate version.Gate
	bubble(t, func(c *Config) { c.Version = &gate }, func(t *testing.T, w *world) {
		ref := w.txn(1)
		_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Writes: []Write{put("k", "v")}})
		if err == nil || !strings.Contains(err.Error(), "came with cluster version 2, the cluster's is 1") {
			t.Errorf("a command of version 2 in a cluster of version 1: %v", err)
		}
		if len(w.g.log) != 0 {
			t.Error("it was proposed")
		}
		gate.Raise(2)
		w.commit(ref, put("k", "v")) // as if it had not been tried before
	})
}

func TestUnknownCommandsAreAnError(t *testing.T) {
	tb := New(Config{Group: 7, Reader: &memEngine{}})
	if err := tb.Restore(InitialState(testDescriptor())); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		data []byte
		want string
	}{
		{[]byte{commandVersion, byte(cmdKindEnd), 1}, "unknown command kind 12"},
		{[]byte{commandVersion, 0, 1}, "unknown command kind 0"},
		{[]byte{commandVersion + 1, byte(cmdCommit), 1}, "unknown command version 2"},
	} {
		_, err := tb.Apply(&storage.Batch{}, paxosgroup.Command{Index: 3, Data: c.data})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "group 7, entry 3") {
			t.Errorf("%v: %v, want %q", c.data, err, c.want)
		}
	}
}
