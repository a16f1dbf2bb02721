package sim

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/node/adminpb"
	"github.com/spandb/spand/internal/version"
)

// What an Endpoint answers beside frames and calls, for node.Network.

// methodWelcome is the call that carries a Welcome, above all methods of nodes.
const methodWelcome = 0xff

// Listen implements node.Network.
func (e *Endpoint) Listen() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listens = true
}

// Start implements node.Network: links need no opening.
func (e *Endpoint) Start() error { return nil }

// Close implements node.Network.
func (e *Endpoint) Close() {
	e.Detach()
	e.Wait()
}

// Welcome implements node.Network.
func (e *Endpoint) Welcome(ctx context.Context, to keys.NodeID, req *adminpb.WelcomeRequest) (*adminpb.WelcomeResponse, error) {
	body, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	out, err := e.Call(ctx, to, methodWelcome, body)
	if err != nil {
		return nil, err
	}
	if len(out) == 0 || out[0] != 0 {
		return nil, errors.New(string(out[min(1, len(out)):]))
	}
	resp := new(adminpb.WelcomeResponse)
	return resp, proto.Unmarshal(out[1:], resp)
}

// welcome answers methodWelcome: a zero and the response, or a one and the error.
func (e *Endpoint) welcome(ctx context.Context, _ keys.NodeID, _ byte, payload []byte) []byte {
	req := new(adminpb.WelcomeRequest)
	err := proto.Unmarshal(payload, req)
	var resp *adminpb.WelcomeResponse
	if err == nil {
		resp, err = e.life.Welcome(ctx, req)
	}
	var body []byte
	if err == nil {
		body, err = proto.Marshal(resp)
	}
	if err != nil {
		return append([]byte{1}, err.Error()...)
	}
	return append([]byte{0}, body...)
}

// SetIncarnation implements node.Network.
func (e *Endpoint) SetIncarnation(inc uint64) { e.net.meet(e.node, inc) }

// Incarnation implements node.Network: all have met whoever was ever attached.
func (e *Endpoint) Incarnation(id keys.NodeID) uint64 {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	return e.net.met[id]
}

func (n *Network) meet(id keys.NodeID, inc uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.met[id] = max(n.met[id], inc)
}

// Versions implements node.Network.
func (e *Endpoint) Versions(id keys.NodeID) (version.Range, bool) {
	if o := e.net.end(id); o != nil {
		return o.life.Versions, true
	}
	return version.Range{}, false
}

// Connected implements node.Network.
func (e *Endpoint) Connected(id keys.NodeID) bool { return e.net.end(id) != nil }

// CallsRefused implements node.Network: nobody has a budget here.
func (e *Endpoint) CallsRefused() uint64 { return 0 }

// end returns a node's present end, nil while it is down.
func (n *Network) end(id keys.NodeID) *Endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ends[id]
}
