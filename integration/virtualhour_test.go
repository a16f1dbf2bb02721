package integration

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// BenchmarkVirtualHour runs five nodes for an hour of virtual time: a client at each node
// with a transaction every two seconds, one node killed or cut off every five minutes. It
// reports the real seconds.
func BenchmarkVirtualHour(b *testing.B) {
	for b.Loop() {
		began := time.Now()
		var done int
		ok := testing.RunTests(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{
			Name: "VirtualHour",
			F: func(t *testing.T) {
				RunVirtual(t, Options{Nodes: 5, ClockError: 4 * time.Millisecond, Seed: 1}, func(t *testing.T, c *Cluster) { done = anHour(t, c) })
			},
		}})
		if !ok {
			b.Fatal("the hour went wrong")
		}
		b.ReportMetric(time.Since(began).Seconds(), "s/virtual-hour")
		b.ReportMetric(float64(done), "transactions")
	}
}

// anHour returns how many transactions committed.
func anHour(t *testing.T, c *Cluster) int {
	c.Exec(0, "CREATE TABLE visit (node int, n int, PRIMARY KEY (node, n))")
	until := time.Now().Add(time.Hour)
	counts := make(chan int)
	for i := range c.Len() {
		go func() {
			done := 0
			for ; time.Now().Before(until); time.Sleep(2 * time.Second) {
				if visit(c, i, done) == nil {
					done++
				}
			}
			counts <- done
		}()
	}
	for i := 0; time.Now().Add(5 * time.Minute).Before(until); i++ {
		time.Sleep(4 * time.Minute)
		n := i % c.Len()
		if i%2 == 0 {
			c.Kill(n)
			time.Sleep(time.Minute)
			c.Restart(n)
			continue
		}
		c.Partition([]int{n}, others(c.Len(), n))
		time.Sleep(time.Minute)
		c.Heal()
	}
	sum := 0
	for range c.Len() {
		sum += <-counts
	}
	var there int
	conn := c.Connect(0)
	if err := conn.QueryRow(context.Background(), "SELECT count(*) FROM visit").Scan(&there); err != nil {
		t.Error(err)
	}
	if there < sum {
		t.Errorf("%d rows, and %d were acknowledged", there, sum)
	}
	return sum
}

func others(nodes, but int) (list []int) {
	for i := range nodes {
		if i != but {
			list = append(list, i)
		}
	}
	return list
}

func visit(c *Cluster, node, n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := c.Target().Connect(ctx, node)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, fmt.Sprintf("INSERT INTO visit VALUES (%d, %d) ON CONFLICT DO NOTHING", node, n))
	return err
}
