//go:build spandbreak

package cell

import (
	"os"
	"strings"
	"testing"
)

// TestMain switches a check off, named in SPAND_BREAK, to see that the tests find it.
func TestMain(m *testing.M) {
	for _, name := range strings.Fields(os.Getenv("SPAND_BREAK")) {
		switch name {
		case "fence":
			BreakFence = true
		case "floor":
			BreakFloor = true
		case "session":
			BreakSession = true
		case "renew":
			BreakRenew = true
		case "invalidate":
			BreakInvalidate = true
		}
	}
	os.Exit(m.Run())
}
