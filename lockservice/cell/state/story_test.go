package state

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/spandb/spand/truetime"
)

// The stories in testdata/stories are told by commands to one cell. 1.2 is handle 2 of
// session 1 (- is none), /x stands for /ls/local/x.
//
//	cell                                     a new one; time starts at 00:00:00
//	session N [client=NAME] [ttl=12s] [as=PRINCIPAL]
//	end N [expired] [to=H:/x]                to: whom the leader's queue grants which lock next
//	open H /x [create|exclusive] [dir] [ephemeral] [acl=(read,write,change)]
//	close H /x
//	set H /x [create] [if=GENERATION]        the contents follow on the next lines
//	delete H /x [if=GENERATION]
//	acl H /x acl=(read,write,change)
//	quota H /x [bytes=n] [nodes=n]
//	acquire H /x exclusive|shared [attempt=n] [delay=10s]
//	release H /x [attempt=n] [hold=n] [to=H:/x]
//	try H /x exclusive|shared                what a TryAcquire would be told
//	check                                    is the sequencer on the next line valid?
//	stat /x, ls /x, sessions, locks, history [/x], may PRINCIPAL /x read|write|change
//	events /x after=REVISION
//	advance 10s
//	each N close|set|release from=n to=n /x ...   for handles from to to; set: requests of these numbers
//
// Any command can have as=PRINCIPAL, instance=n (of the node), request=n and answered=n. Each step
// prints what came of it. Every story is told twice, the second time to a cell that is
// encoded and decoded between any two steps.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/stories/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, f := range files {
		for _, restoring := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/restoring=%v", filepath.Base(f), restoring), func(t *testing.T) {
				s := &story{restoring: restoring}
				datadriven.RunTest(t, f, s.step)
			})
		}
	}
}

type story struct {
	*State
	blobs     *blobs
	restoring bool
	now       truetime.Timestamp
	out       strings.Builder
}

