package cell

import "github.com/spandb/spand/truetime"

// Highest returns the highest timestamp of a command that this replica has applied (T2).
func (c *Cell) Highest() truetime.Timestamp {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.st.Highest()
}
