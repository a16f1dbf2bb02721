package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// A packet is one gRPC message: a format version, then frames, each with its
// length before it. Packing many frames into one message is what makes the
// streams cheap: gRPC's cost is per message.
const (
	packetVersion = 1
	maxPacket     = 1 << 20 // a packet is closed when it exceeds this
	maxFrame      = 8 << 20 // no frame is larger; the decoder refuses one that claims to be
)

// codecName is the gRPC content-subtype of our streams: bytes as they are.
const codecName = "spand"

var errPacket = errors.New("rpc: malformed packet")

type packet struct{ data []byte }

type codec struct{}

func init() { encoding.RegisterCodecV2(codec{}) }

func (codec) Name() string { return codecName }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	p, ok := v.(*packet)
	if !ok {
		return nil, fmt.Errorf("rpc: codec got a %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(p.data)}, nil
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	p, ok := v.(*packet)
	if !ok {
		return fmt.Errorf("rpc: codec got a %T", v)
	}
	p.data = data.Materialize() // frames are handed on without another copy
	return nil
}

// appendFrame adds frame to a packet under construction.
func appendFrame(dst, frame []byte) []byte {
	if len(dst) == 0 {
		dst = append(dst, packetVersion)
	}
	dst = binary.AppendUvarint(dst, uint64(len(frame)))
	return append(dst, frame...)
}

// eachFrame calls f with every frame of a packet; the frames alias data.
func eachFrame(data []byte, f func(frame []byte)) error {
	if len(data) == 0 || data[0] != packetVersion {
		return errPacket
	}
	for data = data[1:]; len(data) > 0; {
		n, w := binary.Uvarint(data)
		if w <= 0 || n > maxFrame || n > uint64(len(data)-w) {
			return errPacket
		}
		f(data[w : w+int(n) : w+int(n)])
		data = data[w+int(n):]
	}
	return nil
}
