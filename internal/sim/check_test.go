package sim

import (
	"strings"
	"testing"

	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/truetime"
)

// ts is a timestamp n units after the epoch.
func ts(n int) truetime.Timestamp { return truetime.FromTime(epoch) + truetime.Timestamp(n) }

// story builds a history by hand.
type story struct {
	ops   []*Op
	order int64
	truth Versions
}

// did adds an operation that begins and ends after all before.
func (s *story) did(kind string, st Status, t int, reads, writes []Row) *Op {
	op := &Op{ID: len(s.ops) + 1, Kind: kind, Status: st, Reads: reads, Writes: writes}
	if t != 0 {
		op.TS = ts(t)
	}
	s.order++
	op.Begin = s.order
	s.order++
	op.End = s.order
	s.ops = append(s.ops, op)
	return op
}

// holds puts a version into the stores.
func (s *story) holds(k, v string, t int) {
	if s.truth == nil {
		s.truth = Versions{}
	}
	s.truth[k] = append(s.truth[k], Version{ts(t), v})
}

func (s *story) read(k, v string) []Row { return []Row{{k, v}} }

// expect checks that the story is judged as want says, nothing else.
func (s *story) expect(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, v := range Check(s.ops, s.truth) {
		got = append(got, v.Invariant)
		t.Logf("%v", v)
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("found %v, want %v", got, want)
	}
}

// good begins with what every story has: x=first|op1, y=first|op1 of 10.
func good() *story {
	s := &story{}
	s.did("init", OK, 10, nil, []Row{{"x", "first|op1"}, {"y", "first|op1"}})
	s.holds("x", "first|op1", 10)
	s.holds("y", "first|op1", 10)
	return s
}

func TestCheckerAcceptsGoodHistory(t *testing.T) {
	s := good()
	s.did("swap", OK, 20, s.read("x", "first|op1"), []Row{{"x", "a|op2"}, {"y", ""}})
	s.holds("x", "a|op2", 20)
	s.holds("y", "", 20)
	r := s.did("audit", OK, 25, s.read("x", "a|op2"), nil)
	r.ReadOnly = true
	r.Scans = []ScanSeen{{"x", "z", []Row{{"x", "a|op2"}}}}
	old := s.did("stale", OK, 15, s.read("y", "first|op1"), nil)
	old.ReadOnly, old.Stale = true, true
	s.did("lost", Unknown, 0, nil, []Row{{"y", "b|op5"}})
	s.did("refused", Failed, 0, nil, []Row{{"y", "c|op6"}})
	u := s.did("unknown, yet there", Unknown, 0, nil, []Row{{"y", "d|op7"}, {"x", ""}})
	s.holds("y", "d|op7", 40)
	s.holds("x", "", 40)
	u.End += 10
	s.order += 10
	s.expect(t)
}

func TestCheckerFindsLostAcknowledgement(t *testing.T) {
	s := good()
	s.did("write", OK, 20, nil, []Row{{"x", "a|op2"}})
	s.expect(t, "R1")
}

func TestCheckerFindsHalfATransaction(t *testing.T) {
	s := good()
	s.did("write", Unknown, 0, nil, []Row{{"x", "a|op2"}, {"y", "b|op2"}})
	s.holds("x", "a|op2", 20)
	s.expect(t, "X3")
}

func TestCheckerFindsTwoTimestamps(t *testing.T) {
	s := good()
	s.did("write", OK, 20, nil, []Row{{"x", "a|op2"}})
	s.holds("x", "a|op2", 20)
	s.holds("x", "a|op2", 30)
	s.expect(t, "X5")
}

func TestCheckerFindsRefusedWrite(t *testing.T) {
	s := good()
	s.did("write", Failed, 0, nil, []Row{{"x", "a|op2"}})
	s.holds("x", "a|op2", 20)
	s.expect(t, "X5")
}

func TestCheckerFindsStrays(t *testing.T) {
	s := good()
	s.holds("x", "who|op77", 30)
	s.holds("y", "", 30)
	s.holds("z", "first|op1", 10)
	s.expect(t, "X5", "X5", "X5")
}

func TestCheckerFindsStaleRead(t *testing.T) {
	s := good()
	s.did("write", OK, 20, nil, []Row{{"x", "a|op2"}})
	s.holds("x", "a|op2", 20)
	s.did("audit", OK, 30, s.read("x", "first|op1"), nil).ReadOnly = true
	s.expect(t, "X4")
}

func TestCheckerFindsReadOfTheFuture(t *testing.T) {
	s := good()
	s.did("write", OK, 20, nil, []Row{{"x", "a|op2"}})
	s.holds("x", "a|op2", 20)
	r := s.did("stale", OK, 15, s.read("x", "a|op2"), nil)
	r.ReadOnly, r.Stale = true, true
	s.expect(t, "X4")
}

