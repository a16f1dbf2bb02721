package integration

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/spandb/spand/"

// rooms says what each room of ours may import directly; a name ending in /...
// covers what lies below it. Data flows one way (ARCHITECTURE.md): a room that
// wants more is either in the wrong place or wants an interface.
var rooms = []struct {
	room   string
	mayUse []string
}{
	{"truetime", nil},
	{"internal/keys", []string{"truetime"}},
	{"internal/version", nil},
	{"internal/tracing", nil},
	{"internal/crashpoint", nil},
	{"internal/storage", []string{"internal/keys", "internal/version", "truetime"}},
	{"paxosgroup", []string{"internal/crashpoint", "internal/storage", "internal/keys", "truetime"}},
	{"internal/lane", nil},
	{"internal/rpc", []string{"internal/lane", "paxosgroup", "internal/keys", "internal/version", "internal/tracing"}},
	{"tablet", []string{"internal/crashpoint", "paxosgroup", "internal/storage", "internal/keys", "internal/version", "truetime"}},
	{"tablet/directory", []string{"tablet", "paxosgroup", "internal/keys", "internal/version", "truetime"}},
	{"txn", []string{"internal/crashpoint", "tablet", "tablet/directory", "paxosgroup", "internal/keys", "truetime"}},
	{"internal/replicas", []string{"txn", "tablet", "tablet/directory", "paxosgroup", "internal/storage", "internal/keys", "truetime"}},
	{"sql/sqlstate", nil},
	{"sql/parse/...", []string{"sql/parse/...", "sql/sqlstate"}},
	{"sql/types", []string{"sql/sqlstate", "sql/parse/pgast"}},
	{"sql/rowcodec", []string{"sql/types", "sql/sqlstate", "internal/keys", "truetime"}},
	{"sql/expr", []string{"sql/types", "sql/sqlstate", "sql/parse/pgast"}},
	{"sql/...", []string{"sql/...", "txn", "tablet", "internal/keys", "internal/tracing", "truetime"}},
	{"pgwire/...", []string{"pgwire/wiretest", "sql", "sql/types", "sql/sqlstate"}},
	{"lockservice/lockpb", nil},
	{"lockservice/cell/state", []string{"truetime"}},
	{"lockservice/cell", []string{"lockservice/cell/state", "lockservice/lockpb", "paxosgroup", "internal/storage", "internal/keys", "truetime"}},
	{"lockservice/server", []string{"lockservice/cell/state", "lockservice/lockpb", "internal/keys", "internal/lane"}},
	{"internal/cells", []string{"lockservice/cell", "lockservice/cell/state", "paxosgroup", "tablet/directory", "internal/storage", "internal/keys", "truetime"}},
	{"lockservice", []string{"lockservice/lockpb", "internal/lane"}},
	{"lockservice/lockpb", nil},
	{"internal/node/adminpb", nil},
	{"internal/node", []string{"..."}},
	{"internal/sim", []string{"..."}},
	{"internal/demo", []string{"internal/node", "truetime"}},
	{"cmd/spand", []string{"lockservice", "internal/demo", "internal/node", "internal/node/adminpb"}},
	{"cmd/spansql", nil},
	{"integration/check", nil},
	{"integration/workload", []string{"integration/check", "lockservice", "lockservice/lockpb"}},
	{"integration/bench/lockload", nil},
	{"integration/...", []string{"..."}},
}

// owners of libraries: whoever else imports one has found a leak in a room's wall.
var owners = []struct{ library, room string }{
	{"go.etcd.io/raft/v3", "paxosgroup"},
	{"go.etcd.io/bbolt", "internal/storage"},
	{"github.com/pingcap/tidb/pkg/parser", "sql/parse/..."},
	{"go.opentelemetry.io/otel", "internal/tracing"},
	{"github.com/anishathalye/porcupine", "integration/check"},
	{"github.com/anishathalye/porcupine", "internal/sim"},
	{"github.com/jackc/pgx/v5/pgproto3", "pgwire/..."},
	{"github.com/jackc/pgx/v5/pgproto3", "cmd/spansql"}, // the client's half of the protocol
}

type listed struct {
	ImportPath string
	Imports    []string
}

func TestImportRules(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	seen := 0
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		seen++
		checkPackage(t, strings.TrimPrefix(p.ImportPath, module), p.Imports)
	}
	if seen < len(rooms) {
		t.Fatalf("go list found only %d packages", seen)
	}
}

func checkPackage(t *testing.T, pkg string, imports []string) {
	room := -1
	for i, r := range rooms {
		if within(pkg, r.room) && (room < 0 || len(r.room) > len(rooms[room].room)) {
			room = i
		}
	}
	if room < 0 {
		t.Errorf("package %s is in no room that this test knows; add it and say what it may import", pkg)
		return
	}
	for _, imp := range imports {
		if ours, ok := strings.CutPrefix(imp, module); ok {
			if !allowed(ours, rooms[room].mayUse) {
				t.Errorf("%s imports %s; %s may import only %v", pkg, ours, rooms[room].room, rooms[room].mayUse)
			}
			continue
		}
		if !mayOwn(pkg, imp) {
			t.Errorf("%s imports %s, which belongs to another room", pkg, imp)
		}
	}
}

// mayOwn reports whether imp has no owner, or pkg is one.
func mayOwn(pkg, imp string) bool {
	owned := false
	for _, o := range owners {
		if imp == o.library || strings.HasPrefix(imp, o.library+"/") {
			owned = true
			if within(pkg, o.room) {
				return true
			}
		}
	}
	return !owned
}

func allowed(pkg string, list []string) bool {
	for _, l := range list {
		if within(pkg, l) {
			return true
		}
	}
	return false
}

func within(pkg, room string) bool {
	prefix, below := strings.CutSuffix(room, "...")
	if !below {
		return pkg == room
	}
	return strings.HasPrefix(pkg+"/", prefix)
}
