package node

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/version"
	"github.com/spandb/spand/paxosgroup"
)

// Config is everything that an operator can set. Each field is a flag of
// `spand start`, a key of the YAML file, and an environment variable: --sql-addr,
// sql-addr, SPAND_SQL_ADDR. Flags win over variables, variables over the file.
type Config struct {
	DataDir       string
	Node          string
	SQLAddr       string
	RPCAddr       string
	HTTPAddr      string
	Cluster       string // n1=HOST:PORT,n2=HOST:PORT…; empty: a store of one node
	Dial          string // n2=HOST:PORT…: where to reach members, if not at the addresses of Cluster
	Join          string
	MaxClockError string // "", "kernel" or a duration
	Insecure      bool
	LogLevel      string
	LogFormat     string // "", "text" or "json"

	// Around is not for operators: tests put a node into surroundings of their own.
	Around Surroundings

	versions version.Range // set by tests: another program's
}

// UsageError is a mistake in the command line, the environment or the file: it
// names the setting and the fix. The process exits with 2.
type UsageError struct{ Msg string }

func (e *UsageError) Error() string { return e.Msg }

func usagef(format string, args ...any) error { return &UsageError{fmt.Sprintf(format, args...)} }

// Default returns the configuration of `spand start` without flags.
func Default() Config {
	return Config{
		DataDir:  "./spand-data",
		Node:     "n1",
		SQLAddr:  "127.0.0.1:15432",
		RPCAddr:  "127.0.0.1:15433",
		HTTPAddr: "127.0.0.1:15434",
		LogLevel: "info",
	}
}

func (c *Config) flags(out io.Writer) (*flag.FlagSet, *string) {
	fs := flag.NewFlagSet("spand start", flag.ContinueOnError)
	fs.SetOutput(out)
	fs.StringVar(&c.DataDir, "data-dir", c.DataDir, "directory of this node's data")
	fs.StringVar(&c.Node, "node", c.Node, "this node's name")
	fs.StringVar(&c.SQLAddr, "sql-addr", c.SQLAddr, "address of the PostgreSQL wire protocol")
	fs.StringVar(&c.RPCAddr, "rpc-addr", c.RPCAddr, "address of gRPC: nodes, lock service, admin")
	fs.StringVar(&c.HTTPAddr, "http-addr", c.HTTPAddr, "address of /metrics, /healthz, /debug/pprof")
	fs.StringVar(&c.Cluster, "cluster", c.Cluster, "n1=HOST:PORT,n2=HOST:PORT,…: rpc addresses of a new cluster's first nodes, the same on all of them")
	fs.StringVar(&c.Dial, "dial", c.Dial, "n2=HOST:PORT,…: reach these members at other addresses than the list's (address translation, proxies); may differ from node to node")
	fs.StringVar(&c.Join, "join", c.Join, "HOST:PORT,…: join a running cluster")
	fs.StringVar(&c.MaxClockError, "max-clock-error", c.MaxClockError, "bound that you vouch for between this clock and true time (4ms), or kernel; default: 0 for one node, kernel in a cluster")
	fs.BoolVar(&c.Insecure, "insecure", c.Insecure, "allow unauthenticated SQL and RPC beyond loopback")
	fs.StringVar(&c.LogLevel, "log-level", c.LogLevel, "debug, info, warn or error")
	fs.StringVar(&c.LogFormat, "log-format", c.LogFormat, "text or json; default: text on a terminal, json otherwise")
	file := fs.String("config", "", "YAML file with the same settings")
	return fs, file
}

// Load reads settings from args, the environment and the file that --config
// names. It returns flag.ErrHelp after printing help to out, else a
// *UsageError for anything that is wrong.
func Load(args, environ []string, out io.Writer) (Config, error) {
	var help strings.Builder
	c := Default()
	fs, file := c.flags(&help)
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(out, help.String())
			return c, err
		}
		return c, usagef("%s; see spand start --help", FlagMessage(err))
	}
	if fs.NArg() > 0 {
		return c, usagef("unexpected argument %q; settings are flags, see spand start --help", fs.Arg(0))
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })

	env := map[string]string{}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if rest, ok := strings.CutPrefix(name, "SPAND_"); ok {
			env[strings.ReplaceAll(strings.ToLower(rest), "_", "-")] = value
		}
	}
	if *file == "" {
		*file = env["config"]
	}
	set := func(name, value, where string) error {
		if err := fs.Set(name, value); err != nil {
			return usagef("%s: invalid value %q for %s: %v", where, value, name, err)
		}
		return nil
	}
	if *file != "" {
		settings, err := readFile(*file)
		if err != nil {
			return c, err
		}
		for name, value := range settings {
			if name == "config" || fs.Lookup(name) == nil {
				return c, usagef("%s: no setting is called %q; see spand start --help", *file, name)
			}
			if _, inEnv := env[name]; given[name] || inEnv {
				continue
			}
			if err := set(name, value, *file); err != nil {
				return c, err
			}
		}
	}
	for name, value := range env {
		if name != "config" && fs.Lookup(name) != nil && !given[name] {
			if err := set(name, value, "SPAND_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))); err != nil {
				return c, err
			}
		}
	}
	return c, c.Validate()
}

// FlagMessage is what a flag set's error says, with flags spelled as we do.
func FlagMessage(err error) string {
	return strings.NewReplacer("flag provided but not defined: -", "no flag is called --",
		"argument: -", "argument: --", " for -", " for --", "flag -", "flag --").Replace(err.Error())
}

