package state

import "encoding/binary"

// A command is its version, its kind, a set of the fields that it has, and these in the order
// of the set's bits. A field that has no bit is zero.
type fields uint64

const (
	fSession fields = 1 << iota
	fHandle
	fPath
	fInstance
	fRequest
	fAnswered
	fPrincipal
	fClient
	fTTL
	fCaches
	fCause
	fCreate
	fDir
	fEphemeral
	fContents
	fIfGeneration
	fACL
	fQuota
	fAttempt
	fCell
	fGrants
	fLeaseFactor
	fHold
	fProbe
)

const (
	fNode     = fSession | fHandle | fPath | fInstance | fPrincipal
	fNumbered = fNode | fRequest | fAnswered
)

// fieldsOf are the fields that matter to a kind, beside fGrants, which every kind may have.
var fieldsOf = [...]fields{
	CreateSession:  fSession | fPrincipal | fClient | fTTL | fCaches,
	EndSession:     fSession | fPrincipal | fCause,
	Open:           fNumbered | fCreate | fDir | fEphemeral | fContents | fACL,
	Close:          fNode,
	SetContents:    fNumbered | fContents | fIfGeneration | fCreate | fACL | fProbe,
	Delete:         fNumbered | fIfGeneration | fHold | fProbe,
	SetACL:         fNumbered | fACL | fProbe,
	SetQuota:       fNode | fQuota,
	Release:        fNode | fCause | fAttempt | fHold,
	Grant:          0,
	SetCell:        fCell,
	SetLeaseFactor: fLeaseFactor,
}

// has is the set of c's fields that are not zero.
func (c *Command) has() (f fields) {
	set := func(bit fields, there bool) {
		if there {
			f |= bit
		}
	}
	set(fSession, c.Session != 0)
	set(fHandle, c.Handle != 0)
	set(fPath, c.Path != "")
	set(fInstance, c.Instance != 0)
	set(fRequest, c.Request != 0)
	set(fAnswered, c.Answered != 0)
	set(fPrincipal, c.Principal != "")
	set(fClient, c.Client != "")
	set(fTTL, c.TTL != 0)
	set(fCaches, c.Caches)
	set(fCause, c.Cause != 0)
	set(fCreate, c.Create != 0)
	set(fDir, c.Dir)
	set(fEphemeral, c.Ephemeral)
	set(fContents, len(c.Contents) > 0)
	set(fIfGeneration, c.IfGeneration != nil)
	set(fACL, c.ACL != nil)
	set(fQuota, c.Quota != Quota{})
	set(fAttempt, c.Attempt != 0)
	set(fCell, c.Cell.Name != "" || c.Cell.Group != 0 || len(c.Cell.Replicas) > 0)
	set(fGrants, len(c.Grants) > 0)
	set(fLeaseFactor, c.LeaseFactor != 0)
	set(fHold, c.Hold != 0)
	set(fProbe, c.Probe)
	return f
}

// EncodeCommand encodes the fields that matter to c's kind.
func EncodeCommand(c *Command) []byte {
	f := c.has()
	if int(c.Kind) < len(fieldsOf) {
		f &= fieldsOf[c.Kind] | fGrants
	}
	size := 64 + len(c.Path) + len(c.Principal) + len(c.Client) + len(c.Contents)
	for i := range c.Grants {
		size += 48 + len(c.Grants[i].Path)
	}
	b := make([]byte, 0, size)
	b = append(b, commandVersion, byte(c.Kind))
	b = binary.AppendUvarint(b, uint64(f))
	number := func(bit fields, v uint64) {
		if f&bit != 0 {
			b = binary.AppendUvarint(b, v)
		}
	}
	text := func(bit fields, v string) {
		if f&bit != 0 {
			b = appendString(b, v)
		}
	}
	number(fSession, uint64(c.Session))
	number(fHandle, uint64(c.Handle))
	text(fPath, c.Path)
	number(fInstance, c.Instance)
	number(fRequest, c.Request)
	number(fAnswered, c.Answered)
	text(fPrincipal, c.Principal)
	text(fClient, c.Client)
	if f&fTTL != 0 {
		b = appendInt(b, c.TTL)
	}
	number(fCause, uint64(c.Cause))
	number(fCreate, uint64(c.Create))
	if f&fContents != 0 {
		b = binary.AppendUvarint(b, uint64(len(c.Contents)))
		b = append(b, c.Contents...)
	}
	if f&fIfGeneration != 0 {
		b = binary.AppendUvarint(b, *c.IfGeneration)
	}
	if f&fACL != 0 {
		b = appendACL(b, c.ACL)
	}
	if f&fQuota != 0 {
		b = appendQuota(b, c.Quota)
	}
	number(fAttempt, c.Attempt)
	if f&fCell != 0 {
		b = appendCell(b, &c.Cell)
	}
	if f&fGrants != 0 {
		b = binary.AppendUvarint(b, uint64(len(c.Grants)))
		before := ""
		if f&fPath != 0 {
			before = c.Path
		}
		for i := range c.Grants {
			b = c.Grants[i].append(b, before)
			before = c.Grants[i].Path
		}
	}
	number(fLeaseFactor, uint64(c.LeaseFactor))
	number(fHold, c.Hold)
	return b
}

