package lockload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a store in memory. Every call takes a millisecond, a write ten.
type memory struct {
	mu       sync.Mutex
	locks    map[string]chan struct{}
	files    map[string][]byte
	version  uint64
	watchers map[string][]func(uint64)
	killed   time.Time

	leaky bool // its locks exclude nobody
	deaf  bool // it forgets one watcher
}

func newMemory() *memory {
	return &memory{locks: map[string]chan struct{}{}, files: map[string][]byte{}, watchers: map[string][]func(uint64){}}
}

const member = "127.0.0.1:1"

func (m *memory) dial(context.Context, []string) (Client, error) { return m, nil }
func (m *memory) Session(context.Context) (Session, error)       { return m, nil }
func (m *memory) Fleet(context.Context) (Fleet, error)           { return &memoryFleet{}, nil }
func (m *memory) Leader(context.Context) (string, error)         { return member, nil }
func (m *memory) Close() error                                   { return nil }

func (m *memory) Lock(_ context.Context, name string) (Lock, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locks[name] == nil {
		m.locks[name] = make(chan struct{}, 1)
	}
	return memoryLock{m, m.locks[name]}, nil
}

func (m *memory) DurableLock(ctx context.Context, name string) (Lock, error) {
	return m.Lock(ctx, name)
}
func (m *memory) KeptLock(ctx context.Context, name string) (Lock, error) { return m.Lock(ctx, name) }

type memoryLock struct {
	*memory
	held chan struct{}
}

// recovery is how long a killed leader is missed.
const recovery = 700 * time.Millisecond

func (l memoryLock) Acquire(ctx context.Context) error {
	if err := pause(ctx, time.Millisecond); err != nil || l.leaky {
		return err
	}
	if since := time.Since(l.killed); since < recovery {
		return errors.New("no leader")
	}
	select {
	case l.held <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l memoryLock) Release(ctx context.Context) error {
	err := pause(ctx, time.Millisecond)
	if !l.leaky {
		<-l.held
	}
	return err
}

func (m *memory) File(_ context.Context, name string) (File, error) { return memoryFile{m, name}, nil }
func (m *memory) CachedFile(ctx context.Context, name string) (File, error) {
	return m.File(ctx, name)
}

type memoryFile struct {
	*memory
	name string
}

func (f memoryFile) Set(ctx context.Context, contents []byte) (uint64, error) {
	return f.set(contents), pause(ctx, 10*time.Millisecond)
}

func (f memoryFile) set(contents []byte) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	f.files[f.name] = contents
	told := f.watchers[f.name]
	if f.deaf {
		told = told[:max(len(told), 1)-1]
	}
	for _, each := range told {
		each(f.version)
		each(f.version) // at least once
	}
	return f.version
}

func (f memoryFile) Get(ctx context.Context) ([]byte, error) {
	err := pause(ctx, time.Millisecond)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.files[f.name], err
}

func (m *memory) Watch(_ context.Context, name string, each func(uint64)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watchers[name] = append(m.watchers[name], each)
	return nil
}

// memoryFleet answers a thousand renewals a second.
type memoryFleet struct{ size int }

func (f *memoryFleet) Grow(ctx context.Context, n int, _ time.Duration) error {
	f.size += n
	return pause(ctx, time.Second)
}
func (f *memoryFleet) Keep(ctx context.Context) error { <-ctx.Done(); return nil }
func (f *memoryFleet) Renew(ctx context.Context) (n int64, err error) {
	for ; pause(ctx, time.Millisecond) == nil; n++ {
	}
	return n, nil
}
func (f *memoryFleet) Alive(context.Context) (int, error) { return f.size, nil }
func (f *memoryFleet) Close() error                       { return nil }

// measureRow runs a program's main function on a store and returns what it wrote.
func measureRow(t *testing.T, m *memory, row string) ([]Message, error) {
	var out bytes.Buffer
	yes := answers(func() {
		if row == "failover" {
			m.killed = time.Now()
		}
	})
	err := measure(t.Context(), []string{"-members", member, "-row", row, "-length", "200ms", "-sessions", "50"}, m.dial, yes, &out)
	var said []Message
	for dec := json.NewDecoder(&out); ; {
		var m Message
		if err := dec.Decode(&m); err != nil {
			break
		}
		said = append(said, m)
	}
	return said, err
}

// answers says yes to every question, when it has been asked.
type answers func()

func (a answers) Read(p []byte) (int, error) {
	a()
	return copy(p, "\n"), nil
}