func TestCheckerFindsLostUpdate(t *testing.T) {
	s := good()
	a := s.did("swap", OK, 20, s.read("x", "first|op1"), []Row{{"x", "a|op2"}})
	s.holds("x", "a|op2", 20)
	b := s.did("swap", OK, 30, s.read("x", "first|op1"), []Row{{"x", "b|op3"}})
	s.holds("x", "b|op3", 30)
	a.End, b.Begin = b.End, a.Begin // concurrent
	s.expect(t, "X2")
}

func TestCheckerFindsWriteSkew(t *testing.T) {
	s := good()
	both := []Row{{"x", "first|op1"}, {"y", "first|op1"}}
	a := s.did("skew", OK, 20, both, []Row{{"x", "a|op2"}})
	s.holds("x", "a|op2", 20)
	b := s.did("skew", OK, 30, both, []Row{{"y", "b|op3"}})
	s.holds("y", "b|op3", 30)
	a.End, b.Begin = b.End, a.Begin
	s.expect(t, "X2")
}

func TestCheckerFindsPhantom(t *testing.T) {
	s := good()
	a := s.did("insert", OK, 20, nil, []Row{{"xx", "a|op2"}})
	s.holds("xx", "a|op2", 20)
	b := s.did("count", OK, 30, nil, []Row{{"y", "b|op3"}})
	b.Scans = []ScanSeen{{"x", "y", []Row{{"x", "first|op1"}}}}
	s.holds("y", "b|op3", 30)
	a.End, b.Begin = b.End, a.Begin
	s.expect(t, "X2")
}

func TestCheckerFindsGhostRows(t *testing.T) {
	s := good()
	r := s.did("audit", OK, 30, nil, nil)
	r.ReadOnly = true
	r.Scans = []ScanSeen{{"x", "z", []Row{{"w", "?"}, {"x", "first|op1"}, {"y", "first|op1"}, {"yy", "?"}}}}
	s.expect(t, "X4", "X4")
}

func TestCheckerFindsCausalReverse(t *testing.T) {
	s := good()
	s.did("write", OK, 30, nil, []Row{{"x", "a|op2"}})
	s.holds("x", "a|op2", 30)
	s.did("write", OK, 20, nil, []Row{{"y", "b|op3"}}) // began after 30 was known
	s.holds("y", "b|op3", 20)
	s.expect(t, "X1")
}

func TestCheckerFindsReadBelowWhatIsKnown(t *testing.T) {
	s := good()
	s.did("write", OK, 30, nil, []Row{{"x", "a|op2"}})
	s.holds("x", "a|op2", 30)
	s.did("audit", OK, 20, s.read("x", "first|op1"), nil).ReadOnly = true
	s.expect(t, "X1")
}

// A version shown by a read is known like one acknowledged.
func TestCheckerFindsVersionShownTooEarly(t *testing.T) {
	s := good()
	w := s.did("write", Unknown, 0, nil, []Row{{"x", "a|op2"}})
	s.holds("x", "a|op2", 30)
	s.did("audit", OK, 40, s.read("x", "a|op2"), nil).ReadOnly = true
	s.did("write", OK, 25, nil, []Row{{"y", "b|op4"}})
	s.holds("y", "b|op4", 25)
	w.End = 100
	s.expect(t, "X1")
}

func TestCheckerFindsNonlinearizableRegister(t *testing.T) {
	s := &story{}
	k := reg(0)
	s.did("init", OK, 10, nil, []Row{{k, "first|op1"}})
	s.holds(k, "first|op1", 10)
	s.did("register write", OK, 20, nil, []Row{{k, "a|op2"}})
	s.holds(k, "a|op2", 20)
	r := s.did("register read", OK, 15, s.read(k, "first|op1"), nil) // a stale answer
	r.ReadOnly = true
	s.expect(t, "X1", "X1") // by its timestamp, and by porcupine
}

func TestDifferent(t *testing.T) {
	a := kvs("a", "1", "b", "2", "c", "3")
	if d := different(a, kvs("a", "1", "b", "2", "c", "3")); d != "" {
		t.Errorf("equal dumps differ: %s", d)
	}
	for _, b := range [][]string{{"a", "1", "b", "2"}, {"a", "1", "b", "x", "c", "3"}, {"a", "1", "b", "2", "c", "3", "d", "4"}, {"b", "2", "c", "3"}} {
		if different(a, kvs(b...)) == "" {
			t.Errorf("no difference to %v seen", b)
		}
	}
}

func kvs(s ...string) (out []storage.KV) {
	for i := 0; i < len(s); i += 2 {
		out = append(out, storage.KV{Key: []byte(s[i]), Value: []byte(s[i+1])})
	}
	return out
}