func (s *story) say(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

func (s *story) step(t *testing.T, d *datadriven.TestData) string {
	s.out.Reset()
	if d.Cmd == "cell" {
		s.State, s.blobs, s.now = New(FirstCell), newBlobs(t), 0
		return "ok\n"
	}
	if s.restoring {
		again, err := Decode(s.Encode())
		if err != nil {
			t.Fatalf("%s: %v", d.Pos, err)
		}
		s.State = again
	}
	if d.Cmd == "each" {
		s.each(t, d)
	} else if c := s.command(t, d); c != nil {
		s.apply(t, d, c)
	} else {
		s.read(t, d)
	}
	if s.out.Len() == 0 {
		return "ok\n"
	}
	return s.out.String()
}

// each applies one command after the other, and tells of those that were refused.
func (s *story) each(t *testing.T, d *datadriven.TestData) {
	var from, to int
	d.ScanArgs(t, "from", &from)
	d.ScanArgs(t, "to", &to)
	one := datadriven.TestData{Pos: d.Pos, Cmd: d.CmdArgs[1].Key, Input: d.Input, CmdArgs: []datadriven.CmdArg{d.CmdArgs[0]}}
	for _, a := range d.CmdArgs[2:] {
		if a.Key != "from" && a.Key != "to" {
			one.CmdArgs = append(one.CmdArgs, a)
		}
	}
	for i := from; i <= to; i++ {
		c := s.command(t, &one)
		if c.Kind == SetContents {
			c.Request = uint64(i)
		} else {
			c.Handle = HandleID(i)
		}
		if res, _ := s.Apply(c, s.Index()+1, s.now, s.blobs); res.Err != nil {
			s.sayError(res.Err)
		}
	}
	audit(t, s.State)
}

// apply gives a command to the cell, as the log would, and tells what came of it.
func (s *story) apply(t *testing.T, d *datadriven.TestData, c *Command) {
	logged, err := DecodeCommand(EncodeCommand(c))
	if err != nil {
		t.Fatalf("%s: %v", d.Pos, err)
	}
	res, out := s.Apply(logged, s.Index()+1, s.now, s.blobs)
	audit(t, s.State)
	switch {
	case res.Err != nil:
		s.sayError(res.Err)
	case res.Created:
		s.say("created: %s", tell(res.Node))
	case res.Node != nil:
		s.say("%s", tell(res.Node))
	case res.Session != nil:
		s.say("%s", tellSession(res.Session))
	case (c.Kind == Release || c.Kind == Close || c.Kind == EndSession) && !res.Ended:
		s.say("nothing to end")
	}
	for i, g := range res.Grants {
		switch {
		case g.Err != nil:
			s.sayError(g.Err)
		case g.Already:
			s.say("%d.%d holds it already: %s", c.Grants[i].Session, c.Grants[i].Handle, short(g.Hold.Sequencer().String()))
		default:
			s.say("granted to %d.%d: %s", g.Hold.Session, g.Hold.Handle, short(g.Hold.Sequencer().String()))
		}
	}
	for _, e := range out.Events {
		s.say("  event %s", tellEvent(e))
	}
	for _, path := range out.Freed {
		s.say("  lock of %s may be free", short(path))
	}
	for _, id := range out.Ended {
		s.say("  session %d has ended", id)
	}
}

func (s *story) sayError(err *Error) { s.say("%s: %s", err.Reason, short(err.Message)) }

// command is the one that a step stands for; nil: the step only looks.
func (s *story) command(t *testing.T, d *datadriven.TestData) *Command {
	kinds := map[string]Kind{
		"session": CreateSession, "end": EndSession, "open": Open, "close": Close, "set": SetContents, "delete": Delete,
		"acl": SetACL, "quota": SetQuota, "acquire": Grant, "release": Release,
	}
	c := &Command{Kind: kinds[d.Cmd], Principal: "ann", TTL: DefaultTTL}
	if c.Kind == 0 {
		return nil
	}
	g := GrantTo{Mode: Exclusive}
	who := d.CmdArgs[0].Key
	session, handle, _ := strings.Cut(who, ".")
	c.Session, c.Handle = SessionID(number(session)), HandleID(number(handle))
	for _, a := range d.CmdArgs[1:] {
		v := strings.Join(a.Vals, ",")
		switch a.Key {
		case "client":
			c.Client = v
		case "as":
			c.Principal = v
		case "ttl":
			c.TTL = int64(duration(v))
		case "expired":
			c.Cause = Expired
		case "create":
			c.Create = CreateIfAbsent
		case "exclusive":
			c.Create = CreateExclusive
		case "shared":
			g.Mode = Shared
		case "dir":
			c.Dir = true
		case "ephemeral":
			c.Ephemeral = true
		case "acl":
			c.ACL = &ACL{a.Vals[0], a.Vals[1], a.Vals[2]}
		case "instance":
			c.Instance = number(v)
		case "request":
			c.Request = number(v)
		case "answered":
			c.Answered = number(v)
		case "if":
			n := number(v)
			c.IfGeneration = &n
		case "bytes":
			c.Quota.Bytes = number(v)
		case "nodes":
			c.Quota.Nodes = number(v)
		case "attempt":
			c.Attempt = number(v)
		case "hold":
			c.Hold = number(v)
		case "delay":
			g.Delay = int64(duration(v))
		case "to":
			waiter, path, _ := strings.Cut(v, ":")
			session, handle, _ := strings.Cut(waiter, ".")
			c.Grants = append(c.Grants, GrantTo{Session: SessionID(number(session)), Handle: HandleID(number(handle)), Path: long(path), Mode: Exclusive})
		default:
			if !strings.HasPrefix(a.Key, "/") {
				t.Fatalf("%s: what is %s?", d.Pos, a.Key)
			}
			c.Path = long(a.Key)
		}
	}
	switch c.Kind {
	case SetContents:
		c.Contents = []byte(d.Input)
	case Grant:
		g.Session, g.Handle, g.Path, g.Instance, g.Attempt = c.Session, c.Handle, c.Path, c.Instance, c.Attempt
		c.Grants = []GrantTo{g}
	}
	return c
}

func (s *story) read(t *testing.T, d *datadriven.TestData) {
	arg := func(i int) string {
		if i >= len(d.CmdArgs) {
			return ""
		}
		return d.CmdArgs[i].Key
	}
	switch d.Cmd {
	case "advance":
		s.now += truetime.Timestamp(duration(arg(0)))
	case "stat":
		if i, _, err := s.Info(long(arg(0)), 0); err != nil {
			s.sayError(err)
		} else {
			s.say("%s", tell(i))
		}
	case "ls":
		children, _, err := s.Children(long(arg(0)), "", 0)
		if err != nil {
			s.sayError(err)
		}
		for _, i := range children {
			s.say("%s", tell(i))
		}
	case "sessions":
		sessions, _ := s.Sessions(0, 0)
		for _, sess := range sessions {
			s.say("%s", tellSession(sess))
		}
	case "locks":
		locks, _ := s.Locks(Place{}, 0)
		for _, l := range locks {
			for _, h := range l.Holds {
				s.say("%s of %d.%d since %s", short(h.Sequencer().String()), h.Session, h.Handle, clock(h.Since))
			}
			if l.DelayedUntil != 0 {
				s.say("%s delayed until %s", short(l.Path), clock(l.DelayedUntil))
			}
		}
	case "history":
		ended, _ := s.History(long(arg(0)), 0, 0)
		for _, e := range ended {
			s.say("%d: %s of %d.%d (%s) from %s until %s, %s", e.Entry, short(e.Sequencer().String()), e.Session, e.Handle, e.Client, clock(e.Since), clock(e.Until), e.Cause)
		}
	case "may":
		right := map[string]Right{"read": Read, "write": Write, "change": Change}[arg(2)]
		if err := s.May(arg(0), long(arg(1)), right); err != nil {
			s.sayError(err)
		}
	case "try":
		session, handle, _ := strings.Cut(arg(0), ".")
		g := GrantTo{Session: SessionID(number(session)), Handle: HandleID(number(handle)), Path: long(arg(1)), Mode: Exclusive}
		if arg(2) == "shared" {
			g.Mode = Shared
		}
		if err := s.Admits(g, s.now); err != nil {
			s.sayError(err)
		}
	case "check":
		q, err := ParseSequencer("/ls/local" + d.Input)
		if err == nil {
			_, err = s.Valid(q)
		}
		if err != nil {
			s.sayError(err)
		}
	case "events":
		var after uint64
		d.ScanArgs(t, "after", &after)
		events, complete := s.EventsAfter(after, long(arg(0)))
		for _, e := range events {
			s.say("%s", tellEvent(e))
		}
		if !complete {
			s.say("and perhaps others")
		}
	default:
		t.Fatalf("%s: what is %s?", d.Pos, d.Cmd)
	}
}

func tell(i *Info) string {
	var b strings.Builder
	kind := "file"
	if i.Dir {
		kind = "directory"
	}
	if i.Ephemeral {
		kind = "ephemeral " + kind
	}
	fmt.Fprintf(&b, "%s %s instance=%d", kind, short(i.Path), i.Instance)
	if i.Dir {
		fmt.Fprintf(&b, " children=%d used=%d/%d", i.Children, i.Used.Bytes, i.Used.Nodes)
	} else {
		fmt.Fprintf(&b, " content=%d length=%d", i.ContentGen, i.Length)
	}
	fmt.Fprintf(&b, " lock=%d acl=%d", i.LockGen, i.ACLGen)
	if i.ACL != (ACL{}) {
		fmt.Fprintf(&b, "(%s,%s,%s)", i.ACL.Read, i.ACL.Write, i.ACL.Change)
	}
	return b.String()
}

func tellSession(s *Session) string {
	return fmt.Sprintf("session %d of %s client=%q ttl=%s locks=%d ephemerals=%d", s.ID, s.Principal, s.Client, time.Duration(s.TTL), s.Locks, s.Ephemerals)
}

func tellEvent(e Event) string {
	names := map[EventKind]string{
		ContentsChanged: "contents changed", ChildAdded: "child added", ChildRemoved: "child removed",
		ChildModified: "child modified", HandleInvalid: "handle invalid", LockAcquired: "lock acquired",
	}
	child := ""
	if e.Child != "" {
		child = " " + e.Child
	}
	return fmt.Sprintf("%d at %s: %s%s, generation %d", e.Revision, short(e.Path), names[e.Kind], child, e.Generation)
}

func clock(ts truetime.Timestamp) string { return ts.Time().Format(time.TimeOnly) }

func long(path string) string {
	if path == "" {
		return ""
	}
	return strings.TrimSuffix("/ls/local"+path, "/")
}

func short(text string) string { return strings.ReplaceAll(text, "/ls/local", "") }

func number(s string) uint64 {
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}

func duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}
