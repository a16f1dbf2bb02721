package state

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"testing"

	"github.com/spandb/spand/truetime"
)

// anyContents keeps nothing: a forged state may say what it likes of its contents.
type anyContents struct{}

func (anyContents) Put(uint64, []byte) {}
func (anyContents) Delete(uint64)      {}

// someState is the state after a number of random commands, and the last of them.
func someState(seed int64, commands int) (*State, *Command, *randomCommands) {
	r := newRandomCommands(seed)
	s := New(FirstCell)
	var c *Command
	for i := range commands {
		c = r.next()
		s.Apply(c, uint64(i+1), truetime.Timestamp(1e18+i*1e8), anyContents{})
	}
	return s, c, r
}

// F1: no bytes make the decoder of commands fail otherwise than with an error; what it
// accepts is what the encoder writes, and Apply lives through it.
func FuzzDecodeCommand(f *testing.F) {
	for i := range 60 {
		_, c, _ := someState(int64(i), 50)
		f.Add(EncodeCommand(c))
	}
	f.Add([]byte{commandVersion + 1, byte(Grant), 0})
	start, _, _ := someState(1, 500)
	before := start.Encode()
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCommand(b)
		if err != nil {
			return
		}
		if again := EncodeCommand(c); !bytes.Equal(again, b) {
			t.Fatalf("%x decodes to %+v, which encodes to %x", b, c, again)
		}
		s, err := Decode(before)
		if err != nil {
			t.Fatal(err)
		}
		s.Apply(c, s.Index()+1, truetime.Timestamp(2e18), anyContents{})
		audit(t, s)
		if _, err := Decode(s.Encode()); err != nil {
			t.Fatalf("after %+v: %v", c, err)
		}
	})
}

// D1: a damaged state is refused. F1: one that a forger gave the right checksum is refused or
// is one that Apply lives through.
func FuzzDecodeState(f *testing.F) {
	for i := range 20 {
		s, _, _ := someState(int64(i), 40*i)
		f.Add(s.Encode(), int64(i))
	}
	for _, v := range []string{"v1", "v2"} {
		old, err := os.ReadFile("testdata/encodings/state_" + v)
		if err != nil {
			f.Error(err)
		}
		f.Add(old, int64(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, seed int64) {
		if len(b) < 4 {
			return
		}
		body := b[:len(b)-4]
		b = binary.BigEndian.AppendUint32(bytes.Clone(body), crc32.Checksum(body, castagnoli))
		s, err := Decode(b)
		if err != nil {
			return
		}
		again := s.Encode()
		if b[0] < stateVersion { // an older one becomes one of this version
			b = again
			if s, err = Decode(b); err != nil {
				t.Fatalf("of an older version, it encodes to %x: %v", b, err)
			}
			again = s.Encode()
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("%x decodes and encodes to %x", b, again)
		}
		r := newRandomCommands(seed)
		for i := range 30 {
			s.Apply(r.next(), uint64(i), truetime.Timestamp(1e18), anyContents{})
		}
		if _, err := Decode(s.Encode()); err != nil {
			t.Fatalf("after commands: %v", err)
		}
	})
}

// F1: SQL hands in whatever its client typed. What is accepted is spelt the one way.
func FuzzParseSequencer(f *testing.F) {
	for _, text := range []string{"/ls/local/x:exclusive:1:2", "/ls/local/a:b:shared:18446744073709551615:7", "/ls/local/x:exclusive:01:2", "::::", "/ls/:shared:-1:"} {
		f.Add(text)
	}
	s := New(FirstCell)
	f.Fuzz(func(t *testing.T, text string) {
		q, err := ParseSequencer(text)
		if err != nil {
			return
		}
		if q.String() != text {
			t.Fatalf("%q is read as %+v, which is %q", text, q, q)
		}
		if _, err := s.Valid(q); err == nil {
			t.Fatalf("%q is valid in an empty cell", text)
		}
	})
}

// D1: not a byte of an encoded state can change unnoticed.
func TestD1_DamagedStateIsRefused(t *testing.T) {
	s, _, _ := someState(1, 200)
	b := s.Encode()
	for i := range b {
		b[i] ^= 0x10
		if _, err := Decode(b); err == nil {
			t.Fatalf("a state with byte %d changed was accepted", i)
		}
		b[i] ^= 0x10
	}
	for n := range b {
		if _, err := Decode(b[:n]); err == nil {
			t.Fatalf("a state cut to %d of %d bytes was accepted", n, len(b))
		}
	}
}

func TestNewerEncodingsAreRefusedAsSuch(t *testing.T) {
	s, c, _ := someState(1, 200)
	state, command := s.Encode(), EncodeCommand(c)
	state[0]++
	command[0]++
	if _, err := Decode(state); err != errNewer {
		t.Errorf("newer state: %v", err)
	}
	if _, err := DecodeCommand(command); err != errNewer {
		t.Errorf("newer command: %v", err)
	}
	if _, err := DecodeCommand([]byte{commandVersion, byte(len(fieldsOf)), 0}); err != errNewer {
		t.Errorf("unknown command: %v", err)
	}
}