// TestRows: what is measured on a store whose speed is known.
func TestRows(t *testing.T) {
	want := map[string]Figures{
		"acquire":  {"acquire 1": 500, "acquire 16": 8000, "acquire 64": 32000},
		"durable":  {"durable 1": 500, "durable 16": 8000},
		"kept":     {"kept 1": 500, "kept 16": 8000},
		"handover": {"handover p50": 1, "handover p99": 1},
		"write":    {"write 1": 100, "write 64": 6400},
		"read":     {"read 64": 64000},
		"cached":   {"cached 64": 64000},
		"watch":    {"watch events": 16 * 1000 * 100, "watch p50": 0, "watch p99": 0},
		"sessions": {"sessions opened": 50, "keepalives": 1000},
		"failover": {"failover": 701},
	}
	if got := Rows(); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
		t.Fatalf("rows %v", got)
	}
	for row, figures := range want {
		t.Run(row, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				said, err := measureRow(t, newMemory(), row)
				if err != nil {
					t.Fatal(err)
				}
				got := said[len(said)-1].Figures
				if len(got) != len(figures) {
					t.Errorf("%v, want %v", got, figures)
				}
				for name, f := range figures {
					if g, ok := got[name]; !ok || math.Abs(g-f) > max(f/10, 20.5*boolTo(name == "failover")) {
						t.Errorf("%s: %v, want about %v", name, g, f)
					}
				}
				var asked []string
				for _, m := range said[:len(said)-1] {
					asked = append(asked, m.Ask+" "+m.Leader)
				}
				questions := map[string]string{"sessions": "idle " + member + " mark " + member + " held " + member, "failover": "kill " + member}
				if got := strings.Join(asked, " "); got != questions[row] {
					t.Errorf("asked %q", got)
				}
			})
		})
	}
}

func boolTo(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// TestBrokenStores: a store that does not do the work has no figures.
func TestBrokenStores(t *testing.T) {
	for row, c := range map[string]struct {
		breaks func(*memory)
		want   string
	}{
		"handover": {func(m *memory) { m.leaky = true }, "two clients hold one lock"},
		"watch":    {func(m *memory) { m.deaf = true }, "not all watchers were told of version"},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory()
			c.breaks(m)
			if said, err := measureRow(t, m, row); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, %v", row, said, err)
			}
		})
	}
}

// TestRateError: the first error ends all clients and is what is told.
func TestRateError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, err := rate(t.Context(), 3, time.Hour, func(ctx context.Context, client int) error {
			if client == 1 {
				return fmt.Errorf("client %d fails", client)
			}
			return pause(ctx, time.Hour)
		})
		if err == nil || err.Error() != "client 1 fails" || time.Since(began) > time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestPercentile(t *testing.T) {
	var times []time.Duration
	for i := range 100 {
		times = append(times, time.Duration(100-i)*time.Millisecond)
	}
	for p, want := range map[float64]float64{50: 50, 99: 99, 100: 100, 0: 1} {
		if got := percentile(times, p); got != want {
			t.Errorf("%v %%: %v, want %v", p, got, want)
		}
	}
	if got := percentile([]time.Duration{3 * time.Millisecond}, 99); got != 3 {
		t.Errorf("of one time: %v", got)
	}
	if got := percentile(nil, 50); !math.IsNaN(got) {
		t.Errorf("of none: %v", got)
	}
}

func TestParseFlags(t *testing.T) {
	c, err := parseFlags([]string{"-members", "a:1,b:2", "-row", "read", "-length", "3s"})
	if err != nil || !slices.Equal(c.Members, []string{"a:1", "b:2"}) || c.Row != "read" || c.Length != 3*time.Second || c.Sessions != 100_000 {
		t.Errorf("%+v, %v", c, err)
	}
	for _, args := range []string{"-row read", "-members a", "-members a -row x", "-members a -row read -length 0s", "-members a -row read -ttl 1ms", "-members a -row read more"} {
		if _, err := parseFlags(strings.Fields(args)); err == nil {
			t.Errorf("%s passes", args)
		}
	}
}

// TestOwnerGone: a program whose owner has gone does not go on.
func TestOwnerGone(t *testing.T) {
	m := newMemory()
	synctest.Test(t, func(t *testing.T) {
		err := measure(t.Context(), []string{"-members", member, "-row", "failover"}, m.dial, strings.NewReader(""), io.Discard)
		if !errors.Is(err, io.EOF) {
			t.Errorf("%v", err)
		}
	})
}