func readFile(path string) (map[string]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, usagef("--config: %v", err)
	}
	var settings map[string]string
	if err := yaml.Unmarshal(data, &settings); err != nil {
		return nil, usagef("--config: %s: %s", path, strings.Join(strings.Fields(err.Error()), " "))
	}
	return settings, nil
}

// Validate checks what can be checked without touching anything.
func (c *Config) Validate() error {
	if c.DataDir == "" {
		return usagef("--data-dir must not be empty")
	}
	if c.Node == "" || strings.ContainsAny(c.Node, "=, \t\n") {
		return usagef("--node %q: a name without spaces, commas and equals signs, such as n1", c.Node)
	}
	for _, a := range []struct{ flag, addr string }{
		{"--sql-addr", c.SQLAddr}, {"--rpc-addr", c.RPCAddr}, {"--http-addr", c.HTTPAddr},
	} {
		_, port, err := net.SplitHostPort(a.addr)
		if err == nil {
			_, err = net.LookupPort("tcp", port)
		}
		if err != nil {
			return usagef("%s %q: want HOST:PORT, such as 127.0.0.1:15432", a.flag, a.addr)
		}
	}
	if host, _, _ := net.SplitHostPort(c.HTTPAddr); !isLoopback(host) && !c.Insecure {
		return usagef("--http-addr %q: only loopback may be used without --insecure", c.HTTPAddr)
	}
	if c.Join != "" {
		return usagef("--join: adding nodes to a running cluster is not supported yet; name all nodes in --cluster when the cluster is made")
	}
	members, err := c.Members()
	if err != nil {
		return err
	}
	bound, _, err := c.ClockBound()
	if err != nil {
		return err
	}
	if most := paxosgroup.MaxClockError(len(members)); bound > most {
		return usagef("--max-clock-error %v: leases are too short for more than %v with %d node(s); the node would never serve", bound, most, len(members))
	}
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
	default:
		return usagef("--log-level %q: debug, info, warn or error", c.LogLevel)
	}
	switch c.LogFormat {
	case "", "text", "json":
	default:
		return usagef("--log-format %q: text or json", c.LogFormat)
	}
	return nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// ClockBound returns the bound that the operator vouches for, or kernel.
func (c *Config) ClockBound() (bound time.Duration, kernel bool, err error) {
	switch c.MaxClockError {
	case "":
		return 0, c.Cluster != "", nil
	case "kernel":
		return 0, true, nil
	}
	bound, err = time.ParseDuration(c.MaxClockError)
	if c.MaxClockError == "0" {
		bound, err = 0, nil
	}
	if err != nil || bound < 0 || bound > time.Minute {
		return 0, false, usagef("--max-clock-error %q: a duration from 0 to 1m, such as 4ms, or kernel", c.MaxClockError)
	}
	return bound, false, nil
}

// Member is one node of the cluster as --cluster lists it.
type Member struct {
	ID   keys.NodeID
	Name string
	Addr string // the list's, part of the cluster's identity
	Dial string // where this node reaches it: as --dial says, else Addr
}

// Members returns the cluster's nodes, ids given by the order of their names,
// so that every node numbers them alike. Without --cluster it is this node alone.
func (c *Config) Members() ([]Member, error) {
	if c.Cluster == "" {
		if c.Dial != "" {
			return nil, usagef("--dial: a store of one node reaches nobody; it goes with --cluster")
		}
		return []Member{{ID: 1, Name: c.Node, Addr: c.RPCAddr, Dial: c.RPCAddr}}, nil
	}
	members, err := parseMembers("--cluster", c.Cluster)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, m := range members {
		names[m.Name] = true
	}
	if c.Dial != "" {
		elsewhere, err := parseMembers("--dial", c.Dial)
		if err != nil {
			return nil, err
		}
		for _, e := range elsewhere {
			if !names[e.Name] {
				return nil, usagef("--dial: %s is not in --cluster %s", e.Name, c.Cluster)
			}
			for i := range members {
				if members[i].Name == e.Name {
					members[i].Dial = e.Addr
				}
			}
		}
	}
	sort.Slice(members, func(i, j int) bool { return naturalLess(members[i].Name, members[j].Name) })
	for i := range members {
		members[i].ID = keys.NodeID(i + 1)
	}
	if !names[c.Node] {
		return nil, usagef("--node %s is not in --cluster %s: name this node as the list does", c.Node, c.Cluster)
	}
	return members, nil
}

// parseMembers reads NAME=HOST:PORT,…, in which nothing may be listed twice.
func parseMembers(flag, list string) ([]Member, error) {
	var members []Member
	names, addrs := map[string]bool{}, map[string]bool{}
	for _, part := range strings.Split(list, ",") {
		name, addr, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || name == "" {
			return nil, usagef("%s: %q is not NAME=HOST:PORT", flag, part)
		}
		_, port, err := net.SplitHostPort(addr)
		if err != nil || port == "" || port == "0" {
			return nil, usagef("%s: %q is not NAME=HOST:PORT", flag, part)
		}
		if names[name] || addrs[addr] {
			return nil, usagef("%s: %q is listed twice", flag, part)
		}
		names[name], addrs[addr] = true, true
		members = append(members, Member{Name: name, Addr: addr, Dial: addr})
	}
	return members, nil
}

// naturalLess puts n2 before n10.
func naturalLess(a, b string) bool {
	if len(a) != len(b) && strings.TrimRight(a, "0123456789") == strings.TrimRight(b, "0123456789") {
		return len(a) < len(b)
	}
	return a < b
}
