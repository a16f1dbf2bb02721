package integration

import (
	"fmt"
	"strings"
	"time"
)

// row writes a primary key as SPLIT TABLE wants it.
func (c *Cluster) row(key any) string {
	c.t.Helper()
	vals, ok := key.([]any)
	if !ok {
		vals = []any{key}
	}
	return "(" + c.literals(vals) + ")"
}

// literals writes values as SQL.
func (c *Cluster) literals(vals []any) string {
	c.t.Helper()
	out := make([]string, len(vals))
	for i, v := range vals {
		switch v := v.(type) {
		case int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64, bool:
			out[i] = fmt.Sprint(v)
		case time.Time:
			out[i] = quote(v.Format(time.RFC3339Nano))
		case string:
			out[i] = quote(v)
		case []byte:
			out[i] = fmt.Sprintf(`'\x%x'`, v)
		case fmt.Stringer:
			out[i] = quote(v.String())
		default:
			c.t.Fatalf("integration: a key is made of numbers, strings, booleans, times and byte slices, not of %T", v)
		}
	}
	return strings.Join(out, ", ")
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
