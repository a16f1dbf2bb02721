package txn

import (
	"context"
	"testing"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/tablet/directory"
	"github.com/spandb/spand/truetime"
)

// nullTablet answers at once: what remains is the gateway's own cost.
type nullTablet struct {
	others
	read   tablet.ReadResponse
	commit tablet.CommitResponse
}

type others struct{ Participant }

func (n *nullTablet) Read(context.Context, *tablet.ReadRequest) (*tablet.ReadResponse, error) {
	return &n.read, nil
}

func (n *nullTablet) Commit(context.Context, *tablet.CommitRequest) (*tablet.CommitResponse, error) {
	return &n.commit, nil
}

func (n *nullTablet) Participant(keys.NodeID, keys.GroupID) (Participant, error) { return n, nil }
func (n *nullTablet) Leader(keys.GroupID) keys.NodeID                            { return 1 }
func (n *nullTablet) Learned(keys.GroupID, keys.NodeID)                          {}

type fixedClock struct{ truetime.Interval }

func (c *fixedClock) Now() truetime.Interval                               { return c.Interval }
func (c *fixedClock) AwaitAfter(context.Context, truetime.Timestamp) error { return nil }
func (c *fixedClock) Err() error                                           { return nil }

func benchClient(b *testing.B) *Client {
	n := &nullTablet{read: tablet.ReadResponse{Term: 1, Gets: []tablet.Value{{Exists: true, Bytes: []byte("value"), TS: 5}}, MaxSeen: 5}}
	n.commit.TS = 7
	descs := directory.Bootstrap([]keys.NodeID{1})
	c := NewClient(Config{
		Node: 1, Clock: &fixedClock{truetime.Interval{Earliest: 1000, Latest: 1000}}, Dialer: n,
		Router: directory.NewCache(nil, 0, descs...), Logger: quiet,
	})
	b.Cleanup(c.Close)
	return c
}

func BenchmarkReadWriteOneKey(b *testing.B) {
	c, ctx := benchClient(b), context.Background()
	ks, v := []keys.Key{k("account/00000017")}, []byte("a row of some length, as rows are")
	b.ReportAllocs()
	for b.Loop() {
		tx := c.Begin(ctx, TxnOptions{})
		if _, err := tx.Get(ctx, ks, tablet.LockExclusive, tablet.WaitBlock); err != nil {
			b.Fatal(err)
		}
		if err := tx.Put(ctx, ks[0], v); err != nil {
			b.Fatal(err)
		}
		if _, err := tx.Commit(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadOnlyOneKey(b *testing.B) {
	c, ctx := benchClient(b), context.Background()
	ks := []keys.Key{k("account/00000017")}
	b.ReportAllocs()
	for b.Loop() {
		tx := c.ReadOnly(ctx, 0)
		if _, err := tx.Get(ctx, ks, tablet.LockNone, tablet.WaitBlock); err != nil {
			b.Fatal(err)
		}
		if err := tx.AwaitVisible(ctx); err != nil {
			b.Fatal(err)
		}
		if _, err := tx.Commit(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoadRow(b *testing.B) {
	c, ctx := benchClient(b), context.Background()
	rows := make([]tablet.Write, 100_000)
	for i := range rows {
		rows[i] = tablet.Write{Key: k(string([]byte{byte(i >> 16), byte(i >> 8), byte(i)})), Value: make([]byte, 100)}
	}
	tx := c.Begin(ctx, TxnOptions{})
	defer tx.Rollback(ctx)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		if n++; n == len(rows) {
			n = 0
			if err := tx.Load(ctx, rows); err != nil {
				b.Fatal(err)
			}
		}
	}
}
