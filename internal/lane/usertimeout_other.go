//go:build !linux

package lane

import (
	"net"
	"time"
)

// LimitUnacknowledged: there is no such limit here; a lane's pings find out later.
func LimitUnacknowledged(net.Conn, time.Duration) {}
