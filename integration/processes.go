package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spandb/spand/internal/node"
)

// processes is the backend of mode Processes, over the Nodes of a cluster.
type processes struct{ c *Cluster }

func (p processes) boot(i int) error {
	n := p.c.Nodes[i]
	if pr := n.current(); pr != nil {
		select {
		case <-pr.exited:
		default:
			return errors.New("it is running; Kill it first")
		}
	}
	n.Launch(p.c.t)
	return nil
}

func (p processes) awaitReady(ctx context.Context, i int) error {
	n := p.c.Nodes[i]
	pr := n.current()
	select {
	case <-pr.ready:
	case <-pr.exited:
		return fmt.Errorf("it has ended: %w\n%s", pr.err, tail(n.log.Name(), logShown))
	case <-ctx.Done():
		return fmt.Errorf("%w\n%s", ctx.Err(), tail(n.log.Name(), logShown))
	}
	p.c.clocks.mu.Lock()
	s, told := p.c.clocks.of[i]
	p.c.clocks.mu.Unlock()
	if told {
		return p.setClock(i, s) // which did not outlive the process
	}
	return nil
}

func (p processes) kill(i int) error {
	n := p.c.Nodes[i]
	select {
	case <-n.current().exited:
		return errors.New("it is down already")
	default:
		n.Kill(p.c.t)
		return nil
	}
}

func (p processes) pause(i int, paused bool) error {
	s := syscall.SIGCONT
	if paused {
		s = syscall.SIGSTOP
	}
	return p.c.Nodes[i].current().cmd.Process.Signal(s)
}

func (p processes) network() (*Proxy, error) {
	if p.c.Proxy == nil {
		return nil, errors.New("real processes need Options.Proxy for it")
	}
	return p.c.Proxy, nil
}

func (p processes) Cut(from, to int) error {
	proxy, err := p.network()
	if err != nil {
		return err
	}
	return proxy.Cut(from, to)
}

func (p processes) Heal(from, to int) error {
	if p.c.Proxy == nil {
		return nil // nothing was cut
	}
	return p.c.Proxy.Heal(from, to)
}

func (p processes) config(i int) (*pgx.ConnConfig, error) { return pgx.ParseConfig(p.c.Nodes[i].URL()) }

func (p processes) lockAddrs() (addrs []string) {
	for _, n := range p.c.Nodes {
		addrs = append(addrs, n.RPCAddr)
	}
	return addrs
}

func (p processes) dialLocks(ctx context.Context, i int) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", p.c.Nodes[i].RPCAddr)
}

// setClock can only widen: the clock is the machine's.
func (p processes) setClock(i int, s clockSetting) error {
	if s.off != 0 || s.ppm != 0 {
		return errors.New("SetOffset and SetDrift: real processes read the machine's clock, which a test must not set; use InProcess or Virtual")
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.c.Nodes[i].URL())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "SET spand.clock_error_add = '"+s.added.Round(time.Microsecond).String()+"'")
	return err
}

func (p processes) node(int) (*node.Node, error) { return nil, errElsewhere }

func (p processes) logs() string { return "" } // Cluster.stop prints them

func (p processes) close() {}
