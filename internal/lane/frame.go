package lane

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"slices"
)

// What a connection that is a lane begins with: neither HTTP/2 nor TLS does.
const (
	RaftHello  = "\x00spandL1" // a node's: its Raft messages
	CallsHello = "\x00spandC1" // a lock client's: calls of the lock service
)

// CallsMethod is the frame that follows CallsHello: what is spoken. It is long enough that who knows
// of HTTP/2 alone refuses it without waiting for more.
const CallsMethod = "/spand.lock.v1.LockService/Do"

// HelloBytes is the length of either hello.
const HelloBytes = len(RaftHello)

// lengthBytes of a frame's length, big endian.
const lengthBytes = 4

// ErrTooLong says that a frame is longer than its reader allows.
var ErrTooLong = errors.New("a frame that is too long")

// Append appends frame after its length.
func Append(b, frame []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(frame))), frame...)
}

// SetLength writes the length of a frame that has been appended piece by piece: b is what Append made
// of nothing, and the frame after it.
func SetLength(b []byte) { binary.BigEndian.PutUint32(b, uint32(len(b)-lengthBytes)) }

// Read reads one frame of at most most bytes, into buf if that is large enough.
func Read(in *bufio.Reader, most int, buf []byte) ([]byte, error) {
	var length [lengthBytes]byte
	if _, err := io.ReadFull(in, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if uint64(n) > uint64(most) {
		return nil, ErrTooLong
	}
	if int(n) <= max(cap(buf), atOnce) {
		buf = slices.Grow(buf[:0], int(n))[:n]
		_, err := io.ReadFull(in, buf)
		return buf, err
	}
	// Memory is for what has come, not for what was announced.
	buf = buf[:0]
	for len(buf) < int(n) {
		at := len(buf)
		buf = slices.Grow(buf, min(int(n)-at, max(at, atOnce)))
		buf = buf[:min(int(n), cap(buf))]
		if _, err := io.ReadFull(in, buf[at:]); err != nil {
			return nil, err
		}
	}
	return buf, nil
}

// atOnce is the memory that a frame gets before anything of it has come.
const atOnce = 64 << 10

// Whole reports that a whole frame is in the buffer: of one that is not, nobody knows when the rest
// comes.
func Whole(in *bufio.Reader) bool {
	n := in.Buffered() - lengthBytes
	if n < 0 {
		return false
	}
	length, err := in.Peek(lengthBytes)
	return err == nil && uint64(n) >= uint64(binary.BigEndian.Uint32(length))
}