// A grant begins with its mode in the low bits of a byte whose upper ones say what is
// there; a hand-over's path is mostly that of the command or of the grant before.
const (
	gMode     = 0x0f
	gPath     = 0x10 // another path than the one before
	gInstance = 0x20
	gAttempt  = 0x40
	gDelay    = 0x80
)

func (g *GrantTo) append(b []byte, before string) []byte {
	head := byte(g.Mode)
	if head > gMode {
		head = 0 // no mode either
	}
	if g.Path != before {
		head |= gPath
	}
	if g.Instance != 0 {
		head |= gInstance
	}
	if g.Attempt != 0 {
		head |= gAttempt
	}
	if g.Delay != 0 {
		head |= gDelay
	}
	b = append(b, head)
	b = binary.AppendUvarint(b, uint64(g.Session))
	b = binary.AppendUvarint(b, uint64(g.Handle))
	if head&gPath != 0 {
		b = appendString(b, g.Path)
	}
	if head&gInstance != 0 {
		b = binary.AppendUvarint(b, g.Instance)
	}
	if head&gAttempt != 0 {
		b = binary.AppendUvarint(b, g.Attempt)
	}
	if head&gDelay != 0 {
		b = appendInt(b, g.Delay)
	}
	return b
}

func (d *decoder) grant(before string) GrantTo {
	head := d.u8()
	g := GrantTo{Mode: Mode(head & gMode), Session: SessionID(d.uvarint()), Handle: HandleID(d.uvarint()), Path: before}
	if head&gPath != 0 {
		g.Path = d.string()
		d.require(g.Path != before)
	}
	if head&gInstance != 0 {
		g.Instance = d.nonzero()
	}
	if head&gAttempt != 0 {
		g.Attempt = d.nonzero()
	}
	if head&gDelay != 0 {
		g.Delay = d.int()
		d.require(g.Delay != 0)
	}
	return g
}

func (d *decoder) nonzero() uint64 {
	v := d.uvarint()
	d.require(v != 0)
	return v
}

// DecodeCommand decodes what EncodeCommand wrote and refuses everything else, commands
// of newer versions too: a replica that does not know a command must stop.
func DecodeCommand(b []byte) (*Command, error) {
	d := &decoder{b: b}
	d.version(commandVersion)
	c := &Command{Kind: Kind(d.u8())}
	if d.err == nil && (c.Kind == 0 || int(c.Kind) >= len(fieldsOf)) {
		return nil, errNewer
	}
	f := fields(d.uvarint())
	if d.err == nil && f&^(fieldsOf[c.Kind]|fGrants) != 0 {
		return nil, errMalformed
	}
	number := func(bit fields) uint64 {
		if f&bit == 0 {
			return 0
		}
		return d.nonzero()
	}
	small := func(bit fields) uint8 {
		v := number(bit)
		d.require(v < 256)
		return uint8(v)
	}
	text := func(bit fields) string {
		if f&bit == 0 {
			return ""
		}
		s := d.string()
		d.require(s != "")
		return s
	}
	c.Session = SessionID(number(fSession))
	c.Handle = HandleID(number(fHandle))
	c.Path = text(fPath)
	c.Instance = number(fInstance)
	c.Request = number(fRequest)
	c.Answered = number(fAnswered)
	c.Principal = text(fPrincipal)
	c.Client = text(fClient)
	if f&fTTL != 0 {
		c.TTL = d.int()
		d.require(c.TTL != 0)
	}
	c.Caches, c.Dir, c.Ephemeral, c.Probe = f&fCaches != 0, f&fDir != 0, f&fEphemeral != 0, f&fProbe != 0
	c.Cause = Cause(small(fCause))
	c.Create = CreateMode(small(fCreate))
	if f&fContents != 0 {
		c.Contents = append([]byte(nil), d.raw(d.nonzero())...)
	}
	if f&fIfGeneration != 0 {
		g := d.uvarint()
		c.IfGeneration = &g
	}
	if f&fACL != 0 {
		acl := d.acl()
		c.ACL = &acl
	}
	if f&fQuota != 0 {
		c.Quota = d.quota()
		d.require(c.Quota != Quota{})
	}
	c.Attempt = number(fAttempt)
	if f&fCell != 0 {
		c.Cell = d.cell()
		d.require(c.has()&fCell != 0)
	}
	if f&fGrants != 0 {
		n := d.count(3)
		d.require(n > 0)
		c.Grants = make([]GrantTo, n)
		before := c.Path
		for i := range c.Grants {
			c.Grants[i] = d.grant(before)
			before = c.Grants[i].Path
		}
	}
	if f&fLeaseFactor != 0 {
		v := d.u32()
		d.require(v != 0)
		c.LeaseFactor = v
	}
	c.Hold = number(fHold)
	if err := d.done(); err != nil {
		return nil, err
	}
	return c, nil
}
