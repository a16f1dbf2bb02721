package node

import (
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestConfigPrecedence(t *testing.T) {
	file := filepath.Join(t.TempDir(), "spand.yaml")
	if err := os.WriteFile(file, []byte("node: n2\nsql-addr: 127.0.0.1:1\nrpc-addr: 127.0.0.1:2\ninsecure: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load([]string{"--config", file, "--sql-addr", "127.0.0.1:9"}, []string{"SPAND_RPC_ADDR=127.0.0.1:8", "SPAND_SQL_ADDR=127.0.0.1:7", "HOME=/"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if c.SQLAddr != "127.0.0.1:9" || c.RPCAddr != "127.0.0.1:8" || c.Node != "n2" || !c.Insecure {
		t.Fatalf("flags over environment over file: got %+v", c)
	}
}

func TestConfigMistakesNameTheSetting(t *testing.T) {
	for _, c := range []struct {
		args string
		want string
	}{
		{"--sql-adr x", "no flag is called --sql-adr;"},
		{"--insecure=perhaps", "for --insecure:"},
		{"--sql-addr", "an argument: --sql-addr;"},
		{"--rpc-addr 127.0.0.1:99999", "--rpc-addr"},
		{"--sql-addr 15432", "--sql-addr"},
		{"--max-clock-error soon", "--max-clock-error"},
		{"--max-clock-error -1ms", "--max-clock-error"},
		{"--max-clock-error 200ms", "never serve"},
		{"--max-clock-error 300ms --cluster n1=h:1,n2=h:2,n3=h:3", "never serve"},
		{"--cluster n1", "NAME=HOST:PORT"},
		{"--cluster n2=h:1,n3=h:2", "--node n1 is not in --cluster"},
		{"--cluster n1=h:1,n1=h:2", "listed twice"},
		{"--join h:1", "--join"},
		{"--dial n2=h:1", "--cluster"},
		{"--cluster n1=h:1,n2=h:2 --dial n3=h:3", "--dial: n3 is not in --cluster"},
		{"--cluster n1=h:1,n2=h:2 --dial n2", "--dial: \"n2\" is not NAME=HOST:PORT"},
		{"--cluster n1=h:1,n2=h:2 --dial n2=h", "--dial: \"n2=h\" is not NAME=HOST:PORT"},
		{"--cluster n1=h:1,n2=h:2 --dial n2=h:3,n2=h:4", "--dial: \"n2=h:4\" is listed twice"},
		{"--log-level loud", "--log-level"},
		{"--log-format xml", "--log-format"},
		{"--http-addr 0.0.0.0:80", "--http-addr"},
		{"stray", "stray"},
	} {
		_, err := Load(strings.Fields(c.args), nil, io.Discard)
		var usage *UsageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want a usage error with %q", c.args, err, c.want)
		}
	}
	if _, err := Load([]string{"--help"}, nil, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("--help: %v", err)
	}
}

func TestMembersAreNumberedAlikeEverywhere(t *testing.T) {
	for _, list := range []string{"n1=a:1,n2=b:2,n10=c:3", "n10=c:3,n1=a:1,n2=b:2"} {
		c := Default()
		c.Cluster = list
		m, err := c.Members()
		if err != nil {
			t.Fatal(err)
		}
		if len(m) != 3 || m[0].Name != "n1" || m[1].Name != "n2" || m[2].Name != "n10" || m[2].ID != 3 {
			t.Errorf("%s: %+v", list, m)
		}
	}
}

// What a node dials is its own affair: the cluster's identity is the list.
func TestDialIsNotPartOfTheList(t *testing.T) {
	c := Default()
	c.Cluster = "n1=a:1,n2=b:2"
	plain, err := c.Members()
	if err != nil {
		t.Fatal(err)
	}
	if c, err = Load([]string{"--cluster", c.Cluster}, []string{"SPAND_DIAL=n2=proxy:9"}, io.Discard); err != nil {
		t.Fatal(err)
	}
	m, err := c.Members()
	if err != nil {
		t.Fatal(err)
	}
	if m[0].Dial != "a:1" || m[1].Addr != "b:2" || m[1].Dial != "proxy:9" {
		t.Errorf("members %+v", m)
	}
	if clusterID(m) != clusterID(plain) {
		t.Error("--dial made another cluster")
	}
}

func TestClockBoundDefaults(t *testing.T) {
	c := Default()
	if b, kernel, err := c.ClockBound(); b != 0 || kernel || err != nil {
		t.Errorf("one node: %v %v %v", b, kernel, err)
	}
	c.Cluster = "n1=a:1"
	if _, kernel, _ := c.ClockBound(); !kernel {
		t.Error("a cluster's default is the kernel's bound")
	}
	c.MaxClockError = "4ms"
	if b, kernel, err := c.ClockBound(); b != 4*time.Millisecond || kernel || err != nil {
		t.Errorf("4ms: %v %v %v", b, kernel, err)
	}
}
